"""The line between the server and its plan worker: one JSON object a line, over a socket pair.

Orders go to the worker, reports come back. Either end notices at once when the other is gone.

Orders: ``run`` (id, function, arguments, md, directory), ``pause``, ``resume``,
``stop_after_tile`` (reason), ``abort`` (reason), ``halt`` (reason), ``ping`` (number), ``quit``.

Reports: ``ready`` (problems), ``state`` (state), ``run`` (id, uid),
``progress`` (fraction, left), ``message`` (text), ``pong`` (number), ``ended`` (id, outcome,
message, harmless).
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]
MAX_LINE = 2**20  # bytes


def encode(kind: str, **content: Any) -> bytes:
    """Make the line of an order or a report."""
    return json.dumps({"kind": kind} | content, default=str).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a line."""
    message: Message = json.loads(line)
    return message


class WorkerEnd:
    """The worker's end, for its threads.

    Parameters
    ----------
    descriptor : int
        Of the inherited socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()

    def report(self, kind: str, **content: Any) -> None:
        """Send a report; nothing happens if the server is gone."""
        line = encode(kind, **content)
        try:
            with self._lock:
                self._socket.sendall(line)
        except OSError:
            pass  # `orders` ends then, and with it the worker

    def orders(self) -> Iterator[Message]:
        """Give the orders as they come, until the server is gone."""
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    yield decode(line)
            except OSError:
                return
