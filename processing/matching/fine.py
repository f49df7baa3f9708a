"""The fine step of a match: the offset to a fraction of a pixel, from patches of the overlap.

Several patches that agree on their own bear a match out, and their spread tells its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, hypot, isnan

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.tile import MatchTile, overlap

# All in px of full resolution, unless said otherwise.
SIGMA = 0.8  # smoothing, which is near to the best filter at the noise of a short exposure
LEAST_TO_HALVE = 64  # the thinnest overlap that is first looked at at half the resolution
BAND_BOX = 33  # side of the box whose mean is taken off before patches are compared
REACH = 3  # lags to either side that are compared, in px of the resolution looked at
RECENTRES = 4  # how often the lags may be moved on to follow the best place
BORDER = 5  # what is left out along the overlap's border, where smoothing lacks neighbours
PATCH = 256  # the longest side of a patch
LEAST_LENGTH, LEAST_WIDTH = 64, 8  # a patch is at least so long, and at least so wide
PATCHES = 16  # the most patches
AGREE = 1.5  # how near a patch must come to the whole overlap's offset to bear it out
SHADING_BOX = 33  # side of the box over which shading is taken to be even
POLISHES = 3  # the most last steps
POLISHED = 0.06  # the step that is small enough to be the last
LEAST_SD = 0.004  # what the last parabola may still be off by
LEAST_FOR_SPREAD = 4  # patches that it takes to judge an error by their spread


@dataclass(frozen=True)
class Fine:
    """An offset to a fraction of a pixel, and how the patches bear it out.

    Attributes
    ----------
    drow, dcol : float
        Position of b's first pixel minus that of a's, in px.
    sd : float
        Standard deviation of each, in px.
    correlation : float
        Of the overlaps, less noise and slow changes, −1 to 1.
    agreeing : float
        Share of the patches that bear the offset out, by what they know, 0 to 1.
    patches : int
        How many do.
    """

    drow: float
    dcol: float
    sd: float
    correlation: float
    agreeing: float
    patches: int


@dataclass(frozen=True)
class _Valley:
    """The least of a sum of costs: its lag, how low it is, the mean curvature there."""

    lag: NDArray[np.float64]
    least: float
    curvature: float


@dataclass(frozen=True)
class _Located:
    """An offset to about a tenth of a pixel: whole pixels, the lag left, the patches that agree."""

    offset: NDArray[np.int64]
    lag: NDArray[np.float64]
    patches: NDArray[np.int64]
    agreeing: float
    correlation: float


def refine(a: MatchTile, b: MatchTile, place: tuple[float, float]) -> Fine | None:
    """Measure an offset at full resolution on several patches.

    Parameters
    ----------
    a, b : MatchTile
    place : (float, float)
        Where b's first pixel lies from a's to within some pixels, in px.

    Returns
    -------
    Fine or None
        None if the overlap is too thin, or no offset near `place` fits better than those round it.
    """
    located = _locate(a, b, place)
    return None if located is None else _polish(*overlap(a, b, located.offset), located)


def _locate(a: MatchTile, b: MatchTile, place: tuple[float, float]) -> _Located | None:
    """Find the lag at which the patches together differ least."""
    offset = np.array([round(place[0]), round(place[1])])
    for _ in range(RECENTRES):
        fine_a, fine_b = overlap(a, b, offset)
        patches = _patches(fine_a.shape)
        if not len(patches):
            return None
        # To the nearest pixel half the resolution does, at a quarter of the cost.
        step = 2 if min(fine_a.shape) >= LEAST_TO_HALVE else 1
        band_a, band_b = _band(fine_a, step), _band(fine_b, step)
        compared = _within(patches // step, band_a.shape, REACH)
        costs = _differences(band_a, band_b, compared, REACH)
        total = costs.sum(axis=0)
        valley = _valley(total)
        if valley is not None:
            break
        offset -= step * (np.array(divmod(int(total.argmin()), total.shape[1])) - REACH)
    else:
        return None
    agree, share = _agreement(costs, valley.lag, AGREE / step)
    if not agree.any():
        return None
    lag = step * valley.lag
    whole = np.round(lag).astype(np.int64)
    return _Located(
        offset - whole, lag - whole, patches[agree], share, 1 - valley.least / _area(compared) / 2
    )


def _polish(fine_a: NDArray[np.uint8], fine_b: NDArray[np.uint8], located: _Located) -> Fine | None:
    """Measure again with b moved by the fraction found.

    A parabola is true at its middle only; and once the two are aligned, what changes slowly in
    their difference is shading, and can be taken off without touching the specimen.
    """
    patches = _within(located.patches, fine_a.shape, BORDER)
    smooth_a = _smooth(fine_a, np.zeros(2))
    lag = located.lag
    for attempt in range(POLISHES):
        smooth_b = _smooth(fine_b, lag)
        smooth_b *= np.float32(_spread(smooth_a) / _spread(smooth_b))
        smooth_b += cv2.blur(smooth_a - smooth_b, (SHADING_BOX, SHADING_BOX))
        costs = _differences(smooth_a, smooth_b, patches, 1)
        valley = _valley(costs.sum(axis=0))
        if valley is None:
            break
        lag = lag + valley.lag
        if np.abs(valley.lag).max() < POLISHED or attempt == POLISHES - 1:
            return Fine(
                drow=float(located.offset[0] - lag[0]),
                dcol=float(located.offset[1] - lag[1]),
                sd=_deviation(costs, valley, valley.least / _area(patches)),
                correlation=located.correlation,
                agreeing=located.agreeing,
                patches=len(patches),
            )
    return None


def _area(patches: NDArray[np.int64]) -> float:
    return float((patches[:, 1::2] - patches[:, ::2]).prod(axis=1).sum())


def _band(fine: NDArray[np.uint8], step: int) -> NDArray[np.float32]:
    """Take off fine noise and slow changes, bring the contrast to 1, and halve if step is 2."""
    band = _smooth(_halved(fine) if step == 2 else fine, np.zeros(2))
    band -= cv2.blur(band, (BAND_BOX // step, BAND_BOX // step))
    band /= np.float32(max(float(cv2.norm(band)) / band.size**0.5, 1e-6))
    return band


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = image.shape[1] // 2, image.shape[0] // 2
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _spread(image: NDArray[np.float32]) -> float:
    """Give the standard deviation, never 0."""
    return max(float(cv2.meanStdDev(image)[1].item()), 1e-6)


def _smooth(fine: NDArray[np.uint8], lag: NDArray[np.float64]) -> NDArray[np.float32]:
    """Smooth an image and sample it a fraction of a pixel further on.

    A shifted Gaussian does both at once, with no error of interpolation to speak of.
    """
    reach = ceil(4 * SIGMA) + 1
    places = np.arange(-reach, reach + 1)
    down, across = (
        np.exp(-0.5 * ((places - shift) / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi))
        for shift in lag
    )
    return np.asarray(cv2.sepFilter2D(fine, cv2.CV_32F, across, down), dtype=np.float32)


def _patches(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Divide an overlap into patches [top, bottom, left, right], clear of its border."""
    inner = [side - 2 * BORDER for side in shape]
    if min(inner) < LEAST_WIDTH:
        return np.empty((0, 4), np.int64)
    side = min(max(min(inner), LEAST_LENGTH), PATCH)
    edges = [
        BORDER + np.linspace(0, length, max(1, round(length / side)) + 1).astype(np.int64)
        for length in inner
    ]
    patches = np.array(
        [
            (top, bottom, left, right)
            for top, bottom in pairwise(edges[0])
            for left, right in pairwise(edges[1])
        ]
    )
    # A large overlap has more patches than are needed: those that are kept lie all over it.
    kept = np.linspace(0, len(patches) - 1, min(len(patches), PATCHES)).astype(int)
    return np.asarray(patches[kept], dtype=np.int64)


def _within(patches: NDArray[np.int64], shape: tuple[int, ...], border: int) -> NDArray[np.int64]:
    """Cut patches to what lies clear of the border of an overlap."""
    return np.clip(patches, border, np.repeat(shape, 2) - border)


def _differences(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    patches: NDArray[np.int64],
    reach: int,
) -> NDArray[np.float64]:
    """Sum ``(a[x] − b[x + lag])²`` over each patch, for every lag up to a reach."""
    costs = np.zeros((len(patches), 2 * reach + 1, 2 * reach + 1))
    _sum_differences(a, b, patches, costs)
    return costs


@njit(nogil=True, cache=True, fastmath=True)
def _sum_differences(a, b, patches, costs):  # type: ignore[no-untyped-def]
    first = -(costs.shape[1] // 2)
    for p in range(len(patches)):
        top, bottom, left, right = patches[p]
        for r in range(top, bottom):
            line_a = a[r, left:right]
            for i in range(costs.shape[1]):
                line_b = b[r + first + i]
                for j in range(costs.shape[2]):
                    # Slices, so that the inner loop has no index to check and uses vectors.
                    part_b = line_b[left + first + j : right + first + j]
                    total = np.float32(0)
                    for c in range(len(line_a)):
                        difference = line_a[c] - part_b[c]
                        total += difference * difference
                    costs[p, i, j] += total


def _agreement(
    costs: NDArray[np.float64], lag: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.bool_], float]:
    """Tell which patches have their own valley near a lag, and their share by depth."""
    places = _valleys(costs)[:, :2]
    agree = np.hypot(places[:, 0] - lag[0], places[:, 1] - lag[1]) < tolerance
    # How deep a valley is says how much its patch knows, whether it agrees or not.
    depth = np.median(costs, axis=(1, 2)) - costs.min(axis=(1, 2))
    return agree, float(depth[agree].sum() / max(depth.sum(), 1e-12))


def _deviation(costs: NDArray[np.float64], best: _Valley, noise: float) -> float:
    """Estimate the standard deviation of an offset from its patches and from the noise."""
    # Noise that was smoothed is correlated over 4 π σ² px.
    area = 4 * np.pi * SIGMA**2
    theory = float(np.sqrt(2 * noise * area / best.curvature))
    count = len(costs)
    if count < LEAST_FOR_SPREAD:
        return hypot(theory, LEAST_SD)
    # Each patch pulls by its own slope at the common offset: the sandwich estimate of the error.
    drow, dcol = best.lag
    down, across = costs[:, :, 1], costs[:, 1, :]
    both = (costs[:, 2, 2] - costs[:, 2, 0] - costs[:, 0, 2] + costs[:, 0, 0]) / 4
    pull_down = (down[:, 2] - down[:, 0]) / 2 + both * dcol
    pull_down += (down[:, 2] - 2 * down[:, 1] + down[:, 0]) * drow
    pull_across = (across[:, 2] - across[:, 0]) / 2 + both * drow
    pull_across += (across[:, 2] - 2 * across[:, 1] + across[:, 0]) * dcol
    pulls = float((pull_down**2 + pull_across**2).sum())
    spread = float(np.sqrt(pulls / 2 * count / (count - 1))) / best.curvature
    return hypot(max(spread, theory / 2), LEAST_SD)


def _valley(cost: NDArray[np.float64]) -> _Valley | None:
    """Find the least of the costs, between lags; None if it is at the border or no valley."""
    drow, dcol, least, curvature = _valleys(cost[None])[0].tolist()
    return None if isnan(drow) else _Valley(np.array([drow, dcol]), least, curvature)


@njit(nogil=True, cache=True)
def _valleys(costs):  # type: ignore[no-untyped-def]
    """Fit a quadratic to the 3 × 3 costs about the least of each patch; NaN where that fails."""
    found = np.full((len(costs), 4), np.nan)
    side = costs.shape[1]
    for p in range(len(costs)):
        i, j = divmod(costs[p].argmin(), side)
        if not (0 < i < side - 1 and 0 < j < side - 1):
            continue
        c = costs[p, i - 1 : i + 2, j - 1 : j + 2]
        slope_down, slope_across = (c[2, 1] - c[0, 1]) / 2, (c[1, 2] - c[1, 0]) / 2
        down = c[2, 1] - 2 * c[1, 1] + c[0, 1]
        across = c[1, 2] - 2 * c[1, 1] + c[1, 0]
        both = (c[2, 2] - c[2, 0] - c[0, 2] + c[0, 0]) / 4
        determinant = down * across - both * both
        if down <= 0 or determinant <= 0:
            continue
        drow = (both * slope_across - across * slope_down) / determinant
        dcol = (both * slope_down - down * slope_across) / determinant
        if abs(drow) <= 1 and abs(dcol) <= 1:
            least = c[1, 1] + (slope_down * drow + slope_across * dcol) / 2
            found[p, 0], found[p, 1] = i - side // 2 + drow, j - side // 2 + dcol
            found[p, 2], found[p, 3] = max(least, 0.0), (down + across) / 2
    return found
