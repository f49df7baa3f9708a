"""A supervising server without a plan worker, with all that HTTP reaches; it serves on a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx

from config import Config
from records import LeaseStore, Request, RequestQueue, open_database
from services.api import HttpServer
from services.supervisor.control import Control
from services.supervisor.desk import Desk
from services.supervisor.guards import Guards
from services.supervisor.identity import Identity, read_tokens
from services.supervisor.registry import plan_registry
from services.supervisor.status import Board, Status
from services.supervisor.supervisor import Supervisor
from tests.support import LOOPBACK, wait_until

TOKENS = {"gui": "gui-token-0123456789", "ann": "ann-token-0123456789", "bob": "bob-token-0123456"}
STAFF = "ann"
ENVIRON = {
    "TEMLINE_TOKENS": ";".join(
        f"{name}:staff={token}" if name == STAFF else f"{name}={token}"
        for name, token in TOKENS.items()
    )
}


class Server:
    """The parts of a server as `services.supervisor.server` puts them together."""

    def __init__(self, config: Config, folder: Path, port: int, *, most_queued: int = 1000) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'records.db'}")
        self.queue = RequestQueue(self.engine)
        self.board = Board(Status(instance="the server"))
        supervisor = Supervisor(config, None, self.queue, self.board)
        self.desk = Desk(
            supervisor=supervisor,
            registry=plan_registry(config),
            identity=Identity(read_tokens(folder, ENVIRON), False),
            control=Control(LeaseStore(self.engine), 900.0, 60.0),
            guards=Guards(folder / "data"),
            most_queued=most_queued,
        )
        self.port = port
        self.http = HttpServer(self.desk, self.board, LOOPBACK, port)
        self.app = self.http.config.app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._clients: dict[str | None, httpx.Client] = {}

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.http.serve())

    @property
    def uri(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> Server:
        self._thread.start()
        wait_until(lambda: self.http.started, 10.0, "the server serves")
        return self

    def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        if self._thread.is_alive():
            self.http.should_exit = True
            self._thread.join(10.0)
            assert not self._thread.is_alive()
        self._loop.close()
        self.desk.supervisor._threads.shutdown()
        self.engine.dispose()

    def client(self, name: str | None = "gui") -> httpx.Client:
        """Give the client that has a token, or none."""
        if name not in self._clients:
            headers = {"Authorization": f"Bearer {TOKENS[name]}"} if name else {}
            self._clients[name] = httpx.Client(base_url=self.uri, headers=headers, timeout=20.0)
        return self._clients[name]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20.0)

    def claim(self) -> Request:
        """Take the next request, as the plan worker would."""
        request = self.queue.claim("the worker")
        assert request is not None
        return request

    @property
    def streams(self) -> int:
        """How many streams of events are open."""
        return len(self.app.state.events)
