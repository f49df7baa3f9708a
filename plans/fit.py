"""Finding the best focus in a series of sharpness over defocus.

A peak on a floor, fitted so that a few bad frames do not carry it away, with a quality to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

MIN_POINTS = 6
"""Least number of defocus values; fewer leave nothing to judge a peak of four parameters by."""

MIN_RISE = 0.05
"""Least rise of the peak over the lowest point of the series, as a share of it."""

_CENTRES_PER_STEP = 4
_WIDTHS = 10
_TUKEY = 4.685  # × robust standard deviation: 95 % efficiency on normal errors
_ROUNDS = 5
_NORMAL = 1.4826  # standard deviation of normal errors, by their median size
_LEAST_SCATTER = 1e-4
_TINY = 1e-300

Array = NDArray[np.float64]
Problem = Literal["", "few", "flat", "noise", "edge"]


@dataclass(frozen=True)
class FocusCurve:
    """What a focus series shows.

    Attributes
    ----------
    best : float
        Defocus of the peak, in µm; the sharpest point if there is a problem.
    quality : float
        How much of the change of sharpness the peak explains in frames that it was not fitted
        to: 1 is all, 0 is nothing.
    problem : {"", "few", "flat", "noise", "edge"}
        Why it is not to be trusted, if so: too few valid points; no rise; a peak that foretells
        nothing; a peak at the end of the range or beyond.
    """

    best: float
    quality: float
    problem: Problem = ""

    @property
    def good(self) -> bool:
        """Whether it is to be trusted."""
        return not self.problem


@dataclass(frozen=True)
class _Fit:
    """A Lorentzian on a floor, and what each point counted for it (0: an outlier)."""

    centre: float
    width: float
    height: float
    floor: float
    weights: Array

    def __call__(self, x: Array) -> Array:
        return self.floor + self.height / (1 + ((x - self.centre) / self.width) ** 2)


def fit_focus(defocus: ArrayLike, sharpness: ArrayLike, *, min_quality: float = 0.5) -> FocusCurve:
    """Find the defocus of greatest sharpness.

    A Lorentzian peak on a floor is fitted to the relative sharpness. For each of a grid of centres
    and widths, height and floor are a linear fit (variable projection; Golub and Pereyra, SIAM J.
    Numer. Anal. 10, 1973), so the best of all is found, with no start to guess. Reweighting with
    Tukey's biweight (Beaton and Tukey, Technometrics 16, 1974) lets single frames that are off
    (beam lost, drift, dirt) count nothing. Each frame is also left out in turn and foretold from
    the others, which tells a peak from noise.

    Parameters
    ----------
    defocus : array_like, shape (n,)
        In µm, in any order.
    sharpness : array_like, shape (n,)
        Larger is sharper; what is not positive or not finite is left out.
    min_quality : float
        Below it the peak counts as noise.

    Returns
    -------
    FocusCurve

    Examples
    --------
    >>> d = np.linspace(-8, 8, 9)
    >>> round(fit_focus(d, 1 + 5 / (1 + ((d - 1.3) / 3) ** 2)).best, 1)
    1.3
    """
    x, y = np.asarray(defocus, dtype=float), np.asarray(sharpness, dtype=float)
    valid = np.isfinite(x) & np.isfinite(y) & (y > 0)
    order = np.argsort(x[valid], kind="stable")
    x, y = x[valid][order], y[valid][order]
    if len(np.unique(x)) < MIN_POINTS:
        return FocusCurve(float(x[np.argmax(y)]) if len(x) else 0.0, 0.0, "few")

    noise = _noise(x, y)
    best, model, weights = _polish(_fit(x, y, noise), x, y)
    kept = weights > 0
    sharpest = float(x[kept][np.argmax(y[kept])])
    if model[kept].max() < (1 + MIN_RISE) * model[kept].min():
        return FocusCurve(sharpest, 0.0, "flat")
    quality = _quality(x, y, noise)
    points = np.unique(x)
    if not points[1] <= best <= points[-2] or sharpest in (points[0], points[-1]):
        # A peak needs points on both sides.
        end = points[0] if best < points.mean() else points[-1]
        return FocusCurve(float(end), quality, "edge")
    if quality < min_quality:
        return FocusCurve(sharpest, quality, "noise")
    return FocusCurve(best, quality)


def _quality(x: Array, y: Array, noise: float) -> float:
    """Leave each frame out in turn; compare how well the others foretell it with their median.

    The share of the sum of squares that the peak explains of frames that it has not seen
    (predictive R²; Allen, Technometrics 16, 1974), without the worst of each, which may be a bad
    frame.
    """
    missed, missed_without = [], []
    for i, value in enumerate(y):
        others = np.arange(len(y)) != i
        missed.append(np.log(value / _fit(x[others], y[others], noise)(x[i])) ** 2)
        missed_without.append(np.log(value / np.median(y[others])) ** 2)
    ratio = np.sum(np.sort(missed)[:-1]) / max(np.sum(np.sort(missed_without)[:-1]), _TINY)
    return float(np.clip(1 - ratio, 0, 1))


def _noise(x: Array, y: Array) -> float:
    """Give the relative scatter of the points about the lines between their neighbours.

    Pseudo-residuals (Gasser, Sroka and Jennen-Steinmetz, Biometrika 73, 1986), by their median.
    """
    logs = np.log(y)
    share = (x[1:-1] - x[:-2]) / np.maximum(x[2:] - x[:-2], _TINY)
    beside = logs[1:-1] - (1 - share) * logs[:-2] - share * logs[2:]
    scatter = _NORMAL * np.median(np.abs(beside) / np.sqrt(1 + (1 - share) ** 2 + share**2))
    return max(float(scatter), _LEAST_SCATTER)


def _fit(x: Array, y: Array, noise: float) -> _Fit:
    """Fit a peak, the best of a grid of centres and widths.

    Residuals within the noise are no reason to leave a point out: among so many nodes there is one
    that passes through most points of any short series, whatever it makes of the others.
    """
    centres, widths = _grid(x)
    shapes = _lorentzian(x, centres, widths)
    height, floor = np.zeros(len(shapes)), np.full(len(shapes), np.median(y))
    weights = np.ones_like(shapes)
    for _ in range(_ROUNDS):
        models = floor[:, None] + height[:, None] * shapes
        height, floor = _linear_fit(shapes, y, weights / models**2)
        residuals = np.log(y / (floor[:, None] + height[:, None] * shapes))
        scatter = np.maximum(_NORMAL * np.median(np.abs(residuals), axis=1), noise)
        weights = _biweight(residuals / scatter[:, None])
    node = int(_loss(residuals / scatter.min()).sum(axis=1).argmin())
    return _Fit(float(centres[node]), float(widths[node]), height[node], floor[node], weights[node])


def _polish(fit: _Fit, x: Array, y: Array) -> tuple[float, Array, Array]:
    """Go from the best of the grid to the best of all; give its centre, model and weights."""

    def model(parameters: Array) -> Array:
        shape = 1 / (1 + ((x - parameters[0]) / np.exp(parameters[1])) ** 2)
        height, floor = _linear_fit(shape[None], y, (fit.weights / fit(x) ** 2)[None])
        return np.asarray(floor + height * shape)

    def misfit(parameters: Array) -> float:
        return float((fit.weights * np.log(y / model(parameters)) ** 2).sum())

    start = np.array([fit.centre, np.log(fit.width)])
    best = minimize(misfit, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-12})
    return float(best.x[0]), model(best.x), fit.weights


def _grid(x: Array) -> tuple[Array, Array]:
    """Give centres and widths to try, one of each a node; no peak is narrower than a step."""
    span = float(np.ptp(x))
    step = span / (len(np.unique(x)) - 1)
    centres = np.arange(x[0] - span / 2, x[-1] + span / 2, step / _CENTRES_PER_STEP)
    centres, widths = np.meshgrid(centres, np.geomspace(step, 2 * span, _WIDTHS))
    return centres.ravel(), widths.ravel()


def _lorentzian(x: Array, centres: Array, widths: Array) -> Array:
    """Give peaks of height 1 at x, shape (nodes, n)."""
    return np.asarray(1 / (1 + ((x - centres[:, None]) / widths[:, None]) ** 2))


def _linear_fit(shapes: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """Fit height and floor, which may not be negative, of each node."""
    s0, s1, s2 = (np.sum(weights * shapes**power, axis=1) for power in range(3))
    t0, t1 = (np.sum(weights * y * shapes**power, axis=1) for power in range(2))
    determinant = np.maximum(s0 * s2 - s1**2, 1e-9 * s0 * s2) + _TINY
    height = (s0 * t1 - s1 * t0) / determinant
    floor = (s2 * t0 - s1 * t1) / determinant
    no_floor, no_height = floor < 0, height < 0
    height[no_floor] = (t1 / (s2 + _TINY))[no_floor]
    floor[no_floor] = 0
    floor[no_height] = (t0 / (s0 + _TINY))[no_height]
    height[no_height] = 0
    return height, np.maximum(floor, 1e-6 * np.median(y))


def _biweight(ratio: Array) -> Array:
    """Tukey's weights of residuals, given in robust standard deviations."""
    return np.asarray(np.maximum(1 - (ratio / _TUKEY) ** 2, 0) ** 2)


def _loss(ratio: Array) -> Array:
    """Tukey's loss of residuals, given in robust standard deviations."""
    return np.asarray(1 - np.maximum(1 - (ratio / _TUKEY) ** 2, 0) ** 3)
