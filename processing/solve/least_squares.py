"""Weighted least squares on the graph of matches, and how sure it is of each tile.

One sparse factorisation serves both: the positions, and the diagonal of the inverse.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from processing.points import components


class LeastSquares:
    """The normal equations of a set of matches, factorised.

    Matches tell differences only, so one tile of each set that hangs together is held by a spring
    of its own; the answers do not depend on it.

    Parameters
    ----------
    n_tiles : int
    ends : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles of each match.
    weights : ndarray of float64, shape (m,)
        1 / variance of each match, in any unit; positive.
    """

    def __init__(self, n_tiles: int, ends: NDArray[np.intp], weights: NDArray[np.float64]) -> None:
        self.component = components(n_tiles, ends)
        self._ends, self._weights = ends, weights
        self._count = np.bincount(self.component)
        diagonal = incident_sum(n_tiles, ends, weights)
        held = np.unique(self.component, return_index=True)[1]
        diagonal[held] += np.maximum(diagonal[held], 1.0)
        tiles = np.arange(n_tiles)
        normal = sp.coo_array(
            (
                np.concatenate([-weights, -weights, diagonal]),
                (
                    np.concatenate([ends[:, 0], ends[:, 1], tiles]),
                    np.concatenate([ends[:, 1], ends[:, 0], tiles]),
                ),
            ),
            shape=(n_tiles, n_tiles),
        )
        # The matrix is symmetric and positive definite, so its own diagonal is a safe pivot.
        self._factors = splu(
            normal.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            panel_size=1,  # columns are short: wider panels take a third longer
            options={"SymmetricMode": True},
        )

    def solve(
        self, start: NDArray[np.float64], targets: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Find the positions that fit the matches best.

        Parameters
        ----------
        start : ndarray of float64, shape (n, 2)
            Positions in px. Each set that hangs together keeps the mean of them.
        targets : ndarray of float64, shape (m, 2)
            Measured position of b minus that of a, in px.

        Returns
        -------
        ndarray of float64, shape (n, 2)
        """
        pull = self._weights[:, None] * misfits(self._ends, start, targets)
        force = np.column_stack(
            [
                np.bincount(self._ends[:, 1], pull[:, axis], len(start))
                - np.bincount(self._ends[:, 0], pull[:, axis], len(start))
                for axis in (0, 1)
            ]
        )
        moves = self._factors.solve(force)
        return np.asarray(start + moves - self._means(moves)[self.component])

    def solve_with(
        self,
        solved: NDArray[np.float64],
        ends: NDArray[np.intp],
        weights: NDArray[np.float64],
        targets: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Add a few matches to a solution, each within a set (by the Woodbury identity).

        Parameters
        ----------
        solved : ndarray of float64, shape (n, 2)
            What `solve` gave, in px.
        ends, weights, targets
            Of the matches to add.

        Returns
        -------
        ndarray of float64, shape (n, 2)
        """
        each = np.arange(len(ends))
        push = np.zeros((len(solved), len(ends)))
        push[ends[:, 1], each] = 1.0
        push[ends[:, 0], each] = -1.0
        gives = self._factors.solve(push)
        gives -= self._means(gives)[self.component]
        stiffness = gives[ends[:, 1]] - gives[ends[:, 0]] + np.diag(1 / weights)
        return np.asarray(
            solved + gives @ np.linalg.solve(stiffness, misfits(ends, solved, targets))
        )

    def variances(self) -> NDArray[np.float64]:
        """Give the variance of each tile's place about the mean of its set.

        The diagonal of the inverse comes from its factors without the rest of it (K. Takahashi et
        al., 8th PICA Conf., 1973; A. M. Erisman and W. F. Tinney, Comm. ACM 18, 1975).

        Returns
        -------
        ndarray of float64, shape (n,)
            Of one axis, in the unit of 1 / weight; 0 for a tile alone.
        """
        lower = self._factors.L
        lower.sort_indices()
        pivots = self._factors.U.diagonal()
        inverse = _inverse_diagonal(lower.indptr, lower.indices, lower.data, pivots)
        inverse = inverse[self._factors.perm_c]
        # What the spring adds goes with the mean: projected out on both sides.
        ones = self._factors.solve(np.ones(len(inverse)))
        means = self._means(ones[:, None])[:, 0]
        return np.maximum(
            inverse - (2 * ones - means[self.component]) / self._count[self.component], 0
        )

    def _means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average values, one a tile, over each set."""
        sums = [np.bincount(self.component, column) for column in values.T]
        return np.column_stack(sums) / self._count[:, None]


def misfits(
    ends: NDArray[np.intp], positions: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Tell how far each pair is from its match: measured minus present difference, (m, 2) px."""
    return targets - (positions[ends[:, 1]] - positions[ends[:, 0]])


def incident_sum(
    n_tiles: int, ends: NDArray[np.intp], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum values, one a match, over the matches of each tile."""
    return np.asarray(np.bincount(ends.ravel(), np.repeat(values, 2), n_tiles), dtype=np.float64)


def incident_rms(
    n_tiles: int, ends: NDArray[np.intp], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the root mean square of the values of each tile's matches; NaN if it has none."""
    degree = incident_sum(n_tiles, ends, np.ones(len(ends)))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(incident_sum(n_tiles, ends, values**2) / degree))


@njit(nogil=True, cache=True)
def _inverse_diagonal(first, rows, lower, pivots):  # type: ignore[no-untyped-def]
    """Give the diagonal of (L D Lᵀ)⁻¹ for a unit lower L in sorted columns and D = diag(pivots).

    Columns from the last to the first, each from those before it, only where L is not zero. Columns
    in a row with the same rows below them share one dense block of the inverse.
    """
    n = len(pivots)
    inverse, diagonal = np.zeros(len(rows)), np.empty(n)
    place = np.full(n, -1)  # of each row in the block
    most = 0
    for column in range(n):
        most = max(most, first[column + 1] - first[column])
    block, values = np.empty((most, most)), np.empty(most)
    column = n - 1
    while column >= 0:
        last, below = column, rows[first[column] + 1 : first[column + 1]]
        size = len(below)
        for k in range(size):
            place[below[k]] = k
        _gather(block, below, place, (first, rows), (inverse, diagonal))
        while True:
            start, stop = first[column] + 1, first[column + 1]
            for k in range(size):
                values[k] = 0.0
            for p in range(start, stop):
                known = place[rows[p]]
                for k in range(size):
                    values[k] -= lower[p] * block[known, k]
            diagonal[column] = 1 / pivots[column]
            for p in range(start, stop):
                inverse[p] = values[place[rows[p]]]
                diagonal[column] -= lower[p] * inverse[p]
            place[column] = size
            above = rows[first[max(column - 1, 0)] + 1 : first[column]]
            if not _fill(above, place, size + 1):
                break
            for k in range(size):
                block[size, k] = block[k, size] = values[k]
            block[size, size] = diagonal[column]
            size, column = size + 1, column - 1
        for row in below:
            place[row] = -1
        for row in range(column, last + 1):
            place[row] = -1
        column -= 1
    return diagonal


@njit(nogil=True, cache=True)
def _gather(block, below, place, structure, known):  # type: ignore[no-untyped-def]
    """Fill a block with what is known of the inverse at some rows, each at its place."""
    (first, rows), (inverse, diagonal) = structure, known
    for k in range(len(below)):
        for other in range(len(below)):
            block[k, other] = 0.0
    for k in range(len(below)):
        row = below[k]
        block[k, k] = diagonal[row]
        for q in range(first[row] + 1, first[row + 1]):
            other = place[rows[q]]
            if other >= 0:
                block[k, other] = block[other, k] = inverse[q]


@njit(nogil=True, cache=True)
def _fill(some, place, count):  # type: ignore[no-untyped-def]
    """Tell whether rows are all that have a place, so many."""
    placed = 0
    for row in some:
        placed += place[row] >= 0
    return placed == count == len(some)
