"""caproto's asyncio server, made to live through clients that vanish or do not read, and in order.

As it comes, a client that disconnects under load kills the task that serves all the others, the
answer to a put can overtake the updates that the put has caused, and updates wait for the network.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from caproto import MAX_TOTAL_SUBSCRIPTION_BACKLOG, ErrorResponse, WriteNotifyResponse
from caproto.asyncio.server import Context as AsyncioContext
from caproto.asyncio.server import VirtualCircuit as AsyncioCircuit

FLUSH_TIMEOUT = 0.1  # s that an answer waits for updates, at a client that reads slowly
FLUSH_PERIOD = 0.0005  # s


class _UpdateQueue(asyncio.Queue):
    """Updates for one client: full is an error at once, for waiting would hold up all clients."""

    async def put(self, item: Any) -> None:
        self.put_nowait(item)

    def clear(self) -> None:
        """Drop everything, as caproto does when the queue is full."""
        while not self.empty():
            self.get_nowait()


class Circuit(AsyncioCircuit):
    """One client, whose updates cannot hold up those of the others and come before its answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subscription_queue = _UpdateQueue(MAX_TOTAL_SUBSCRIPTION_BACKLOG)
        self._all_sent = True

    async def get_from_sub_queue(self, timeout: float | None = None) -> Any:
        """Give the next update, or None as soon as there is none, for the batch to be sent.

        caproto waits 10 ms for more of a batch, in a task that it makes for each update.
        """
        if self.subscription_queue.empty() and timeout is not None:
            await asyncio.sleep(0)
            if self.subscription_queue.empty():
                return None
        self._all_sent = self.subscription_queue.empty()
        update = await self.subscription_queue.get()
        self._all_sent = False
        return update

    async def send(self, *commands: Any) -> None:
        """Send commands; the completion or refusal of a put after the updates that came of it.

        A client that has seen its put complete takes what its monitors say for the new state.
        """
        for command in commands:
            if isinstance(command, ErrorResponse):
                # caproto forgets a put that has completed, but keeps one that was refused.
                self.circuit._ioids.pop(command.original_request.parameter2, None)
        if any(isinstance(command, WriteNotifyResponse | ErrorResponse) for command in commands):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + FLUSH_TIMEOUT
            while not self._flushed and loop.time() < deadline:
                await asyncio.sleep(FLUSH_PERIOD)
        await super().send(*commands)

    @property
    def _flushed(self) -> bool:
        return (
            self._all_sent
            and self.subscription_queue.empty()
            and self.context.subscription_queue.empty()
        )


class Context(AsyncioContext):
    """The server of a database of PVs.

    caproto walks the live deque of subscriptions and awaits in between; a client that leaves at
    that moment changes the deque, and the RuntimeError ends the server. Here it walks a copy.
    """

    CircuitClass = Circuit

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # On loopback there may be nobody to hear the beacons, which is no fault.
        self.log.addFilter(lambda record: "beacon" not in str(record.msg))

    async def server_accept_loop(self, sock: socket.socket) -> None:
        """Serve clients, without Nagle's algorithm: it holds an update back for 40 ms.

        asyncio switches it off by itself only where a socket names its protocol.
        """
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().server_accept_loop(sock)

    async def _subscription_queue_iteration(
        self, sub_specs: Any, metadata: Any, values: Any, flags: int, sub: Any
    ) -> None:
        for spec in sub_specs:
            for target in (sub,) if sub is not None else tuple(self.subscriptions[spec]):
                if target.circuit.connected:
                    await self._subscription_queue_send(
                        spec, target, metadata=metadata, values=values, flags=flags
                    )
