"""The server's connections: updates go out at once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest
from caproto import ChannelDouble
from caproto.asyncio import client as asyncio_client

from ioc.channel_access import Context
from tests.support import POOL


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


class Refusing(ChannelDouble):
    """A PV that takes nothing, and counts what it has not taken."""

    refused = 0

    async def verify_value(self, value: Any) -> Any:
        self.refused += 1
        raise ValueError("no")


async def kept_after_refusals(count: int, name: str) -> list[int]:
    """Have puts refused; give how many each connection of the server still keeps."""
    pv = Refusing(value=0.0)
    context = Context({name: pv}, ["127.0.0.1"])
    serving = asyncio.create_task(context.run())
    client = asyncio_client.Context()
    try:
        (channel,) = await client.get_pvs(name)
        await channel.wait_for_connection(timeout=10)
        for number in range(count):
            await channel.write(1.0, notify=True, wait=False)
            async with asyncio.timeout(10):
                while pv.refused <= number:
                    await asyncio.sleep(0.005)

        def kept() -> list[int]:
            return [len(circuit.circuit._ioids) for circuit in context.circuits]

        with suppress(TimeoutError):  # the last refusal may be on its way yet
            async with asyncio.timeout(5):
                while any(kept()):
                    await asyncio.sleep(0.005)
        return kept()
    finally:
        await client.disconnect()
        serving.cancel()
        await asyncio.wait([serving], timeout=10)


def test_a_put_that_was_refused_is_kept_nowhere(monkeypatch: pytest.MonkeyPatch):
    port = POOL.take()
    monkeypatch.setenv("EPICS_CA_SERVER_PORT", str(port))
    try:
        assert asyncio.run(kept_after_refusals(5, "REFUSING")) == [0]
    finally:
        POOL.give_back(port)
