"""The plugin that writes frames to HDF5 files: HDF1:.

A frame is on disk before the camera's Acquire falls; what cannot be written stops the camera.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from caproto import AlarmSeverity, AlarmStatus

from ioc.camera.compression import COMPRESSIONS
from ioc.camera.plugin import Plugin
from ioc.camera.writer import FrameFile
from ioc.drivers.protocol import DriverError, Frame, PixelType, Readout
from ioc.records import clear_alarm, raise_alarm, show
from ioc.worker import Worker

WRITE_TIMEOUT = 30.0  # s
BUFFER_BYTES = 2**30  # of frames that Capture mode may keep in memory

logger = logging.getLogger(__name__)


class HdfPlugin(Plugin):
    """Writes frames to files below `data_root`; see `ioc.camera.writer` for their layout.

    FileWriteMode Stream writes each frame of a capture as it comes, Capture keeps NumCapture frames
    in memory and writes them together, Single writes each frame to a file of its own. A file is
    never overwritten. After a failed write the camera refuses to acquire until Capture is written
    again (or the plugin is disabled), so that no frame is lost without a word.

    PVs: those of every plugin, and FilePath, FileName, FileNumber, FileTemplate, FileWriteMode,
    NumCapture, Capture, AutoIncrement, AutoSave, CreateDirectory, WriteFile, Compression (None,
    Blosc; each with _RBV); FilePathExists_RBV, FullFileName_RBV, NumCaptured_RBV, WriteStatus,
    WriteMessage, SWMRActive_RBV, SWMRSupported_RBV.

    Parameters
    ----------
    prefix : str
    shape : (int, int)
    pixel_type : {"UInt8", "UInt16"}
    data_root : Path
        A FilePath outside this folder is refused.
    check_storage : callable
        Called before each frame is written; an OSError that it raises is taken as the disk's.
    """

    def __init__(
        self,
        prefix: str,
        shape: tuple[int, int],
        pixel_type: PixelType,
        data_root: Path,
        check_storage: Callable[[], None],
    ) -> None:
        super().__init__(
            prefix,
            "HDF1",
            "NDFileHDF5",
            shape,
            pixel_type,
            worker=Worker("hdf", WRITE_TIMEOUT),
            min_time=0.0,
        )
        self._root = data_root.resolve()
        self._root.mkdir(parents=True, exist_ok=True)
        self._check_storage = check_storage
        self._file: FrameFile | None = None
        self._buffer: list[Frame] = []
        self._last: Frame | None = None
        self._failure = ""
        self._claim = ""
        self._readout = Readout(1, pixel_type, (0, 0, *shape))
        self._add_pvs()

    def _add_pvs(self) -> None:
        yes_no: dict[str, Any] = {"choices": ("No", "Yes")}
        # None of the strings may be empty: a client that restores an empty one is refused by CA.
        self._path = self.pair("FilePath", f"{self._root}/", long=True, apply=self._set_path)
        self._path_exists = self.readback("FilePathExists_RBV", "Yes", **yes_no)
        self._create = self.pair("CreateDirectory", -8, limits=(-32, 32), doc="Levels to make")
        self._name = self.pair("FileName", "frames", long=True, apply=self._check_name)
        self._number = self.pair("FileNumber", 0, limits=(0, 2**31 - 1))
        self._template = self.pair(
            "FileTemplate", "%s%s_%6.6d.h5", long=True, apply=self._check_template
        )
        self._full_name = self.readback("FullFileName_RBV", "", long=True)
        self._increment = self.pair("AutoIncrement", "Yes", **yes_no)
        self._save = self.pair("AutoSave", "Yes", **yes_no)
        self._mode = self.pair(
            "FileWriteMode",
            "Stream",
            choices=("Single", "Capture", "Stream"),
            apply=self._check_idle,
        )
        self._num_capture = self.pair("NumCapture", 0, limits=(0, 10_000_000))
        self._num_captured = self.readback("NumCaptured_RBV", 0)
        self.capture = self.pair(
            "Capture", "Done", choices=("Done", "Capture"), apply=self._set_capture
        )
        self._compression = self.pair(
            "Compression", "None", choices=COMPRESSIONS, apply=self._check_idle
        )
        self._write_file = self.pair(
            "WriteFile", "Done", choices=("Done", "Write"), apply=self._write_now
        )
        self._status = self.readback("WriteStatus", "Write OK", choices=("Write OK", "Write error"))
        self._message = self.readback("WriteMessage", "", long=True)
        self._swmr = self.readback("SWMRActive_RBV", "Off", choices=("Off", "Active"))
        self.readback("SWMRSupported_RBV", "Supported", choices=("Not Supported", "Supported"))

    # -- what clients write -----------------------------------------------------------------------

    async def _set_path(self, text: str) -> str:
        await self._check_idle(text)
        path = self._confine(Path(text))
        await self.worker.call(self._make_directories, path)
        await show(self._path_exists, "Yes" if path.is_dir() else "No")
        return f"{path}/"

    def _confine(self, path: Path) -> Path:
        """Give a path back with its links resolved, if it is in the data root."""
        if not path.is_absolute():
            raise ValueError(f"FilePath is {str(path)!r}; it must be absolute")
        resolved = path.resolve()
        if not resolved.is_relative_to(self._root):
            raise ValueError(f"FilePath is {str(path)!r}; it must be in {self._root}")
        return path

    def _make_directories(self, path: Path) -> None:
        """Make missing folders, as many of the last levels as CreateDirectory allows (-n)."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        levels = self._create.value
        allowed = -levels if levels < 0 else len(path.parts) - 1 - levels if levels else 0
        if missing and len(missing) <= allowed:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                logger.error("HDF1: %s", error)  # FilePathExists_RBV tells the client

    async def _check_name(self, name: str) -> None:
        if not name or PurePosixPath(name).name != name:
            raise ValueError(f"FileName is {name!r}; it must be a name without a folder")

    async def _check_template(self, template: str) -> None:
        try:
            filled = template % ("/folder/", "name", 1)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"FileTemplate is {template!r} ({error}); it must take a folder, a name and a "
                "number, as '%s%s_%6.6d.h5' does"
            ) from error
        if PurePosixPath(filled).parent != PurePosixPath("/folder"):
            raise ValueError(f"FileTemplate is {template!r}; it must begin with '%s'")

    async def _check_idle(self, _: Any) -> None:
        if self._file is not None:
            raise ValueError("HDF1 is capturing: write Capture=0 first")

    def claim(self, why: str) -> None:
        """Let nobody begin or end a capture from now on; they are told why."""
        self._claim = why

    def release(self) -> None:
        """Let others begin and end captures again."""
        self._claim = ""

    async def _set_capture(self, wanted: Any) -> str | None:
        if self._claim:
            raise ValueError(self._claim)
        self._failure = ""
        await clear_alarm([self._status])
        if self.capture.setpoint.enum_strings.index(self._label(wanted)) == 0:
            await self._stop()
            return None
        if self._mode.value == "Single":
            raise ValueError("FileWriteMode is Single, which needs no Capture")
        if self._mode.value == "Capture":
            self._check_buffer()
        if self.capture.value == "Done":
            await self._start()
        return None

    def _label(self, wanted: Any) -> str:
        strings = self.capture.setpoint.enum_strings
        return wanted if isinstance(wanted, str) else strings[wanted]

    def _check_buffer(self) -> None:
        wanted, size = self._num_capture.value, self._frame_bytes
        if not 1 <= wanted <= BUFFER_BYTES // size:
            raise ValueError(
                f"NumCapture is {wanted}; in Capture mode it must lie between 1 and "
                f"{BUFFER_BYTES // size}, the frames that memory is kept for"
            )

    @property
    def _frame_bytes(self) -> int:
        height, width = self._readout.shape
        return height * width * self._readout.dtype.itemsize

    async def _write_now(self, wanted: Any) -> str:
        if wanted not in ("Write", 1):
            return "Done"
        frames = self._buffer or ([self._last] if self._last is not None else [])
        if not frames:
            raise ValueError("there is no frame to write: acquire one first")
        await self._write_together(frames)
        return "Done"

    @property
    def is_capturing(self) -> bool:
        """Whether frames go to a file as they come."""
        return self.enabled and self._file is not None

    @property
    def captured(self) -> int:
        """How many frames the capture has."""
        return int(self._num_captured.value)

    # -- capturing --------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Begin a capture: in Stream mode with its file, so that what is wrong shows now."""
        self._buffer = []
        if self._mode.value == "Stream":
            self._file = await self._open()
        await show(self._num_captured, 0)
        await show(self._swmr, "Active" if self._file else "Off")

    async def _open(self) -> FrameFile:
        folder = self._confine(Path(self._path.value))
        path = Path(self._template.value % (f"{folder}/", self._name.value, self._number.value))
        try:
            file = await self.worker.call(self._make, path)
        except Exception as error:
            await self._fail(self._explain(error, path))
            raise DriverError(self._failure) from error
        await show(self._full_name, str(path))
        if self._increment.value == "Yes":
            await self._number.show(self._number.value + 1)
        await show(self._status, "Write OK")
        await show(self._message, "")
        return file

    def _make(self, path: Path) -> FrameFile:
        readout = self._readout
        return FrameFile(path, readout.shape, readout.dtype, self._compression.value)

    @staticmethod
    def _explain(error: Exception, path: Path) -> str:
        if isinstance(error, FileExistsError):
            return f"{path} exists already: set another FileName or FileNumber"
        if not path.parent.is_dir():
            return f"{path.parent} does not exist: set a FilePath that does, or CreateDirectory"
        return f"{path} cannot be made: {error}"

    async def _stop(self) -> None:
        """End a capture and close its file."""
        await self.capture.show("Done")  # first, so that a frame that comes now is not for it
        file, self._file = self._file, None
        self._buffer = []
        if file is not None:
            await self.worker.call(file.close)
        await show(self._swmr, "Off")

    async def _fail(self, message: str) -> None:
        """Say that a write failed, and end the capture."""
        logger.error("HDF1: %s", message)
        self._failure = message
        await show(self._message, message)
        await show(self._status, "Write error")
        await raise_alarm([self._status], AlarmStatus.WRITE_ACCESS, AlarmSeverity.MAJOR_ALARM)
        try:
            await self._stop()
        except Exception as error:
            logger.error("HDF1: the file could not be closed: %s", error)

    async def check(self) -> None:
        """Refuse an acquisition after a failed write, until somebody has dealt with it."""
        if self.enabled and self._failure:
            raise DriverError(f"HDF1: {self._failure} (write Capture to go on)")

    async def resize(self, shape: tuple[int, int], pixel_type: PixelType) -> None:
        """Take note of the frames to come; a file that is open and empty is laid out anew."""
        await super().resize(shape, pixel_type)
        readout = Readout(1, pixel_type, (0, 0, *shape))
        if readout == self._readout:
            return
        self._readout = readout
        if self._file is not None and self._file.count == 0:
            path = self._file.path
            await self.worker.call(self._file.close)
            path.unlink()
            self._file = await self.worker.call(self._make, path)

    async def handle(self, frame: Frame) -> None:
        """Write one frame, or keep it until it is to be written.

        Raises
        ------
        DriverError
            If it cannot be written.
        """
        if not self.enabled:
            return
        self._last = frame
        began = time.monotonic()
        if self._mode.value == "Single":
            if self._save.value == "Yes":
                await self._write_together([frame])
        elif self.capture.value == "Capture":
            await self._take(frame)
        await self.count(frame, time.monotonic() - began)

    async def _take(self, frame: Frame) -> None:
        """Add a frame to the running capture."""
        if self._file is not None:
            await self._append(self._file, frame)
        else:
            self._buffer.append(frame)
        await show(self._num_captured, self._num_captured.value + 1)
        if self._num_captured.value != self._num_capture.value:
            return
        if self._buffer and self._save.value == "Yes":
            await self._write_together(self._buffer)
        elif self._buffer:
            await self.capture.show("Done")  # they wait for WriteFile
            return
        await self._stop()

    async def _append(self, file: FrameFile, frame: Frame) -> None:
        def append() -> None:
            self._check_storage()
            file.append(frame)

        try:
            await self.worker.call(append)
        except Exception as error:
            await self._fail(f"frame {frame.number} could not be written: {error}")
            raise DriverError(f"HDF1: {self._failure}") from error

    async def _write_together(self, frames: list[Frame]) -> None:
        """Write frames to a file of their own."""
        file = await self._open()
        for frame in frames:
            await self._append(file, frame)
        await self.worker.call(file.close)
        self._buffer = []

    async def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            await self._stop()
