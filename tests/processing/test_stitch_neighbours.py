"""Which tiles share an edge: grids, bricks, wide overlaps, gaps, scattered tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.stitch import neighbours

SHAPE = (100, 200)


def grid(rows, columns, overlap=0.1):
    cells = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    return cells * np.array(SHAPE) * (1 - overlap)


def pairs_of_grid(rows, columns):
    index = np.arange(rows * columns).reshape(rows, columns)
    beside = np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], axis=1)
    below = np.stack([index[:-1].ravel(), index[1:].ravel()], axis=1)
    return sorted(map(tuple, np.concatenate([beside, below]).tolist()))


def found(places):
    return [tuple(pair) for pair in neighbours(places, SHAPE).tolist()]


@pytest.mark.parametrize("overlap", [0.0, 0.02, 0.1, 0.3, 0.6, 0.8])
def test_neighbours_in_a_grid_are_those_beside_and_below(overlap):
    assert found(grid(3, 4, overlap)) == pairs_of_grid(3, 4)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tiles_may_stray_and_come_in_any_order(seed):
    rng = np.random.default_rng(seed)
    places = grid(4, 5) + rng.uniform(-4, 4, (20, 2)) + rng.uniform(-1e5, 1e5, 2)
    order = rng.permutation(20)
    pairs = [tuple(order[list(pair)].tolist()) for pair in found(places[order])]
    assert sorted(pairs) == pairs_of_grid(4, 5)


def test_a_tile_that_is_missing_joins_nobody_over_its_gap():
    there = [number for number in range(9) if number != 4]
    expected = [pair for pair in pairs_of_grid(3, 3) if 4 not in pair]
    assert [(there[a], there[b]) for a, b in found(grid(3, 3)[there])] == expected


def test_rows_may_lie_as_bricks_do():
    places = grid(3, 4)
    places[4:8, 1] += 90  # half a tile, less half an overlap
    pairs = found(places)
    assert {(0, 1), (1, 2), (4, 5), (1, 4), (1, 5), (5, 9), (5, 10)} <= set(pairs)
    assert (0, 5) not in pairs


def test_tiles_at_a_corner_and_alone_have_no_neighbour():
    assert found([(0, 0), (95, 190), (1000, 1000)]) == []
    assert neighbours([(3.0, 4.0)], SHAPE).shape == (0, 2)
    assert found([(0, 0), (1, 1)]) == []  # one place that was taken twice
