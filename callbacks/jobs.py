"""Jobs for workers: calls, and what becomes of their results on the thread that asked for them.

A run counts its jobs, so that it knows when all that it asked for is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

logger = logging.getLogger(__name__)

Done = Callable[[Any, Exception | None], None]


class Priority(IntEnum):
    """Which jobs go first."""

    URGENT = 0
    """They free memory, like matches."""
    USUAL = 1
    """Tiles."""
    IDLE = 2
    """They can wait for tiles of a later montage, like blocks of a mosaic."""


@dataclass(eq=False)
class Job:
    """A call for a worker, and what becomes of its result or error."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    done: Done
    priority: Priority = Priority.USUAL


class Workers(Protocol):
    """Who has jobs done."""

    def submit(self, job: Job) -> None:
        """Queue a job; its `done` is called on the thread that this is called on."""


class RunJobs:
    """The jobs of one run.

    Parameters
    ----------
    workers : Workers
    failed : callable
        Told of an exception that a `done` raised: it would be lost, and the run never end.

    Attributes
    ----------
    pending : int
        Jobs that are not done.
    """

    def __init__(self, workers: Workers, failed: Callable[[Exception], None]) -> None:
        self._workers, self._failed = workers, failed
        self._closed = False
        self.pending = 0

    def submit(
        self,
        done: Done,
        function: Callable[..., Any],
        *arguments: Any,
        priority: Priority = Priority.USUAL,
    ) -> None:
        """Have a function called by a worker, and `done` with its result or its error."""

        def finished(result: Any, error: Exception | None) -> None:
            self.pending -= 1
            if self._closed:
                return
            try:
                done(result, error)
            except Exception as failure:
                logger.exception("what a worker gave back could not be dealt with")
                self._failed(failure)

        self.pending += 1
        self._workers.submit(Job(function, arguments, finished, priority))

    def close(self) -> None:
        """Want no results any more."""
        self._closed = True
