"""The fine step of a match: the offset to a fraction of a pixel, from patches of the overlap.

Several patches that agree on their own bear a match out, and their spread tells its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processing.matching.cells import Cells, matters, middles
from processing.matching.field import Field
from processing.matching.patches import (
    choose,
    clear_overlap,
    clear_patches,
    clip_to,
    common_lag,
    divide,
    follow,
    is_plain,
    without_signal,
)
from processing.matching.polish import polish
from processing.matching.search import Costs, search, valleys
from processing.matching.tile import MatchTile, overlap_box

# All in px of full resolution, unless said otherwise.
PATCH, PATCHES = 96, 16  # the longest side of a patch, and the most patches
FOLLOWED = 20, 48  # to either side of the common place that each patch is looked for, in turn
MIN_REACH, MAX_REACH = 3, 6  # and that in reduced px
REACH = 3  # lags to either side that are compared then, in px of the resolution looked at
LEAST_TO_HALVE = 48  # the thinnest patch that is looked at at half the resolution
SEARCHES = 4  # how often patches may be looked for, each time nearer to where they are
ENOUGH = 0.9  # of all that the patches know; if so much agrees, no further search is made
AGREE = 1.5  # how near a patch must come to what the others tell
# What a patch is off by, in px, for each px a px by which the offset changes over it: 0.04 where a
# real lens changes it by 0.06, of 96 simulated patches.
BENT = 0.6
LEAST_SD = 0.001  # what a match may always be off by
PRIOR_PATCHES = 8  # the error that noise predicts counts as much as that of so many patches
LEAST_FOR_ROTATION = 3  # patches


@dataclass(frozen=True, eq=False)
class Fine:
    """An offset to a fraction of a pixel, and how the patches bear it out.

    Attributes
    ----------
    drow, dcol : float
        Position of b's first pixel minus that of a's, in px.
    sd_row, sd_col : float
        Standard deviation of either, in px.
    rotation : float
        Of b's picture against a's, counter-clockwise, in degrees.
    correlation : float
        Of the patches that agree, less noise and slow changes, −1 to 1.
    agreeing : float
        Share of the patches that bear the offset out, by what they know, 0 to 1.
    points : ndarray of float32, shape (k, 6)
        See `Match.points`.
    """

    drow: float
    dcol: float
    sd_row: float
    sd_col: float
    rotation: float
    correlation: float
    agreeing: float
    points: NDArray[np.float32]


class _Located(NamedTuple):
    """The patches that agree, their places in b to some tenths of a pixel, and the field of all."""

    boxes: NDArray[np.int64]
    shifts: NDArray[np.float64]
    share: float
    correlation: float
    field: Field


class _Points(NamedTuple):
    """What is known of each patch: its place in a's part, the offset of b there, information.

    `uneven` is what it may be off by beside its noise, in px, as the offset changes over it.
    """

    places: NDArray[np.float64]
    offsets: NDArray[np.float64]
    information: NDArray[np.float64]
    uneven: NDArray[np.float64]


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
        None if the overlap is too thin, or no patches agree on an offset near `place`.
    """
    offset = np.round(place).astype(np.int64)
    shift = _origin(a, b) - offset
    boxes = choose(a, b, _boxes(a, b, offset, PATCH), shift, PATCHES)
    if not len(boxes):
        return None
    expected, slopes = _follow(a, b, boxes, shift)
    boxes, kept = clip_to(boxes, expected, b.fine.shape)
    bent = None if slopes is None else slopes[kept]
    located = _locate(a, b, boxes, expected[kept], bent) if len(boxes) else None
    if located is None:
        return None
    points = _measure(a, b, located)
    return _together(a, points, located) if len(points.places) else None


def locate_patches(
    a: MatchTile, b: MatchTile, points: NDArray[np.float32], side: int
) -> NDArray[np.float32]:
    """Locate patches all over an overlap, each on its own, near where a match's points tell.

    Parameters
    ----------
    a, b : MatchTile
    points : ndarray of float32, shape (k, 6)
        See `Match.points`.
    side : int
        The longest side of a patch, in px.

    Returns
    -------
    ndarray of float32, shape (m, 6)
        As `points`.
    """
    corner = np.array([a.top, a.left])
    offsets = (points[:, :2] - points[:, 2:4]).astype(np.float64)
    known = np.round(points[:, :2] - corner).astype(np.int64)
    field = Field(np.repeat(known, 2, axis=1) + np.array([0, 1, 0, 1]))
    field.fit(known.astype(float), offsets, points[:, 5].astype(float))
    mean = np.round(np.average(offsets, axis=0, weights=points[:, 5])).astype(np.int64)
    boxes = _boxes(a, b, mean, side)
    if not len(boxes):
        return points[:0]
    expected, slopes = _origin(a, b) - field.at(middles(boxes)), -field.slopes(middles(boxes))
    boxes, kept = clip_to(boxes, expected, b.fine.shape)
    located = _locate(a, b, boxes, expected[kept], slopes[kept]) if len(boxes) else None
    return points[:0] if located is None else _as_points(a, _measure(a, b, located))


def _boxes(
    a: MatchTile, b: MatchTile, offset: NDArray[np.int64], longest: int
) -> NDArray[np.int64]:
    """Divide what both tiles show of their overlap into patches."""
    box = overlap_box(a, b, offset)
    lost = without_signal(a, b, _origin(a, b) - offset)
    if lost is None:
        return divide(box, longest)
    box = clear_overlap(box, lost, a.reduction)
    return clear_patches(divide(box, longest), lost, a.reduction)


def _origin(a: MatchTile, b: MatchTile) -> NDArray[np.int64]:
    """Give what a shift between the two parts' px is more than minus the tiles' offset."""
    return np.array([a.top - b.top, a.left - b.left])


def _follow(
    a: MatchTile, b: MatchTile, boxes: NDArray[np.int64], shift: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Find the shift of each patch to a px or two, in the reduced tiles, and how it changes there.

    The latter as `Cells.slopes`; None if one shift for all does as well.
    """
    step = a.reduction
    small = boxes // step
    small[:, 1::2] = np.maximum(small[:, 1::2], small[:, ::2] + 1)
    common = np.repeat(np.round(shift / step)[None], len(boxes), axis=0)
    # Farther only if that is needed: nearly always it is not.
    for followed in FOLLOWED:
        reach = min(max(MIN_REACH, round(followed / step)), MAX_REACH)
        costs = search((a.coarse, b.coarse), Cells(small), common, 1, reach)
        own = valleys(costs.of)[:, :2]
        if is_plain(costs, own):
            return (common + common_lag(costs)) * step, None
    bent = follow(boxes, costs, own)
    if bent is None:
        return (common + common_lag(costs)) * step, None
    # They may differ across an overlap, too.
    field = Field(boxes)
    start = (common + bent) * step
    field.fit_robustly(middles(boxes), (common + own) * step, costs.depths(), start)
    return field.at(middles(boxes)), field.slopes(middles(boxes))


def _locate(
    a: MatchTile,
    b: MatchTile,
    boxes: NDArray[np.int64],
    expected: NDArray[np.float64],
    known_slopes: NDArray[np.float64] | None,
) -> _Located | None:
    """Find each patch near where it is expected, and which agree with the others.

    If it is known how shifts change, the patches stay near what is expected.
    """
    # To some tenths of a pixel half the resolution does, at a quarter of the cost; but not if what
    # repeated was taken out, with what is as coarse as that.
    thin = (boxes[:, 1::2] - boxes[:, ::2]).min() < LEAST_TO_HALVE
    step = 1 if thin or a.lines is not None or b.lines is not None else 2
    best, slopes = None, known_slopes
    for again in range(SEARCHES):
        whole = np.round(expected)
        costs = search((a.fine, b.fine), Cells(boxes, slopes), whole, step, REACH)
        summed = costs.of.sum(axis=0)
        common = valleys(summed[None])[0, :2]
        if np.isnan(common).any():
            lag = np.array(divmod(int(summed.argmin()), summed.shape[1])) - REACH
            expected = expected + step * lag
            continue
        field = Field(boxes)
        if known_slopes is not None:
            field.expect(middles(boxes), whole + step * common)
        located = _agreed(boxes, whole + step * common, (whole, step, costs), field)
        if best is not None and located.share <= best.share:
            break
        best = located
        bent = field.slopes(middles(boxes))
        if best.share > ENOUGH and (again or not matters(bent, boxes)):
            break
        # Where a lens bends the offset, the patches that agree tell where the others are.
        expected = field.at(middles(boxes))
        slopes = bent if matters(bent, boxes) else None
    return best


def _agreed(
    boxes: NDArray[np.int64],
    expected: NDArray[np.float64],
    searched: tuple[NDArray[np.float64], int, Costs],
    field: Field,
) -> _Located:
    """Fit a smooth field to what was found, and tell which patches agree with it."""
    whole, step, costs = searched
    own = valleys(costs.of)
    shifts = whole + step * own[:, :2]
    depths = costs.depths()
    agree = field.fit_robustly(middles(boxes), shifts, depths, expected) < AGREE
    correlation = 0.0
    if agree.any():
        correlation = 1 - float(own[agree, 2].sum() / max(costs.energy[agree].sum(), 1e-12))
    share = float(depths[agree].sum() / max(depths.sum(), 1e-12))
    return _Located(boxes[agree], shifts[agree], share, correlation, field)


def _measure(a: MatchTile, b: MatchTile, located: _Located) -> _Points:
    """Measure the offset of each patch; leave out those that tell none."""
    pixels, boxes, field = (a.fine, b.fine), located.boxes, located.field
    bends = field.slopes(middles(boxes))
    if matters(bends, boxes):
        # Cells also tell how shifts change across an overlap that is but one patch wide.
        cells = Cells(boxes, bends)
        found = polish(pixels, cells.boxes, cells.shifts(located.shifts), rounds=1)
        field = Field(cells.boxes)
        field.fit(found.places, found.shifts, np.trace(found.information, axis1=1, axis2=2))
        bends = field.slopes(middles(boxes))
        found = polish(pixels, boxes, located.shifts, bends)
    else:
        found = polish(pixels, boxes, located.shifts)
    expected = located.shifts + np.einsum("nij,nj->ni", bends, found.places - middles(boxes))
    kept = np.trace(found.information, axis1=1, axis2=2) > 0
    kept &= np.abs(found.shifts - expected).max(axis=1) < AGREE
    offsets, uneven = _origin(a, b) - found.shifts, _uneven(boxes, bends, field.curvature)
    return _Points(found.places[kept], offsets[kept], found.information[kept], uneven[kept])


def _uneven(
    boxes: NDArray[np.int64], bends: NDArray[np.float64], curvature: float
) -> NDArray[np.float64]:
    """Tell by how much the offset of a patch's middle may differ from what was measured, in px.

    The mean of a parabola over a length differs from its middle by a twenty-fourth of its second
    derivative times the length squared. That along an overlap is known; across it, a lens whose
    shift grows as the cube of the distance from its axis has three times as much.
    """
    top, bottom, left, right = boxes.T
    by_curvature = curvature * (bottom - top) * (right - left) / 8
    return np.hypot(by_curvature, BENT * np.sqrt(np.square(bends).sum(axis=(1, 2))))


def _together(a: MatchTile, points: _Points, located: _Located) -> Fine:
    """Make one offset of those of all patches."""
    known = points.information.sum(axis=0)
    offset = np.linalg.solve(known, np.einsum("nij,nj->i", points.information, points.offsets))
    sd = _deviation(points, offset)
    return Fine(
        drow=float(offset[0]),
        dcol=float(offset[1]),
        sd_row=float(sd[0]),
        sd_col=float(sd[1]),
        rotation=_rotation(points),
        correlation=located.correlation,
        agreeing=located.share,
        points=_as_points(a, points),
    )


def _deviation(points: _Points, offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the standard deviations of an offset from its patches and from the noise.

    Each patch pulls by its own error: the sandwich estimate of the variance. Of few patches that is
    uncertain itself, so what noise alone predicts counts too, as so many patches more.
    """
    covariance = np.linalg.inv(points.information.sum(axis=0))
    count = len(points.places)
    predicted = np.diag(covariance)
    if count < 2:
        return np.sqrt(predicted + LEAST_SD**2)
    pulls = np.einsum("nij,nj->ni", points.information, points.offsets - offset)
    spread = np.diag(covariance @ (pulls.T @ pulls) @ covariance) * count / (count - 1)
    freedom = count - 1
    pooled = (PRIOR_PATCHES * predicted + freedom * spread) / (PRIOR_PATCHES + freedom)
    return np.asarray(np.sqrt(pooled + LEAST_SD**2))


def _rotation(points: _Points) -> float:
    """Fit the turn that the offsets of the patches tell, in degrees."""
    if len(points.places) < LEAST_FOR_ROTATION:
        return 0.0
    weights = np.trace(points.information, axis1=1, axis2=2)
    weights /= weights.sum()
    rows, columns = (points.places - weights @ points.places).T
    drow, dcol = (points.offsets - weights @ points.offsets).T
    # A picture that is turned counter-clockwise, rows downwards, moves a place (row, column) by
    # (−column, row) times the angle; the offset is what is missing to that.
    moment = float((weights * (rows**2 + columns**2)).sum())
    turned = float((weights * (columns * drow - rows * dcol)).sum())
    return float(np.degrees(turned / moment)) if moment > 0 else 0.0


def _as_points(a: MatchTile, points: _Points) -> NDArray[np.float32]:
    """Lay the patches out as `Match.points`."""
    in_a = points.places + np.array([a.top, a.left])
    known = np.trace(points.information, axis1=1, axis2=2)
    variance = np.trace(np.linalg.inv(points.information), axis1=1, axis2=2) / 2
    sd = np.hypot(np.sqrt(variance), points.uneven)
    weight = known / max(float(known.sum()), 1e-12)
    return np.column_stack([in_a, in_a - points.offsets, sd, weight]).astype(np.float32)
