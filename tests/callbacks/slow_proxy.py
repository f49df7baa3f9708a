"""A proxy that gives each answer late: what a server behind a bad line looks like."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


class SlowProxy:
    """Passes bytes between its clients and a server, those of the server after a while.

    Parameters
    ----------
    target : (str, int)
        Host and port of the server.
    delay : float
        Of each part of an answer, in s.
    """

    def __init__(self, target: tuple[str, int], delay: float) -> None:
        self._target, self._delay = target, delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):  # wakes whoever waits for it
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._open:
            one.close()

    def _run(self, function, *arguments) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target, 10)
                server.settimeout(None)
                self._open += [client, server]
                self._run(self._copy, client, server, 0.0)
                self._run(self._copy, server, client, self._delay)

    @staticmethod
    def _copy(source: socket.socket, to: socket.socket, delay: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay)
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def slow_proxy(uri: str, delay: float) -> Iterator[str]:
    """Serve what another server does, later; give the address."""
    parts = urlsplit(uri)
    proxy = SlowProxy((parts.hostname or "127.0.0.1", parts.port or 80), delay)
    try:
        yield f"{parts.scheme}://127.0.0.1:{proxy.port}{parts.path}"
    finally:
        proxy.close()
