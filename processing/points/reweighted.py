"""Least squares over points that ignores wrong ones: their weights are found again at each step.

How wrong ones are told is the caller's choice: by the others of their match, or by the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from processing.points.equations import Bends, Equations, Frames
from processing.points.table import lengths

MAX_STEPS = 8  # of the weights
SETTLED = 0.99  # of the scale before: with less progress, no further step is made
HUBER = 1.345  # P. J. Huber's constant: 95 % as efficient as least squares for normal errors
BIWEIGHT = 4.685  # J. W. Tukey's, likewise
FARTHEST = 9.0  # standard deviations from the others of its match, from which on a point is wrong
MIN_SCALE = 0.1  # of the points' sd: what they are never better than
RAYLEIGH = 1.1774  # median length of a two-dimensional normal vector of deviation 1

Weigh = Callable[[Frames, NDArray[np.float64]], tuple[NDArray[np.float64], float]]


def fit_points(
    frames: Frames,
    gaps: NDArray[np.float64],
    flexibility: float,
    n_terms: int = 0,
    stiffness: float = 0.0,
    *,
    weights: NDArray[np.float64] | None = None,
    weigh: Weigh | None = None,
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
    weigh : callable, optional
        `by_match`, if it is left out, or `by_model`: gives the weights of points, and the scale of
        their errors, by what a solution leaves of the gaps.

    Returns
    -------
    bends : Bends
    weights : ndarray of float64, shape (k,)
        1 / variance that the points turned out to have, in 1/px²; 0 of wrong ones.
    """
    weigh = weigh or by_match
    if weights is None:
        strays = _strays(frames, gaps)
        weights = np.where(strays > FARTHEST * _scale(strays), 0.0, 1 / frames.points.sd**2)
    before = np.inf
    for _ in range(MAX_STEPS):
        bends = Equations(frames, gaps, weights).solve(flexibility, n_terms, stiffness)
        weights, scale = weigh(frames, frames.left(gaps, bends))
        if scale > SETTLED * before:
            break
        before = scale
    return bends, weights


def by_match(frames: Frames, left: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weigh points as P. J. Huber does; those that stray from the others of their match are wrong.

    A match as a whole is not wrong, however far off it is: its loops have told, and the model may
    be too stiff for it.

    Parameters
    ----------
    frames : Frames
    left : ndarray of float64, shape (k, 2)
        What a solution leaves of the gaps, in px.

    Returns
    -------
    weights : ndarray of float64, shape (k,)
        In 1/px².
    scale : float
        Of the points' errors, over their standard deviations.
    """
    sizes = lengths(left) / frames.points.sd
    scale = _scale(sizes)
    weights = np.minimum(1, HUBER * scale / np.maximum(sizes, 1e-12))
    weights[_strays(frames, left) > FARTHEST * scale] = 0
    return weights / (scale * frames.points.sd) ** 2, scale


def by_model(frames: Frames, left: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weigh points as J. W. Tukey does: those far from where the model puts them are wrong.

    Also if all of their match are. Parameters and results are those of `by_match`.
    """
    sizes = lengths(left) / frames.points.sd
    scale = _scale(sizes)
    weights = np.maximum(1 - (sizes / (BIWEIGHT * scale)) ** 2, 0) ** 2
    return weights / (scale * frames.points.sd) ** 2, scale


def _scale(sizes: NDArray[np.float64]) -> float:
    """Return the standard deviation of vectors along each axis, by their lengths."""
    return max(float(np.median(sizes)) / RAYLEIGH, MIN_SCALE)


def _strays(frames: Frames, left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far points are from what the others of their match are off by, over their sd."""
    usual = frames.points.medians(left, len(frames.ends))
    return lengths(left - usual[frames.points.pair]) / frames.points.sd
