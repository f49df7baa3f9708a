"""A file of frames that can be read while it is written: HDF5, single writer, multiple readers.

Knows no EPICS. Chunks go to the file as they are: that takes hardly longer than a plain write.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np

from ioc.camera.compression import Compression, compress, dataset_options
from ioc.drivers.protocol import Frame

DATA = "/entry/data/data"
UNIQUE_ID = "/entry/instrument/NDAttributes/NDArrayUniqueId"
TIME_STAMP = "/entry/instrument/NDAttributes/NDArrayTimeStamp"
# Frames begin at a page of memory, so that the system copies whole pages.
ALIGNMENT = {"alignment_threshold": 65536, "alignment_interval": 4096}
NUMBERS = 1024  # in a chunk
RESERVE = 32 * 2**20  # B that stay free, so that the file can still be closed when the disk is full


class FrameFile:
    """Frames in `/entry/data/data`, shape (N, height, width), chunks (1, height, width).

    Beside them, for each frame, `/entry/instrument/NDAttributes/NDArrayUniqueId` (int32) and
    `NDArrayTimeStamp` (float64, unix time in s), as areaDetector has it.

    Parameters
    ----------
    path : Path
        Of the file, which must not exist.
    shape : (int, int)
        (height, width) of the frames, in px.
    dtype : dtype
        Of the pixels.
    compression : {"None", "Blosc"}
        Of each frame; see `ioc.camera.compression`.

    Raises
    ------
    OSError
        If the file exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        dtype: np.dtype,
        compression: Compression = "None",
    ) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.compression: Compression = compression
        self.count = 0
        if path.exists():  # h5py would see it too, but says so without the type of the error
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self._check_space(path.parent, 0)
        self._file = h5py.File(path, "x", libver="latest", **ALIGNMENT)
        try:
            self._lay_out()
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def _lay_out(self) -> None:
        file = self._file
        for name, kind in {
            "entry": "NXentry",
            "entry/instrument": "NXinstrument",
            "entry/instrument/NDAttributes": "NXcollection",
            "entry/data": "NXdata",
        }.items():
            file.require_group(name).attrs["NX_class"] = kind
        file["entry/data"].attrs["signal"] = "data"
        self._data = file.create_dataset(
            DATA,
            (0, *self.shape),
            self.dtype,
            maxshape=(None, *self.shape),
            chunks=(1, *self.shape),
            **dataset_options(self.compression),
        ).id
        self._ids = _Numbers(file, UNIQUE_ID, "i4")
        self._times = _Numbers(file, TIME_STAMP, "f8")
        file.swmr_mode = True
        self._descriptor = file.id.get_vfd_handle()  # quicker to ask for free space than a path

    def append(self, frame: Frame) -> None:
        """Write one frame and make it visible to readers.

        Raises
        ------
        ValueError
            If the frame has another shape or type than the file's.
        OSError
            If it cannot be written; the frames before it are safe.
        """
        data = frame.data
        if (data.shape, data.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"frame {frame.number} has shape {data.shape} and type {data.dtype}; "
                f"{self.path.name} has frames of {self.shape}, {self.dtype}: "
                "start a new capture after a change of the readout"
            )
        self._check_space(self._descriptor, data.nbytes)
        chunk = np.ascontiguousarray(data)
        index = self.count
        self._data.set_extent((index + 1, *self.shape))
        self._data.write_direct_chunk(
            (index, 0, 0), chunk if self.compression == "None" else compress(chunk)
        )
        # Readers take the frame's number last, so it is shown last: who sees it has the frame.
        self._data.flush()
        self._times.write(index, frame.timestamp)
        self._ids.write(index, frame.number)
        self.count += 1

    def _check_space(self, where: Path | int, nbytes: int) -> None:
        """Stop before the disk is full: HDF5 cannot close a file that it cannot write to."""
        disk = os.statvfs(where)
        free = disk.f_bavail * disk.f_frsize
        if free < nbytes + RESERVE:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: {free >> 20} MiB free, "
                f"{(nbytes + RESERVE) >> 20} MiB needed; free some or set another FilePath",
                str(self.path.parent),
            )

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()


class _Numbers:
    """A dataset of one number for each frame.

    Its last chunk is kept here and written whole: h5py's way to one element takes longer than
    anything else of a frame but its pixels.
    """

    def __init__(self, file: h5py.File, name: str, dtype: str) -> None:
        self._dataset = file.create_dataset(
            name, (0,), dtype, maxshape=(None,), chunks=(NUMBERS,)
        ).id
        self._chunk = np.zeros(NUMBERS, dtype)

    def write(self, index: int, value: float) -> None:
        """Write a number behind those that are there, and show it to readers."""
        place = index % NUMBERS
        self._chunk[place] = value
        self._dataset.set_extent((index + 1,))
        self._dataset.write_direct_chunk((index - place,), self._chunk)
        self._dataset.flush()
