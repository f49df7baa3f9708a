"""The workers that process tiles: threads, processes that are replaced, or a Dask cluster's.

A module of its own with few imports, since each worker process imports it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures import ThreadPoolExecutor as Threads
from functools import partial
from typing import Any, ParamSpec, TypeVar

from config import Config
from config.model import Dask
from services.errors import PlainError
from services.priority import stand_back

P = ParamSpec("P")
T = TypeVar("T")

LOOPBACK = "127.0.0.1"
RETRIES = 2
"""How often a job is tried again whose worker died."""

logger = logging.getLogger(__name__)


class WorkerDiedError(RuntimeError):
    """A job whose worker died, or hung and was ended, as often as it was tried."""


def make_executor(config: Config, warm_up: Callable[[], None] | None = None) -> Executor:
    """Make the executor that processes tiles.

    Parameters
    ----------
    config : Config
    warm_up : callable, optional
        Called once in each process before its first job, so that this need not wait for what is
        compiled. It must be picklable.

    Raises
    ------
    PlainError
        If a Dask cluster is wanted and its package is missing, or its scheduler does not answer.
    """
    settings = config.processing
    if settings.executor == "threads":
        threads = Threads(settings.workers, thread_name_prefix="processing", initializer=stand_back)
        if warm_up is not None:
            threads.submit(_try, warm_up)
        return threads
    prepare = partial(prepare_process, warm_up)
    if settings.executor == "processes":
        return ProcessWorkers(settings.workers, settings.job_timeout, prepare)
    return DaskWorkers(settings.dask, settings.workers, settings.job_timeout, prepare)


class ProcessWorkers(Threads):
    """Worker processes that are replaced when they die or hang; their job is tried again.

    Each is a pool of one process, and a thread waits for its job. So it is known whose job it was:
    in one pool of many processes the death of any would fail the jobs of all.

    Parameters
    ----------
    workers : int
        How many.
    job_timeout : float
        After so many s a job hangs, and its process ends.
    prepare : callable
        Called in each process before its first job.
    """

    def __init__(self, workers: int, job_timeout: float, prepare: Callable[[], None]) -> None:
        super().__init__(workers, thread_name_prefix="processing")
        self._job_timeout, self._prepare = job_timeout, prepare
        self._pools: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(workers):
            self._pools.put(self._start_process())

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call for the next process that is free."""
        call = partial(run_watched, self._job_timeout, partial(fn, *args, **kwargs))
        return super().submit(self._run, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after what they do, or after all that is queued."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        with contextlib.suppress(queue.Empty):
            while True:
                self._pools.get_nowait().shutdown(wait)

    def _run(self, call: Callable[[], T]) -> T:
        pool = self._pools.get()
        try:
            for left in range(RETRIES, -1, -1):
                try:
                    return pool.submit(call).result()
                except BrokenExecutor:
                    pool.shutdown(wait=False)
                    pool = self._start_process()
                    logger.error("a worker process died; its job is tried %d more times", left)
            raise WorkerDiedError(
                f"the worker process died {RETRIES + 1} times in a row on this job, or hung for "
                f"{self._job_timeout:g} s: look for its last words in the log"
            )
        finally:
            self._pools.put(pool)

    def _start_process(self) -> ProcessPoolExecutor:
        """Start a worker process; it gets ready while nobody waits for it."""
        pool = ProcessPoolExecutor(
            1,
            # Not forked: this process has threads of Channel Access.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=self._prepare,
        )
        pool.submit(os.getpid)
        return pool


class DaskWorkers(Executor):
    """The workers of a Dask cluster, which replaces those that die, and tries their jobs again.

    Parameters
    ----------
    settings : Dask
        Where the scheduler is; without an address a cluster is started on this machine.
    workers : int
        How many processes such a cluster has.
    job_timeout : float
        After so many s a job hangs, and its process ends.
    prepare : callable
        Called in each process before its first job.

    Raises
    ------
    PlainError
        If the package `distributed` is missing, or the scheduler does not answer.
    """

    def __init__(
        self, settings: Dask, workers: int, job_timeout: float, prepare: Callable[[], None]
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise PlainError(
                "processing.executor is dask, which is not installed: "
                "pip install 'temline[dask]', or set it to threads or processes"
            ) from error
        self._job_timeout = job_timeout
        self._close = contextlib.ExitStack()
        address: Any = settings.address
        if address is None:
            address = self._close.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host=LOOPBACK,
                    dashboard_address=f"{LOOPBACK}:0",  # of its health checks; none is asked for
                    scheduler_kwargs={"allowed_failures": RETRIES, "dashboard": False},
                )
            )
        try:
            # Not Dask's default: Tiled's clients compute with Dask too, in this process.
            client = distributed.Client(address, timeout=settings.timeout, set_as_default=False)
        except OSError as error:
            self._close.close()
            raise PlainError(
                f"no Dask scheduler answers at {settings.address} within {settings.timeout:g} s "
                f"({error}): start `dask scheduler` there, or set processing.dask.address to null"
            ) from error
        self._close.callback(client.close)
        client.register_plugin(_preparation(prepare))
        self._executor: Executor = client.get_executor(pure=False)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Give a call to the cluster."""
        call = partial(fn, *args, **kwargs)
        return self._executor.submit(run_watched, self._job_timeout, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._close.close()


def _preparation(prepare: Callable[[], None]) -> Any:
    """Make the plug-in that has each worker of a cluster prepared, those that come later too."""
    from distributed import WorkerPlugin

    class Preparation(WorkerPlugin):
        name = "temline"

        def setup(self, worker: Any) -> None:
            prepare()

    return Preparation()


def run_watched(timeout: float, call: Callable[[], T]) -> T:
    """Run a job in a worker process, which ends if the job takes too long.

    The process writes to its log where the job hung. A clock of the interpreter's own does it,
    so that a job which holds the interpreter's lock for ever is ended too. One process must not run
    two jobs at a time.
    """
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        return call()
    finally:
        faulthandler.cancel_dump_traceback_later()


def prepare_process(warm_up: Callable[[], None] | None) -> None:
    """Make a worker process ready: it is warm, and it outlives Ctrl-C, but not its owner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    stand_back()
    _end_with_parent()
    if warm_up is not None:
        _try(warm_up)


def _try(warm_up: Callable[[], None]) -> None:
    """Warm up; whatever fails there fails, and is told, at the first tile too."""
    try:
        warm_up()
    except Exception:
        logger.exception("a worker could not be warmed up")


def _end_with_parent() -> None:
    """Have a worker process end when the process that owns it does, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
