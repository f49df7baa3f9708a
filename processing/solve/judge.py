"""Leaves out matches that do not fit the others, and takes back what does.

By loops first, by residuals then: what a right match does not fit may be the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.solve.loops import Loops
from processing.solve.matches import Fit, Matches

SLIT = 16.0  # limits: how far apart parts may lie whose matches across all fit again together
MAX_SLITS = 5  # how often such are closed
MAX_ROUNDS = 40  # how often matches are left out or taken back, until none is


@dataclass(frozen=True, eq=False)
class Judge:
    """Leaves out what does not fit, and takes back what does.

    A match is never left out for its residual alone: where the loops that it is on close, what it
    does not fit is the model, which knows of no tile that is bent.

    Attributes
    ----------
    matches : Matches
    start : ndarray of float64, shape (n, 2)
        Nominal positions, in px.
    limits : ndarray of float64, shape (m,)
        How far off each match may be, in px.
    closed, open : Loops
        The short ones.
    """

    matches: Matches
    start: NDArray[np.float64]
    limits: NDArray[np.float64]
    closed: Loops
    open: Loops

    def without_outliers(
        self, picked: NDArray[np.bool_], *, take_back: bool = False
    ) -> tuple[NDArray[np.bool_], Fit]:
        """Leave out picked matches that do not fit the others; take back what does, if asked."""
        ends = self.matches.ends
        for _ in range(MAX_ROUNDS):
            fit = self.matches.fit(picked, self.start)
            excess = self.matches.sizes(fit.positions) / self.limits
            doubtful = picked & (excess > 1)
            if doubtful.any():
                doubtful &= ~self._borne_out(picked)
            changed = _worst_around(ends, np.where(doubtful, excess, 0.0), len(self.start))
            if take_back:
                one_set = ~differ(fit.equations.component[ends])
                changed |= ~picked & one_set & (excess <= 1)
            if not changed.any():
                return picked, fit
            picked = picked ^ changed
        return picked, self.matches.fit(picked, self.start)

    def close_slits(self, picked: NDArray[np.bool_], fit: Fit) -> tuple[NDArray[np.bool_], Fit]:
        """Pick what fits, once all that lies about it is picked with it.

        Sets that few matches tied lie off each other by what noise and drift add up to over the
        long way round; the matches across such a slit, all off by about as much, fit again
        together.
        """
        ends = self.matches.ends
        for _ in range(MAX_SLITS):
            one_set = ~differ(fit.equations.component[ends])
            near = one_set & (self.matches.sizes(fit.positions) <= SLIT * self.limits)
            if (near <= picked).all():
                break
            wider, wider_fit = self.without_outliers(picked | near, take_back=True)
            if (wider <= picked).all():
                break
            picked, fit = wider, wider_fit
        return picked, fit

    def _borne_out(self, picked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which matches are on more loops of picked ones that close than that do not."""
        of_picked = np.append(picked, True)  # the last one for −1
        votes = [
            loops.select(np.all(of_picked[loops.members], axis=1)).votes(len(picked))
            for loops in (self.closed, self.open)
        ]
        return np.asarray(votes[0] > votes[1])


def _worst_around(
    ends: NDArray[np.intp], excess: NDArray[np.float64], n_tiles: int
) -> NDArray[np.bool_]:
    """Mark the matches beyond their limit that are the worst of both their tiles.

    A wrong match bends what is around it: the right ones there fit again once it has gone.
    """
    if not (excess > 1).any():
        return np.zeros(len(excess), dtype=bool)
    worst = np.zeros(n_tiles)
    np.maximum.at(worst, ends.ravel(), np.repeat(excess, 2))
    return np.asarray((excess > 1) & (excess >= worst[ends].max(axis=1)))


def differ(ends: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pairs of numbers are of two different ones."""
    return np.asarray(ends[:, 0] != ends[:, 1])
