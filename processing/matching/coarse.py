"""The coarse step of a match: the offset at which two reduced tiles agree best, among all allowed.

Correlations are normalised over the overlap that each offset leaves, so neither wrap-around nor
the size of the overlap favours one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.tile import MatchTile

# All in reduced px.
LEAST_SIDE = 4  # the thinnest overlap that is looked at
LEAST_AREA = 256  # and the smallest
PEAK_RADIUS = 5  # a peak no farther than this from another is the same peak
LEAST_REACH = 16  # offsets to at least so far are looked at, to know what chance can do


@dataclass(frozen=True)
class Peak:
    """The offset at which two tiles agree best.

    Attributes
    ----------
    drow, dcol : float
        Position of b's first pixel minus that of a's, in px.
    height : float
        Height of the correlation's peak, in standard deviations of what chance gives.
    rival : float
        Height of the next peak.
    rival_place : (float, float)
        And its offset, in px.
    correlation : float
        Of the reduced tiles there, −1 to 1.
    """

    drow: float
    dcol: float
    height: float
    rival: float
    rival_place: tuple[float, float]
    correlation: float


@dataclass(frozen=True)
class _Span:
    """Along one axis: which reduced px can meet, at which lags, and which lags are allowed.

    Lags are positions of b's part relative to a's part; `shift` makes them those of the tiles.
    """

    a: slice
    b: slice
    low: int
    high: int
    allowed: slice
    shift: int

    def common(self) -> NDArray[np.int64]:
        """Return the length of the overlap at each lag."""
        size_a, size_b = self.a.stop - self.a.start, self.b.stop - self.b.start
        lags = np.arange(self.low, self.high + 1)
        return np.minimum(size_a, lags + size_b) - np.maximum(0, lags)


def find_peak(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], reach: float
) -> Peak | None:
    """Find the offset at which two reduced tiles agree best.

    Parameters
    ----------
    a, b : MatchTile
    nominal : (float, float)
        Expected position of b's first pixel minus that of a's, in px.
    reach : float
        How far from that to look, along rows and columns, in px.

    Returns
    -------
    Peak or None
        None if there is no overlap anywhere within reach.
    """
    step = a.reduction
    rows = _span(a.coarse.shape[0], b.coarse.shape[0], nominal[0] + b.top - a.top, reach, step)
    columns = _span(a.coarse.shape[1], b.coarse.shape[1], nominal[1] + b.left - a.left, reach, step)
    if rows is None or columns is None:
        return None
    part_a = np.ascontiguousarray(a.coarse[rows.a, columns.a])
    part_b = np.ascontiguousarray(b.coarse[rows.b, columns.b])
    heights = _products(part_a, part_b, rows, columns)
    areas = np.outer(rows.common(), columns.common()).astype(np.float32)
    if a.mask is None and b.mask is None:
        energies = cv2.integral(part_a**2), cv2.integral(part_b**2)
        _normalise(heights, energies, (rows.low, columns.low))
    else:
        seen_a, seen_b = _seen(a, rows.a, columns.a), _seen(b, rows.b, columns.b)
        areas = _products(seen_a, seen_b, rows, columns)
        energies = (
            _products(part_a**2, seen_b, rows, columns),
            _products(seen_a, part_b**2, rows, columns),
        )
        _normalise_seen(heights, energies, areas)
    origin = (
        rows.low - rows.shift + (a.top - b.top) // step,
        columns.low - columns.shift + (a.left - b.left) // step,
    )
    if max(abs(nominal[0]), abs(nominal[1])) > PEAK_RADIUS * step:
        # Where the whole tiles would coincide, the camera's own pattern agrees.
        _blank(heights, (-origin[0], -origin[1]), PEAK_RADIUS)

    allowed = heights[rows.allowed, columns.allowed]
    first = rows.allowed.start, columns.allowed.start
    place = _highest(allowed, first)
    height = float(heights[place])
    fraction = _parabola(heights, *place)
    _blank(heights, place, PEAK_RADIUS)
    rival = _highest(allowed, first)
    count = np.count_nonzero(heights)
    chance = float(np.sqrt(np.square(heights).sum() / count)) if count else 0.0
    if chance <= 0:
        return Peak(float(nominal[0]), float(nominal[1]), 0.0, 0.0, nominal, 0.0)
    return Peak(
        drow=(place[0] + fraction[0] + origin[0]) * step,
        dcol=(place[1] + fraction[1] + origin[1]) * step,
        height=height / chance,
        rival=float(heights[rival]) / chance,
        rival_place=((rival[0] + origin[0]) * step, (rival[1] + origin[1]) * step),
        correlation=height / sqrt(max(float(areas[place]), 1.0)),
    )


def _highest(heights: NDArray[np.float32], first: tuple[int, int]) -> tuple[int, int]:
    """Return the place of the highest of some lags, which begin at a place among all."""
    row, column = divmod(int(heights.argmax()), heights.shape[1])
    return row + first[0], column + first[1]


def _span(size_a: int, size_b: int, middle: float, reach: float, step: int) -> _Span | None:
    """Find what of two lines can meet, when b's lies `middle` px from a's, give or take `reach`."""
    least, most = LEAST_SIDE - size_b, size_a - LEAST_SIDE

    def lags(far: float) -> tuple[int, int]:
        low, high = np.floor((middle - far) / step), np.ceil((middle + far) / step)
        return max(int(low), least), min(int(high), most)

    first, last = lags(reach)
    if first > last:
        return None
    low, high = lags(max(reach, LEAST_REACH * step))
    # Only what any of the lags can make overlap.
    part_a = slice(max(0, low), min(size_a, high + size_b))
    part_b = slice(max(0, -high), min(size_b, size_a - low))
    shift = part_b.start - part_a.start
    return _Span(
        part_a, part_b, low + shift, high + shift, slice(first - low, last - low + 1), shift
    )


def _products(
    a: NDArray[np.float32], b: NDArray[np.float32], rows: _Span, columns: _Span
) -> NDArray[np.float32]:
    """Sum ``a[x + lag] · b[x]`` over the overlap, for every lag in the two spans."""
    # Long enough that no lag that is asked for is reached by wrapping round; a is put where the
    # first of them comes first.
    first = -rows.low, -columns.low
    shape = [
        cv2.getOptimalDFTSize(max(size_a - span.low, size_b + span.high))
        for size_a, size_b, span in zip(a.shape, b.shape, (rows, columns), strict=True)
    ]
    spectrum = cv2.mulSpectrums(
        _spectrum(a, shape, first), _spectrum(b, shape, (0, 0)), 0, conjB=True
    )
    down, across = (span.high - span.low + 1 for span in (rows, columns))
    # Half of scipy's time, as rows of nothing but zeros and rows that nobody wants are left out.
    flags = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
    circular = cv2.dft(spectrum, dst=spectrum, flags=flags, nonzeroRows=down)
    return np.ascontiguousarray(circular[:down, :across], dtype=np.float32)


def _spectrum(
    image: NDArray[np.float32], shape: list[int], corner: tuple[int, int]
) -> NDArray[np.float32]:
    """Transform an image with zeros round it."""
    bottom, right = corner[0] + image.shape[0], corner[1] + image.shape[1]
    padded = np.zeros(shape, np.float32)
    padded[corner[0] : bottom, corner[1] : right] = image
    return np.asarray(cv2.dft(padded, dst=padded, nonzeroRows=bottom), dtype=np.float32)


@njit(nogil=True, cache=True)
def _normalise(products, energies, first):  # type: ignore[no-untyped-def]
    """Turn products into correlations times the root of the overlap's area.

    By chance alone these have one spread whatever the overlap, so that small overlaps, where large
    correlations come easily, have no advantage. Energies are integral images of the squares.
    """
    in_a, in_b = energies
    rows_a, columns_a = in_a.shape[0] - 1, in_a.shape[1] - 1
    rows_b, columns_b = in_b.shape[0] - 1, in_b.shape[1] - 1
    for i in range(products.shape[0]):
        drow = first[0] + i
        r0, r1 = max(0, drow), min(rows_a, drow + rows_b)
        for j in range(products.shape[1]):
            dcol = first[1] + j
            c0, c1 = max(0, dcol), min(columns_a, dcol + columns_b)
            height, width = r1 - r0, c1 - c0
            value = np.float32(0)
            if min(height, width) >= LEAST_SIDE and height * width >= LEAST_AREA:
                sum_a = in_a[r1, c1] - in_a[r0, c1] - in_a[r1, c0] + in_a[r0, c0]
                s0, s1, d0, d1 = r0 - drow, r1 - drow, c0 - dcol, c1 - dcol
                sum_b = in_b[s1, d1] - in_b[s0, d1] - in_b[s1, d0] + in_b[s0, d0]
                if sum_a > 0 and sum_b > 0:
                    value = products[i, j] * np.sqrt(height * width / (sum_a * sum_b))
            products[i, j] = value


def _seen(tile: MatchTile, rows: slice, columns: slice) -> NDArray[np.float32]:
    """Return 1 where a part of a reduced tile holds signal, and 0 elsewhere."""
    if tile.mask is None:
        return np.ones((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    return (~tile.mask[rows, columns]).astype(np.float32)


def _normalise_seen(
    products: NDArray[np.float32],
    energies: tuple[NDArray[np.float32], NDArray[np.float32]],
    areas: NDArray[np.float32],
) -> None:
    """Do as `_normalise`, by the energies of what both tiles see, and how much that is."""
    # By Fourier transforms: what is 0 comes out as a rounding error, of either sign.
    energy = np.sqrt(np.maximum(energies[0], 1.0) * np.maximum(energies[1], 1.0))
    products *= np.sqrt(np.maximum(areas, 1.0)) / energy
    products[areas < LEAST_AREA] = 0


def _blank(heights: NDArray[np.float32], place: tuple[int, int], radius: int) -> None:
    """Set what lies near a place to 0."""
    rows, columns = (slice(max(0, at - radius), max(0, at + radius + 1)) for at in place)
    heights[rows, columns] = 0


def _parabola(values: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """Find a maximum between pixels, by a parabola along each axis; 0 at a border."""
    shifts = []
    for line, at in ((values[:, column], row), (values[row], column)):
        shift = 0.0
        if 0 < at < len(line) - 1:
            before, here, after = line[at - 1 : at + 2].tolist()
            bend = before - 2 * here + after
            shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
        shifts.append(min(max(shift, -0.5), 0.5))
    return shifts[0], shifts[1]
