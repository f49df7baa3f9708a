"""Least squares over points that ignores wrong ones: their weights are found again at each step.

A match as a whole is not wrong here, however far off it is: that, its loops have told.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processing.points.equations import Bends, Equations, Frames
from processing.points.table import lengths

MAX_STEPS = 8  # of the weights
SETTLED = 0.99  # of the scale before: with less progress, no further step is made
HUBER = 1.345  # P. J. Huber's constant: 95 % as efficient as least squares for normal errors
FARTHEST = 9.0  # standard deviations from the others of its match, from which on a point is wrong
MIN_SCALE = 0.1  # of the points' sd: what they are never better than
RAYLEIGH = 1.1774  # median length of a two-dimensional normal vector of deviation 1


def fit_points(
    frames: Frames,
    gaps: NDArray[np.float64],
    flexibility: float,
    n_terms: int = 0,
    stiffness: float = 0.0,
    *,
    weights: NDArray[np.float64] | None = None,
) -> tuple[Bends, NDArray[np.float64]]:
    """Solve for tiles and lens, robustly.

    Parameters
    ----------
    frames : Frames
    gaps : ndarray of float64, shape (k, 2)
        How far the first tile shows each point beyond the second, in px.
    flexibility, n_terms, stiffness
        As `Equations.solve` takes them.
    weights : ndarray of float64, shape (k,), optional
        To begin with, from a solution that is near.

    Returns
    -------
    bends : Bends
    weights : ndarray of float64, shape (k,)
        1 / variance that the points turned out to have, in 1/px²; 0 of wrong ones.
    """
    known = 1 / frames.points.sd**2
    if weights is None:
        strays = _strays(frames, gaps) * np.sqrt(known)
        weights = np.where(strays > FARTHEST * _scale(strays), 0.0, known)
    before = np.inf
    for _ in range(MAX_STEPS):
        bends = Equations(frames, gaps, weights).solve(flexibility, n_terms, stiffness)
        left = frames.left(gaps, bends)
        sizes = lengths(left) * np.sqrt(known)
        scale = _scale(sizes)
        weights = known / scale**2 * np.minimum(1, HUBER * scale / np.maximum(sizes, 1e-12))
        weights[_strays(frames, left) * np.sqrt(known) > FARTHEST * scale] = 0
        if scale > SETTLED * before:
            break
        before = scale
    return bends, weights


def _scale(sizes: NDArray[np.float64]) -> float:
    """Return the standard deviation of vectors along each axis, by their lengths."""
    return max(float(np.median(sizes)) / RAYLEIGH, MIN_SCALE)


def _strays(frames: Frames, left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each point is from what the others of its match are off by, in px."""
    usual = frames.points.medians(left, len(frames.ends))
    return lengths(left - usual[frames.points.pair])
