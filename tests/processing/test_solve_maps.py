from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.lens import LensModel
from processing.solve import TileMaps
from tests.processing.lenses import some_lens

SHAPE = (300, 400)
CORNERS = np.array([(0, 0), (0, 399), (299, 0), (299, 399)], dtype=float)


def some_maps(n=5, *, bend=0.003, lens=6.0, seed=0, shape=SHAPE, degree=3):
    """Maps as real tiles have them: turned, scaled and sheared a little, bent by one lens."""
    random = np.random.default_rng(seed)
    matrices = np.zeros((n, 2, 3))
    matrices[:, :, :2] = np.eye(2) + bend * random.standard_normal((n, 2, 2))
    matrices[:, :, 2] = random.uniform(-1000, 1000, (n, 2))
    return TileMaps(shape, matrices, some_lens(shape, lens, seed, degree) if lens else None)


def test_the_lens_comes_first_and_then_the_map_of_the_tile():
    lens = some_lens(SHAPE, 6.0)
    matrix = [[1.01, 0.02, 100.0], [-0.03, 0.99, 200.0]]
    maps = TileMaps(SHAPE, [matrix], lens)
    point = np.array([30.0, 350.0])
    bent = point + lens.shift(point)
    expected = (1.01 * bent[0] + 0.02 * bent[1] + 100, -0.03 * bent[0] + 0.99 * bent[1] + 200)
    assert maps.forward(0, point) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), lens=st.sampled_from([0.0, 2.0, 6.0]))
def test_there_and_back_again(seed, lens):
    maps = some_maps(seed=seed, lens=lens)
    random = np.random.default_rng(seed)
    tiles = random.integers(0, len(maps), 50)
    points = random.uniform(0, np.array(SHAPE) - 1, (50, 2))
    there = maps.forward(tiles, points)
    assert maps.inverse(tiles, there) == pytest.approx(points, abs=1e-5)
    one_by_one = [maps.forward(int(t), p) for t, p in zip(tiles, points, strict=True)]
    assert there == pytest.approx(np.array(one_by_one), abs=1e-9)


def test_shifts_move_tiles_and_nothing_else():
    maps = TileMaps.shifts([(10.5, -3.0), (0.0, 7.0)], SHAPE)
    assert len(maps) == 2
    assert (maps.forward(0, CORNERS) == np.add(CORNERS, (10.5, -3.0))).all()
    assert (maps.inverse(1, CORNERS) == np.subtract(CORNERS, (0.0, 7.0))).all()


def test_some_of_the_tiles_moved():
    maps = some_maps()
    some = maps.only([3, 1]).moved((5.0, -6.0))
    expected = np.add(maps.forward(1, CORNERS), (5.0, -6.0))
    assert some.forward(1, CORNERS) == pytest.approx(expected)
    assert some.lens is maps.lens


@pytest.mark.parametrize("lens", [0.0, 6.0])
def test_boxes_hold_all_pixels_and_no_more(lens):
    maps = some_maps(lens=lens)
    pixels = np.stack(np.indices(SHAPE), -1).reshape(-1, 2)
    least, most = maps.boxes
    for tile in range(len(maps)):
        places = maps.forward(tile, pixels)
        assert places.min(axis=0) == pytest.approx(least[tile], abs=0.05)
        assert places.max(axis=0) == pytest.approx(most[tile], abs=0.05)
        middle = maps.forward(tile, (np.array(SHAPE) - 1) / 2)
        assert maps.middles[tile] == pytest.approx(middle)


def test_what_makes_no_maps_is_refused():
    straight = np.tile(np.eye(2, 3), (2, 1, 1))
    with pytest.raises(ValueError, match=re.escape("have shape (2, 3); they must be (n, 2, 3)")):
        TileMaps(SHAPE, straight[0])
    wrong = straight.copy()
    wrong[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="map of tile 1 holds a number that is not finite"):
        TileMaps(SHAPE, wrong)
    wrong[1] = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="map of tile 1 turns, scales or shears it by 1; at most"):
        TileMaps(SHAPE, wrong)
    lens = LensModel.none((64, 64))
    with pytest.raises(ValueError, match=re.escape("lens is of frames of (64, 64) px, and tiles")):
        TileMaps(SHAPE, straight, lens)
