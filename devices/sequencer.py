"""The sequencer: a flyer that takes many tiles by itself, and tells of each while it goes on.

A flight is loaded into the IOC whole, so a tile costs no message; its events are what single
exposures give, with the same keys, and refer to the frames in the camera's file.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import RLock
from typing import Any, Literal

import numpy as np
from event_model import compose_stream_resource
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils import DisconnectedError

from devices.connection import Connectable, circuit_broke
from devices.setting import Setting
from devices.status import DeviceOutcome, SettingOutcome, finish

FRAMES = "/entry/data/data"  # where areaDetector's HDF5 plugin puts them
MIMETYPE = "application/x-hdf5"
RESTING = ("Paused", "Held", "Fault")
COMMAND_TIMEOUT = 90.0  # s; a pause waits for the exposure, the readout and the writing
HEARTBEAT_PERIOD = 1.0  # s
LONGEST_PATH = 256  # characters of areaDetector's FullFileName
WATCHDOG = 30.0  # s that the sequencer goes on without a sign of life of this process
ROW = (
    "load",
    "serial",
    "index",
    "x",
    "y",
    "settle",
    "start",
    "end",
    "frame",
    "place",
    "mean",
    "sharpness",
)
ARRAYS = {  # of results, for a client that was late
    "x": "readback_x",
    "y": "readback_y",
    "settle": "settle_time",
    "start": "exposure_start",
    "end": "exposure_end",
    "frame": "frame_number",
    "place": "frame_place",
    "mean": "mean",
    "sharpness": "sharpness",
}

Command = Literal["pause", "skip", "abort"]

_log = logging.getLogger(__name__)


class SequencerError(RuntimeError):
    """The sequencer refused a command, or its flight was ended from outside."""


class PointFailedError(SequencerError):
    """A point of a flight failed; the sequencer rests there.

    Attributes
    ----------
    point : int
        Which of the flight.
    reason : str
    """

    def __init__(self, point: int, reason: str) -> None:
        super().__init__(reason)
        self.point, self.reason = point, reason


@dataclass(frozen=True)
class FlightPoint:
    """One exposure of a flight.

    Attributes
    ----------
    x, y : float
        Where the stage goes, in µm.
    focus : float
        What is added to the defocus, in µm.
    shift_x, shift_y : float
        What is added to the image shift, in µm as the column has it.
    tile : mapping of str to value
        What its event says of the tile, by the attributes of `devices.Tile`.
    """

    x: float
    y: float
    focus: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    tile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Flight:
    """What is to be flown, and the devices whose readings go into its events.

    Attributes
    ----------
    points : sequence of FlightPoint
    exposure : float
        In s.
    camera, stage, scope, tile : device
        The camera must be staged.
    told : list of int
        The points whose events were collected. A plan does not always get what `collect` gives: a
        failure of the flight may come in its place.
    """

    points: Sequence[FlightPoint]
    exposure: float
    camera: Any
    stage: Any
    scope: Any
    tile: Any
    told: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """A point that is done, and the file that has its frame."""

    file: str
    index: int
    x: float
    y: float
    settle: float
    start: float
    end: float
    frame: int
    place: int
    mean: float
    sharpness: float

    @classmethod
    def read(cls, file: str, values: Sequence[float]) -> _Row:
        """Read it from a row of Recent_RBV, from the index on."""
        index, x, y, settle, start, end, frame, place, mean, sharpness = map(float, values)
        whole = int(index), x, y, settle, start, end, int(frame), int(place)
        return cls(file, *whole, mean, sharpness)


class Sequencer(Connectable):
    """Takes tiles in the IOC: a Bluesky flyer.

    `prepare` loads a flight; `kickoff` starts it, or goes on with one that rests; `complete` ends
    with it. Events, with a `stream_datum` for their frames, can be collected at any time. While it
    runs the stage and the camera refuse all others. A pause of the RunEngine lets it rest after the
    exposure that is being made; a fault makes it rest at the point that failed, and `complete`
    raises `PointFailedError`: `kickoff` then tries that point again, ``set("skip")`` leaves it out.

    Parameters
    ----------
    prefix : str
    name : str
    **kwargs
        As of `ophyd.Device`.

    Examples
    --------
    >>> flight = Flight([FlightPoint(0, 0), FlightPoint(5, 0)], 0.1, camera, stage, scope, tile)
    >>> RE(fly_montage(sequencer, camera, stage, scope, roi))
    """

    essential = ("load", "start", "recent", "done")

    x = Cpt(EpicsSignal, "X", kind="omitted")
    y = Cpt(EpicsSignal, "Y", kind="omitted")
    focus_offset = Cpt(EpicsSignal, "FocusOffset", kind="omitted")
    shift_x = Cpt(EpicsSignal, "ShiftX", kind="omitted")
    shift_y = Cpt(EpicsSignal, "ShiftY", kind="omitted")
    exposure = Cpt(EpicsSignal, "Exposure", kind="omitted")
    num_points = Cpt(Setting, "NumPoints", kind="omitted")
    load = Cpt(Setting, "Load", kind="omitted")

    settle = Cpt(Setting, "Settle", kind="config")
    settle_timeout = Cpt(Setting, "SettleTimeout", kind="config")
    tolerance = Cpt(Setting, "Tolerance", kind="config")
    shift_settle = Cpt(Setting, "ShiftSettle", kind="config")
    shift_limit = Cpt(Setting, "ShiftLimit", kind="config")
    shift_rotation = Cpt(Setting, "ShiftRotation", kind="config")
    shift_scale = Cpt(Setting, "ShiftScale", kind="config")
    watchdog = Cpt(Setting, "Watchdog", kind="config")
    hold_after = Cpt(Setting, "HoldAfter", kind="omitted")

    start = Cpt(EpicsSignal, "Start", kind="omitted", put_complete=True)
    pause_ = Cpt(EpicsSignal, "Pause", kind="omitted", put_complete=True)
    resume_ = Cpt(EpicsSignal, "Resume", kind="omitted", put_complete=True)
    skip_ = Cpt(EpicsSignal, "Skip", kind="omitted", put_complete=True)
    abort = Cpt(EpicsSignal, "Abort", kind="omitted", put_complete=True)
    heartbeat = Cpt(EpicsSignal, "Heartbeat", kind="omitted")

    state = Cpt(EpicsSignalRO, "State_RBV", string=True, kind="omitted", auto_monitor=True)
    error = Cpt(EpicsSignalRO, "Message_RBV", string=True, kind="omitted", auto_monitor=True)
    index = Cpt(EpicsSignalRO, "Index_RBV", kind="omitted", auto_monitor=True)
    done = Cpt(EpicsSignalRO, "Done_RBV", kind="omitted", auto_monitor=True)
    failed = Cpt(EpicsSignalRO, "Failed_RBV", kind="omitted", auto_monitor=True)
    duration = Cpt(EpicsSignalRO, "Duration_RBV", kind="omitted", auto_monitor=True)
    time_remaining = Cpt(EpicsSignalRO, "TimeRemaining_RBV", kind="omitted", auto_monitor=True)
    recent = Cpt(EpicsSignalRO, "Recent_RBV", kind="omitted", auto_monitor=True)

    order = Cpt(EpicsSignalRO, "Order_RBV", kind="omitted", lazy=True)
    readback_x = Cpt(EpicsSignalRO, "ReadbackX_RBV", kind="omitted", lazy=True)
    readback_y = Cpt(EpicsSignalRO, "ReadbackY_RBV", kind="omitted", lazy=True)
    settle_time = Cpt(EpicsSignalRO, "SettleTime_RBV", kind="omitted", lazy=True)
    exposure_start = Cpt(EpicsSignalRO, "ExposureStart_RBV", kind="omitted", lazy=True)
    exposure_end = Cpt(EpicsSignalRO, "ExposureEnd_RBV", kind="omitted", lazy=True)
    frame_number = Cpt(EpicsSignalRO, "FrameNumber_RBV", kind="omitted", lazy=True)
    frame_place = Cpt(EpicsSignalRO, "FramePlace_RBV", kind="omitted", lazy=True)
    mean = Cpt(EpicsSignalRO, "Mean_RBV", kind="omitted", lazy=True)
    sharpness = Cpt(EpicsSignalRO, "Sharpness_RBV", kind="omitted", lazy=True)
    fault = Cpt(EpicsSignalRO, "Fault_RBV", kind="omitted", lazy=True)

    def __init__(self, prefix: str = "TEM:SEQ:", *, name: str, **kwargs: Any) -> None:
        kwargs.setdefault("labels", {"flyers"})
        super().__init__(prefix, name=name, **kwargs)
        self._loads = itertools.count(int(time.time()) % 2**30)  # no number twice in a row
        self._flight: Flight | None = None
        self._lock = RLock()
        self._rows: list[_Row] = []  # done, and not collected yet
        self._serial = 0
        self._missed = False  # a point that the monitor should have told of
        self._load = 0  # the number of the flight
        self._base: dict[str, float] = {}  # of the optics that points add to, by event key
        self._resource: Any = None
        self._resource_file = ""
        self._file = ""
        self._alive = 0.0
        self._paused = False
        self._told_in_file = 0  # frames of the file that results have told of
        self._page: dict[str, Any] | None = None  # whose stream_datum was just given
        self._page_points: list[int] = []
        self.stage_sigs.update([("watchdog", WATCHDOG)])
        self._completion: DeviceOutcome | None = None
        self.recent.subscribe(self._recent_changed, run=False)
        self.state.subscribe(self._state_changed, run=False)
        self.state.subscribe(self._connection_changed, event_type=self.state.SUB_META, run=False)

    # -- flying -----------------------------------------------------------------------------------

    def prepare(self, flight: Flight) -> SettingOutcome:
        """Load a flight, in place of what is left of another.

        Returns
        -------
        SettingOutcome
            It fails with SettingRefusedError, and the reason, if any point is out of reach.

        Raises
        ------
        ValueError
            If it has no points.
        """
        if not flight.points:
            raise ValueError("the flight has no points")
        with self._lock:
            if self._rows:
                _log.error("%s: %d points were never collected", self.name, len(self._rows))
            self._rows, self._serial, self._load = [], 0, next(self._loads)
            self._flight = flight
        columns = {
            self.x: [point.x for point in flight.points],
            self.y: [point.y for point in flight.points],
        }
        offsets = {  # of which a single value stands for all
            self.focus_offset: [point.focus for point in flight.points],
            self.shift_x: [point.shift_x for point in flight.points],
            self.shift_y: [point.shift_y for point in flight.points],
        }
        for signal, values in offsets.items():
            columns[signal] = values if any(values) else [0.0]
        for signal, values in columns.items():
            signal.put(np.array(values, float), wait=True)
        self.exposure.put(np.array([flight.exposure]), wait=True)
        self.num_points.put(len(flight.points), wait=True)
        return self.load.set(self._load)

    def kickoff(self) -> DeviceOutcome:
        """Start the flight, or go on with it where it rests.

        Returns
        -------
        DeviceOutcome
            Finished when it is under way; it fails with SequencerError if the IOC refuses.
        """
        self._paused = False
        self._needed().scope.rest_first = self.pause
        self._needed().camera.end_first = self.stop
        outcome = self._outcome("start")
        state = self.state.get(use_monitor=False)
        if state == "Running":
            outcome.set_finished()
            return outcome
        self._catch_up()  # what is done already is in the file that is open now
        self._have_file()
        scope = self._needed().scope
        self._base = {
            signal.name: float(signal.get(use_monitor=False))
            for signal in (scope.defocus, scope.image_shift_x, scope.image_shift_y)
        }
        command = self.resume_ if state in RESTING else self.start
        command.put(1, use_complete=True, callback=partial(self._started, outcome, state))
        return outcome

    def _started(self, outcome: DeviceOutcome, before: str, **_: Any) -> None:
        """See whether the IOC did what it was told; Channel Access does not tell ophyd."""
        try:
            now = self.state.get(use_monitor=False)
            if now == before and (before not in RESTING or self._refused()):
                outcome.set_exception(SequencerError(f"{self.name} stays {now}: {self._why()}"))
            else:
                outcome.set_finished()
        except Exception as error:  # raised here it would end in a log, and the status never
            outcome.set_exception(self._lost() if circuit_broke(error) else error)

    def _refused(self) -> bool:
        # One that failed again at once is in the state that it was in, and was not refused.
        return bool(self.failed.get(use_monitor=False) < 0)

    def complete(self) -> DeviceOutcome:
        """Wait for the end of the flight, or for where it is to be held.

        Returns
        -------
        DeviceOutcome
            It fails with PointFailedError if a point failed, and with SequencerError if the flight
            was aborted.
        """
        self._end_completion()
        outcome = self._completion = DeviceOutcome(
            self, call_stop_on_failure=False, explain=self._why
        )
        self._state_changed()
        return outcome

    def _state_changed(self, **_: Any) -> None:
        """End the flight that is waited for, if it is over.

        The state is asked for: what a monitor brings may be of before the flight went on.
        """
        if self._completion is None:
            return
        try:
            state = self.state.get(use_monitor=False)
            if state in ("Done", "Held"):
                self._end_completion()
            elif state == "Fault":
                point = int(self.failed.get(use_monitor=False))
                self._end_completion(PointFailedError(point, self._why()))
            elif state in ("Aborted", "Idle"):
                self._end_completion(SequencerError(f"{self.name} was aborted: {self._why()}"))
            elif state == "Paused" and (why := self._why()):  # nobody who will resume it
                self._end_completion(SequencerError(f"{self.name} was paused: {why}"))
        except Exception as error:  # raised here it would end in a log, and the status never
            self._end_completion(self._lost() if circuit_broke(error) else error)

    def _end_completion(self, error: Exception | None = None) -> None:
        """Finish what `complete` gave, once, whoever comes first."""
        with self._lock:
            outcome, self._completion = self._completion, None
        finish(outcome, error)

    def _connection_changed(self, connected: bool, **_: Any) -> None:
        if not connected:
            self._end_completion(self._lost())

    def _lost(self) -> DisconnectedError:
        return DisconnectedError(
            f"{self.name} has lost its IOC ({self.prefix}) on its way: look at the IOC's log, and "
            "start it with `temline up`; what is on disk is on disk"
        )

    def set(self, command: Command) -> DeviceOutcome:
        """Have it rest, leave a point out, or end.

        Parameters
        ----------
        command : {"pause", "skip", "abort"}
            Rest as soon as may be: the exposure that is being made is made. Leave out the point
            that failed. End at once.

        Returns
        -------
        DeviceOutcome
            Finished when it is so and, after a pause and an abort, the hardware is free.

        Raises
        ------
        ValueError
            If there is no such command.
        """
        commands = {"pause": self.pause_, "skip": self.skip_, "abort": self.abort}
        if command not in commands:
            raise ValueError(f"{command!r} is no command; there are {', '.join(commands)}")
        outcome = self._outcome(command)
        if command == "abort":  # which is no failure of the flight, as it is wanted
            self._end_completion()

        def done(**_: Any) -> None:
            self._end_completion()
            outcome.set_finished()

        if self.state.connected:
            commands[command].put(1, use_complete=True, callback=done)
        else:
            outcome.set_exception(self._lost())
        return outcome

    def pause(self) -> None:
        """Rest while the RunEngine is paused; the exposure that is being made is made."""
        if self.state.get(use_monitor=False) == "Running":
            self._paused = True
            self._try(self.pause_)

    def resume(self) -> None:
        """Go on after a pause of the RunEngine, with the light that the pause had taken."""
        if self._paused:
            self._paused = False
            self._needed().scope.resume()  # the RunEngine may come to the scope after this
            if self.state.get(use_monitor=False) == "Paused":
                self._try(self.resume_)

    def stop(self, *, success: bool = False) -> None:
        """Abort the flight."""
        if not self.state.connected:
            _log.error("%s has lost its IOC (%s) and cannot be stopped", self.name, self.prefix)
        elif self.state.get(use_monitor=False) in ("Running", *RESTING):
            self._end_completion()  # without an error, as it is wanted
            self._try(self.abort)

    def unstage(self) -> list[object]:
        """Abort what is under way, and restore what staging set."""
        self.stop()
        if self._flight is not None:
            self._flight.scope.rest_first = self._flight.camera.end_first = None
        self._flight, self._resource, self._file = None, None, ""
        unstaged: list[object] = super().unstage()
        return unstaged

    def _try(self, command: EpicsSignal) -> None:
        # Raised from pause or stop, an error would end the RunEngine.
        try:
            command.put(1, wait=True, timeout=COMMAND_TIMEOUT)
        except Exception as error:
            _log.error("%s: %s", command.name, error)

    def _outcome(self, what: str) -> DeviceOutcome:
        return DeviceOutcome(
            self,
            timeout=COMMAND_TIMEOUT,
            call_stop_on_failure=False,
            explain=lambda: f"{self.name} did not {what}; it is {self._found()}",
        )

    def _found(self) -> str:
        state = self.state.get(use_monitor=False) if self.state.connected else "gone"
        return f"{state}: {self._why()}"

    def _why(self) -> str:
        text: str = self.error.get(use_monitor=False) if self.error.connected else "no IOC"
        return text

    # -- the file ---------------------------------------------------------------------------------

    def _have_file(self) -> None:
        """See that the camera has a file for frames of flights only, and a document for it.

        What others took meanwhile, as an autofocus does, stays in the file before.
        """
        hdf = self._needed().camera.hdf1
        capturing = bool(hdf.capture.get(use_monitor=False))
        captured = int(hdf.num_captured.get(use_monitor=False))
        expected = self._told_in_file if self._file else 0
        if not capturing or captured != expected:
            hdf.capture.set(0).wait(COMMAND_TIMEOUT)
            hdf.capture.set(1).wait(COMMAND_TIMEOUT)
        # In full: pyepics would give as much of it as it gave before, of an empty name nothing.
        path = str(hdf.full_file_name.get(use_monitor=False, count=LONGEST_PATH, form="native"))
        if path != self._file:
            self._file = path
            self._told_in_file = 0

    # -- results ----------------------------------------------------------------------------------

    def _recent_changed(self, value: Any = None, **_: Any) -> None:
        rows = np.asarray(value, float)
        if not rows.size % len(ROW):
            self._take_in(rows.reshape(-1, len(ROW)))

    def _take_in(self, rows: NDArray[np.float64]) -> None:
        """Note points that are new; if some were missed, they are asked for when collected."""
        with self._lock:
            for row in rows:
                load, serial = int(row[0]), int(row[1])
                if load == self._load and serial == self._serial + 1:
                    self._serial = serial
                    self._told_in_file += 1
                    self._rows.append(_Row.read(self._file, row[2:]))
                elif load == self._load and serial > self._serial:
                    self._missed = True

    def _catch_up(self) -> None:
        """Ask for points that the monitor has not told of, or not yet at the end."""
        if not self._missed and self._completion is not None:
            return  # it flies, and the monitor tells of each point
        if int(self.load.get(use_monitor=False)) != self._load:
            return  # the flight was refused, or is not loaded yet
        self._missed = False
        count = int(self.done.get(use_monitor=False))
        if count <= self._serial:
            return
        order = _whole(self.order, count).astype(int)
        points = len(self._needed().points)
        columns = [_whole(getattr(self, ARRAYS[key]), points)[order] for key in ROW[3:]]
        serials = np.arange(count) + 1
        self._take_in(np.column_stack([np.full(count, self._load), serials, order, *columns]))

    @property
    def waiting(self) -> int:
        """How many points are done and not collected."""
        self._catch_up()
        return len(self._rows)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the events: what single exposures of the same devices give, and some more."""
        flight = self._needed()
        keys: dict[str, Any] = {}
        for device in (flight.camera, flight.tile, flight.stage, flight.scope):
            keys |= device.describe()
        image = self._image()
        height, width = (int(side) for side in keys[image]["shape"][-2:])
        pixels: str = flight.camera.cam.data_type.get(as_string=True)
        keys[image] = {
            **keys[image],
            "shape": [1, height, width],
            "dtype_numpy": np.dtype(pixels.lower()).str,
            "external": "STREAM:",
        }
        for key, unit in (("settle", "s"), ("start", "s"), ("end", "s")):
            keys[f"{self.name}_{key}"] = {
                "source": f"PV:{self.prefix}Recent_RBV",
                "dtype": "number",
                "dtype_numpy": "<f8",
                "shape": [],
                "units": unit,
                "object_name": self.name,
            }
        return keys

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the references to the frames of the points that `collect_pages` gives next."""
        self._show_life()
        self._catch_up()
        with self._lock:
            rows = _first_run(self._rows)
        if not rows:
            return
        page = self._make_page(rows)  # first, so that what cannot be read leaves no reference
        with self._lock:
            del self._rows[: len(rows)]
        self._page, self._page_points = page, [row.index for row in rows]
        if self._resource is None or rows[0].file != self._resource_file:
            self._resource_file = rows[0].file
            self._resource = compose_stream_resource(
                mimetype=MIMETYPE,
                uri=f"file://localhost/{rows[0].file.lstrip('/')}",
                data_key=self._image(),
                parameters={"dataset": FRAMES, "chunk_shape": (1, *self._frame_shape())},
            )
            yield "stream_resource", self._resource.stream_resource_doc
        yield (
            "stream_datum",
            self._resource.compose_stream_datum(
                indices={"start": rows[0].place, "stop": rows[-1].place + 1},
                seq_nums={"start": 0, "stop": 0},
            ),
        )

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Give what is known of the points whose frames were just referred to, as one page."""
        page, self._page = self._page, None
        if page is not None:
            yield page
            self._needed().told.extend(self._page_points)

    def _make_page(self, rows: Sequence[_Row]) -> dict[str, Any]:
        data, timestamps = self._shared_readings(len(rows))
        ends = [row.end for row in rows]
        for key, values in self._readings(rows).items():
            data[key], timestamps[key] = values, ends
        return {"data": data, "timestamps": timestamps, "time": ends}

    def _shared_readings(self, count: int) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
        """Read what is the same for all points of a page."""
        flight = self._needed()
        data: dict[str, list[Any]] = {}
        timestamps: dict[str, list[float]] = {}
        for device in (flight.camera, flight.tile, flight.stage, flight.scope):
            for key, reading in device.read().items():
                data[key] = [reading["value"]] * count
                timestamps[key] = [reading["timestamp"]] * count
        data.pop(self._image(), None)
        timestamps.pop(self._image(), None)
        return data, timestamps

    def _readings(self, rows: Sequence[_Row]) -> dict[str, list[Any]]:
        """Give what differs from point to point, by key."""
        flight = self._needed()
        camera, stage = flight.camera, flight.stage
        points = [flight.points[row.index] for row in rows]
        readings: dict[str, list[Any]] = {
            stage.x.user_readback.name: [row.x for row in rows],
            stage.y.user_readback.name: [row.y for row in rows],
            stage.x.user_setpoint.name: [point.x for point in points],
            stage.y.user_setpoint.name: [point.y for point in points],
            camera.cam.array_counter.name: [row.frame for row in rows],
            camera.stats1.mean_value.name: [row.mean for row in rows],
            camera.stats1.sharpness.name: [row.sharpness for row in rows],
            f"{self.name}_settle": [row.settle for row in rows],
            f"{self.name}_start": [row.start for row in rows],
            f"{self.name}_end": [row.end for row in rows],
        }
        for attribute in points[0].tile:
            name = getattr(flight.tile, attribute).name
            readings[name] = [point.tile[attribute] for point in points]
        for (name, base), added in zip(
            self._base.items(), ("focus", "shift_x", "shift_y"), strict=True
        ):
            readings[name] = [base + getattr(point, added) for point in points]
        return readings

    def _show_life(self) -> None:
        """Write the heartbeat, so that the sequencer goes on; see whether it does.

        A client that reads late may lose the update that told of the end.
        """
        if time.monotonic() - self._alive > HEARTBEAT_PERIOD:
            self._alive = time.monotonic()
            self.heartbeat.put(1, wait=False)
            self._state_changed()

    def _image(self) -> str:
        name: str = self._needed().camera._image_name
        return name

    def _frame_shape(self) -> tuple[int, int]:
        size = self._needed().camera.cam.array_size
        return int(size.array_size_y.get()), int(size.array_size_x.get())

    def _needed(self) -> Flight:
        if self._flight is None:
            raise SequencerError(f"{self.name} has no flight: prepare one first")
        return self._flight


def _whole(signal: EpicsSignalRO, length: int) -> NDArray[Any]:
    """Read an array whose length is known; pyepics would give as much of it as it gave before.

    It asks in the plain form, in which nobody else does: requests of one form share an answer, and
    that for a time stamp, which ophyd asks for at any moment after it has connected, has one
    element.
    """
    return np.atleast_1d(signal.get(count=length, form="native"))


def _first_run(rows: list[_Row]) -> list[_Row]:
    """Give the first rows whose frames follow on each other in one file."""
    places = [(row.file, row.place) for row in rows]
    follow = (b == (a[0], a[1] + 1) for a, b in pairwise(places))
    count = next((i for i, follows in enumerate(follow, start=1) if not follows), len(rows))
    return rows[:count]
