"""Fixtures: an instrument with a supervising server, for a module or for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.supervisor.lab import SupervisorProcess
from tests.support import IocProcess


@pytest.fixture(scope="module")
def make_supervisors(
    module_ioc, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., SupervisorProcess]]:
    """Make servers that live as long as the tests of a module, unless they are stopped before."""
    made: list[SupervisorProcess] = []
    folder: Path = tmp_path_factory.mktemp("supervisors")

    def make(ioc: IocProcess | None = None, **settings) -> SupervisorProcess:
        ioc = ioc or module_ioc(sensor=(128, 128))
        made.append(SupervisorProcess(folder / str(len(made)), ioc, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def supervisor(_iocs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisorProcess]:
    """A server that most tests share, and leave idle, its queue empty and free."""
    ioc = _iocs(sensor=(128, 128))
    supervisor = SupervisorProcess(tmp_path_factory.mktemp("supervisor"), ioc)
    yield supervisor.start()
    supervisor.stop()
