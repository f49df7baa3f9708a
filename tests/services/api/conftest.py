"""Fixtures: servers with an HTTP interface and no plan worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from config import load
from tests.services.api.lab import Server
from tests.support import free_port


@pytest.fixture(scope="module")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    config = load(None).config
    started: list[Server] = []

    def make(**options) -> Server:
        folder = tmp_path_factory.mktemp("server")
        started.append(Server(config, folder, free_port(), **options).start())
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def server(_servers: Callable[..., Server]) -> Server:
    """One that the tests of a module share; nobody has control, and the queue is not held."""
    return _servers()


@pytest.fixture
def make_server(_servers: Callable[..., Server]) -> Callable[..., Server]:
    """Make servers of a test's own."""
    return _servers


@pytest.fixture
def http(server: Server):
    """A client of that server, with the token of one who is not staff."""
    return server.client()


@pytest.fixture
def nobody(server: Server):
    """A client of that server without a token."""
    return server.client(None)
