"""Opaque bars before a specimen."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.specimen import Bar, NeuropilSection, Obstructed


@pytest.fixture(scope="module")
def section():
    specimen = Obstructed(NeuropilSection(seed=2))
    yield specimen
    specimen.close()


def look(specimen, level=8):
    region = specimen.native_region(10.0, 5.0, 2.0, 2.0, level)
    step = level / 1000
    x = region.x + step * np.arange(region.pixels.shape[1])[None, :]
    y = region.y - step * np.arange(region.pixels.shape[0])[:, None]
    return region.pixels, x, y


def test_a_bar_lets_nothing_through_and_leaves_the_rest(section):
    section.bars = ()
    clear, x, y = look(section)
    section.bars = (Bar(10.0, 5.0, 30.0, 0.5),)
    behind, _, _ = look(section)
    angle = np.radians(30.0)
    inside = np.abs((y - 5.0) * np.cos(angle) - (x - 10.0) * np.sin(angle)) < 0.25
    assert inside.mean() == pytest.approx(0.5 / np.cos(angle) / 2, abs=0.02)
    assert not behind[inside].any()
    assert np.array_equal(behind[~inside], clear[~inside])


def test_bars_are_taken_away_again(section):
    section.bars = (Bar(10.0, 5.0, 90.0, 50.0),)
    assert not look(section)[0].any()
    section.bars = ()
    assert look(section)[0].any()
