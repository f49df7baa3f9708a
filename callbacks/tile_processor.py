"""Processes the tiles of montages while they are taken, and publishes what it finds as documents.

The RunEngine's thread only hands documents over; one thread of its own does the book-keeping and
the publishing, and the workers of an executor do the reading and the arithmetic.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from callbacks.by_run import ByRun
from callbacks.documents import Publish
from callbacks.folders import DataFolders
from callbacks.jobs import Job, Priority
from callbacks.montage_run import MontageRun
from callbacks.tile_jobs import ProcessorSettings
from processing import solve
from processing.quality import Thresholds

logger = logging.getLogger(__name__)

TICK = 0.5  # s; how often a run is looked after if nothing happens


class TileProcessor:
    """A RunEngine callback that processes every montage, off the RunEngine's thread.

    For each run whose start document has a `montage` it publishes a run ``process_montage``, the
    streams of which `callbacks.montage_streams` lists. Other runs are ignored. Tiles are published
    in the order in which they were taken. A tile that cannot be processed is published with its
    `error`; it does not end the run. A tile that is taken again replaces the earlier one in the
    matches, the verdicts, the solution and the mosaic. A montage that was cut off is still solved,
    and its processed run ends with the same exit status.

    At most ``settings.max_in_flight`` frames are in memory; after them only the edges of those
    tiles are kept whose neighbours are still to be matched.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Threads, processes or a cluster. It is not shut down here.
    publish : callable
        Called with (name, document) on one thread; what it raises is logged.
    settings : ProcessorSettings
    folders : DataFolders
        Where processed tiles and mosaics are written, and averages of reference frames are read.
    thresholds : Thresholds, optional
        From where on tiles and montages fail.
    """

    def __init__(
        self,
        executor: Executor,
        publish: Publish,
        settings: ProcessorSettings,
        folders: DataFolders,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.settings, self.folders = settings, folders
        self.thresholds = thresholds or Thresholds()
        self._executor, self._consumer = executor, publish
        self._router = ByRun(self._factory)
        self._runs: list[MontageRun] = []
        self._waiting: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._in_flight = dict.fromkeys(Priority, 0)

        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._unhandled = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tile-processor", daemon=True)
        self._thread.start()

    # On any thread

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document of a raw run in; returns at once."""
        with self._idle:
            if self._closed:
                logger.warning("the tile processor is closed; a %s document is not processed", name)
                return
            self._unhandled += 1
        self._inbox.put(partial(self._handle, name, doc))

    @property
    def tiles_behind(self) -> int:
        """Tiles that were announced and are not published yet."""
        return sum(run.tiles_behind for run in tuple(self._runs))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every montage is processed to its end.

        Parameters
        ----------
        timeout : float, optional
            In s; by default there is no limit.

        Returns
        -------
        bool
            False if the time was up before.
        """
        with self._idle:
            return self._idle.wait_for(self._is_idle, timeout)

    def close(self, timeout: float = 60.0) -> bool:
        """Finish what was taken so far, end the runs that are open, and stop the thread.

        Parameters
        ----------
        timeout : float
            In s. Runs that are not finished then end with the exit status "abort".

        Returns
        -------
        bool
            Whether all was processed.
        """
        with self._idle:
            first, self._closed = not self._closed, True
        if first:
            self._inbox.put(self._end_raw_runs)
        finished = self.wait(timeout)
        if first:
            self._inbox.put(self._give_up)
            self._inbox.put(None)
        self._thread.join(timeout)
        return finished

    # On the own thread

    def submit(self, job: Job) -> None:
        """Queue a job; it goes before those of lower priority."""
        self._waiting[job.priority].append(job)

    def publish(self, name: str, doc: dict[str, Any]) -> None:
        """Give a document to the consumer; a consumer's error is its own."""
        try:
            self._consumer(name, doc)
        except Exception:
            logger.exception("a consumer of processed runs failed on a %s document", name)

    def _work(self) -> None:
        solve.warm_up()
        while (task := self._next_task()) is not None:
            for step in (task, self._pump):
                try:
                    step()
                except Exception:  # nothing may end this thread but `close`
                    logger.exception("the tile processor failed at %s", step)
            with self._idle:
                self._idle.notify_all()

    def _next_task(self) -> Callable[[], None] | None:
        """Wait for something to do; while runs are open they are looked after anyway."""
        try:
            return self._inbox.get(timeout=TICK if self._runs else None)
        except queue.Empty:
            return lambda: None

    def _is_idle(self) -> bool:
        return not self._unhandled and not self._runs

    def _handle(self, name: str, doc: dict[str, Any]) -> None:
        try:
            self._router(name, doc)
        finally:
            with self._idle:
                self._unhandled -= 1

    def _factory(self, start: dict[str, Any]) -> MontageRun | None:
        if "montage" not in start or "raw_uid" in start:
            return None
        try:
            run = MontageRun(start, self)
        except (KeyError, TypeError, ValueError) as error:
            logger.error(
                "montage %s cannot be processed, its start document: %r", start["uid"], error
            )
            return None
        self._runs.append(run)
        return run

    def _pump(self) -> None:
        """Keep the executor busy, within the bounds; take runs that ended off the list."""
        for run in self._runs:
            run.advance()
        while (job := self._next_job()) is not None:
            try:
                future = self._executor.submit(job.function, *job.arguments)
            except RuntimeError as error:  # shut down
                self._inbox.put(partial(job.done, None, error))
                continue
            self._in_flight[job.priority] += 1
            future.add_done_callback(partial(self._post, job))
        self._runs = [run for run in self._runs if not run.stopped]

    def _next_job(self) -> Job | None:
        """Take the next job from the queues, if there is room for it."""
        if sum(self._in_flight.values()) >= self.settings.max_in_flight:
            return None
        for priority, jobs in self._waiting.items():
            if jobs and (priority is not Priority.IDLE or self._may_idle()):
                return jobs.popleft()
        return None

    def _may_idle(self) -> bool:
        """Whether one more idle job may run: beside tiles that are being taken, one at a time."""
        acquiring = any(not run.is_acquired for run in self._runs)
        most = 1 if acquiring else self.settings.max_in_flight
        return self._in_flight[Priority.IDLE] < most

    def _post(self, job: Job, future: Future[Any]) -> None:
        self._inbox.put(partial(self._complete, job, future))

    def _complete(self, job: Job, future: Future[Any]) -> None:
        self._in_flight[job.priority] -= 1
        try:
            result, error = future.result(), None
        except Exception as raised:
            result, error = None, raised
        job.done(result, error)

    def _end_raw_runs(self) -> None:
        for run in self._runs:
            run.end_early("processing was closed before the raw run ended")

    def _give_up(self) -> None:
        for run in self._runs:
            run.stop("abort", "processing was closed before it was done")
        self._runs = []
