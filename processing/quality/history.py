"""The good tiles of a montage so far: what a tile is compared with.

Medians are over the whole montage, so they hardly depend on the order in which tiles come.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import isfinite
from statistics import median

MAD_TO_STD = 1.4826  # of a normal distribution


class RunningMedian:
    """The median of numbers that come one by one."""

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Take one more number in; what is not finite is left out."""
        if isfinite(value):
            insort(self._sorted, value)

    def remove(self, value: float) -> None:
        """Take a number out again."""
        place = bisect_left(self._sorted, value)
        if place < len(self._sorted) and self._sorted[place] == value:
            del self._sorted[place]

    @property
    def median(self) -> float:
        """Their median; nan if there is none."""
        n = len(self._sorted)
        if not n:
            return float("nan")
        return (self._sorted[n // 2] + self._sorted[(n - 1) // 2]) / 2

    @property
    def spread(self) -> float:
        """Their standard deviation by the median absolute deviation; nan if there is none."""
        middle = self.median
        if not self._sorted:
            return middle
        return MAD_TO_STD * median(abs(value - middle) for value in self._sorted)
