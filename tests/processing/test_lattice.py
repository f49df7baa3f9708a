"""The grid of tiles by their places: turned, with gaps, strayed, shuffled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from processing.geometry.lattice import grid_cells


def share_with_neighbour(cells, axis):
    """Return the share of tiles with a neighbour along an axis; 1 if that has one place."""
    known = set(map(tuple, cells.tolist()))
    step = np.eye(2, dtype=int)[axis]
    beside = [not known.isdisjoint({tuple(cell + step), tuple(cell - step)}) for cell in cells]
    return np.mean(beside) if np.ptp(cells[:, axis]) else 1.0


@settings(deadline=None, max_examples=100)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    overlap=st.floats(0.0, 0.6),
    angle=st.floats(-20, 20),
    missing=st.floats(0, 0.25),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_and_columns_are_found(grid, overlap, angle, missing, seed):
    rng = np.random.default_rng(seed)
    cells = np.argwhere(np.ones(grid))
    kept = rng.permutation(cells[rng.random(len(cells)) >= missing])
    assume(len(kept) > 0)
    assume(all(share_with_neighbour(kept, axis) > 0.5 for axis in (0, 1)))
    # Of a single row or column nothing tells how it lies but that it is one.
    turn = np.radians(angle) if np.ptp(kept, axis=0).all() else 0.0
    c, s = np.cos(turn), np.sin(turn)
    places = kept * 2000.0 * (1 - overlap) @ [[c, -s], [s, c]]
    places += rng.normal(0, 0.04, places.shape) * 2000 * (1 - overlap)
    found = grid_cells(places + rng.uniform(-1e6, 1e6, 2), (2000, 2000))
    np.testing.assert_array_equal(found, kept - kept.min(axis=0))


def test_tiles_need_not_be_square():
    cells = np.array([(row, column) for row in range(5) for column in range(9)])
    np.testing.assert_array_equal(grid_cells(cells * (90.0, 460.0), (100, 500)), cells)


@pytest.mark.parametrize(
    "places",
    [[(0, 0), (0, 3), (0, 90)], [(0, 0), (0, 0)], [(0, 0), (90, 0), (91, 1), (180, 0)]],
)
def test_tiles_that_share_a_place_lie_in_no_grid(places):
    assert grid_cells(places, (100, 100)) is None


def test_one_tile_is_a_grid():
    assert grid_cells([(5.0, 7.0)], (100, 100)).tolist() == [[0, 0]]
