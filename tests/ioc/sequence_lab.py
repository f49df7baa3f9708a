"""An instrument made of nothing for sequences: each attempt at a point fails as a script says.

A point is known by its x. Frames are read out and written on threads, in order, as in the IOC.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ioc.drivers.protocol import DriverError, Frame, LostFrameError, StageReading
from ioc.sequence import RESTING, Status
from ioc.sequence import Sequence as Engine
from ioc.sequence_protocol import FaultCode, SequenceError, Written
from ioc.trajectory import Rules, Trajectory
from tests.support import wait_until

FAULTS = ("move", "stall", "elsewhere", "light", "camera", "no read", "lost", "unwritten")
"""What an attempt at a point may fail by."""

CODES = {
    "move": FaultCode.HARDWARE,
    "stall": FaultCode.STALL,
    "elsewhere": FaultCode.NOT_IN_POSITION,
    "light": FaultCode.INTERLOCK,
    "camera": FaultCode.CAMERA,
    "no read": FaultCode.HARDWARE,
    "lost": FaultCode.LOST_FRAME,
    "unwritten": FaultCode.NOT_WRITTEN,
    "late": FaultCode.NOT_WRITTEN,
}
FAST = Rules(settle=0.0, settle_timeout=0.005, shift_settle=0.0)


def line(n: int, exposure: float = 0.001) -> Trajectory:
    """Make a trajectory of which point i lies at x = i."""
    zeros = np.zeros(n)
    return Trajectory(np.arange(n, dtype=float), zeros, zeros, zeros, zeros, zeros + exposure)


class FakeHardware:
    """A stage, a camera and a file that keep account of what is done with them.

    Parameters
    ----------
    script : mapping of int to sequence of str
        How the first attempts at each point fail ("" or the end: not at all).
    travel : float
        What a move takes, in s.
    writing : float
        What it takes to write a frame, in s.

    Attributes
    ----------
    file : list of int
        The points whose frames were written.
    """

    def __init__(
        self,
        script: Mapping[int, Sequence[str]] | None = None,
        travel: float = 0.0005,
        writing: float = 0.0,
    ) -> None:
        self._script = {point: list(faults) for point, faults in (script or {}).items()}
        self._travel, self._writing = travel, writing
        self._aborted = threading.Event()
        self._readout, self._disk = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._fault = ""
        self._point = -1
        self._arrival = 0.0
        self._off = 0.0
        self.lock = threading.Lock()
        self.file: list[int] = []
        self.exposures: Counter[int] = Counter()
        self.calls: list[str] = []
        self.claimed = False
        self.held_back = threading.Event()
        self.held_back.set()  # cleared, no frame is written
        self.release_error = self.begin_error = ""
        self.optics = (0.0, 0.0, 0.0)

    def begin(self) -> None:
        if self.begin_error:
            raise DriverError(self.begin_error)
        assert not self.claimed, "two threads have the hardware"
        self.claimed = True

    def release(self) -> None:
        assert self.claimed
        self.claimed = False
        self.optics = (0.0, 0.0, 0.0)
        if self.release_error:
            raise DriverError(self.release_error)

    def move(self, x: float, y: float) -> float:
        assert self.claimed
        self._point = int(x)
        faults = self._script.get(self._point)
        self._fault = faults.pop(0) if faults else ""
        if self._fault == "move":
            raise DriverError("the stage refused to move")
        self._off = 1.0 if self._fault == "elsewhere" else 0.0
        self._arrival = time.monotonic() + self._travel
        return self._travel

    def stop(self) -> None:
        self.calls.append("stop")

    def position(self) -> StageReading:
        moving = {"x"} if time.monotonic() < self._arrival else set()
        stalled = {} if moving or self._fault != "stall" else {"x": "x has stalled"}
        place = {"x": self._point + self._off, "y": 0.0}
        return StageReading(place, moving, stalled, 1, "A0001", False)

    def set_optics(self, focus: float, shift_x: float, shift_y: float) -> bool:
        before, self.optics = self.optics, (focus, shift_x, shift_y)
        return self.optics[1:] != before[1:]

    def shift_by(self, x: float, y: float) -> None:
        self.calls.append(f"shift {x:g} {y:g}")

    def expose(self, exposure: float) -> None:
        assert self.claimed
        if self._fault == "light":
            raise SequenceError(FaultCode.INTERLOCK, "there is no light")
        self._aborted.clear()
        self.exposures[self._point] += 1
        if self._aborted.wait(exposure):
            raise SequenceError(FaultCode.CAMERA, "the exposure was aborted")
        if self._fault == "camera":
            raise SequenceError(FaultCode.CAMERA, "the exposure did not end")

    def read(self) -> tuple[Future[Frame], Future[Written]]:
        if self._fault == "no read":
            raise DriverError("the camera does not answer")
        point, fault, number = self._point, self._fault, self.exposures.total()
        written: Future[Written] = Future()

        def read() -> Frame:
            if fault == "lost":
                raise LostFrameError(f"frame {number} did not arrive")
            return Frame(np.zeros((1, 1), np.uint16), number, 0.0)

        def write(readout: Future[Frame]) -> None:
            if (error := readout.exception()) is not None:
                written.set_exception(error)
            else:
                self._disk.submit(self._write, point, fault, number, written)

        readout = self._readout.submit(read)
        readout.add_done_callback(write)
        return readout, written

    def _write(self, point: int, fault: str, number: int, written: Future[Written]) -> None:
        self.held_back.wait(10)
        time.sleep(self._writing)
        if fault == "unwritten":
            written.set_exception(SequenceError(FaultCode.NOT_WRITTEN, "the disk is full"))
            return
        self.file.append(point)
        written.set_result(Written(number, len(self.file) - 1, float(point), 0.0))

    def abort_exposure(self) -> None:
        self._aborted.set()

    def blank(self) -> None:
        self.calls.append("blank")

    def close(self) -> None:
        self.held_back.set()
        self._readout.shutdown()
        self._disk.shutdown()


@dataclass
class Flight:
    """A sequence over the fake hardware, and all that it told, in order."""

    hardware: FakeHardware
    told: list[Status | int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = Engine(self.hardware, self.told.append, self.told.append)
        self.engine.rules = FAST

    @property
    def statuses(self) -> list[Status]:
        """What states were told, without repetition."""
        found: list[Status] = []
        for one in list(self.told):
            if isinstance(one, Status) and one not in found[-1:]:
                found.append(one)
        return found

    @property
    def state(self) -> str:
        return self.engine.status.state

    def rest(self, timeout: float = 10.0) -> Status:
        """Wait until it rests."""
        wait_until(lambda: not self.engine.running, timeout, "it rests", period=0.0005)
        return self.engine.status

    def finish(self, skip: bool = False) -> Status:
        """Go on whenever it rests, until it is done."""
        for _ in range(100):
            status = self.rest()
            if status.state not in RESTING:
                return status
            if skip and status.state == "Fault":
                self.skipped.append(status.failed)
                self.engine.skip()
            self.engine.resume()
        raise AssertionError(f"it does not end: {self.engine.status}")

    def check(self, n: int, whole: bool = True) -> None:
        """Check that each point is done once with its own frame, or named; and what was told."""
        results, file = self.engine.results, self.hardware.file
        assert not self.hardware.claimed
        done = [one for one in self.told if isinstance(one, int)]
        assert done == results.order
        assert max(Counter(done).values(), default=1) == 1, "no point is done twice"
        for point in range(n):
            if point in done:
                assert file[results.place[point]] == point, "it is told of its own frame"
                assert results.mean[point] == point
                assert results.end[point] >= results.start[point]
            else:
                assert results.frame[point] == results.place[point] == -1
                assert np.isnan(results.start[point])
        assert np.all(np.diff([results.frame[point] for point in done]) > 0)
        named = {one.failed for one in self.statuses if one.state == "Fault"}
        missing = set(range(n)) - set(done)
        if whole:
            assert missing == set(self.skipped)
            assert missing <= named, "what is missing was named"
        for one in self.statuses:
            assert (one.failed >= 0) == (one.state == "Fault")
            if one.state == "Fault":
                assert one.message.startswith(f"point {one.failed}: "), one
                assert len(one.message) > len("point 10: ")
                assert results.fault[one.failed] != FaultCode.NONE
        self._check_rests()

    def _check_rests(self) -> None:
        """Check that nothing is told of a point between a rest and the next start."""
        running = False
        by_rest: dict[bool, list[int]] = defaultdict(list)
        for one in self.told:
            if isinstance(one, Status):
                running = one.state == "Running"
            else:
                by_rest[running].append(one)
        assert not by_rest[False], "no state is told before its results"
