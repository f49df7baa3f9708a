"""Measure which places overlapping tiles share, though the lens shows each tile them differently.

Where the lens shifts pixels by tens of px two tiles agree nowhere as a whole, only patch by patch.
So small patches are found first, one by one; once a lens fitted to them has straightened the tiles,
they are matched as those of a montage are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.geometry.pair_matches import PairMatches, Tile
from processing.lens.errors import LensFitError
from processing.lens.fit import Degree, LensFit, LensLimits, fit_lens
from processing.lens.map import LensMap
from processing.lens.model import LensModel
from processing.matching import MAX_OFFSET, MatchTile, match, prepare
from processing.matching.coarse import find_peak
from processing.matching.match import LEAST_PEAK

Place = tuple[float, float]

LEAST_OVERLAP = 0.1  # of a side, along both axes, for two tiles to be compared
# Of the first look, at half the resolution.
PATCH = 40  # side of a patch, in reduced px
PATCHES = 6  # along each axis of an overlap, at most
FARTHEST = 0.05  # of the shorter side: how far a patch may lie from where the whole overlap does
LEAST_FARTHEST = 12  # reduced px
LEAST_SCORE = 0.35  # correlation of a patch with where it is found
MAX_RIVAL = 0.85  # of the next best place, relative, from which on a patch is ambiguous
PEAK_RADIUS = 3  # what lies so near to a peak belongs to it, in reduced px
# Of the second.
STRAIGHTENED = 12.0  # px; what the first fit may have left
LEAST_SD = 0.02  # px; a match is never taken for better, or a few would rule the fit
ROUNDS = 2


def measure_lens(
    tiles: Mapping[Tile, NDArray[np.unsignedinteger]],
    nominal: Mapping[Tile, Place],
    *,
    degree: Degree = "auto",
    max_offset: float = MAX_OFFSET,
    limits: LensLimits | None = None,
) -> LensFit:
    """Find the lens model from tiles that overlap.

    Parameters
    ----------
    tiles : mapping of tile to ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected frames of one shape, with texture, that overlap along both axes: 3 × 3
        at 60 % are usual.
    nominal : mapping of tile to (float, float)
        Where the stage says that their middles lie, (row, column) in px.
    degree : int or "auto"
        Of the polynomial; "auto": what tells pairs of tiles best that are held out.
    max_offset : float
        How far tiles may lie from there relative to each other, in px.
    limits : LensLimits, optional
        For the fit to be accepted.

    Returns
    -------
    LensFit

    Raises
    ------
    LensFitError
        If too few tiles match, or the matches determine no lens.
    TypeError, ValueError
        If the frames are of several shapes, too small, or neither uint8 nor uint16.
    """
    shapes = {(frame.shape[0], frame.shape[1]) for frame in tiles.values()}
    if len(shapes) != 1:
        raise LensFitError(
            f"the tiles have the shapes {sorted(shapes)}; they must be two or more of one shape"
        )
    shape = shapes.pop()
    prepared = {tile: prepare(frame) for tile, frame in tiles.items()}
    rough = find_patches(prepared, nominal, max_offset)
    fit = fit_lens(rough, shape, degree=degree, nominal=nominal, limits=limits)
    for _ in range(ROUNDS):
        pairs = match_straightened(tiles, fit.model, fit.positions)
        fit = fit_lens(pairs, shape, degree=degree, nominal=nominal, limits=limits)
    return fit


def find_patches(
    tiles: Mapping[Tile, MatchTile], nominal: Mapping[Tile, Place], max_offset: float = MAX_OFFSET
) -> list[PairMatches]:
    """Find small patches of each tile in those it overlaps with, each on its own.

    Parameters
    ----------
    tiles : mapping of tile to MatchTile
        Whole tiles.
    nominal : mapping of tile to (float, float)
        (row, column) of each, in px.
    max_offset : float
        In px.

    Returns
    -------
    list of PairMatches
        Good to about half a pixel, some of them wrong.
    """
    halves = {tile: _half(one.fine) for tile, one in tiles.items()}
    found = []
    for a, b in _overlapping(tiles, nominal):
        offset = nominal[b][0] - nominal[a][0], nominal[b][1] - nominal[a][1]
        peak = find_peak(tiles[a], tiles[b], offset, max_offset)
        if peak is None or peak.height < LEAST_PEAK:
            continue
        places = _find_patches(halves[a], halves[b], (peak.drow / 2, peak.dcol / 2))
        if len(places):
            # The middle of a pixel of half the resolution lies between two of the full one.
            p, q = 2 * places[:, :2] + 0.5, 2 * places[:, 2:] + 0.5
            found.append(PairMatches(a, b, p, q, np.ones(len(p))))
    return found


def match_straightened(
    tiles: Mapping[Tile, NDArray[np.unsignedinteger]],
    model: LensModel,
    positions: Mapping[Tile, Place],
) -> list[PairMatches]:
    """Match tiles with a lens taken out, and tell where the matches lie with it.

    Parameters
    ----------
    tiles : mapping of tile to ndarray of uint8 or uint16, shape (height, width)
        As they were taken.
    model : LensModel
        Near to the true one.
    positions : mapping of tile to (float, float)
        Where corrected tiles lie, to some px; tiles without are left out.

    Returns
    -------
    list of PairMatches
        In px of the tiles as they were taken, weighted by their errors.
    """
    correction = LensMap(model)
    straight = {tile: prepare(correction.correct(tiles[tile])) for tile in positions}
    found = []
    for a, b in _overlapping(straight, positions):
        offset = positions[b][0] - positions[a][0], positions[b][1] - positions[a][1]
        points = match(straight[a], straight[b], offset, STRAIGHTENED).points.astype(float)
        if len(points):
            weights = 1 / (points[:, 4] ** 2 + LEAST_SD**2)
            p, q = model.to_distorted(points[:, :2]), model.to_distorted(points[:, 2:4])
            found.append(PairMatches(a, b, p, q, weights * LEAST_SD**2))
    return found


def _overlapping(
    tiles: Mapping[Tile, MatchTile], positions: Mapping[Tile, Place]
) -> Iterator[tuple[Tile, Tile]]:
    """Give the pairs of tiles, diagonal ones too, that share enough to be compared."""
    for a, b in combinations(tiles, 2):
        apart = np.abs(np.subtract(positions[b], positions[a]))
        if (apart <= (1 - LEAST_OVERLAP) * np.asarray(tiles[a].shape)).all():
            yield a, b


def _half(fine: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Halve the resolution, smooth the noise of it, and take slow changes of brightness off."""
    size = fine.shape[1] // 2, fine.shape[0] // 2
    half = cv2.resize(fine.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    half = cv2.GaussianBlur(half, (0, 0), 1.0)
    return np.asarray(half - cv2.blur(half, (PATCH, PATCH)), dtype=np.float32)


def _find_patches(
    a: NDArray[np.float32], b: NDArray[np.float32], offset: Place
) -> NDArray[np.float64]:
    """Find patches of a in b, near an offset of the tiles; in px of these two.

    Returns
    -------
    ndarray of float64, shape (n, 4)
        The middle of each in a, and in b, where it was found without doubt.
    """
    reach = max(LEAST_FARTHEST, round(FARTHEST * min(a.shape)))
    whole = np.round(offset).astype(int)
    # Where a patch lies in a, and the whole of its window in b.
    low = np.maximum(whole + reach, 0)
    high = np.minimum(whole + b.shape - reach, a.shape) - PATCH
    found = []
    for row in _spread(low[0], high[0]):
        for column in _spread(low[1], high[1]):
            first = np.array([row, column]) - whole - reach
            last = first + PATCH + 2 * reach
            window = b[first[0] : last[0], first[1] : last[1]]
            patch = a[row : row + PATCH, column : column + PATCH]
            place = _find(patch, window)
            if place is not None:
                middle = (PATCH - 1) / 2
                found.append([row + middle, column + middle, *(first + place + middle)])
    return np.array(found).reshape(-1, 4)


def _spread(low: int, high: int) -> NDArray[np.int64]:
    """Give the places of patches along an axis: even, and none over another by more than half."""
    if high < low:
        return np.empty(0, np.int64)
    count = min(PATCHES, max(1, round(2 * (high - low) / PATCH)))
    return np.linspace(low, high, count).round().astype(np.int64)


def _find(patch: NDArray[np.float32], window: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Find a patch in a window, to a fraction of a pixel; None if it is nowhere or in doubt."""
    scores = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    best = float(scores[row, column])
    if best < LEAST_SCORE or not (
        0 < row < scores.shape[0] - 1 and 0 < column < scores.shape[1] - 1
    ):
        return None
    fraction = [
        0.5 * (line[0] - line[2]) / min(line[0] - 2 * line[1] + line[2], -1e-6)
        for line in (
            scores[row - 1 : row + 2, column].astype(float),
            scores[row, column - 1 : column + 2].astype(float),
        )
    ]
    near = slice(max(0, row - PEAK_RADIUS), row + PEAK_RADIUS + 1)
    scores[near, max(0, column - PEAK_RADIUS) : column + PEAK_RADIUS + 1] = 0
    if scores.max() > MAX_RIVAL * best:
        return None
    return np.array([row, column]) + np.clip(fraction, -0.5, 0.5)
