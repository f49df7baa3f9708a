"""Serves the HTTP interface in the loop of a process that has other things to serve, too."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from services.api.app import make_app
from services.supervisor.desk import Desk
from services.supervisor.status import Board

CLOSE_TIMEOUT = 2  # s for what is under way, when the server ends


class HttpServer(uvicorn.Server):
    """uvicorn, which leaves signals to its process, and ends event streams before all else.

    Parameters
    ----------
    desk : Desk
    board : Board
    host : str
        Address that it binds to.
    port : int
    """

    def __init__(self, desk: Desk, board: Board, host: str, port: int) -> None:
        self._app = make_app(desk, board, host)
        super().__init__(
            uvicorn.Config(
                self._app,
                host=host,
                port=port,
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # anybody could name any host
                timeout_graceful_shutdown=CLOSE_TIMEOUT,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        self._app.state.events.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
