"""Finding the best focus in a series of sharpness over defocus.

A peak on a floor, fitted so that a few bad frames do not carry it away, with a quality to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

MIN_POINTS = 5
MIN_RISE = 0.05
"""Least rise of the peak over the ends of the series, as a share of the sharpness there."""

_OUTLIER = 4.685  # × robust standard deviation: Tukey's biweight at 95 % efficiency
_ROUNDS = 8

Problem = Literal["", "few", "flat", "noise", "edge"]


@dataclass(frozen=True)
class FocusCurve:
    """What a focus series shows.

    Attributes
    ----------
    best : float
        Defocus of the peak, in µm; the sharpest point if there is a problem.
    quality : float
        How far the peak stands out of the scatter about it: 0 (not at all) to 1 (no scatter).
    problem : {"", "few", "flat", "noise", "edge"}
        Why it is not to be trusted, if so: too few valid points; no rise; a rise no larger than
        the scatter; a peak at the end of the range or beyond.
    """

    best: float
    quality: float
    problem: Problem = ""

    @property
    def good(self) -> bool:
        """Whether it is to be trusted."""
        return not self.problem


def fit_focus(defocus: ArrayLike, sharpness: ArrayLike, *, min_quality: float = 0.3) -> FocusCurve:
    """Find the defocus of greatest sharpness.

    A Lorentzian peak on a floor is fitted to the logarithm of the sharpness, which makes a factor
    count alike at the peak and at its feet, by least squares reweighted with Tukey's biweight
    (Beaton and Tukey, Technometrics 16, 1974), so that single frames that are off (beam lost,
    drift, dirt) count nothing.

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
    >>> round(fit_focus(d, 1 + 5 / (1 + ((d - 1.3) / 3) ** 2)).best, 3)
    1.3
    """
    x, y = np.asarray(defocus, dtype=float), np.asarray(sharpness, dtype=float)
    valid = np.isfinite(x) & np.isfinite(y) & (y > 0)
    order = np.argsort(x[valid])
    x, y = x[valid][order], y[valid][order]
    if len(x) < MIN_POINTS:
        return FocusCurve(float(x[np.argmax(y)]) if len(x) else 0.0, 0.0, "few")

    logs = np.log(y)
    peak = _fit_peak(x, logs)
    model = _peak(peak, x)
    weights = _weights(logs - model)
    kept = weights > 0
    rise = float(np.ptp(model[kept]))
    scatter = float(np.sqrt(np.average((logs - model) ** 2, weights=weights)))
    freedom = max(float(weights.sum()) - len(peak), 1.0)
    scatter *= float(np.sqrt(weights.sum() / freedom))
    quality = rise / (rise + 3 * scatter) if rise > 0 else 0.0
    best, sharpest = float(peak[0]), float(x[kept][np.argmax(logs[kept])])
    if rise < MIN_RISE:
        return FocusCurve(sharpest, 0.0, "flat")
    if not x[0] < best < x[-1] or sharpest in (x[kept][0], x[kept][-1]):
        return FocusCurve(sharpest, quality, "edge")
    if quality < min_quality:
        return FocusCurve(sharpest, quality, "noise")
    return FocusCurve(best, quality)


def _peak(parameters: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of a Lorentzian on a floor; all but the centre are logarithms themselves."""
    centre, width, height, floor = parameters
    lorentzian = 1 / (1 + ((x - centre) / np.exp(width)) ** 2)
    return np.asarray(floor + np.log1p(np.exp(height) * lorentzian))


def _fit_peak(x: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit from several starts, and reweight the best of them until outliers count nothing."""
    step, span = float(np.median(np.diff(x))), float(np.ptp(x))
    bounds = (
        [x[0] - span, np.log(step / 4), np.log(1e-3), logs.min() - 2],
        [x[-1] + span, np.log(2 * span), np.log(1e4), logs.max()],
    )
    floor = float(np.median(np.sort(logs)[: len(x) // 2]))
    height = np.log(np.expm1(float(np.ptp(logs)) + 1e-3))
    starts = [
        np.array([centre, np.log(span / 6), height, floor]) for centre in x[np.argsort(logs)[-3:]]
    ]
    fits = [_least_squares(x, logs, np.ones_like(x), start, bounds) for start in starts]
    costs = [np.median(np.abs(logs - _peak(fit, x))) for fit in fits]
    fit = fits[int(np.argmin(costs))]
    for _ in range(_ROUNDS):
        weights = _weights(logs - _peak(fit, x))
        before, fit = fit, _least_squares(x, logs, weights, fit, bounds)
        if abs(fit[0] - before[0]) < 1e-3 * step:
            break
    return fit


def _least_squares(
    x: NDArray[np.float64],
    logs: NDArray[np.float64],
    weights: NDArray[np.float64],
    start: NDArray[np.float64],
    bounds: tuple[list[float], list[float]],
) -> NDArray[np.float64]:
    root = np.sqrt(weights)

    def misfit(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        return root * (logs - _peak(parameters, x))

    inside = np.clip(start, np.asarray(bounds[0]) + 1e-9, np.asarray(bounds[1]) - 1e-9)
    fit = least_squares(misfit, inside, bounds=bounds, loss="soft_l1", f_scale=0.1)
    return np.asarray(fit.x)


def _weights(residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tukey's biweight; 1 for what fits, 0 for outliers."""
    deviation = 1.4826 * float(np.median(np.abs(residuals)))
    limit = _OUTLIER * max(deviation, 1e-3)
    return np.asarray(np.where(np.abs(residuals) < limit, (1 - (residuals / limit) ** 2) ** 2, 0.0))
