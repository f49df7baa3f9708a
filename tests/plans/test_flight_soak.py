"""A short form of the soak: some hundred flown tiles, while everything fails that can."""

from __future__ import annotations

import pytest

from benchmarks.flight_soak import instrument, soak
from tests.devices.lab import Lab, Session

TILES = 300


@pytest.fixture(scope="module")
def small() -> Lab:
    with instrument() as lab:
        yield lab


def test_each_tile_is_there_once_or_named(small: Lab):
    record, trouble = soak(small, Session().RE, TILES)
    record.check(TILES)
    assert len(record.taken) > 0.8 * TILES
    assert len(trouble.struck) >= 5, "faults of many kinds struck"
    assert small.is_safe()
