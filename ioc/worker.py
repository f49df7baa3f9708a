"""A thread that makes the blocking calls of one subsystem, so that the server's loop never waits.

A call that hangs costs its own subsystem until it returns, and nobody else.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ioc.drivers.protocol import DriverTimeoutError

T = TypeVar("T")


class Worker:
    """One daemon thread that runs calls in order of asking.

    A daemon, and not an executor: the interpreter waits for executors when it ends, and a vendor's
    call that never returns would keep a dead IOC alive.

    Parameters
    ----------
    name : str
        Name of the subsystem, for the thread and for messages.
    timeout : float
        How long a call may take unless it says so itself, in s.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stuck: tuple[str, float] | None = None
        threading.Thread(target=self._run, name=f"ioc-{name}", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._calls.get()()

    async def call(self, function: Callable[..., T], *args: Any, timeout: float | None = None) -> T:
        """Make a call on the thread and wait for what it returns or raises.

        Parameters
        ----------
        function : callable
        *args
            Its arguments.
        timeout : float, optional
            How long it may take, in s.

        Raises
        ------
        DriverTimeoutError
            If it does not return in time, or an earlier call has not returned yet.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(done: Future[T]) -> None:
            if future.done():
                return
            if (error := done.exception()) is None:
                future.set_result(done.result())
            else:
                future.set_exception(error)

        def tell(done: Future[T]) -> None:
            with suppress(RuntimeError):  # the server has ended meanwhile: nobody awaits this
                loop.call_soon_threadsafe(settle, done)

        started = time.monotonic()
        made = self.submit(function, *args)
        made.add_done_callback(tell)
        limit = self.timeout if timeout is None else timeout
        try:
            return await asyncio.wait_for(future, limit)
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise  # the call itself raised it
            raise self._give_up(function, made, started, limit) from error

    def wait(self, function: Callable[..., T], *args: Any, timeout: float | None = None) -> T:
        """Make a call as `call` does, from a thread that may wait: never from the server's loop."""
        started = time.monotonic()
        made = self.submit(function, *args)
        limit = self.timeout if timeout is None else timeout
        try:
            return made.result(limit)
        except TimeoutError as error:
            if made.done():
                raise  # the call itself raised it
            raise self._give_up(function, made, started, limit) from error

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Have a call made on the thread, and wait for nothing.

        Raises
        ------
        DriverTimeoutError
            If an earlier call has not returned in its time.
        """
        if self._stuck is not None:
            what, since = self._stuck
            raise DriverTimeoutError(
                f"{self.name}: {what} has not returned for {time.monotonic() - since:.0f} s"
            )
        future: Future[T] = Future()

        def run() -> None:
            try:
                result = function(*args)
            except BaseException as error:  # it belongs to whoever awaits it
                self._stuck = None
                future.set_exception(error)
            else:
                self._stuck = None
                future.set_result(result)

        self._calls.put(run)
        return future

    def _give_up(
        self, function: Callable[..., Any], made: Future[Any], started: float, limit: float
    ) -> DriverTimeoutError:
        """Take note of a call that hangs, and say so."""
        what = getattr(function, "__name__", repr(function))
        self._stuck = (what, started)
        if made.done():  # it returned just now, before it was noted
            self._stuck = None
        return DriverTimeoutError(f"{self.name}: {what} did not return within {limit:g} s")
