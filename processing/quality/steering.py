"""What an acquisition should do next, from the verdicts on its tiles so far.

Goes by what tiles are published with, so that whoever reads the documents can give the advice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from processing.quality.faults import HARMLESS, OUT_OF_FOCUS
from processing.quality.history import RunningMedian
from processing.quality.thresholds import Thresholds

Decision = Literal["good", "retake", "stop_at_end", "stop_now"]


@dataclass(frozen=True)
class Advice:
    """What to do next.

    Attributes
    ----------
    decision : {"good", "retake", "stop_at_end", "stop_now"}
        The names of TilEM's quality control, with RETAKE beside them.
    reason : str
        Why; empty if all is good.
    retake : tuple of int
        Indices of the tiles that fail as they were taken last, in order.
    refocus : bool
        Whether to focus before the next tile.
    """

    decision: Decision = "good"
    reason: str = ""
    retake: tuple[int, ...] = ()
    refocus: bool = False


class Steering:
    """Follows the verdicts on one montage.

    Parameters
    ----------
    thresholds : Thresholds
    n_tiles : int
        Tiles that the montage will have.
    """

    def __init__(self, thresholds: Thresholds, n_tiles: int) -> None:
        self._limits, self._n_tiles = thresholds, n_tiles
        self._attempts: dict[int, int] = {}
        self._failed: dict[int, str] = {}  # faults by tile, of those that fail as taken last
        self._critical = ""
        self._scores = RunningMedian()  # of the focus of the textured tiles before the recent ones
        self._recent: deque[float] = deque(maxlen=thresholds.trend_tiles)
        self._blurred = 0  # textured tiles in a row that are out of focus
        self._blind = 0  # tiles to come that were taken before the last advice to focus
        self._refocus = ""

    def tile(self, data: Mapping[str, Any]) -> None:
        """Take in a tile that was judged: data of an event of the stream `tile`."""
        index, attempt = int(data["tile_index"]), int(data["tile_attempt"])
        if attempt >= self._attempts.get(index, 0):  # an earlier take may be done later
            self._attempts[index] = attempt
            self._failed.pop(index, None)
            if data["verdict"] == "fail":
                self._failed[index] = str(data["faults"])
        if self._blind:
            self._blind -= 1
        elif data.get("textured"):
            self._follow_focus(float(data["focus"]), OUT_OF_FOCUS in str(data["faults"]).split(","))

    def fault(self, data: Mapping[str, Any]) -> None:
        """Take in one fault: data of an event of the stream `fault`."""
        index = int(data["tile_index"])
        if int(data["tile_attempt"]) < self._attempts.get(index, 0):
            return
        names = [name for name in self._failed.get(index, "").split(",") if name]
        if data["fault"] not in HARMLESS and data["fault"] not in names:
            self._failed[index] = ",".join([*names, str(data["fault"])])
        if data["scope"] == "critical" and not self._critical:
            self._critical = f"tile {index} and those before it are {data['fault']}"

    def verdict(self, data: Mapping[str, Any]) -> None:
        """Take in the last word on a tile: data of an event of the stream `verdict`."""
        index = int(data["tile_index"])
        self._failed.pop(index, None)
        if data["verdict"] == "fail":
            self._failed[index] = str(data["faults"])

    @property
    def judged(self) -> Mapping[int, int]:
        """The attempt of each tile that was judged, by its index."""
        return self._attempts

    @property
    def failed(self) -> tuple[int, ...]:
        """Indices of the tiles that fail as they were taken last, in order."""
        return tuple(sorted(self._failed))

    def advice(self, behind: int = 0) -> Advice:
        """Say what to do next. Advice to focus is given once; then tiles taken anew must bear it.

        Parameters
        ----------
        behind : int
            Tiles that are taken but not judged yet: they tell nothing about a new focus.
        """
        refocus, self._refocus = self._refocus, ""
        if refocus:
            self._blind = behind
            self._recent.clear()
            self._blurred = 0
        decision, reason = self._decide(refocus)
        return Advice(decision, reason, self.failed, bool(refocus))

    def _decide(self, refocus: str) -> tuple[Decision, str]:
        if self._critical:
            return "stop_now", self._critical
        n_failed, most = len(self._failed), self._limits.most_failed * self._n_tiles
        if n_failed > max(most, self._limits.critical_tiles):
            return "stop_at_end", f"{n_failed} tiles of {self._n_tiles} fail, over {most:.0f}"
        if self._failed:
            index, faults = next(reversed(self._failed.items()))
            return "retake", f"{n_failed} tiles fail, the last is {index}: {faults}"
        return "good", refocus

    def _follow_focus(self, score: float, blurred: bool) -> None:
        limits = self._limits
        self._blurred = self._blurred + 1 if blurred else 0
        if self._blurred >= limits.persistent_tiles:
            self._refocus = f"{self._blurred} tiles in a row are out of focus"
        if len(self._recent) == limits.trend_tiles:
            self._scores.add(self._recent[0])
        self._recent.append(score)
        if len(self._recent) < limits.trend_tiles or len(self._scores) < limits.least_tiles:
            return
        usual, now = self._scores.median, median(self._recent)
        if now < limits.least_trend * usual:
            self._refocus = f"the focus fell from {usual:.2f} to {now:.2f}"
