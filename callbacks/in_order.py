"""Work that is done by many at once, and results that come out in the order in which it came in.

A window bounds what is begun beyond the first that is not done, and so what is kept meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class InOrder(Generic[T, R]):
    """Begins items, at most so many at a time, and finishes them in their order.

    Nothing begins before `open` is called. It is used on one thread.

    Parameters
    ----------
    begin : callable
        Called with an item, to have it done.
    finish : callable
        Called with an item and its result or its error.
    window : int
        How many may be begun and not finished.
    """

    def __init__(
        self,
        begin: Callable[[T], None],
        finish: Callable[[T, R | None, Exception | None], None],
        window: int,
    ) -> None:
        self._begin, self._finish, self._window = begin, finish, window
        self._waiting: deque[T] = deque()
        self._begun: deque[T] = deque()
        self._outcomes: dict[int, tuple[R | None, Exception | None]] = {}  # by id of the item
        self._is_open = False

    def __len__(self) -> int:
        """How many items are not finished."""
        return len(self._waiting) + len(self._begun)

    def open(self) -> None:
        """Let items begin."""
        self._is_open = True
        self._fill()

    def add(self, item: T) -> None:
        """Take an item in."""
        self._waiting.append(item)
        self._fill()

    def done(self, item: T, result: R | None, error: Exception | None) -> None:
        """Tell what became of an item; finish it and those behind it, as far as they are done."""
        self._outcomes[id(item)] = result, error
        while self._begun and id(self._begun[0]) in self._outcomes:
            first = self._begun.popleft()
            self._finish(first, *self._outcomes.pop(id(first)))
        self._fill()

    def _fill(self) -> None:
        while self._is_open and self._waiting and len(self._begun) < self._window:
            item = self._waiting.popleft()
            self._begun.append(item)
            self._begin(item)
