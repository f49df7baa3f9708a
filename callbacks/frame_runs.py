"""What callbacks share that make one thing of all frames of a run, once it has ended.

The RunEngine's thread only notes where frames are; a worker of an executor does the rest.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, ClassVar

from event_model import RunRouter

from callbacks.documents import ProcessedRun, Publish
from callbacks.frames import FrameLocator, LocatedEvent

logger = logging.getLogger(__name__)


class FrameRunProcessor(ABC):
    """A RunEngine callback that works the frames of some plans' runs up, and publishes the result.

    Derive from it; for a run of the plan ``x`` it publishes a run ``process_x``. A run that was cut
    off gives none, and one that could not be worked up ends with the reason.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Where frames are read and worked up.
    publish : callable
        Called with (name, document) on a thread of the executor (on the caller's if it is a pool
        of processes), one run at a time.

    Attributes
    ----------
    plans : frozenset of str
        Names of the plans whose runs are taken.
    streams : mapping of str to mapping
        Data keys of what is published, by stream.
    """

    plans: ClassVar[frozenset[str]]
    streams: ClassVar[Mapping[str, Mapping[str, Any]]]

    def __init__(self, executor: Executor, publish: Publish) -> None:
        self._executor, self._publish = executor, publish
        self._router = RunRouter([self._factory])

    @abstractmethod
    def job(self, start: dict[str, Any], events: Sequence[LocatedEvent]) -> Callable[[], Any]:
        """Give what is to be done by a worker, once a run has ended.

        Parameters
        ----------
        start : dict
            Start document of the run.
        events : sequence of LocatedEvent
            Its events, with their frames.

        Returns
        -------
        callable
            Without arguments, and fit to be sent to another process.
        """

    @abstractmethod
    def report(self, run: ProcessedRun, result: Any) -> None:
        """Publish what the job gave."""

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document in, from the RunEngine; what goes wrong here does not end its run."""
        try:
            self._router(name, doc)
        except Exception:
            logger.exception(
                "a %s document for %s could not be taken in", name, type(self).__name__
            )

    def _factory(self, name: str, start: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        wanted = start.get("plan_name") in self.plans
        return ([_FrameRun(start, self._submit)] if wanted else []), []

    def _submit(
        self, start: dict[str, Any], events: list[LocatedEvent], raw_stop: dict[str, Any]
    ) -> None:
        if raw_stop["exit_status"] != "success":
            logger.warning("%s run %s was cut off: no result", start["plan_name"], start["uid"])
            return
        future = self._executor.submit(self.job(start, events))
        future.add_done_callback(lambda done: self._finish(start, done))

    def _finish(self, start: dict[str, Any], done: Future[Any]) -> None:
        plan_name, uid = start["plan_name"], start["uid"]
        run = ProcessedRun(self._publish, f"process_{plan_name}", start, self.streams)
        try:
            result = done.result()
        except Exception as error:
            logger.exception("%s run %s could not be processed", plan_name, uid)
            run.stop("fail", str(error))
            return
        self.report(run, result)
        run.stop()


class _FrameRun:
    """Collects the frames of one run."""

    def __init__(
        self,
        start: dict[str, Any],
        submit: Callable[[dict[str, Any], list[LocatedEvent], dict[str, Any]], None],
    ) -> None:
        self._start, self._submit = start, submit
        self._locator = FrameLocator()
        self._events: list[LocatedEvent] = []

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self._events.extend(self._locator(name, doc))
        if name == "stop":
            self._submit(self._start, self._events, doc)
