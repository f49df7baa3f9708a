from __future__ import annotations

import numpy as np
import pytest

from processing.light import Light, find_light
from tests.processing.scenes import expose, texture

SIDE = 512
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def tile(light: np.ndarray | float = 1.0, gain: float = 1.0) -> np.ndarray:
    frame = expose(2 * texture(SIDE, 4), 5).astype(float)
    return np.clip(gain * frame * light, 0, 65535).astype(np.uint16)


def beam(reach: float, soft: float) -> np.ndarray:
    """A beam that ends so far from the corner, with an edge as the microscope's."""
    return 1 / (1 + np.exp((np.hypot(ROWS, COLUMNS) - reach) / soft))


def test_a_tile_that_is_lit_has_neither():
    assert find_light(tile()) == find_light(tile(beam(900, 30)))
    assert find_light(tile()).obstructed == find_light(tile()).beam_edge == 0


@pytest.mark.parametrize("reach", [420, 550])
def test_the_edge_of_the_beam(reach):
    light = beam(reach, 30)
    found = find_light(tile(light))
    assert found.obstructed == 0
    assert found.beam_edge == pytest.approx(np.mean(light < 0.25), abs=0.03)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("soft", [60, 100])
def test_an_edge_of_the_beam_as_soft_as_the_tile_is_wide(soft, turn):
    light = np.rot90(1 / (1 + np.exp((60 + soft * np.log(3) - COLUMNS) / soft)), turn)
    found = find_light(tile(light))
    assert found.obstructed == 0
    assert found.beam_edge == pytest.approx(60 / SIDE, abs=0.07)
    assert found.beam_edge > 0.05


@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_a_fold_has_light_on_both_sides(slope):
    away = np.abs(ROWS - slope * COLUMNS - 200)
    assert find_light(tile(1 - 0.9 / (1 + np.exp((away - 80) / 20)))) == Light(0.0, 0.0)


@pytest.mark.parametrize("width", [60, 200])
@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_a_bar_across_the_tile(width, slope):
    bar = np.abs(ROWS - slope * COLUMNS - 200) < width / 2
    found = find_light(tile(np.where(bar, 0.01, 1.0)))
    assert found.beam_edge == 0
    assert found.obstructed == pytest.approx(bar.mean(), abs=0.03)


def test_gain_and_type_do_not_count():
    bar = np.where(COLUMNS < 100, 0.0, 1.0)
    usual = find_light(tile(bar))
    assert find_light(tile(bar, gain=0.1)) == usual
    assert find_light((tile(bar) >> 8).astype(np.uint8)) == usual


def test_small_stains_are_left_to_the_specimen():
    spots = (ROWS % 128 < 12) & (COLUMNS % 128 < 12)
    assert find_light(tile(np.where(spots, 0.05, 1.0))).obstructed == 0


def test_a_dark_tile_says_nothing():
    assert find_light(np.zeros((SIDE, SIDE), np.uint16)).obstructed == 0


def test_a_frame_too_small_is_refused():
    with pytest.raises(ValueError, match="64² or more"):
        find_light(np.zeros((40, 200), np.uint16))
