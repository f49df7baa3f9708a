"""How nearly loops of right matches close: the noise of matches, found from the loops themselves.

What is beyond it is wrong; so it decides what is believed, and nobody has to tell it.
"""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from processing.solve.loops import Loops

MIN_NOISE = 0.02  # px, that right matches are taken to have at least
MAX_NOISE = 10.0  # px, for tiles that are distorted
MIN_SPREAD = 100.0  # px, how far the sums round wrong loops reach at least
MAX_ASKED = 2000  # loops that are asked
STARTS = 0.05, 0.2, 0.5  # quantiles of the gaps: some may close by chance, or all to nothing
ITERATIONS = 12
USUAL_LIMIT = 4.0  # standard deviations; of 3 000 right loops one is farther open
MAX_LIMIT = 30.0  # of tiles that are off by something else than noise now and then
WIDER = 1.5  # by which the limit grows while loops are found there
MORE_THAN_NOISE, MORE_THAN_CHANCE = 3.0, 10.0  # times what right and wrong ones leave there


def noise_scale(loops: Loops, sd: NDArray[np.float64]) -> float:
    """Find how far matches are off in truth, relative to their sd.

    Gaps of right loops follow Rayleigh's distribution, those of wrong ones spread evenly over a
    disc: a mixture, fitted by expectation and maximisation.

    Parameters
    ----------
    loops : Loops
    sd : ndarray of float64, shape (m,)
        Standard deviation of each match along each axis, as it was told, in px.

    Returns
    -------
    float
        1 if no loop is right.
    """
    if not len(loops):
        return 1.0
    gaps = (loops.gaps / loops.root_sum(sd))[:: -(-len(loops) // MAX_ASKED)]
    usual = float(np.median(sd))
    disc = max(float(gaps.max()), MIN_SPREAD / (2 * usual))
    smallest = MIN_NOISE / usual
    fits = [
        _mixture(gaps, max(float(np.quantile(gaps, start)), smallest), disc, smallest)
        for start in STARTS
    ]
    scale, share, _ = max(fits, key=lambda fit: fit[2])
    if share * len(gaps) < 0.5:
        return 1.0
    return min(scale, MAX_NOISE / usual)


def closing_limit(loops: Loops, noise: NDArray[np.float64]) -> float:
    """Find up to where loops are right ones: as far as there are more than chance would leave.

    Right matches are off by more than their noise now and then: a patch that slipped, a tile that
    was charged. Their loops lie beyond the usual limit, one beyond the other, while wrong ones
    spread evenly over a disc.

    Parameters
    ----------
    loops : Loops
        All of them.
    noise : ndarray of float64, shape (m,)
        Standard deviation of each match along each axis, in px.

    Returns
    -------
    float
        In standard deviations.
    """
    if not len(loops):
        return USUAL_LIMIT
    scale = loops.root_sum(noise)
    gaps = loops.gaps / scale
    limit, disc = USUAL_LIMIT, max(float(gaps.max()), MIN_SPREAD / float(np.median(scale)))
    right = np.count_nonzero(gaps <= limit)
    while limit < MAX_LIMIT:
        wider = WIDER * limit
        beyond = np.count_nonzero(gaps > wider)
        found = np.count_nonzero(gaps > limit) - beyond
        by_noise = right * exp(-(limit**2) / 2)
        by_chance = beyond * (wider**2 - limit**2) / max(disc**2 - wider**2, 1e-9)
        if found <= MORE_THAN_NOISE * by_noise + MORE_THAN_CHANCE * by_chance:
            break
        limit = wider
    return limit


def _mixture(
    gaps: NDArray[np.float64], scale: float, disc: float, smallest: float
) -> tuple[float, float, float]:
    """Fit scale and share of right loops, beginning at a scale.

    Returns
    -------
    (float, float, float)
        Scale, share, and the logarithm of the likelihood.
    """
    share, variance = 0.5, scale**2
    for _ in range(ITERATIONS):
        right = share / variance * np.exp(-(gaps**2) / (2 * variance))
        either = right + (1 - share) * 2 / disc**2 + 1e-300
        chance = right / either
        share = float(chance.mean())
        variance = float((chance * gaps**2).sum() / (2 * chance.sum() + 1e-12))
        variance = max(variance, smallest**2)
    return float(np.sqrt(variance)), share, float(np.log(either).sum())
