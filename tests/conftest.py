"""Fixtures for tests of all parts; the EPICS environment is set here before anything reads it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests import support  # first of all imports of the project: it sets the environment
from tests.support import IocProcess


def pytest_configure() -> None:
    """Have Ctrl-C interrupt: what a shell starts in the background ignores it, and its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _iocs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., IocProcess]]:
    started: list[IocProcess] = []
    folder = tmp_path_factory.mktemp("iocs")

    def start(**options) -> IocProcess:
        ioc = support.start_ioc(folder, **options)
        started.append(ioc)
        return ioc

    yield start
    for ioc in started:
        if ioc.running:
            ioc.stop()


@pytest.fixture
def start_ioc(_iocs: Callable[..., IocProcess]) -> Iterator[Callable[..., IocProcess]]:
    """Start IOCs that live as long as the test: ``ioc = start_ioc(sensor=(128, 128), seed=3)``."""
    started: list[IocProcess] = []

    def start(**options) -> IocProcess:
        started.append(_iocs(**options))
        return started[-1]

    yield start
    for ioc in started:
        if ioc.running:
            ioc.stop()


@pytest.fixture(scope="module")
def module_ioc(_iocs: Callable[..., IocProcess]) -> Iterator[Callable[..., IocProcess]]:
    """Start IOCs that live as long as the tests of a module."""
    started: list[IocProcess] = []

    def start(**options) -> IocProcess:
        started.append(_iocs(**options))
        return started[-1]

    yield start
    for ioc in started:
        if ioc.running:
            ioc.stop()


@pytest.fixture(scope="session")
def instrument(_iocs: Callable[..., IocProcess]) -> IocProcess:
    """One simulated instrument for all tests that leave it as they found it."""
    return _iocs()
