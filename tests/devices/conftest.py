"""One simulated instrument for all tests of devices, which leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.devices.lab import Lab, Session
from tests.support import IocProcess


@pytest.fixture(scope="session")
def shared_lab(_iocs: Callable[..., IocProcess], tmp_path_factory) -> Lab:
    truth = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    return Lab.over(_iocs(seed=1, sensor=(128, 128), truth_log=str(truth)))


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The instrument, with its faults off."""
    yield shared_lab
    shared_lab.clear_faults()


@pytest.fixture
def session() -> Session:
    return Session()
