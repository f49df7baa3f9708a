"""Places that pairs of tiles share, all pairs in one table.

What is summed up by pair stands here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

COLUMNS = 6  # row_a, col_a, row_b, col_b, sd, weight
MIN_SD = 0.05  # px, that points are ever taken to have


@dataclass(frozen=True, eq=False)
class Points:
    """Places that pairs of tiles share, all pairs in one table.

    Attributes
    ----------
    pair : ndarray of int, shape (k,)
        Which pair each is of, rising.
    p, q : ndarray of float64, shape (k, 2)
        (row, column) in the pair's first tile, and in its second, in px.
    sd : ndarray of float64, shape (k,)
        Standard deviation along each axis, in px.
    """

    pair: NDArray[np.intp]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    sd: NDArray[np.float64]

    @classmethod
    def of(cls, tables: Sequence[ArrayLike]) -> Points:
        """Make it of a table a pair, of columns [row_a, col_a, row_b, col_b, sd, weight].

        Raises
        ------
        ValueError
            If one is of another form, or holds a number that is not finite.
        """
        arrays = [np.asarray(table, dtype=np.float64).reshape(-1, COLUMNS) for table in tables]
        for number, table in enumerate(arrays):
            if not np.isfinite(table).all():
                raise ValueError(f"the points of pair {number} hold a number that is not finite")
        pair = np.repeat(np.arange(len(arrays)), [len(table) for table in arrays])
        stacked = np.concatenate([np.empty((0, COLUMNS)), *arrays])
        sd = np.maximum(stacked[:, 4], MIN_SD)
        return cls(pair, stacked[:, :2].copy(), stacked[:, 2:4].copy(), sd)

    def __len__(self) -> int:
        return len(self.pair)

    def select(self, which: NDArray[np.bool_]) -> Points:
        """Return some of them."""
        return Points(self.pair[which], self.p[which], self.q[which], self.sd[which])

    def medians(self, values: NDArray[np.float64], n_pairs: int) -> NDArray[np.float64]:
        """Return the medians of values, some a point, over the points of each pair; NaN if none.

        Parameters
        ----------
        values : ndarray of float64, shape (k, c)
        n_pairs : int

        Returns
        -------
        ndarray of float64, shape (n_pairs, c)
        """
        first = np.searchsorted(self.pair, np.arange(n_pairs + 1))
        return np.asarray(_medians(np.ascontiguousarray(values), first))


def lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lengths of vectors (k, 2)."""
    return np.asarray(np.hypot(vectors[:, 0], vectors[:, 1]))


@njit(nogil=True, cache=True)
def _medians(values, first):  # type: ignore[no-untyped-def]
    """Return the median of each column from row first[k] to row first[k + 1]."""
    found = np.full((len(first) - 1, values.shape[1]), np.nan)
    for k in range(len(found)):
        if first[k + 1] > first[k]:
            for column in range(values.shape[1]):
                found[k, column] = np.median(values[first[k] : first[k + 1], column])
    return found
