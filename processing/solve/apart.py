"""Where the stage says that tiles are which no match ties to the others.

The solved tiles tell how far the stage was off; whether that tells of a tile nearby is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# From positions (n, 2) and the number of the set of each tile, the largest 0: positions with the
# other sets moved to where they should be, and how far off that is along each axis, in px.
PlaceApart = Callable[[NDArray[np.float64], NDArray[np.intp]], tuple[NDArray[np.float64], float]]

LEAST_FOR_AFFINE = 6  # solved tiles that it takes to predict how others moved
NEARBY = 8  # how many of the nearest solved tiles say how a tile next to them moved
MOST_ASKED = 1000  # solved tiles on which the prediction is tried


class StagePrediction:
    """Predicts how far tiles moved from their nominal places, by those of the largest set.

    An affine part, and what the nearest solved tiles have in common beyond it. How much those tell
    is measured on solved tiles, each predicted from its own neighbours: a stage's error may be
    smooth or not.

    Parameters
    ----------
    nominal, positions : ndarray of float64, shape (n, 2)
        In px.
    component : ndarray of int, shape (n,)
        Number 0 is the largest set.

    Attributes
    ----------
    sd : float
        How far off a prediction is along each axis, in px; infinite if there are too few tiles.
    """

    def __init__(
        self,
        nominal: NDArray[np.float64],
        positions: NDArray[np.float64],
        component: NDArray[np.intp],
    ) -> None:
        self._nominal, self._positions, self._component = nominal, positions, component
        solved = np.flatnonzero(component == 0)
        self.sd = np.inf
        self._known = len(solved) >= LEAST_FOR_AFFINE
        if not self._known or len(solved) == len(component):
            return
        places, moves = nominal[solved], positions[solved] - nominal[solved]
        self._middle, self._size = places.mean(axis=0), max(float(places.std()), 1.0)
        self._coefficients = _fit_robustly(self._terms(places), moves)
        self._rest = moves - self._affine(places)
        self._tree = cKDTree(places)
        asked = np.arange(0, len(solved), -(-len(solved) // MOST_ASKED))
        own, rest = self._nearby(places[asked], skip=1), self._rest[asked]
        self._trust = float(np.clip((own * rest).sum() / max((own * own).sum(), 1e-12), 0, 1))
        # The median of a normal variable's absolute value is 0.6745 of its standard deviation.
        self.sd = float(np.median(np.abs(rest - self._trust * own))) / 0.6745

    def placed(self) -> NDArray[np.float64]:
        """Give the positions with all sets apart from the largest moved to where they should be.

        Returns
        -------
        ndarray of float64, shape (n, 2)
            In px. A set moves as a whole, by the mean of what its tiles are predicted to do.
        """
        apart = np.flatnonzero(self._component)
        if not self._known or not len(apart):
            return self._positions
        at = self._nominal[apart]
        predicted = self._affine(at) + self._trust * self._nearby(at, skip=0)
        moved = self._positions[apart] - at
        labels = self._component[apart]
        count = np.maximum(np.bincount(labels), 1)
        placed = self._positions.copy()
        for axis in (0, 1):
            missing = np.bincount(labels, predicted[:, axis] - moved[:, axis]) / count
            placed[apart, axis] += missing[labels]
        return placed

    def _terms(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.ones(len(at)), (at - self._middle) / self._size])

    def _affine(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._terms(at) @ self._coefficients)

    def _nearby(self, at: NDArray[np.float64], skip: int) -> NDArray[np.float64]:
        """Average what the nearest solved tiles moved beyond the affine part, `skip` left out."""
        count = min(NEARBY + skip, self._tree.n)
        distances, indices = self._tree.query(at, k=np.arange(1 + skip, count + 1))
        weights = 1 / np.maximum(distances, 1.0) ** 2
        weighted = (weights[..., None] * self._rest[indices]).sum(axis=1)
        return np.asarray(weighted / weights.sum(axis=1)[:, None])


def _fit_robustly(terms: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit values by terms with Huber's weights."""
    weights = np.ones(len(terms))
    for _ in range(5):
        weighted = terms.T * weights
        # Tiles all in a row leave a slope open: of the solutions that there are, the smallest.
        fitted, *_ = np.linalg.lstsq(weighted @ terms, weighted @ values, rcond=1e-9)
        left = values - terms @ fitted
        size = np.hypot(left[:, 0], left[:, 1])
        limit = max(1.5 * float(np.median(size)), 1e-9)
        weights = limit / np.maximum(size, limit)
    return np.asarray(fitted)
