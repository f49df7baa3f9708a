"""Matches to be solved for positions, and a solution by some of them.

What all parts of the solver hand to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.points import lengths
from processing.solve.least_squares import LeastSquares, misfits
from processing.solve.loops import Loops, find_loops

SHORT = 4  # matches of the loops of a grid of tiles


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches to be judged.

    Attributes
    ----------
    ends : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles of each.
    offsets : ndarray of float64, shape (m, 2)
        Measured position of b minus that of a, in px.
    sd : ndarray of float64, shape (m,)
        Standard deviation of each offset along each axis, in px; positive.
    """

    ends: NDArray[np.intp]
    offsets: NDArray[np.float64]
    sd: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ends)

    def fit(self, which: NDArray[np.bool_], start: NDArray[np.float64]) -> Fit:
        """Solve for the positions by some of them."""
        equations = LeastSquares(len(start), self.ends[which], 1 / self.sd[which] ** 2)
        return Fit(equations, equations.solve(start, self.offsets[which]))

    def short_loops(self, places: NDArray[np.float64]) -> Loops:
        """Return the loops of up to four matches, whether they close or not.

        Parameters
        ----------
        places : ndarray of float64, shape (n, 2)
            Nominal positions, in px.
        """
        return find_loops(places, self.ends, self.offsets, np.full(len(self), np.inf), SHORT)

    def sizes(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the residual of each, in px."""
        return lengths(misfits(self.ends, positions, self.offsets))


@dataclass(frozen=True, eq=False)
class Fit:
    """Positions (n, 2) in px, and the equations that they solve."""

    equations: LeastSquares
    positions: NDArray[np.float64]
