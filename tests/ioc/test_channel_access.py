"""The server's connections: updates go out at once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from ioc.channel_access import Context


async def accepted_without_delay() -> int:
    """Connect to a server's loop; give whether Nagle's algorithm is off for what it accepted."""
    context = Context({}, ["127.0.0.1"])
    found = asyncio.get_running_loop().create_future()

    async def serve(client: Any, address: Any) -> None:
        accepted = client.writer.get_extra_info("socket")
        found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        client.writer.close()

    context.tcp_handler = serve
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        await context.server_accept_loop(listening)
        _, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            return await asyncio.wait_for(found, 10)
        finally:
            writer.close()
            await writer.wait_closed()


def test_an_update_does_not_wait_for_the_client_to_acknowledge_the_last():
    assert asyncio.run(accepted_without_delay()) == 1
