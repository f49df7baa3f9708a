"""Loops of four neighbours in a grid: round each, right offsets add up to nothing.

Whatever the stage did: so they tell how a file is to be read, and whether it was read rightly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class GridIndex:
    """Finds tiles by their rows and columns.

    Parameters
    ----------
    cells : ndarray of int, shape (n, 2)
        (row, column) of each tile, no two alike.
    """

    def __init__(self, cells: NDArray[np.intp]) -> None:
        self._low = cells.min(axis=0)
        self._size = np.ptp(cells, axis=0) + 1
        keys = self._keys(cells)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    def find(self, cells: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the index of the tile in each (row, column), −1 where there is none."""
        keys = self._keys(cells)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        inside = ((cells >= self._low) & (cells < self._low + self._size)).all(axis=1)
        return np.where(inside & (self._sorted[places] == keys), self._order[places], -1)

    def _keys(self, cells: NDArray[np.intp]) -> NDArray[np.int64]:
        rows, columns = (cells - self._low).astype(np.int64).T
        return np.asarray(rows * int(self._size[1]) + columns)


def loop_sums(
    cells: NDArray[np.intp],
    tiles: NDArray[np.intp],
    others: NDArray[np.intp],
    offsets: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Add offsets up round every loop of four neighbours.

    Parameters
    ----------
    cells : ndarray of int, shape (n, 2)
        (row, column) of each tile.
    tiles, others : ndarray of int, shape (k,)
        Tile and neighbour of each offset.
    offsets : ndarray of float64, shape (k, 2)
        Place of the tile minus that of the neighbour, (rows, columns) in px.

    Returns
    -------
    ndarray of float64, shape (loops,)
        How far each is from nothing, in px.
    """
    along = np.full((2, len(cells), 2), np.nan)  # from each tile down, and to the right
    steps = cells[others] - cells[tiles]
    for axis in (0, 1):
        forward = (steps[:, axis] == 1) & (steps[:, 1 - axis] == 0)
        backward = (steps[:, axis] == -1) & (steps[:, 1 - axis] == 0)
        along[axis, tiles[forward]] = -offsets[forward]
        along[axis, others[backward]] = offsets[backward]
    index = GridIndex(cells)
    below, right = (index.find(cells + np.array(step)) for step in ((1, 0), (0, 1)))
    have = (below >= 0) & (right >= 0)
    below, right = below[have], right[have]
    down, across = along
    sums = across[have] + down[right] - across[below] - down[have]
    sums = sums[np.isfinite(sums).all(axis=1)]
    return np.asarray(np.hypot(sums[:, 0], sums[:, 1]))
