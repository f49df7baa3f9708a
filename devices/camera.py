"""The camera: stock area-detector classes, with a trigger that cannot be fooled or hang.

A frame counts only when the file plugin has written it, and its place in the file is read from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from threading import Lock
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO
from ophyd.areadetector import DetectorBase, EpicsSignalWithRBV
from ophyd.areadetector.base import ADComponent as ADCpt
from ophyd.areadetector.cam import CamBase
from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
from ophyd.areadetector.plugins import HDF5Plugin, ImagePlugin, StatsPlugin
from ophyd.areadetector.trigger_mixins import TriggerBase
from ophyd.device import Staged
from ophyd.status import StatusBase
from ophyd.utils import DisconnectedError

from devices.connection import Connectable, circuit_broke
from devices.status import DeviceOutcome, finish, finished
from devices.timeouts import EXPOSURE_MARGIN

_log = logging.getLogger(__name__)

DETECTOR_ACQUIRE, DETECTOR_ERROR = 1, 6
"""Places of "Acquire" and "Error" among areaDetector's detector states (ADDriver.h)."""
WITHOUT_FRAME = {5, DETECTOR_ERROR, 9, 10}
"""States that come of no frame: aborting, error, disconnected, aborted."""


class CameraError(RuntimeError):
    """A frame was not taken or not written."""


class Cam(CamBase):
    """The camera driver; what is read at each frame is monitored, so reading it costs nothing."""

    _default_read_attrs = ("array_counter",)

    array_counter = ADCpt(EpicsSignalWithRBV, "ArrayCounter", auto_monitor=True)
    # Not lazy: TriggerBase touches it at once, and would wait for the IOC before it is made.
    acquire = ADCpt(EpicsSignalWithRBV, "Acquire", lazy=False, auto_monitor=True)
    detector_state = ADCpt(EpicsSignalRO, "DetectorState_RBV", lazy=False, auto_monitor=True)
    status_message = ADCpt(EpicsSignalRO, "StatusMessage_RBV", string=True, auto_monitor=True)
    temperature = ADCpt(EpicsSignalWithRBV, "Temperature", auto_monitor=True)
    acquire_time = ADCpt(EpicsSignalWithRBV, "AcquireTime", auto_monitor=True, limits=True)
    bin_x = ADCpt(EpicsSignalWithRBV, "BinX", auto_monitor=True)
    bin_y = ADCpt(EpicsSignalWithRBV, "BinY", auto_monitor=True)


class FrameWriter(HDF5Plugin, FileStoreHDF5IterativeWrite):
    """The HDF5 plugin; each frame's place in the file is what the plugin says it is.

    The stock mixin counts triggers, so after one frame that was never written (a camera fault, a
    pause in mid-exposure) every later event would point at its neighbour's frame.
    """

    num_captured = ADCpt(EpicsSignalRO, "NumCaptured_RBV", auto_monitor=True)
    write_message = ADCpt(EpicsSignalRO, "WriteMessage", string=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._point_counter: Iterator[int] | None = None

    def refer_to(self, frame: int) -> None:
        """Have `generate_datum` refer to a frame of the file, by its place from 0."""
        self._point_counter = count(frame)

    def announce(self, key: str) -> None:
        """Let `describe` name the image before the first frame, for plans that declare streams."""
        self._datum_uids[key] = []

    def unstage(self) -> list[object]:
        """Close the file, and forget its frames."""
        unstaged: list[object] = super().unstage()
        self._datum_uids.clear()
        return unstaged

    def read(self) -> dict[str, Any]:
        """Read the reference to the last frame, if there is one since staging."""
        announced = [key for key, readings in self._datum_uids.items() if not readings]
        for key in announced:
            del self._datum_uids[key]
        try:
            reading: dict[str, Any] = super().read()
        finally:
            for key in announced:
                self.announce(key)
        return reading


class FrameStatistics(StatsPlugin):
    """Statistics of each frame, made in the IOC."""

    _default_read_attrs = ("mean_value", "sharpness")

    # Not lazy, since the camera says of them how they are shown.
    mean_value = ADCpt(EpicsSignalRO, "MeanValue_RBV", lazy=False, auto_monitor=True)
    sharpness = ADCpt(
        EpicsSignalRO,
        "Sharpness_RBV",
        lazy=False,
        auto_monitor=True,
        doc="Variance of the band-passed, normalised middle of the frame; no stock areaDetector PV",
    )


class ExposureEnd:
    """Waits until the exposure that is under way is over, and the frame may still be read out.

    From then on the frame does not change, whatever moves.

    Attributes
    ----------
    passed : bool
        Whether it is over.
    """

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed = True
        self._frame: StatusBase = finished()
        self._awaited: StatusBase | None = None

    def trigger(self) -> StatusBase:
        """Return a status that is done then, or once the frame's own status has told a failure.

        In this order: a plan that waits for the end of an exposure that fails is to have the
        failure thrown at it, and not to go on as if there were a frame.
        """
        awaited = self._awaited = StatusBase()
        self._frame.add_callback(lambda _: finish(awaited, None))
        if self.passed:
            finish(awaited, None)
        return awaited

    def begin(self, frame: StatusBase) -> None:
        """Take note of a frame that is about to be exposed."""
        self._awaited, self._frame, self.passed = None, frame, False

    def reached(self) -> None:
        """Take note that the exposure is over."""
        self.passed = True
        finish(self._awaited, None)


class Camera(TriggerBase, Connectable, DetectorBase):
    """A camera whose frames go to an HDF5 file, one to a trigger.

    A trigger succeeds when the frame is in the file. It fails, with the camera's own message, when
    the driver reports an error; with a count when the driver is done but no frame was written; and
    with a time-out when neither happens.

    Parameters
    ----------
    prefix : str
    name : str
    write_path_template : str
        Folder that the IOC writes to; may hold `strftime` fields, such as ``%Y/%m/%d``.
    root : str
        The part of that path that may differ from one machine to another.
    **kwargs
        As of `ophyd.Device`.

    Attributes
    ----------
    exposure_end : ExposureEnd
        To be triggered after the camera was, by plans that go on before the frame is written.
    end_first : callable, optional
        Called before the camera is unstaged, since `RE.halt()` unstages devices in any order: what
        exposes it by itself has to end before.

    Examples
    --------
    >>> camera = Camera("TEM:CAM:", name="camera", write_path_template="/data/%Y/%m/%d")
    >>> camera.wait_for_connection()
    >>> RE(bp.count([camera], num=3))
    """

    _default_read_attrs = ("cam", "hdf1", "stats1")
    _default_configuration_attrs = ("cam", "hdf1", "stats1")
    essential = (
        "cam.acquire",
        "cam.array_size.array_size_x",
        "cam.array_size.array_size_y",
        "cam.bin_x",
        "cam.bin_y",
        "cam.data_type",
        "cam.data_type_disabled",
        "cam.detector_state",
        "cam.num_images",
        "cam.port_name",
        "cam.status_message",
        "cam.temperature",
        "hdf1.array_size.depth",
        "hdf1.array_size.height",
        "hdf1.array_size.width",
        "hdf1.file_name",
        "hdf1.file_number",
        "hdf1.file_path",
        "hdf1.file_path_exists",
        "hdf1.nd_array_port",
        "hdf1.num_captured",
        "hdf1.port_name",
        "hdf1.write_message",
        "image1.array_data",
        "stats1.nd_array_port",
        "stats1.port_name",
    )

    cam = Cpt(Cam, "cam1:")
    image1 = Cpt(ImagePlugin, "image1:")
    hdf1 = Cpt(FrameWriter, "HDF1:", write_path_template="/")
    stats1 = Cpt(FrameStatistics, "Stats1:")

    def __init__(
        self,
        prefix: str = "TEM:CAM:",
        *,
        name: str,
        write_path_template: str,
        root: str = "/",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("labels", {"detectors"})
        super().__init__(prefix, name=name, **kwargs)
        # What tables and plots show of a frame; a list of names alone would make these plain data.
        for hinted in (self.stats1.mean_value, self.stats1.sharpness):
            hinted.kind = "hinted"
        self.hdf1.reg_root = root
        self.hdf1.write_path_template = write_path_template
        # One frame to a trigger: more would be one event for several frames.
        self.stage_sigs.update([("cam.num_images", 1)])
        self.exposure_end = ExposureEnd(f"{self.name}_exposure_end")
        self.end_first: Callable[[], None] | None = None
        self._image_name = f"{self.name}_image"
        self._status: DeviceOutcome | None = None
        self._outcome_lock = Lock()
        self._exposing = False
        self._frames_before = 0

        self.cam.detector_state.subscribe(self._state_changed, run=False)
        self.cam.acquire.subscribe(
            self._connection_changed, event_type=self.cam.acquire.SUB_META, run=False
        )

    def stage(self) -> None:
        """Open a file and get ready for triggers."""
        super().stage()
        self.hdf1.announce(self._image_name)

    def unstage(self) -> None:
        """Stop an exposure that is under way, close the file, and restore what staging set."""
        if self.end_first is not None:
            self.end_first()
        self._end(None)
        if not self.cam.acquire.connected:
            _log.error("%s has lost its IOC; nothing of it is restored", self.name)
            self._forget_staging()
            return
        self._end_exposure().wait()
        super().unstage()

    def _forget_staging(self) -> None:
        """Count as unstaged, since an IOC that is started anew knows nothing of the old one."""
        for device in (self, *(part for _, part in self.walk_subdevices())):
            device._original_vals.clear()
            device._staged = Staged.no

    def trigger(self) -> DeviceOutcome:
        """Take one frame.

        Returns
        -------
        DeviceOutcome
            It fails with CameraError or TimeoutError.

        Raises
        ------
        RuntimeError
            If the camera is not staged.
        """
        if self._staged != Staged.yes:
            raise RuntimeError(f"{self.name} is not ready to trigger: stage it first")
        exposure = self.cam.acquire_time.get()
        # By its monitor, which has told of all frames by now: their triggers waited for it.
        self._frames_before = self.hdf1.num_captured.get()
        outcome = DeviceOutcome(
            self,
            timeout=exposure + EXPOSURE_MARGIN,
            call_stop_on_failure=False,
            explain=lambda: (
                f"{self.name} gave no frame for an exposure of {exposure:g} s; it says "
                f"{self._message()!r}: is its IOC alive, and is the camera cold and connected?"
            ),
        )
        outcome.add_callback(self._stop_if_overdue)
        self._exposing = False
        self.exposure_end.begin(outcome)
        self._status = outcome
        # Its own put-completion and not the monitor of Acquire, by which the end of an exposure
        # that was given up could be taken for the end of this one.
        self.cam.acquire.put(1, use_complete=True, callback=partial(self._acquired, outcome))
        return outcome

    def stop(self, *, success: bool = False) -> None:
        """Stop an exposure that is under way."""
        self._end(None if success else CameraError(f"{self.name} was stopped in mid-exposure"))
        self.cam.acquire.put(0, wait=False)

    def pause(self) -> None:
        """Stop an exposure when the RunEngine is paused; the plan takes the frame again.

        A frame that is being read out is not given up: the plan may have gone on already.
        """
        outcome = self._status
        if outcome is None:
            return
        if self.exposure_end.passed:
            try:
                outcome.wait(EXPOSURE_MARGIN)
            except Exception as error:  # the plan is told by the status itself
                _log.warning("%s, while the RunEngine was being paused", error)
            return
        self._end(None)
        try:
            self._end_exposure().wait()
        except Exception as error:  # raised here it would end the RunEngine
            _log.error("%s did not stop its exposure: %s", self.name, error)

    def _end_exposure(self) -> DeviceOutcome:
        """Have the camera stop, though it may not have begun yet; done when it is still."""
        outcome = DeviceOutcome(
            self,
            timeout=EXPOSURE_MARGIN,
            call_stop_on_failure=False,
            explain=lambda: f"{self.name} did not stop; it says {self._message()!r}",
        )
        self.cam.acquire.put(0, use_complete=True, callback=lambda **_: finish(outcome, None))
        return outcome

    def _acquired(self, outcome: DeviceOutcome, **_: Any) -> None:
        """See, at the end of an acquisition, whether its frame is in the file."""
        if outcome is not self._status or not self.cam.acquire.connected:
            return  # it was given up, or is lost
        try:
            error = self._take_note_of_frame()
        except Exception as failure:  # raised here it would end in a log, and the status never
            error = self._lost() if circuit_broke(failure) else failure
        self._end(error)

    def _state_changed(self, value: Any = None, **_: Any) -> None:
        """See the end of the exposure: what the camera does next, it does with a frame."""
        if value == DETECTOR_ACQUIRE:
            self._exposing = True
        elif self._exposing:
            self._exposing = False
            if value not in WITHOUT_FRAME:  # of those the frame's own status tells
                self.exposure_end.reached()

    def _take_note_of_frame(self) -> Exception | None:
        """Make the reference to the frame just written; give what is wrong if there is none."""
        for use_monitor in (True, False):  # the monitor may be late: ask before crying wolf
            captured = self.hdf1.num_captured.get(use_monitor=use_monitor)
            if captured > self._frames_before:
                self.hdf1.refer_to(captured - 1)
                self.generate_datum(self._image_name, time.time(), {})
                return None
        return CameraError(self._fault())

    def _connection_changed(self, connected: bool, **_: Any) -> None:
        if not connected:
            self._end(self._lost())

    def _lost(self) -> DisconnectedError:
        return DisconnectedError(
            f"{self.name} has lost its IOC ({self.prefix}) in mid-exposure: look at the IOC's log, "
            "and start it with `temline up`"
        )

    def _fault(self) -> str:
        if self.cam.detector_state.get(use_monitor=False) == DETECTOR_ERROR:
            return f"{self.name} failed to take a frame: {self._message()}"
        written = self.hdf1.write_message.get()
        return (
            f"{self.name} is done but its frame was not written: the file still has "
            f"{self._frames_before} frames{f', and {written}' if written else ''}; "
            f"the camera says {self._message()!r}"
        )

    def _message(self) -> str:
        if not self.cam.status_message.connected:
            return "nothing, its IOC is gone"
        message: str = self.cam.status_message.get(use_monitor=False)
        return message

    def _stop_if_overdue(self, outcome: DeviceOutcome) -> None:
        if isinstance(outcome.exception(timeout=0), TimeoutError):
            self._status = None
            if self.cam.acquire.connected:
                self.cam.acquire.put(0, wait=False)

    def _end(self, error: Exception | None) -> None:
        """Finish the exposure that is under way, if one is: once, whoever comes first."""
        with self._outcome_lock:
            outcome, self._status = self._status, None
        finish(outcome, error)
