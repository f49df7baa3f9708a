"""Match two tiles, and judge whether to believe it.

The two steps only measure; every threshold that makes a match good or not stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.matching.coarse import Peak, find_peak
from processing.matching.fine import locate_patches, refine
from processing.matching.tile import BAND_WIDE, MARGIN, MatchTile, overlap, without_lines

Reason = Literal["", "no texture", "ambiguous", "low correlation", "out of range"]

MAX_OFFSET = 255.0  # px
SLACK = 1.0  # how far beyond the greatest offset a match is still believed, in px
LEAST_PEAK = 6.5  # standard deviations above chance that a peak must stand
MAX_RIVAL = 0.8  # height of the next peak, relative, from which on a match is ambiguous
NEAR_RIVAL = 2.5  # reduced px; half as far as rivals are from the peak, where all is straight
LEAST_AGREEING = 0.5  # the share of the patches, by what they know, that must bear it out
LEAST_CORRELATION = 0.05
POINT_SIDE, LEAST_POINT_SIDE = 64, 32  # of the patches of `match_points`, in px
REPEATED = 0.5  # correlation that tiles reach at many offsets if their pattern is repeated
LEAST_TEXTURE = 1.5  # variance of an overlap, reduced, relative to what white noise would have


def no_points() -> NDArray[np.float32]:
    """Give the points of a match that has none."""
    return np.empty((0, 6), np.float32)


@dataclass(frozen=True)
class Match:
    """The offset between two tiles.

    Attributes
    ----------
    drow, dcol : float
        Position of b's first pixel minus that of a's, in px; the best guess if it is not good.
    sd : float
        Standard deviation of each of the two (their root mean square, where they differ), in px;
        infinite if it is not good.
    quality : float
        0 to 1: how far the best place stands above the next best, times the share of the patches
        that bear it out. 0 is no better than another place; 1 is beyond doubt.
    good : bool
        Whether to believe it.
    reason : {"", "no texture", "ambiguous", "low correlation", "out of range"}
        Why not.
    correlation : float
        Correlation of the two tiles in their overlap, −1 to 1; 0 if it was not found.
    patches : int
        How many patches bear it out.
    sd_row, sd_col : float
        Standard deviation of `drow` and of `dcol`, in px; infinite if it is not good.
    rotation : float
        By how much b's picture is turned against a's, counter-clockwise as displayed (row 0 at the
        top), in degrees; 0 if the patches cannot tell.
    points : ndarray of float32, shape (k, 6)
        The patches that bear it out, each ``[row_a, col_a, row_b, col_b, sd, weight]``: the middle
        in a of what tells its offset, and where b shows the same, in px from each tile's first
        pixel; its standard deviation along each axis, in px; its share of all that the patches
        know, so that shares add to 1.
    """

    drow: float
    dcol: float
    sd: float
    quality: float
    good: bool
    reason: Reason
    correlation: float
    patches: int
    sd_row: float = float("inf")
    sd_col: float = float("inf")
    rotation: float = 0.0
    points: NDArray[np.float32] = field(default_factory=no_points, repr=False, compare=False)


def match(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], max_offset: float = MAX_OFFSET
) -> Match:
    """Find where tile b lies relative to tile a.

    First the correlation of the reduced tiles, normalised over the overlap that each offset leaves
    (as masked normalised correlation: D. Padfield, IEEE Trans. Image Processing 21, 2012); then the
    least sum of squared differences of several patches at full resolution, to a fraction of a
    pixel.

    Parameters
    ----------
    a, b : MatchTile
        Of tiles of one shape.
    nominal : (float, float)
        Expected position of b's first pixel minus that of a's, (rows, columns) in px.
    max_offset : float
        How far the truth may lie from that, in rows and in columns, in px.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        If the tiles' shapes differ, or `nominal` or `max_offset` is not a finite number.
    """
    if a.shape != b.shape:
        raise ValueError(f"the tiles are {a.shape} and {b.shape} px; they must be of one shape")
    if not np.isfinite([*nominal, max_offset]).all() or max_offset < 0:
        raise ValueError(
            f"nominal is {nominal} and max_offset {max_offset} px; they must be finite numbers, "
            "max_offset not negative"
        )
    a, b = without_lines(a, b)
    peak = find_peak(a, b, nominal, max_offset + MARGIN)
    if peak is None:
        return _bad(nominal, "out of range")
    place = peak.drow, peak.dcol
    rivalry = peak.rival / max(peak.height, 1e-6)
    if peak.height < LEAST_PEAK:
        return _bad(place, _why_low(a, b, peak))
    found = refine(a, b, place)
    if rivalry > MAX_RIVAL and not (found and _bends_to(found.points, peak, a.reduction)):
        return _bad(place, "ambiguous")
    if found is None or found.agreeing < LEAST_AGREEING or found.correlation < LEAST_CORRELATION:
        return _bad(place, "low correlation" if _textured(a, b, place) else "no texture")
    if max(abs(found.drow - nominal[0]), abs(found.dcol - nominal[1])) > max_offset + SLACK:
        return _bad((found.drow, found.dcol), "out of range")
    return Match(
        drow=found.drow,
        dcol=found.dcol,
        sd=float(np.hypot(found.sd_row, found.sd_col) / np.sqrt(2)),
        quality=float(np.clip((1 - rivalry) * found.agreeing, 0, 1)),
        good=True,
        reason="",
        correlation=found.correlation,
        patches=len(found.points),
        sd_row=found.sd_row,
        sd_col=found.sd_col,
        rotation=found.rotation,
        points=found.points,
    )


def match_points(
    a: MatchTile, b: MatchTile, match: Match, side: int = POINT_SIDE
) -> NDArray[np.float32]:
    """Locate patches all over the overlap of two tiles that match, each on its own.

    What a lens model or an affine solve needs: where the same places lie in both tiles.

    Parameters
    ----------
    a, b : MatchTile
        Whole tiles, or edges that hold the whole overlap.
    match : Match
        Of the two; its `points` tell where the patches are looked for.
    side : int
        Of a patch, in px; smaller ones are more and know less.

    Returns
    -------
    ndarray of float32, shape (m, 6)
        As `Match.points`; patches that do not fit smoothly among the others are left out.

    Raises
    ------
    ValueError
        If the match is not good, or `side` is smaller than 32 px.
    """
    if not match.good:
        raise ValueError(f"the match is not good ({match.reason}); no points can be found from it")
    if side < LEAST_POINT_SIDE:
        raise ValueError(f"side is {side} px; it must be {LEAST_POINT_SIDE} px or more")
    return locate_patches(*without_lines(a, b), match.points, side)


def _bends_to(points: NDArray[np.float32], peak: Peak, step: int) -> bool:
    """Whether some patch that bears a match out has an offset that is near a peak's rival.

    What is bent has several peaks, of which none is wrong.
    """
    apart = np.abs(points[:, :2] - points[:, 2:4] - peak.rival_place).max(axis=1)
    return bool((apart < NEAR_RIVAL * step).any())


def _bad(place: tuple[float, float], reason: Reason) -> Match:
    """Make a match that is not to be believed."""
    return Match(float(place[0]), float(place[1]), float("inf"), 0.0, False, reason, 0.0, 0)


def _why_low(a: MatchTile, b: MatchTile, peak: Peak) -> Reason:
    """Say why no peak stands out."""
    if not _textured(a, b, (peak.drow, peak.dcol)):
        return "no texture"
    # Of a repeated pattern all peaks are high, and none above the others.
    return "ambiguous" if peak.correlation > REPEATED else "low correlation"


def _textured(a: MatchTile, b: MatchTile, place: tuple[float, float]) -> bool:
    """Tell whether both tiles vary more in their overlap than white noise would."""
    parts = overlap(a, b, (round(place[0]), round(place[1])))
    return min(_texture(part, a.reduction) for part in parts) > LEAST_TEXTURE


def _texture(fine: NDArray[np.uint8], step: int) -> float:
    """Compare the variance of an image when reduced with what its pixel noise leaves of it."""
    if min(fine.shape) < 4 * step:
        return 0.0
    # J. Immerkær, Computer Vision and Image Understanding 64, 1996: noise by a mask that answers
    # neither to slopes nor to straight edges.
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    deviation = np.abs(cv2.filter2D(fine, cv2.CV_32F, mask)).mean()
    noise = np.pi / 2 * float(deviation) ** 2 + 1 / 12
    size = fine.shape[1] // step, fine.shape[0] // step
    reduced = cv2.resize(fine.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    band = cv2.subtract(reduced, cv2.GaussianBlur(reduced, (0, 0), BAND_WIDE))
    return float(np.var(band)) * step**2 / noise
