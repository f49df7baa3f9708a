"""Where in an overlap to look, and how the patches are followed where their offsets differ.

A few patches that know much and lie all along an overlap tell its offset.
"""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.cells import middles
from processing.matching.field import ELONGATED, MIN_FOR_SLOPES
from processing.matching.search import Costs
from processing.matching.tile import MatchTile

# All in px of full resolution, unless said otherwise.
BORDER = 5  # what is left out along the overlap's border, where smoothing lacks neighbours
LEAST_LENGTH, LEAST_WIDTH = 64, 8  # a patch is at least so long, and at least so wide
MAX_LOST = 0.5  # share of a side of an overlap without signal; if it is more, it is drawn in
# What a patch must know to be looked at, as a share of what one knows that does most.
TELLING = 0.05
PLAIN = 0.8  # if patches that know so much of all agree on one lag, no curve is looked for
MOST_MEMBERS = 12  # of so many patches that know most, any three may make a curve
CLEARLY = 1.2  # by what factor it must fit better than one lag for all


def divide(box: tuple[int, int, int, int], longest: int) -> NDArray[np.int64]:
    """Divide an overlap into patches, clear of its border.

    Parameters
    ----------
    box : (int, int, int, int)
        Its top, bottom, left and right.
    longest : int
        The longest side of a patch, in px.

    Returns
    -------
    ndarray of int64, shape (n, 4)
        [top, bottom, left, right] of each, in order along the overlap; none if it is too thin.
    """
    starts = box[0] + BORDER, box[2] + BORDER
    inner = box[1] - BORDER - starts[0], box[3] - BORDER - starts[1]
    if min(inner) < LEAST_WIDTH:
        return np.empty((0, 4), np.int64)
    side = min(max(min(inner), min(LEAST_LENGTH, longest)), longest)
    counts = [max(1, round(length / side)) for length in inner]
    tops, lefts = (
        start + length * np.arange(count + 1) // count
        for start, length, count in zip(starts, inner, counts, strict=True)
    )
    if inner[1] > inner[0]:
        columns, rows = np.divmod(np.arange(counts[0] * counts[1]), counts[0])
    else:
        rows, columns = np.divmod(np.arange(counts[0] * counts[1]), counts[1])
    return np.stack([tops[rows], tops[rows + 1], lefts[columns], lefts[columns + 1]], axis=1)


def without_signal(
    a: MatchTile, b: MatchTile, shift: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Tell where in an overlap one of two tiles holds no signal, or it ends close by.

    Parameters
    ----------
    a, b : MatchTile
    shift : ndarray of int64, shape (2,)
        What is added to rows and columns of a's `fine` to come to the same place in b's.

    Returns
    -------
    ndarray of bool, shape of a's `coarse`, or None
        None if both hold signal everywhere.
    """
    if a.mask is None and b.mask is None:
        return None
    lost = np.zeros(a.coarse.shape, np.uint8)
    if a.mask is not None:
        lost |= a.mask
    if b.mask is not None:
        # A reduced pixel of a lies over up to four of b.
        down, across = (-shift / b.reduction).tolist()
        moved = np.array([[1, 0, across], [0, 1, down]], np.float32)
        size = int(a.coarse.shape[1]), int(a.coarse.shape[0])
        lost |= cv2.warpAffine(255 * b.mask.view(np.uint8), moved, size) > 0
    reach = -(-BORDER // a.reduction)
    return cv2.dilate(lost, np.ones((2 * reach + 1,) * 2, np.uint8)).view(np.bool_)


def clear_overlap(
    box: tuple[int, int, int, int], lost: NDArray[np.bool_], step: int
) -> tuple[int, int, int, int]:
    """Draw an overlap in until most of each of its sides holds signal.

    Parameters
    ----------
    box : (int, int, int, int)
        Its top, bottom, left and right.
    lost : ndarray of bool
        As `without_signal` gives it.
    step : int
        How many px make one px of that.

    Returns
    -------
    (int, int, int, int)
    """
    top, bottom, left, right = _draw_in(np.array(box), lost, step, MAX_LOST).tolist()
    return top, bottom, left, right


def clear_patches(
    patches: NDArray[np.int64], lost: NDArray[np.bool_], step: int
) -> NDArray[np.int64]:
    """Draw patches in until they hold signal everywhere; leave out those that halve by that.

    Parameters
    ----------
    patches : ndarray of int64, shape (n, 4)
    lost, step
        As in `clear_overlap`.

    Returns
    -------
    ndarray of int64, shape (≤ n, 4)
    """
    drawn = np.array([_draw_in(patch, lost, step, 0.0) for patch in patches]).reshape(-1, 4)
    large = (2 * _sides(drawn) >= _sides(patches)).all(axis=1)
    clear = np.array([not lost[_over(patch, step)].any() for patch in drawn], np.bool_)
    return drawn[large & clear]


def clip_to(
    patches: NDArray[np.int64], shifts: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Clip patches of one tile to what another shows where each is expected there.

    Parameters
    ----------
    patches : ndarray of int64, shape (n, 4)
    shifts : ndarray of float64, shape (n, 2)
        What is added to rows and columns of the one to come to the same place in the other.
    shape : (int, int)
        (height, width) of the other, in px.

    Returns
    -------
    ndarray of int64, shape (≤ n, 4)
        Those of which half is left.
    ndarray of bool, shape (n,)
        Which these are.
    """
    first = np.ceil(BORDER - shifts).astype(np.int64)
    last = np.floor(np.array(shape) - BORDER - shifts).astype(np.int64)
    clipped = patches.copy()
    clipped[:, ::2] = np.maximum(patches[:, ::2], first)
    clipped[:, 1::2] = np.minimum(patches[:, 1::2], last)
    kept = np.asarray((2 * _sides(clipped) >= _sides(patches)).all(axis=1))
    return clipped[kept], kept


def _draw_in(
    box: NDArray[np.int64], lost: NDArray[np.bool_], step: int, tolerated: float
) -> NDArray[np.int64]:
    """Draw that side of a box in which has lost most, and again, until each has at most so much."""
    box = box.copy()
    while (inside := lost[_over(box, step)]).size:
        shares = [inside[0].mean(), inside[-1].mean(), inside[:, 0].mean(), inside[:, -1].mean()]
        worst = int(np.argmax(shares))
        if shares[worst] <= tolerated:
            break
        # On to where the next reduced pixel begins.
        box[worst] = (-(-box[worst] // step) - 1 if worst % 2 else box[worst] // step + 1) * step
    return box


def _over(box: NDArray[np.int64], step: int) -> tuple[slice, slice]:
    """Return the reduced pixels that a box lies over."""
    top, bottom, left, right = box.tolist()
    return slice(top // step, -(-bottom // step)), slice(left // step, -(-right // step))


def _sides(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return height and width of each box, shape (n, 2)."""
    return boxes[:, 1::2] - boxes[:, ::2]


def choose(
    a: MatchTile, b: MatchTile, patches: NDArray[np.int64], shift: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """Keep the patches that know most, one of each stretch of the overlap.

    Parameters
    ----------
    a, b : MatchTile
    patches : ndarray of int64, shape (n, 4)
        In order along the overlap.
    shift : ndarray of int64, shape (2,)
        What is added to rows and columns of a's `fine` to come to the same place in b's.
    most : int
        How many are kept at most.

    Returns
    -------
    ndarray of int64, shape (≤ most, 4)
    """
    if len(patches) <= most:
        return patches
    # What a pair knows is limited by the one of the two that shows less.
    known = np.minimum(_energy(a, patches), _energy(b, patches + np.repeat(shift, 2)))
    # Beside resin, stretches are those of the tissue.
    telling = np.flatnonzero(known >= TELLING * known.max())
    if len(telling) <= most:
        return patches[telling]
    stretches = np.array_split(telling, most)
    return patches[[stretch[known[stretch].argmax()] for stretch in stretches]]


def _energy(tile: MatchTile, patches: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the squares of the reduced tile over each patch."""
    sums = cv2.integral(tile.coarse * tile.coarse)
    limits = np.repeat(tile.coarse.shape, 2)
    top, bottom, left, right = np.clip(patches // tile.reduction, 0, limits).T
    return np.asarray(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])


def common_lag(costs: Costs) -> NDArray[np.float64]:
    """Return the lag at which the costs of all patches together are least, in px looked at."""
    total = costs.of.sum(axis=0)
    return np.array(divmod(int(total.argmin()), total.shape[1]), float) - costs.reach


def is_plain(costs: Costs, lags: NDArray[np.float64]) -> bool:
    """Whether patches that know nearly all agree on one lag, or too few could tell a curve.

    Parameters
    ----------
    costs : Costs
    lags : ndarray of float64, shape (n, 2)
        Each patch's own valley; NaN if it has none.
    """
    found = np.isfinite(lags[:, 0])
    if len(lags) < MIN_FOR_SLOPES or np.count_nonzero(found) < 3:
        return True
    known = costs.depths() * found
    near = np.abs(np.nan_to_num(lags - common_lag(costs), nan=np.inf)).max(axis=1) <= 1
    return bool(known[near].sum() > PLAIN * known.sum())


def follow(
    patches: NDArray[np.int64], costs: Costs, lags: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Find the lag of each patch when offsets vary smoothly.

    Of all curves (in a wide overlap, planes) through the valleys of three patches, the one along
    which the costs of all patches are least; only if that is clearly less than one lag for all.

    Parameters
    ----------
    patches : ndarray of int64, shape (n, 4)
    costs : Costs
    lags : ndarray of float64, shape (n, 2)
        Each patch's own valley; NaN if it has none.

    Returns
    -------
    ndarray of float64, shape (n, 2), or None
        In px looked at; None if one lag for all does as well.
    """
    gains = costs.of - costs.of.mean(axis=(1, 2), keepdims=True)
    found = np.isfinite(lags[:, 0])
    places = middles(patches)
    extent = np.ptp(places, axis=0)
    scaled = (places - places.mean(axis=0)) / max(float(extent.max()), 1.0)
    if extent.max() > ELONGATED * extent.min():
        along = scaled[:, int(extent.argmax())]
        terms = np.stack([np.ones(len(along)), along, along**2], axis=1)
    else:
        terms = np.column_stack([np.ones(len(scaled)), scaled])
    members = np.sort(np.argsort(costs.depths() * found)[-MOST_MEMBERS:])
    members = members[np.take(found, members)]
    best, factors = _best_curve(gains, terms, lags, members)
    i, j = (common_lag(costs) + costs.reach).astype(int)
    return np.asarray(terms @ factors) if best < CLEARLY * gains[:, i, j].sum() else None


@njit(nogil=True, cache=True)
def _best_curve(gains, terms, lags, members):  # type: ignore[no-untyped-def]
    """Try all triples; give the least sum of gains and the factors that lead to it."""
    best, factors = 0.0, np.zeros((3, 2))
    reach = gains.shape[1] // 2
    trial = np.empty((3, 2))
    for x in range(len(members)):
        for y in range(x):
            for z in range(y):
                i, j, k = members[x], members[y], members[z]
                # The inverse of the three patches' terms, by cross products of its rows.
                first, second = _cross(terms[j], terms[k]), _cross(terms[k], terms[i])
                third = _cross(terms[i], terms[j])
                determinant = (
                    first[0] * terms[i, 0] + first[1] * terms[i, 1] + first[2] * terms[i, 2]
                )
                if abs(determinant) < 1e-3:
                    continue
                for t in range(3):
                    for axis in range(2):
                        trial[t, axis] = (
                            first[t] * lags[i, axis]
                            + second[t] * lags[j, axis]
                            + third[t] * lags[k, axis]
                        ) / determinant
                total = 0.0
                for p in range(len(terms)):
                    row = column = float(reach)
                    for t in range(3):
                        row += terms[p, t] * trial[t, 0]
                        column += terms[p, t] * trial[t, 1]
                    r, c = int(np.rint(row)), int(np.rint(column))
                    if 0 <= r <= 2 * reach and 0 <= c <= 2 * reach:
                        total += gains[p, r, c]
                if total < best:
                    best = total
                    factors = trial.copy()
    return best, factors


@njit(nogil=True, cache=True)
def _cross(u, v):  # type: ignore[no-untyped-def]
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
