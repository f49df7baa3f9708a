"""The time of the virtual microscope: real, faster than real, or stepped by a test.

Everything that moves, decays or waits asks this clock, so a frame depends on nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SLICE = 0.01
"""Longest sleep in real seconds, so that an abort or a stop is seen at once."""

RESOLUTION = 1e-9
"""Shortest sleep in real seconds: a clock may not tell less from nothing."""


class SimulationClock:
    """Simulated seconds since the clock was made.

    Parameters
    ----------
    clock : callable
        Gives real seconds, such as `time.monotonic`.
    sleep : callable
        Waits for so many real seconds.
    scale : float
        Simulated seconds in a real one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        scale: float = 1.0,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._scale = scale
        self._start = clock()

    def now(self) -> float:
        """Give the simulated time in s."""
        return (self._clock() - self._start) * self._scale

    def wait_until(self, end: float, interrupt: threading.Event | None = None) -> bool:
        """Wait for a simulated time.

        Parameters
        ----------
        end : float
            In s.
        interrupt : threading.Event, optional
            Ends the wait early when it is set.

        Returns
        -------
        bool
            Whether the time was reached.
        """
        while (left := (end - self.now()) / self._scale) > 0:
            if interrupt is not None and interrupt.is_set():
                return False
            self._sleep(min(max(left, RESOLUTION), SLICE))
        return True
