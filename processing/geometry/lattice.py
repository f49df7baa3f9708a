"""Finds the grid of a montage whose tiles are told by their places alone.

Files of other systems often hold positions, and neither rows nor columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

MAX_STEP = 1.3  # tiles, to a neighbour, with how far a stage strays
MIN_STEP = 0.05  # tiles: nearer together, they are one place that was taken twice
ALONG = 2.0  # neighbours lie this many times farther apart along their row than across it
LOW_PERCENTILE = 25  # of steps to the nearest tile: one that leads over no gap
MAX_RATIO = 1.5  # of a step to that one; beyond it a tile is missing between the two


def grid_cells(places: ArrayLike, shape: tuple[int, int]) -> NDArray[np.intp] | None:
    """Find the row and column of each tile of a montage by where the tiles lie.

    The grid may be turned by up to some 20°, tiles may stray from it, and tiles may be missing. The
    steps from tile to tile are medians over all neighbours; cells follow from tile to tile.

    Parameters
    ----------
    places : array_like, shape (n, 2)
        (row, column) of each tile's first pixel, in px; finite.
    shape : (int, int)
        (height, width) of a tile, in px.

    Returns
    -------
    ndarray of int, shape (n, 2), or None
        (row, column) in the grid, counted from 0; None if two tiles share a cell, so that they lie
        in no grid.
    """
    scaled = np.asarray(places, dtype=float).reshape(-1, 2) / np.asarray(shape, dtype=float)
    pairs = cKDTree(scaled).query_pairs(MAX_STEP, p=np.inf, output_type="ndarray")
    steps = _steps(scaled, pairs)
    cells, patch = _followed(scaled, pairs, steps)
    # Patches that no neighbour joins to the largest lie where its grid, prolonged, has them.
    largest = patch == np.bincount(patch).argmax()
    origin, steps = _fitted(scaled[largest], cells[largest], steps)
    for one in np.flatnonzero(np.bincount(patch)):
        members = patch == one
        apart = (scaled[members] - origin) @ np.linalg.inv(steps) - cells[members]
        cells[members] += np.rint(np.median(apart, axis=0)).astype(np.intp)
    if len(np.unique(cells, axis=0)) < len(cells):
        return None
    return cells - cells.min(axis=0)


def _followed(
    places: NDArray[np.float64], pairs: NDArray[np.intp], steps: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return cells found by going from neighbour to neighbour, and which patch each tile is in.

    So strays do not add up along a row. A patch counts from a tile of its own.
    """
    n = len(places)
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(n, n)).tocsr()
    patch = np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)
    cells = np.zeros((n, 2), dtype=np.intp)
    to_cells = np.linalg.inv(steps)
    _, starts = np.unique(patch, return_index=True)
    for start in starts:
        order, before = breadth_first_order(graph, start, directed=False)
        for tile in order[1:]:
            step = (places[tile] - places[before[tile]]) @ to_cells
            cells[tile] = cells[before[tile]] + np.rint(step).astype(np.intp)
    return cells, patch


def _steps(places: NDArray[np.float64], pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the steps to the next row and to the next column, in tiles, as two rows."""
    down, right = (_step_along(axis, places, pairs) for axis in (0, 1))
    # A single row or column tells one step: the other stands upright on it.
    if down is None:
        down = np.array([1.0, 0.0]) if right is None else np.array([right[1], -right[0]])
    if right is None:
        right = np.array([-down[1], down[0]])
    return np.array([down, right])


def _step_along(
    axis: int, places: NDArray[np.float64], pairs: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """Return the median step from a tile to the nearest one along an axis; None if there is none.

    Tiles may overlap so far that the next but one is a neighbour, too.
    """
    apart = places[pairs[:, 1]] - places[pairs[:, 0]]
    along, across = np.abs(apart[:, axis]), np.abs(apart[:, 1 - axis])
    neighbours = (along > ALONG * across) & (along > MIN_STEP)
    if not neighbours.any():
        return None
    pairs, apart, along = pairs[neighbours], apart[neighbours], along[neighbours]
    forwards = apart[:, axis] > 0
    tile = np.where(forwards, pairs[:, 0], pairs[:, 1])
    step = np.where(forwards[:, None], apart, -apart)
    order = np.lexsort((along, tile))
    _, nearest = np.unique(tile[order], return_index=True)
    step, along = step[order][nearest], along[order][nearest]
    over_none = along <= MAX_RATIO * np.percentile(along, LOW_PERCENTILE)
    return np.asarray(np.median(step[over_none], axis=0))


def _fitted(
    places: NDArray[np.float64], cells: NDArray[np.intp], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit origin and steps to all tiles; a step that no two of them tell stays as it is."""
    told = np.ptp(cells, axis=0) > 0
    if np.linalg.matrix_rank(cells - cells[0]) < told.sum():
        return places[0] - cells[0] @ steps, steps
    rest = places - cells[:, ~told] @ steps[~told]
    design = np.column_stack([cells[:, told], np.ones(len(cells))])
    solution = np.linalg.lstsq(design, rest, rcond=None)[0]
    steps = steps.copy()
    steps[told] = solution[:-1]
    return solution[-1], steps


def grid_pairs(rows: int, columns: int) -> NDArray[np.intp]:
    """Return the neighbours in a full grid, counted row by row.

    Parameters
    ----------
    rows, columns : int

    Returns
    -------
    ndarray of int, shape (m, 2)
        Those beside each other, then those below each other.
    """
    index = np.arange(rows * columns).reshape(rows, columns)
    beside = np.stack([index[:, :-1], index[:, 1:]], axis=-1)
    below = np.stack([index[:-1], index[1:]], axis=-1)
    return np.concatenate([beside.reshape(-1, 2), below.reshape(-1, 2)])
