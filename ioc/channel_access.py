"""caproto's asyncio server, made to live through clients that vanish or do not read.

As it comes, a client that disconnects under load kills the task that serves all the others.
"""

from __future__ import annotations

import asyncio
from typing import Any

from caproto import MAX_TOTAL_SUBSCRIPTION_BACKLOG
from caproto.asyncio.server import Context as AsyncioContext
from caproto.asyncio.server import VirtualCircuit as AsyncioCircuit


class _UpdateQueue(asyncio.Queue):
    """Updates for one client: full is an error at once, for waiting would hold up all clients."""

    async def put(self, item: Any) -> None:
        self.put_nowait(item)

    def clear(self) -> None:
        """Drop everything, as caproto does when the queue is full."""
        while not self.empty():
            self.get_nowait()


class _Circuit(AsyncioCircuit):
    """One client, whose updates cannot hold up those of the others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subscription_queue = _UpdateQueue(MAX_TOTAL_SUBSCRIPTION_BACKLOG)


class Context(AsyncioContext):
    """The server of a database of PVs.

    caproto walks the live deque of subscriptions and awaits in between; a client that leaves at
    that moment changes the deque, and the RuntimeError ends the server. Here it walks a copy.
    """

    CircuitClass = _Circuit

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # On loopback there may be nobody to hear the beacons, which is no fault.
        self.log.addFilter(lambda record: "beacon" not in str(record.msg))

    async def _subscription_queue_iteration(
        self, sub_specs: Any, metadata: Any, values: Any, flags: int, sub: Any
    ) -> None:
        for spec in sub_specs:
            for target in (sub,) if sub is not None else tuple(self.subscriptions[spec]):
                if target.circuit.connected:
                    await self._subscription_queue_send(
                        spec, target, metadata=metadata, values=values, flags=flags
                    )
