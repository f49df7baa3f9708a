"""Ctrl-C, SIGTERM and SIGHUP for commands that own processes: one clean way out.

Impatient users press Ctrl-C again while things are being stopped; that must not stop the stopping.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_AFTER = 1.0


class Interrupts:
    """Turn signals into KeyboardInterrupt, at most one a second and none during the clean-up.

    Use it as a context manager in the main thread, round everything that must be cleaned up.

    Attributes
    ----------
    asked : bool
        Whether the user asked to stop; stays true when a library swallowed the exception.
    """

    def __init__(self) -> None:
        self.asked = False
        self._closing = False
        self._last = -REPEAT_AFTER
        self._action: Callable[[], Any] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        now = time.monotonic()
        if self._closing or now - self._last < REPEAT_AFTER:
            return
        self._last = now
        if self._action is not None:
            # In a thread, since what was interrupted may hold any lock.
            threading.Thread(target=self._action, name="interrupt", daemon=True).start()
        else:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if the user asked to stop.

        Between two steps of a command this catches what a library swallowed.
        """
        if self.asked and not self._closing:
            raise KeyboardInterrupt

    @contextmanager
    def calling(self, action: Callable[[], Any]) -> Iterator[None]:
        """Call a function on a thread, instead of raising, while the context is open."""
        self._action = action
        try:
            yield
        finally:
            self._action = None

    def shield(self) -> None:
        """Let no signal interrupt what follows: the clean-up of the command."""
        self._closing = True
