"""The supervising server's process: its PVs, its HTTP interface, its plan worker, put together.

One asyncio loop serves all of it; what takes its time is done on threads or in the worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from config import Config
from ioc.command import (
    MAX_LISTING,
    MAX_REPLY,
    CommandContext,
    Commands,
    RefusedError,
    Sender,
    quiet_refusals,
)
from records import LeaseStore, RequestQueue, open_database
from services.api.http_server import HttpServer
from services.runtime import require_free
from services.supervisor.actions import Actions
from services.supervisor.commands import MAX_BYTES, CommandRefusedError, Origin
from services.supervisor.control import Control
from services.supervisor.desk import Desk
from services.supervisor.guards import Guards
from services.supervisor.identity import Client, Identity, read_tokens
from services.supervisor.registry import plan_registry
from services.supervisor.status import Board, Reply, Status
from services.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

TICK_PERIOD = 1.0  # s between looks whether control has run out
CLOSE_TIMEOUT = 3.0  # s
PV_OF = {
    "state": "State",
    "message": "Message",
    "progress": "Progress",
    "eta": "ETA",
    "request": "CurrentRequest",
    "run_uid": "RunUID",
    "last_error": "LastError",
    "queue_length": "QueueLength",
    "queue_changed": "QueueChanged",
    "queue_held": "QueueHeld",
    "controller": "Controller",
}


def serve(config: Config, site: Path | None) -> None:
    """Serve until SIGINT or SIGTERM.

    Parameters
    ----------
    config : Config
        Whose EPICS environment is set, with the port of the supervisor.
    site : path, optional
        The file that it is from.

    Raises
    ------
    PortInUseError, DatabaseError
    """
    settings, prefix = config.supervisor, f"{config.epics.prefix}CMD:"
    for interface in config.epics.interfaces:
        require_free(interface, settings.port, "supervisor.port")
    require_free(settings.http_host, settings.http_port, "supervisor.http_port")
    asyncio.run(_Server(config, site, prefix).run())


class _Server:
    """All parts of one server."""

    def __init__(self, config: Config, site: Path | None, prefix: str) -> None:
        settings = config.supervisor
        started = datetime.now(UTC).isoformat(timespec="seconds")
        instance = f"{socket.gethostname()} pid {os.getpid()} since {started} {uuid4().hex[:8]}"
        engine = open_database(config.records_url)
        self._config = config
        self._board = Board(Status(instance=instance))
        self._supervisor = Supervisor(config, site, RequestQueue(engine), self._board)
        self._desk = Desk(
            supervisor=self._supervisor,
            registry=plan_registry(config),
            identity=Identity(read_tokens(config.folder), settings.control.require_token),
            control=Control(
                LeaseStore(engine),
                settings.control.idle_timeout,
                settings.control.ask_timeout,
                busy=lambda: self._supervisor.busy,
            ),
            guards=Guards(
                config.data.folder.absolute(), settings.proposals, settings.require_proposal
            ),
            most_queued=settings.most_queued,
        )
        self._commands = Commands(
            prefix,
            command=self._command,
            immediate=self._immediate,
            registry=self._desk.registry.text(),
            instance=instance,
            longest=MAX_BYTES,
        )
        self._listing = asyncio.Event()
        self._board.watch(self._show)
        quiet_refusals()

    async def run(self) -> None:
        """Serve until a signal comes."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._commands.show({"Message": self._board.status.message})
        context = CommandContext(self._commands.pvdb, list(self._config.epics.interfaces))
        http = HttpServer(self._desk, self._board, *self._address)
        tasks = [
            asyncio.create_task(one, name=name)
            for name, one in {
                "stop": stop.wait(),
                "process variables": context.run(log_pv_names=False),
                "heartbeat": self._commands.run(),
                "listing": self._list(),
                "control": self._tick(),
                "http": http.serve(),
                "supervisor": self._supervisor.run(),
            }.items()
        ]
        log.info("serving %s* and http://%s:%d", self._commands.prefix, *self._address)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(tasks, http)

    async def _end(self, tasks: list[asyncio.Task[Any]], http: HttpServer) -> None:
        """End the supervisor first, so that clients see how; then what serves them."""
        failed = [task for task in tasks if task.done() and not task.cancelled()]
        *others, serving, supervisor = tasks
        supervisor.cancel()
        await asyncio.wait([supervisor])
        await self._supervisor.close()
        http.should_exit = True
        await asyncio.wait([serving], timeout=CLOSE_TIMEOUT)
        for task in (*others, serving):
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
        for task in failed:
            if (error := task.exception()) is not None:
                log.error("%s ended", task.get_name(), exc_info=error)
                raise error

    @property
    def _address(self) -> tuple[str, int]:
        return self._config.supervisor.http_host, self._config.supervisor.http_port

    # What the process variables are written

    async def _command(self, sent: bytes, sender: Sender) -> None:
        try:
            await self._desk.command(sent, _origin_of(sender))
        except CommandRefusedError as error:
            raise RefusedError(error.reason) from None

    async def _immediate(self, sent: bytes, sender: Sender) -> None:
        try:
            await self._desk.immediate(sent, _origin_of(sender))
        except CommandRefusedError as error:
            raise RefusedError(error.reason) from None

    # What they show

    async def _show(self, topic: str, content: Any) -> None:
        if topic == "status":
            await self._commands.show(
                {PV_OF[key]: value for key, value in content.items() if key in PV_OF}
            )
            if "queue_changed" in content:
                self._listing.set()
        elif topic == "reply":
            await self._commands.show({"Reply": _text_of(content, MAX_REPLY)})
        else:
            await self._commands.show({"ImmediateReply": _text_of(content, MAX_LISTING)})

    async def _list(self) -> None:
        """Show the queue's requests, once for many changes that come together."""
        nobody = Client("", "")
        while True:
            await self._listing.wait()
            self._listing.clear()
            try:
                queue = await Actions(self._desk, nobody).queue()
            except CommandRefusedError as error:
                log.error("the queue cannot be shown: %s", error)
                continue
            shown = [
                {key: one[key] for key in ("id", "function", "state", "client", "priority", "held")}
                for one in queue["running"] + queue["queued"]
            ]
            await self._commands.show({"Queue": json.dumps(shown)})

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_PERIOD)
            try:
                await self._desk.on_control(self._desk.control.tick)
            except CommandRefusedError as error:
                log.error("control: %s", error)


def _origin_of(sender: Sender) -> Origin:
    return Origin("ca", sender.host or sender.address, sender.user)


def _text_of(reply: Reply, most: int) -> str:
    text = json.dumps(reply.as_json())
    if len(text) < most:
        return text
    short = Reply(reply.id, reply.function, reply.state, "too long for this PV: ask by HTTP")
    return json.dumps(short.as_json())
