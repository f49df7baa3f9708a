"""Keeps a plan worker, and gives it the requests of the queue, one after the other.

The state is the worker's own; only when there is none that works, it is "fault". Whatever happens
to a worker, the hardware is made safe first, and its request is never run again by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from config import Config
from records import DatabaseError, Request, RequestQueue
from records.requests import Outcome
from services.supervisor.escalation import Escalation
from services.supervisor.link import Message
from services.supervisor.safety import make_safe
from services.supervisor.status import Board, Reply, State
from services.supervisor.worker_process import WorkerProcess

log = logging.getLogger(__name__)
T = TypeVar("T")

DATABASE_ERRORS = (SQLAlchemyError, DatabaseError)
PING_PERIOD = 1.0  # s
SAFE_TIMEOUT = 1.0  # s for each of the puts that make safe
SAFE_RETRY = 2.0  # s until what could not be made safe is tried again
DATABASE_RETRY = 2.0  # s
SETTLE_TIMEOUT = 1.0  # s that an abort waits for the database, to know what there is to abort
RESTART_DELAYS = (0.0, 1.0, 5.0, 15.0, 30.0)  # s before a worker that died once, twice, … again
STEADY = 60.0  # s of life after which a worker's death counts as its first


@dataclass(frozen=True)
class Ending:
    """How a request ended.

    Attributes
    ----------
    outcome : str
    message : str
    harmless : bool
        Whether it was refused before it touched anything.
    """

    outcome: Outcome
    message: str
    harmless: bool = False


class Supervisor:
    """The one who runs requests.

    Parameters
    ----------
    config : Config
    site : path, optional
        The file that the configuration is from, for the worker.
    queue : RequestQueue
    board : Board
        Where it tells how things stand.
    """

    def __init__(
        self, config: Config, site: Path | None, queue: RequestQueue, board: Board
    ) -> None:
        self.board = board
        self.queue = queue
        self._config, self._site = config, site
        self._settings = config.supervisor
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="records")
        self._wake = asyncio.Event()
        self._claiming = False
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._worker_state: State = "idle"
        self._safe = True
        self._pong = 0.0
        self._deaths = 0
        self.request: Request | None = None
        self._ending: asyncio.Future[Ending] | None = None
        self._uids: list[str] = []
        self.escalation = Escalation(self, self._settings.deadlines)

    async def run(self) -> None:
        """Run until cancelled."""
        if await self._reconcile():
            await self._make_safe()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_worker())
                tasks.create_task(self._watch())
                tasks.create_task(self._dispatch())
        finally:
            self.escalation.cancel()

    async def close(self) -> None:
        """End what runs, and the worker."""
        if (worker := self._worker) is not None:
            await worker.quit()
            await self._make_safe_once()
        await self._reconcile()
        self._threads.shutdown(wait=False)

    async def records(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call something that takes its time (the database), on a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    async def queue_changed(self) -> None:
        """See whether there is something to run, and tell of the queue as it is now."""
        self._wake.set()
        await self._show_queue()

    async def _show_queue(self) -> None:
        try:
            length, revision, held = await self.records(
                lambda: (self.queue.count(), self.queue.revision, self.queue.is_held)
            )
        except DATABASE_ERRORS as error:
            await self._database_is_away(error)
            return
        await self.board.set(
            queue_length=length, queue_changed=revision, queue_held=_held_words(held)
        )

    async def _database_is_away(self, error: Exception) -> None:
        words = f"the database of requests does not answer: {first_line(error)}"
        log.error("%s", words)
        await self.board.set(message=words, last_error=words)

    # The worker

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self.request is not None

    def order(self, kind: str, **content: Any) -> None:
        """Send an order to the worker."""
        if self._worker is not None:
            self._worker.order(kind, **content)

    def kill_worker(self, why: str) -> None:
        """Kill the worker; another is started once the hardware is safe."""
        log.error("the plan worker is killed: %s", why)
        if self._worker is not None:
            self._worker.kill()

    async def _keep_worker(self) -> None:
        log_file = self._config.log.folder / "worker.log"
        while True:
            born = time.monotonic()
            worker = WorkerProcess(self._site, log_file)
            await worker.start()
            self._pong = born + self._settings.start_timeout - self._settings.hang_timeout
            self._worker = worker
            await self.board.set(worker_pid=worker.pid, message="the plan worker starts")
            async for report in worker.reports():
                await self._take(report)
            worker.kill()  # whatever is left of it must not go on
            await self._lost(await worker.reap())
            self._deaths = 1 if time.monotonic() - born > STEADY else self._deaths + 1
            await asyncio.sleep(RESTART_DELAYS[min(self._deaths, len(RESTART_DELAYS)) - 1])

    async def _lost(self, how: str) -> None:
        """Make safe, and then see to the rest: in the order of what cannot wait."""
        self._ready, self._worker = False, None
        error = f"the plan worker ended with {how}"
        log.error("%s", error)
        await self.board.set(state="fault", worker_pid=0)
        await self._make_safe()
        await self.board.set(message=error, last_error=error)
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(Ending("interrupted", error))

    async def _make_safe(self) -> None:
        """Make the hardware safe, however long that takes; meanwhile that is the fault."""
        while problems := await self._make_safe_once():
            self._safe = False
            words = f"NOT SAFE, it is tried again: {problems}"
            await self.board.set(state="fault", message=words, last_error=words)
            await asyncio.sleep(SAFE_RETRY)
        self._safe = True
        if self._ready:
            await self.board.set(state=self._worker_state)

    async def _make_safe_once(self) -> str:
        settings = self._settings
        problems = await self.records(
            make_safe, self._config.epics.prefix, settings.safe, SAFE_TIMEOUT
        )
        return "; ".join(f"{name}: {why}" for name, why in problems.items())

    async def _watch(self) -> None:
        """Kill a worker that does not answer; a hang is a death that nobody told of."""
        number = 0
        while True:
            await asyncio.sleep(PING_PERIOD)
            number += 1
            self.order("ping", number=number)
            silence = time.monotonic() - self._pong
            if self._worker is not None and silence > self._settings.hang_timeout:
                self._pong = time.monotonic() + self._settings.hang_timeout
                self.kill_worker(f"no answer for {silence:.0f} s")

    async def _take(self, report: Message) -> None:
        """Take a report in."""
        match report["kind"]:
            case "ready":
                self._ready, self._pong = True, time.monotonic()
                problems = "; ".join(f"{name}: {why}" for name, why in report["problems"].items())
                message = f"NOT REACHED: {problems}" if problems else "ready"
                self._worker_state = "idle"
                await self.board.set(state="idle", message=message)
                if problems:
                    await self.board.set(last_error=message)
                self._wake.set()
            case "state":
                self._worker_state = report["state"]
                if self._safe:
                    await self.board.set(state=self._worker_state)
                self.escalation.look()
            case "pong":
                self._pong = time.monotonic()
            case "message":
                await self.board.set(message=report["text"])
            case "progress":
                left = report["left"]
                await self.board.set(
                    progress=100 * report["fraction"], eta=-1.0 if left is None else left
                )
            case "run":
                await self._note_run(report["id"], report["uid"])
            case "ended":
                ending = Ending(report["outcome"], report["message"], report["harmless"])
                if self._ending is not None and not self._ending.done():
                    self._ending.set_result(ending)

    async def _note_run(self, id: str, uid: str) -> None:
        self._uids.append(uid)
        await self.board.set(run_uid=uid)
        if self.request is not None:
            running = replace(self.request, state="running", run_uids=tuple(self._uids))
            await self.board.reply(_reply_of(running))
        try:
            await self.records(self.queue.note, id, run_uid=uid)
        except DATABASE_ERRORS as error:  # it is noted at the end once more
            log.error("run %s could not be noted: %s", uid, first_line(error))

    # The queue

    async def _reconcile(self) -> bool:
        """Take note of what a server before this one left running: it is not run again."""
        left = await self.records(
            self.queue.reconcile,
            self._config.instrument,  # others may draw from the same queue
            message="the server ended while this request ran",
        )
        if left:
            ids = ", ".join(request.id for request in left)
            log.warning("interrupted: %s", ids)
            reason = f"{ids} was interrupted by the end of the server"
            await self.records(self.queue.hold_queue, reason)
            await self.board.set(last_error=reason)
        await self.queue_changed()
        return bool(left)

    async def _dispatch(self) -> None:
        """Give the worker what comes next, as long as there is something and it is free."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                self._claiming = True
                request = await self._insist(self.queue.claim, self._config.instrument)
                self._claiming = False
                if request is None:
                    break
                await self._run_request(request)

    async def settled(self) -> None:
        """Wait until it is certain what runs: a request that was just added may be about to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT):
                while self._ready and not self.busy and (self._claiming or self._wake.is_set()):
                    await asyncio.sleep(0)

    async def _insist(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the database until it answers: what it must know is not given up."""
        while True:
            try:
                return await self.records(function, *args, **kwargs)
            except DATABASE_ERRORS as error:
                await self._database_is_away(error)
                await asyncio.sleep(DATABASE_RETRY)

    async def _run_request(self, request: Request) -> None:
        self.request, self._uids = request, []
        self._ending = asyncio.get_running_loop().create_future()
        self.order(  # first of all, since what may follow at once is to end it
            "run",
            id=request.id,
            function=request.function,
            arguments=request.arguments,
            directory=request.directory,
            md=_metadata_of(request),
        )
        if not self._ready:
            self._ending.set_result(Ending("interrupted", "the plan worker ended before it began"))
        await self.board.set(
            request=request.id,
            run_uid="",
            progress=0.0,
            eta=-1.0,
            message=f"{request.function} for {request.client or 'anonymous'}",
        )
        await self._show_queue()
        await self.board.reply(_reply_of(request))
        ending = await self._ending
        await self._conclude(request, ending)

    async def _conclude(self, request: Request, ending: Ending) -> None:
        finished = await self._insist(
            self.queue.finish, request.id, ending.outcome, ending.message, run_uids=self._uids
        )
        self.request, self._ending = None, None
        self.escalation.look()
        if reason := self._reason_to_hold(request, ending):
            await self._insist(self.queue.hold_queue, reason)
        words = f"{request.function} {ending.outcome}"
        words += f": {ending.message}" if ending.message else ""
        changes: dict[str, Any] = {"message": words, "request": ""}
        if ending.outcome == "done":
            changes |= {"progress": 100.0, "eta": 0.0}
        else:
            changes |= {"eta": -1.0, "last_error": words}
        await self.board.set(**changes)
        await self._show_queue()
        await self.board.reply(_reply_of(finished))
        if ending.outcome == "failed" and not ending.harmless:
            await self._make_safe()  # what went wrong may have kept the plan from it

    def _reason_to_hold(self, request: Request, ending: Ending) -> str:
        """Say why nothing should follow of itself; empty if the next request may."""
        if ending.outcome in {"aborted", "interrupted"}:
            return f"{request.id} was {ending.outcome}: {ending.message}"
        if ending.outcome == "failed" and not ending.harmless and self._settings.hold_on_failure:
            return f"{request.id} failed: {ending.message}"
        return ""


def first_line(error: Exception) -> str:
    """Give what an error of the database says, less the statement that follows."""
    return str(error).partition("\n")[0]


def _held_words(held: str | None) -> str:
    return "" if held is None else held or "held"


def _metadata_of(request: Request) -> dict[str, Any]:
    """Give what the start documents of a request's runs are to say of it."""
    about: dict[str, Any] = {"id": request.id, "client": request.client}
    if request.parent:
        about["parent"] = request.parent
    metadata: dict[str, Any] = {"request": about}
    if request.proposal:
        metadata["proposal"] = request.proposal
    if request.directory:
        metadata["data_directory"] = request.directory
    return metadata


def _reply_of(request: Request) -> Reply:
    return Reply(
        id=request.id,
        function=request.function,
        state=request.state,
        message=request.message,
        runs=request.run_uids,
    )
