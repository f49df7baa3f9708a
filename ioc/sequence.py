"""Walks a trajectory over stage and camera on a thread of its own: move, settle, expose, next.

Knows no EPICS. A frame is read out and written while the stage moves to the next point; a point is
either done, once, or named with what went wrong, and never passed over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal

from ioc.drivers.protocol import Frame
from ioc.sequence_protocol import FaultCode, Hardware, SequenceError, Written, code_of
from ioc.settling import Place, settle
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

FRAME_TIMEOUT = 30.0  # s that the readout and the writing of a frame may take
MOST_UNWRITTEN = 2  # frames that are read out and not yet written, beyond which none is exposed

logger = logging.getLogger(__name__)

Failure = tuple[int, BaseException]
"""A point, and what went wrong with it."""


class _NotNowError(Exception):
    """A point was left before its exposure, because the sequence is to rest."""


@dataclass(frozen=True)
class Status:
    """What a sequence is doing, always told as a whole.

    Attributes
    ----------
    state : str
        One of STATES.
    message : str
        Why it is so.
    failed : int
        The point that failed, in state Fault; else −1.
    """

    state: State
    message: str = ""
    failed: int = -1


@dataclass
class _Exposed:
    """A point whose frame is on its way to the disk."""

    index: int
    position: Place
    settle: float
    start: float
    end: float
    due: float
    readout: Future[Frame]
    written: Future[Written]
    closed: bool = False  # entered, or given up: what comes later changes nothing

    def wait_for(self, what: Future[Frame] | Future[Written]) -> BaseException | None:
        """Wait for the readout, or for the writing; give what is wrong with it."""
        try:
            return what.exception(max(self.due - time.monotonic(), 0.0))
        except TimeoutError:
            return SequenceError(
                FaultCode.NOT_WRITTEN, f"the frame was not written within {FRAME_TIMEOUT:g} s"
            )

    @property
    def is_lost(self) -> bool:
        """Whether its frame is known not to come, or overdue."""
        futures = (self.readout, self.written)
        if any(one.done() and one.exception() is not None for one in futures):
            return True
        return not self.written.done() and time.monotonic() >= self.due


class Sequence:
    """One trajectory at a time, and where it is.

    Commands come from any thread and return at once. While it runs a thread has the hardware; when
    it rests there is none, and nothing is on its way: all frames are on disk or known to be lost.

    Parameters
    ----------
    hardware : Hardware
    changed : callable
        Called with the status whenever that or the index changed, on any thread; every status is
        told, in order. It must not wait, nor call back.
    done : callable
        Called with the index of each point that is done, as `changed` is, and before any status
        that comes of it.

    Attributes
    ----------
    status : Status
    hold_after : int
        The point after which it rests by itself (Held); −1: none.
    rules : Rules
    results : Results
    """

    def __init__(
        self, hardware: Hardware, changed: Callable[[Status], None], done: Callable[[int], None]
    ) -> None:
        self._hardware, self._changed, self._done = hardware, changed, done
        # Held wherever status, wishes and points that are left change, never while waiting.
        self._lock = threading.Lock()
        self._wanted: Literal["run", "rest", "end"] = "rest"
        self._exposing = False
        self._todo: deque[int] = deque()
        self._exposed: deque[_Exposed] = deque()
        self._entering = threading.Lock()
        self._heard = time.monotonic()
        self._path = Trajectory.empty()
        self.status = Status("Idle")
        self.hold_after = -1
        self.rules = Rules()
        self.results = Results.empty(0)

    # -- commands, from any thread ----------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it has the hardware."""
        return self.status.state == "Running"

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
        with self._lock:
            if self.running:
                raise ValueError(
                    "a sequence is running: pause or abort it before the next is loaded"
                )
            self._path = trajectory
            self.results = Results.empty(len(trajectory))
            self._todo = deque(range(len(trajectory)))
            self.hold_after = -1
            self._say(Status("Loaded", f"{len(trajectory)} points"))

    def start(self) -> None:
        """Begin with the first point.

        Raises
        ------
        ValueError
            If none is loaded.
        """
        with self._lock:
            if self.status.state != "Loaded":
                raise ValueError(f"the sequencer is {self.status.state}: write Load before Start")
            self._set_out()

    def pause(self) -> None:
        """Rest as soon as may be: before the next exposure; the running one is made."""
        with self._lock:
            if self.running and self._wanted == "run":
                self._wanted = "rest"

    def resume(self) -> None:
        """Go on, with the point that failed if one did.

        Raises
        ------
        ValueError
            If it does not rest.
        """
        with self._lock:
            if self.status.state not in RESTING:
                raise ValueError(
                    f"the sequencer is {self.status.state}: there is nothing to resume"
                )
            self._set_out()

    def skip(self) -> None:
        """Leave out the point that failed; `Results.fault` keeps why.

        Raises
        ------
        ValueError
            If none failed.
        """
        with self._lock:
            if self.status.state != "Fault":
                raise ValueError(f"the sequencer is {self.status.state}: there is no point to skip")
            self._todo.remove(self.status.failed)
            self._say(Status("Paused", "the point that failed is left out; Resume goes on"))

    def hold(self, point: int) -> None:
        """Have it rest after a point; −1: after none.

        Raises
        ------
        ValueError
            If it is past that point.
        """
        with self._lock:
            under_way = self.running or self.status.state in RESTING
            if under_way and 0 <= point < self.index:
                raise ValueError(
                    f"HoldAfter is {point}; point {self.index} is next: name that or a later one"
                )
            self.hold_after = point

    def abort(self) -> None:
        """End at once: stop the stage and the exposure; frames that are in are still written.

        An exposure that is only about to begin may not notice: repeat it as long as `running`.
        """
        with self._lock:
            if self.running:
                self._wanted = "end"
            elif self.status.state in RESTING:
                self._say(self._aborted())
            exposing = self._exposing
        if exposing:
            self._hardware.abort_exposure()

    def heard(self) -> None:
        """Take note that a client is there."""
        self._heard = time.monotonic()

    def _set_out(self) -> None:
        self.heard()
        self._hardware.begin()
        self._wanted = "run"
        self._say(Status("Running"))
        threading.Thread(target=self._run, name="ioc-sequence", daemon=True).start()

    def _say(self, status: Status) -> None:
        self.status = status
        self._changed(status)

    def _aborted(self) -> Status:
        return Status("Aborted", f"{len(self.results.order)} points are done")

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        """Walk until it is to rest, let others use the hardware, and say why it rests."""
        try:
            status = self._walk()
        except Exception as error:
            logger.exception("the sequence failed")
            status = Status("Aborted", f"the sequencer itself failed: {error}")
        trouble = self._release()
        with self._lock:
            if self._wanted == "end" and status.state in RESTING:  # somebody aborted just now
                status = self._aborted()
            if status.state == "Held":
                self.hold_after = -1
            said = [text for text in (status.message, trouble) if text]
            self._say(replace(status, message="; ".join(said)))

    def _walk(self) -> Status:
        """Take point after point until there is a reason to rest, and wait for their frames."""
        while True:
            failure: Failure | None = None
            while failure is None and (rest := self._reason_to_rest()) is None:
                failure = self._try(self._todo[0])
            failures = self._finish_frames()
            if failure is not None and self._wanted != "end":  # else it failed by being aborted
                failures.append(failure)
            self._note(failures)
            if self._wanted == "end" and self._todo:
                return self._aborted()
            if failures:
                index, error = failures[0]
                return Status("Fault", f"point {index}: {error}", index)
            if rest is not None and rest.state != "Fault":  # else what was late came after all
                return rest

    def _note(self, failures: list[Failure]) -> None:
        for index, error in failures:
            self.results.fault[index] = code_of(error)
            logger.error("sequencer, point %d: %s", index, error)

    def _reason_to_rest(self) -> Status | None:
        """Say whether to rest before the next point, and why."""
        if any(one.is_lost for one in self._exposed):
            return Status("Fault")  # which it is, is told when all that come have come
        if not self._todo:
            return Status("Done")
        if self._wanted == "end":
            return self._aborted()
        if self._wanted == "rest":
            return Status("Paused")
        if 0 <= (hold := self.hold_after) < self.index:
            return Status("Held", f"as was asked for, after point {hold}")
        return self._watch()

    def _watch(self) -> Status | None:
        """Rest, and spare the specimen, if there was no sign of a client for too long."""
        silent = time.monotonic() - self._heard
        if 0 < self.rules.watchdog < silent:
            return Status("Paused", f"no client was heard of for {silent:.1f} s; {self._blank()}")
        return None

    def _blank(self) -> str:
        try:
            self._hardware.blank()
        except Exception as error:
            logger.exception("the beam could not be blanked")
            return f"the beam could not be blanked: {error}"
        return "the beam is blanked"

    def _release(self) -> str:
        """Let others use the hardware; say what went wrong with that."""
        try:
            self._hardware.release()
        except Exception as error:
            logger.exception("the optics could not be brought back to where they were")
            return f"the optics could not be brought back to where they were: {error}"
        return ""

    # -- frames on their way ----------------------------------------------------------------------

    def _finish_frames(self) -> list[Failure]:
        """Wait until every frame is written or lost; put points of lost ones back, and name them.

        A frame that is only late is given up for good: its point is taken again.
        """
        failures: list[Failure] = []
        while self._exposed:
            one = self._exposed.popleft()
            error = one.wait_for(one.written)
            if error is None:
                self._enter(one)
            elif self._give_up(one):
                failures.append((one.index, error))
        with self._lock:
            self._todo.extendleft(index for index, _ in reversed(failures))
        return failures

    def _forget_written(self) -> None:
        """Forget frames that are on disk; wait for the oldest if too many are not."""
        while self._exposed:
            one = self._exposed[0]
            if len(self._exposed) > MOST_UNWRITTEN:
                one.wait_for(one.written)
            if one.is_lost or not one.written.done():
                return
            self._exposed.popleft()
            self._enter(one)

    def _enter(self, one: _Exposed) -> None:
        """Enter a point that is done, once: as soon as its frame is on disk, whoever sees it."""
        with self._entering:
            if one.closed or one.written.exception() is not None:
                return
            one.closed = True
            frame, results, index = one.written.result(), self.results, one.index
            results.x[index], results.y[index] = one.position
            results.settle[index] = one.settle
            results.start[index], results.end[index] = one.start, one.end
            results.mean[index], results.sharpness[index] = frame.mean, frame.sharpness
            results.place[index], results.frame[index] = frame.place, frame.number
            results.order.append(index)
            self._done(index)

    def _give_up(self, one: _Exposed) -> bool:
        """Have a frame not be entered any more; tell whether it had not been."""
        with self._entering:
            was_closed, one.closed = one.closed, True
        return not was_closed

    # -- one point --------------------------------------------------------------------------------

    def _try(self, index: int) -> Failure | None:
        """Take a point; give what went wrong."""
        try:
            self._take(index)
        except _NotNowError:
            pass
        except Exception as error:
            return index, error
        return None

    def _take(self, index: int) -> None:
        """Move, settle, expose; the frame comes later."""
        path, hardware = self._path, self._hardware
        began = time.monotonic()
        target = float(path.x[index]), float(path.y[index])
        travel = hardware.move(*target)
        # While the stage is on its way.
        shifted = hardware.set_optics(
            float(path.focus[index]), float(path.shift_x[index]), float(path.shift_y[index])
        )
        position = self._arrive(target, began, travel, shifted)
        settled = time.monotonic() - began
        start, end = self._expose(float(path.exposure[index]))
        due = time.monotonic() + FRAME_TIMEOUT
        readout, written = hardware.read()
        one = _Exposed(index, position, settled, start, end, due, readout, written)
        self._exposed.append(one)
        with self._lock:  # from here on it is either done or comes back as lost
            self._todo.popleft()
            self._changed(self.status)
        written.add_done_callback(lambda _: self._enter(one))
        self._forget_written()

    def _arrive(self, target: Place, began: float, travel: float, shifted: bool) -> Place:
        """Wait until stage and image shift are where they are to be; give where the stage is."""
        rules = self.rules
        if not travel:
            time.sleep(rules.shift_settle if shifted else 0.0)
            reading = self._hardware.position()
            return reading.position["x"], reading.position["y"]
        place = settle(self._hardware, target, began + travel, rules, lambda: self._wanted == "end")
        if place is None:
            raise _NotNowError
        return place

    def _expose(self, exposure: float) -> tuple[float, float]:
        """Expose, as soon as the sensor is free; give the start and the end in unix time."""
        if self._exposed:  # the sensor holds one frame
            before = self._exposed[-1]
            before.wait_for(before.readout)
        with self._lock:
            if self._wanted != "run" or any(one.is_lost for one in self._exposed):
                raise _NotNowError
            self._exposing = True
        try:
            start = time.time()
            self._hardware.expose(exposure)
            return start, time.time()
        finally:
            self._exposing = False
