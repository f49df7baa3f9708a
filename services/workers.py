"""The workers that process tiles: threads, or processes that end with their owner.

A module of its own with few imports, since each worker process imports it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

from config import Config


def make_executor(config: Config) -> Executor:
    """Make the executor that processes tiles."""
    workers = config.processing.workers
    if config.processing.executor == "threads":
        return ThreadPoolExecutor(workers, thread_name_prefix="processing")
    # Not forked: this process has threads of Channel Access.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Have a worker process end when the process that owns it does, however that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's business
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
