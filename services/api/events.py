"""Hands on what is announced to any number of clients, each as fast as it reads.

A client that reads too slowly is dropped, so that what waits for it does not grow without end.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.sse import ServerSentEvent

from services.supervisor.commands import CommandRefusedError
from services.supervisor.status import Board

MOST_STREAMS = 100
MOST_WAITING = 2**20
"""Bytes that wait for one client."""

OVERHEAD = 1000
"""Bytes of an event beside its content, roughly."""


class Stream:
    """The events for one client, until it is closed.

    Parameters
    ----------
    first : ServerSentEvent
    """

    def __init__(self, first: ServerSentEvent) -> None:
        self._waiting = deque([first])
        self._size = _size(first)
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, event: ServerSentEvent) -> None:
        """Give it an event; if too much waits, that is dropped and the stream closed."""
        if self._closed:
            return
        self._size += _size(event)
        if self._size > MOST_WAITING:
            self._waiting.clear()
            event = _event("end", {"reason": "this client reads too slowly"}, event.id)
            self._closed = True
        self._waiting.append(event)
        self._changed.set()

    def close(self, last: ServerSentEvent) -> None:
        """End it, after all that waits."""
        self.put(last)
        self._closed = True

    async def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        while True:
            self._changed.clear()
            while self._waiting:
                event = self._waiting.popleft()
                self._size -= _size(event)
                yield event
            if self._closed:
                return
            await self._changed.wait()


class Events:
    """All streams of one server.

    Parameters
    ----------
    board : Board
        On which is announced what they hand on.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._streams: set[Stream] = set()
        self._number = 0
        board.watch(self._announce)

    def __len__(self) -> int:
        return len(self._streams)

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """Open a stream, which begins with the whole status.

        Raises
        ------
        CommandRefusedError
            If there are too many.
        """
        if len(self._streams) >= MOST_STREAMS:
            raise CommandRefusedError(f"{MOST_STREAMS} clients have event streams", kind="full")
        stream = Stream(_event("status", self._board.status.as_json(), str(self._number)))
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    def close(self) -> None:
        """End all streams, because the server does."""
        last = self._next("end", {"reason": "the server ends"})
        for stream in self._streams:
            stream.close(last)

    async def _announce(self, topic: str, content: Any) -> None:
        event = self._next(topic, content if topic == "status" else content.as_json())
        for stream in self._streams:
            stream.put(event)

    def _next(self, topic: str, content: Any) -> ServerSentEvent:
        self._number += 1
        return _event(topic, content, str(self._number))


def _event(topic: str, content: Any, id: str | None) -> ServerSentEvent:
    return ServerSentEvent(raw_data=json.dumps(content), event=topic, id=id)


def _size(event: ServerSentEvent) -> int:
    return len(event.raw_data or "") + OVERHEAD
