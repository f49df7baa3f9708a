"""Walks a trajectory over stage and camera on a thread of its own: move, settle, expose, next.

Knows no EPICS. A frame is read out and written while the stage moves to the next point; a point is
either done, or named with what went wrong, and never passed over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from math import hypot
from typing import Literal, Protocol

from ioc.drivers.protocol import DriverError, Frame, LostFrameError, StageReading
from ioc.trajectory import Results, Rules, Trajectory

State = Literal["Idle", "Loaded", "Running", "Paused", "Held", "Fault", "Done", "Aborted"]
STATES: tuple[State, ...] = (
    "Idle",
    "Loaded",
    "Running",
    "Paused",
    "Held",
    "Fault",
    "Done",
    "Aborted",
)
RESTING: tuple[State, ...] = ("Paused", "Held", "Fault")  # from where it can go on

COARSE_POLL = 0.02  # s between readings of the stage while it is far from its target
FINE_POLL = 0.0005  # and when it is about to arrive
ARRIVING = 0.004  # s before the arrival that is expected, from when on readings are fine
SETTLING_POLL = 0.004  # s between readings at rest
LIGHT_MARGIN = 30.0  # s that the readout and the writing of a frame may take
MOST_UNWRITTEN = 2  # frames that are read out and not yet written, beyond which none is exposed

logger = logging.getLogger(__name__)


class FaultCode(IntEnum):
    """What went wrong at a point."""

    NONE = 0
    STALL = 1
    NOT_IN_POSITION = 2
    CAMERA = 3
    LOST_FRAME = 4
    NOT_WRITTEN = 5
    INTERLOCK = 6
    HARDWARE = 7


class SequenceError(DriverError):
    """A point could not be done."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class _EndedError(Exception):
    """Somebody aborted the sequence."""


class _NotNowError(Exception):
    """A point was left before its exposure, because the sequence is to rest."""


@dataclass(frozen=True)
class Written:
    """A frame that is on disk: its number, its place in the file, and what Stats1 says of it."""

    number: int
    place: int
    mean: float
    sharpness: float


class Hardware(Protocol):
    """What a sequence asks of the instrument; all calls come from its thread."""

    def begin(self) -> None:
        """Take the hardware for the sequence, and note the optics that it begins with.

        Raises
        ------
        DriverError
            If it cannot be had, or a frame would not be written.
        """

    def release(self) -> None:
        """Bring the optics back to where they were, and let others use the hardware."""

    def check(self) -> None:
        """Raise SequenceError if an interlock forbids to expose."""

    def move(self, x: float, y: float) -> float:
        """Set the stage in motion; give the time that it will take, in s; 0 if it is there."""

    def stop(self) -> None:
        """Stop the stage."""

    def position(self) -> StageReading:
        """Read the stage."""

    def set_optics(self, focus: float, shift_x: float, shift_y: float) -> bool:
        """Set what is added to defocus and image shift; tell whether the image shift changed."""

    def shift_by(self, x: float, y: float) -> None:
        """Move the picture's place by some µm of the stage, beyond what `set_optics` set."""

    def expose(self, exposure: float) -> None:
        """Expose, and return when the light is in."""

    def read(self) -> tuple[Future[Frame], Future[Written]]:
        """Have the frame of the last exposure read out and written; wait for neither."""

    def abort_exposure(self) -> None:
        """Have a running exposure return early."""

    def blank(self) -> None:
        """Blank the beam, because nobody is there to look after it."""


@dataclass
class _Exposed:
    """A point whose frame is on its way to the disk."""

    index: int
    position: tuple[float, float]
    settle: float
    start: float
    end: float
    readout: Future[Frame]
    written: Future[Written]
    entered: bool = False


class Sequence:
    """One trajectory at a time, and where it is.

    Commands come from any thread and return at once; `changed` tells when they have had effect.

    Parameters
    ----------
    hardware : Hardware
    changed : callable
        Called without arguments, on some thread, whenever state, message or index changed.
    done : callable
        Called with the index of each point that is done, on some thread.

    Attributes
    ----------
    state : str
        One of STATES.
    message : str
        Why it is so.
    failed : int
        The point that failed, in state Fault; else −1.
    hold_after : int
        The point after which it rests by itself (Held); −1: none.
    rules : Rules
    results : Results
    """

    def __init__(
        self, hardware: Hardware, changed: Callable[[], None], done: Callable[[int], None]
    ) -> None:
        self._hardware, self._changed, self._done = hardware, changed, done
        self._condition = threading.Condition()
        self._wanted: Literal["run", "rest", "end"] = "rest"
        self._todo: deque[int] = deque()
        self._exposed: deque[_Exposed] = deque()
        self._entering = threading.Lock()
        self._thread: threading.Thread | None = None
        self._heard = time.monotonic()
        self.state: State = "Idle"
        self.message = ""
        self.failed = -1
        self.hold_after = -1
        self.rules = Rules()
        self._path = Trajectory.empty()
        self.results = Results.empty(0)

    # -- commands, from any thread ----------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it has the hardware."""
        return self.state == "Running"

    @property
    def index(self) -> int:
        """The point that comes next, or the number of points if there is none."""
        try:
            return self._todo[0]
        except IndexError:
            return len(self._path)

    def load(self, trajectory: Trajectory) -> None:
        """Take a trajectory in, in place of what is left of another.

        Raises
        ------
        ValueError
            If one is running.
        """
        with self._condition:
            if self.running:
                raise ValueError(
                    "a sequence is running: pause or abort it before the next is loaded"
                )
            self._wanted = "end"  # a thread that rests has nothing left to do
            self._condition.notify_all()
        self._join()
        self._path = trajectory
        self.results = Results.empty(len(trajectory))
        self._todo = deque(range(len(trajectory)))
        self._exposed.clear()
        self.failed = self.hold_after = -1
        self._say("Loaded", f"{len(trajectory)} points")

    def start(self) -> None:
        """Begin with the first point.

        Raises
        ------
        ValueError
            If none is loaded.
        """
        if self.state != "Loaded":
            raise ValueError(f"the sequencer is {self.state}: write Load before Start")
        self.heard()
        self._hardware.begin()
        self._wanted = "run"
        self._say("Running", "")
        self._thread = threading.Thread(target=self._run, name="ioc-sequence", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Rest as soon as may be: before the next exposure; the running one is made."""
        with self._condition:
            if self.running and self._wanted == "run":
                self._wanted = "rest"

    def resume(self) -> None:
        """Go on, with the point that failed if one did.

        Raises
        ------
        ValueError
            If it does not rest.
        """
        with self._condition:
            if self.state not in RESTING:
                raise ValueError(f"the sequencer is {self.state}: there is nothing to resume")
            self.heard()
            self._hardware.begin()
            self._wanted = "run"
            self.failed = -1
            self._say("Running", "")
            self._condition.notify_all()

    def skip(self) -> None:
        """Leave out the point that failed; `Results.fault` keeps why.

        Raises
        ------
        ValueError
            If none failed.
        """
        with self._condition:
            if self.state != "Fault" or self.failed < 0:
                raise ValueError(f"the sequencer is {self.state}: there is no point to skip")
            self._todo.remove(self.failed)
            self.failed = -1
            self._say("Paused", "the point that failed is left out; Resume goes on")

    def abort(self) -> None:
        """End at once: stop the stage and the exposure; frames that are in are still written."""
        with self._condition:
            if not self.running and self.state not in RESTING:
                return
            self._wanted = "end"
            self._condition.notify_all()
        if self.running:
            self._hardware.abort_exposure()

    def heard(self) -> None:
        """Take note that a client is there."""
        self._heard = time.monotonic()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join(LIGHT_MARGIN)
            self._thread = None

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        """Walk to the end, whatever it is."""
        state: State = "Done"
        message = ""
        try:
            self._walk()
        except _EndedError:
            state, message = "Aborted", f"{len(self.results.order)} points are done"
        except Exception as error:
            logger.exception("the sequence failed")
            state, message = "Aborted", f"the sequencer itself failed: {error}"
        if self.running:
            for index, error in self._await_frames():
                logger.warning("sequencer, point %d: %s", index, error)
            self._release()
        self._say(state, message)

    def _walk(self) -> None:
        while True:
            try:
                self._obey()
                if self._has_lost_frame:
                    self._finish_frames()
                elif self._todo:
                    self._take(self._todo[0])
                elif not self._finish_frames():
                    return
            except _EndedError:
                raise
            except _NotNowError:
                continue
            except Exception as error:
                self._fail(self.index, error)

    def _obey(self) -> None:
        """Rest or end, if that is wanted."""
        if self._wanted == "end":
            raise _EndedError
        if self._wanted == "rest":
            self._rest("Paused", "")
        elif 0 <= self.hold_after < self.index and self._todo:
            self._rest("Held", f"as was asked for, after point {self.hold_after}")
        elif 0 < self.rules.watchdog < (silent := time.monotonic() - self._heard):
            self._hardware.blank()
            self._rest("Paused", f"no client was heard of for {silent:.1f} s; the beam is blanked")

    def _rest(self, state: State, message: str) -> None:
        """Let others use the hardware until somebody wants to go on; a lost frame comes first."""
        if not self._finish_frames():
            self._wait_at(state, message)

    def _fail(self, index: int, error: Exception) -> None:
        """Rest with the point that failed and why; a frame before that is lost comes first."""
        if not self._finish_frames():
            self._rest_failed(index, error)

    def _rest_failed(self, index: int, error: BaseException) -> None:
        if self._wanted == "end":  # an exposure that was aborted fails by that
            raise _EndedError
        self.results.fault[index] = code_of(error)
        self.failed = index
        logger.error("sequencer, point %d: %s", index, error)
        self._wait_at("Fault", f"point {index}: {error}")

    def _wait_at(self, state: State, message: str) -> None:
        with self._condition:
            if self._wanted == "end":
                raise _EndedError
            self._wanted = "rest"
        self._release()
        if state == "Held":
            self.hold_after = -1
        self._say(state, message)
        with self._condition:
            self._condition.wait_for(lambda: self._wanted != "rest")
        if self._wanted == "end":
            raise _EndedError

    def _release(self) -> None:
        try:
            self._hardware.release()
        except Exception:
            logger.exception("the optics could not be brought back to where they were")

    # -- frames on their way ----------------------------------------------------------------------

    @property
    def _has_lost_frame(self) -> bool:
        """Whether a frame is known not to come."""
        return any(
            future.done() and future.exception() is not None
            for one in self._exposed
            for future in (one.readout, one.written)
        )

    def _finish_frames(self) -> bool:
        """Wait until every frame is written; rest if one was not, and tell whether that was so."""
        failures = self._await_frames()
        for index, error in reversed(failures):
            self.results.fault[index] = code_of(error)
            self._todo.appendleft(index)
        if failures:
            self._rest_failed(*failures[0])
        return bool(failures)

    def _await_frames(self) -> list[tuple[int, BaseException]]:
        """Wait until every frame is written; give the points whose frame was not, and why."""
        failures: list[tuple[int, BaseException]] = []
        while self._exposed:
            one = self._exposed.popleft()
            if (error := _error_of(one.written)) is not None:
                failures.append((one.index, error))
            else:
                self._enter(one)
        return failures

    def _forget_written(self) -> None:
        """Forget frames that are on disk; wait for the oldest if too many are not."""
        while self._exposed:
            one = self._exposed[0]
            if len(self._exposed) > MOST_UNWRITTEN:
                _error_of(one.written)
            if not one.written.done() or one.written.exception() is not None:
                return
            self._exposed.popleft()

    def _enter(self, one: _Exposed) -> None:
        """Enter a point that is done, once: as soon as its frame is on disk, whoever sees it."""
        if one.written.exception() is not None:
            return  # the thread deals with it
        with self._entering:
            if one.entered:
                return
            one.entered = True
            frame, results, index = one.written.result(), self.results, one.index
            results.x[index], results.y[index] = one.position
            results.settle[index] = one.settle
            results.start[index], results.end[index] = one.start, one.end
            results.mean[index], results.sharpness[index] = frame.mean, frame.sharpness
            results.place[index], results.frame[index] = frame.place, frame.number
            results.order.append(index)
            self._done(index)

    # -- one point --------------------------------------------------------------------------------

    def _take(self, index: int) -> None:
        """Move, settle, expose; the frame comes later."""
        path, hardware = self._path, self._hardware
        hardware.check()
        began = time.monotonic()
        target = float(path.x[index]), float(path.y[index])
        travel = hardware.move(*target)
        # While the stage is on its way.
        shifted = hardware.set_optics(
            float(path.focus[index]), float(path.shift_x[index]), float(path.shift_y[index])
        )
        if travel > 0:
            position = self._settle(target, began + travel)
        else:
            time.sleep(self.rules.shift_settle if shifted else 0.0)
            position = self._where()
        settle = time.monotonic() - began
        if self._exposed:  # the sensor holds one frame
            self._exposed[-1].readout.exception(LIGHT_MARGIN)
        if self._wanted != "run" or self._has_lost_frame:
            raise _NotNowError
        start = time.time()
        hardware.expose(float(path.exposure[index]))
        end = time.time()
        self._todo.popleft()
        readout, written = hardware.read()
        one = _Exposed(index, position, settle, start, end, readout, written)
        self._exposed.append(one)
        written.add_done_callback(lambda _: self._enter(one))
        self._forget_written()
        self._changed()

    def _where(self) -> tuple[float, float]:
        reading = self._hardware.position()
        return reading.position["x"], reading.position["y"]

    def _settle(self, target: tuple[float, float], due: float) -> tuple[float, float]:
        """Wait until the stage has come to rest and has stayed in position long enough."""
        rules = self.rules
        rested = since = None
        while True:
            reading = self._hardware.position()
            now = time.monotonic()
            if self._wanted == "end":
                self._hardware.stop()
                raise _EndedError
            x, y = reading.position["x"], reading.position["y"]
            if reading.moving & {"x", "y"}:
                rested = since = None
                time.sleep(_pause(due - now))
                continue
            for axis in ("x", "y"):
                if axis in reading.stalled:
                    raise SequenceError(FaultCode.STALL, reading.stalled[axis])
            rested = rested or now
            away = hypot(target[0] - x, target[1] - y)
            if away > rules.tolerance:
                since = None
                if now - rested >= rules.settle and away <= rules.shift_limit:
                    self._hardware.shift_by(target[0] - x, target[1] - y)
                    time.sleep(rules.shift_settle)
                    return x, y
                if now - rested > rules.settle_timeout:
                    raise SequenceError(FaultCode.NOT_IN_POSITION, _off(target, (x, y), rules))
                time.sleep(FINE_POLL)
            elif now - (since := since or now) >= rules.settle:
                return x, y
            else:
                time.sleep(min(SETTLING_POLL, max(rules.settle - (now - since), 0.0)))

    def _say(self, state: State, message: str) -> None:
        self.state, self.message = state, message
        self._changed()


def _off(target: tuple[float, float], found: tuple[float, float], rules: Rules) -> str:
    """Say that the stage is not where it was sent."""
    away = hypot(target[0] - found[0], target[1] - found[1])
    return (
        f"the stage came to rest at ({found[0]:.3f}, {found[1]:.3f}) um, {away:.3f} um from "
        f"({target[0]:.3f}, {target[1]:.3f}); {rules.tolerance:g} um are allowed: was it stopped "
        "from outside?"
    )


def _pause(left: float) -> float:
    """Say how long to wait for the next reading of a stage that is to arrive after some time."""
    return FINE_POLL if left < ARRIVING else min(left - ARRIVING / 2, COARSE_POLL)


def _error_of(written: Future[Written]) -> BaseException | None:
    """Wait for a frame; give what is wrong with it."""
    try:
        return written.exception(LIGHT_MARGIN)
    except TimeoutError:
        return SequenceError(
            FaultCode.NOT_WRITTEN, f"the frame was not written within {LIGHT_MARGIN:g} s"
        )


def code_of(error: BaseException) -> FaultCode:
    """Tell what kind of fault an error is."""
    if isinstance(error, SequenceError):
        return error.code
    return FaultCode.LOST_FRAME if isinstance(error, LostFrameError) else FaultCode.HARDWARE
