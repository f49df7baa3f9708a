"""Match neighbouring tiles: how far one lies from the other, how surely, or why that is unknown.

A wrong offset that is believed spoils a mosaic; one that is missing does not. So every match must
stand out from all other offsets, and be borne out by several patches on their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

Side = Literal["top", "bottom", "left", "right"]
Reason = Literal["", "no texture", "ambiguous", "low correlation", "out of range"]

MAX_OFFSET = 255.0  # px
MARGIN = 8  # how far beyond the greatest offset is looked, to tell "out of range" from wrong, in px

# The coarse step, in reduced px.
COARSE_FINE, COARSE_WIDE = 0.8, 4.0  # the band: standard deviations of the two Gaussians
COARSE_CLIP = 3.0  # values beyond so many standard deviations are cut, so that debris cannot rule
LEAST_SIDE = 4  # the thinnest overlap that is looked at
LEAST_AREA = 256  # and the smallest
PEAK_RADIUS = 5  # a peak nearer than this is the same peak
LEAST_PEAK = 6.5  # standard deviations above chance that a peak must stand
MAX_RIVAL = 0.8  # height of the next peak, relative, from which on a match is ambiguous

# The fine step, in px.
FINE_SIGMA = 1.0  # smoothing, which is near to the optimal filter at the noise of a short exposure
FINE_BOX = 33  # the side of the box whose mean is taken off
REACH = 3  # lags to either side of the best place so far
RECENTRES = 4  # how often the lags may be moved to follow the best place
PATCH = 256  # the largest side of a patch
PATCHES = 16  # the most patches
AGREE = 1.5  # how near a patch must lie to the whole overlap's offset to bear it out
LEAST_AGREEING = 0.5  # the share of the patches, by weight, that must
LEAST_CORRELATION = 0.05
LEAST_TEXTURE = 1.5  # variance in the band relative to that of white noise


@dataclass(frozen=True, eq=False)
class MatchTile:
    """What matching keeps of a tile, or of a part of it: about a third of the tile's bytes or less.

    Attributes
    ----------
    shape : (int, int)
        (height, width) of the whole tile, in px.
    reduction : int
        How many px make a reduced px.
    fine : ndarray of uint8, shape (height, width) of the part
        The tile in 256 grey levels.
    coarse : ndarray of float32
        The tile reduced and band-passed, with a standard deviation near 1.
    top, left : int
        Where the part begins in the tile, in px; multiples of `reduction`.
    """

    shape: tuple[int, int]
    reduction: int
    fine: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    top: int = 0
    left: int = 0

    @property
    def nbytes(self) -> int:
        """How many bytes it holds."""
        return self.fine.nbytes + self.coarse.nbytes

    def edge(self, side: Side, width: float) -> MatchTile:
        """Keep one edge only: all that a match with the neighbour on that side looks at.

        Parameters
        ----------
        side : {"top", "bottom", "left", "right"}
        width : float
            How much to keep, in px: the nominal overlap and the greatest offset.

        Returns
        -------
        MatchTile
            It matches as the whole tile does, within that width.
        """
        step = self.reduction
        height, full_width = self.fine.shape
        keep = -(-int(width + MARGIN) // step) * step
        top = max(0, (height - keep) // step * step) if side == "bottom" else 0
        left = max(0, (full_width - keep) // step * step) if side == "right" else 0
        bottom = min(height, keep) if side == "top" else height
        right = min(full_width, keep) if side == "left" else full_width
        return replace(
            self,
            fine=self.fine[top:bottom, left:right].copy(),
            coarse=self.coarse[
                top // step : -(-bottom // step), left // step : -(-right // step)
            ].copy(),
            top=self.top + top,
            left=self.left + left,
        )


@dataclass(frozen=True)
class Match:
    """The offset between two tiles.

    Attributes
    ----------
    drow, dcol : float
        Position of b's first pixel minus that of a's, in px; the best guess if it is not good.
    sd : float
        Standard deviation of each of the two, in px; infinite if it is not good.
    quality : float
        0 to 1: how far the best place stands above the next best, times the share of the patches
        that bear it out. 0 is no better than another place; 1 is beyond doubt.
    good : bool
        Whether to believe it.
    reason : {"", "no texture", "ambiguous", "low correlation", "out of range"}
        Why not.
    correlation : float
        Correlation of the two tiles in their overlap at full resolution, −1 to 1.
    patches : int
        How many patches bear it out.
    """

    drow: float
    dcol: float
    sd: float
    quality: float
    good: bool
    reason: Reason
    correlation: float
    patches: int


def prepare(tile: NDArray[np.unsignedinteger]) -> MatchTile:
    """Make what `match` needs of a tile, once for all its neighbours.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected pixels, 64 × 64 at least.

    Returns
    -------
    MatchTile

    Raises
    ------
    TypeError
        If `tile` is not uint8 or uint16.
    ValueError
        If it is not two-dimensional or too small.
    """
    if tile.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"tile is {tile.dtype}; it must be uint8 or uint16")
    if tile.ndim != 2 or min(tile.shape) < 64:
        raise ValueError(
            f"tile has shape {tile.shape}; it must be two-dimensional, 64 × 64 or more"
        )
    reduction = _reduction(max(tile.shape))
    # Every 61st pixel of the flat tile is a fair sample: no row or column is favoured.
    low, high = np.percentile(tile.ravel()[::61], (0.5, 99.5))
    margin = max((high - low) / 4, 1.0)
    scale = 255 / (high - low + 2 * margin)
    fine = np.empty(tile.shape, np.uint8)
    reduced = np.empty([side // reduction for side in tile.shape], np.float32)
    _quantise(
        np.ascontiguousarray(tile), np.float32(low - margin), np.float32(scale), fine, reduced
    )
    band = cv2.GaussianBlur(reduced, (0, 0), COARSE_FINE)
    band -= cv2.GaussianBlur(reduced, (0, 0), COARSE_WIDE)
    spread = max(float(band.std()), 1e-6)
    limit = COARSE_CLIP * spread
    coarse = np.clip(band, -limit, limit) / np.float32(spread)
    return MatchTile((tile.shape[0], tile.shape[1]), reduction, fine, coarse)


def match(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], max_offset: float = MAX_OFFSET
) -> Match:
    """Find where tile b lies relative to tile a.

    First the correlation of the reduced tiles, normalised over the overlap that each offset leaves
    (as masked normalised correlation: D. Padfield, IEEE Trans. Image Processing 21, 2012), so that
    there is neither wrap-around nor a bias to large overlaps; then the least sum of squared
    differences of several patches at full resolution, to a fraction of a pixel.

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
            f"nominal is {nominal} and max_offset {max_offset} px; they must be finite numbers"
        )
    peak = _coarse_peak(a, b, nominal, max_offset + MARGIN)
    if peak is None:
        return _bad(nominal, "out of range")
    place = peak.drow, peak.dcol
    if peak.height < LEAST_PEAK:
        textured = min(_texture(a, b, place)) > LEAST_TEXTURE
        return _bad(place, "low correlation" if textured else "no texture")
    rivalry = peak.rival / peak.height
    if rivalry > MAX_RIVAL:
        return _bad(place, "ambiguous")
    found = _refine(a, b, place)
    if found is None or found.agreeing < LEAST_AGREEING or found.correlation < LEAST_CORRELATION:
        return _bad(place, "low correlation")
    if max(abs(found.drow - nominal[0]), abs(found.dcol - nominal[1])) > max_offset:
        return _bad((found.drow, found.dcol), "out of range")
    return Match(
        drow=found.drow,
        dcol=found.dcol,
        sd=found.sd,
        quality=float(np.clip((1 - rivalry) * found.agreeing, 0, 1)),
        good=True,
        reason="",
        correlation=found.correlation,
        patches=found.patches,
    )


def _bad(place: tuple[float, float], reason: Reason) -> Match:
    """Make a match that is not to be believed."""
    return Match(float(place[0]), float(place[1]), float("inf"), 0.0, False, reason, 0.0, 0)


def _reduction(side: int) -> int:
    """Choose the reduction that leaves a tile a few hundred reduced px a side."""
    for least, reduction in ((3072, 8), (1024, 4), (512, 2)):
        if side >= least:
            return reduction
    return 1


@njit(nogil=True, cache=True, fastmath=True)
def _quantise(tile, low, scale, fine, reduced):  # type: ignore[no-untyped-def]
    """Scale to 256 levels, and average blocks of pixels."""
    rows, columns = tile.shape
    step = rows // reduced.shape[0]
    half, zero, top = np.float32(0.5), np.float32(0), np.float32(255)
    for r in range(rows):
        for c in range(columns):
            value = (np.float32(tile[r, c]) - low) * scale + half
            fine[r, c] = np.uint8(min(max(value, zero), top))
    share = np.float32(1 / step**2)
    for i in range(reduced.shape[0]):
        for j in range(reduced.shape[1]):
            total = np.uint32(0)
            for r in range(i * step, (i + 1) * step):
                for c in range(j * step, (j + 1) * step):
                    total += fine[r, c]
            reduced[i, j] = np.float32(total) * share


# --- the coarse step


@dataclass(frozen=True)
class _Peak:
    """The best offset in px, and heights of its peak and the next in units of chance."""

    drow: float
    dcol: float
    height: float
    rival: float


def _coarse_peak(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], reach: float
) -> _Peak | None:
    """Find the offset where the reduced tiles agree best; None if they cannot overlap."""
    step = a.reduction
    parts = []
    for axis in (0, 1):
        size_a, size_b = a.coarse.shape[axis], b.coarse.shape[axis]
        # Offset of the parts' first pixels, in reduced px.
        middle = (nominal[axis] + (b.top, b.left)[axis] - (a.top, a.left)[axis]) / step
        low, high = int(np.floor(middle - reach / step)), int(np.ceil(middle + reach / step))
        low, high = max(low, LEAST_SIDE - size_b), min(high, size_a - LEAST_SIDE)
        if low > high:
            return None
        # Only what any of the offsets can make overlap.
        begin_a, end_a = max(0, low), min(size_a, high + size_b)
        begin_b, end_b = max(0, -high), min(size_b, size_a - low)
        shift = begin_b - begin_a
        parts.append((begin_a, end_a, begin_b, end_b, low + shift, high + shift, shift))
    (ra0, ra1, rb0, rb1, row_low, row_high, row_shift) = parts[0]
    (ca0, ca1, cb0, cb1, column_low, column_high, column_shift) = parts[1]
    part_a = np.ascontiguousarray(a.coarse[ra0:ra1, ca0:ca1])
    part_b = np.ascontiguousarray(b.coarse[rb0:rb1, cb0:cb1])

    products = _products(part_a, part_b, (row_low, row_high), (column_low, column_high))
    heights = np.empty_like(products)
    _normalise(
        products, cv2.integral(part_a**2), cv2.integral(part_b**2), row_low, column_low, heights
    )
    row, column = divmod(int(heights.argmax()), heights.shape[1])
    height = float(heights[row, column])
    dy, dx = _parabola(heights, row, column)
    heights[
        max(0, row - PEAK_RADIUS) : row + PEAK_RADIUS + 1,
        max(0, column - PEAK_RADIUS) : column + PEAK_RADIUS + 1,
    ] = 0
    chance = float(np.sqrt(np.square(heights).sum() / max(np.count_nonzero(heights), 1)))
    if height <= 0 or chance <= 0:
        return (
            None
            if chance <= 0 and height <= 0 and not heights.size
            else _Peak(nominal[0], nominal[1], 0.0, 0.0)
        )
    return _Peak(
        (row + row_low - row_shift + dy) * step + a.top - b.top,
        (column + column_low - column_shift + dx) * step + a.left - b.left,
        height / chance,
        float(heights.max()) / chance,
    )


def _products(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    row_lags: tuple[int, int],
    column_lags: tuple[int, int],
) -> NDArray[np.float32]:
    """Sum ``a[x + lag] · b[x]`` over the overlap, for every lag in the two ranges."""
    # Long enough that no lag that is asked for is reached by wrapping round.
    shape = tuple(
        scipy.fft.next_fast_len(
            max(size_a - low, size_b + high, high - low + 1, size_a, size_b), real=True
        )
        for size_a, size_b, (low, high) in zip(
            a.shape, b.shape, (row_lags, column_lags), strict=True
        )
    )
    spectrum = scipy.fft.rfft2(a, shape)
    spectrum *= scipy.fft.rfft2(b, shape).conj()
    circular = scipy.fft.irfft2(spectrum, shape)
    rows = np.arange(row_lags[0], row_lags[1] + 1) % shape[0]
    columns = np.arange(column_lags[0], column_lags[1] + 1) % shape[1]
    return np.ascontiguousarray(circular[np.ix_(rows, columns)], dtype=np.float32)


@njit(nogil=True, cache=True)
def _normalise(products, energy_a, energy_b, row_low, column_low, heights):  # type: ignore[no-untyped-def]
    """Turn products into correlations times the root of the overlap's area.

    By chance alone these have one spread whatever the overlap, so that small overlaps, where large
    correlations come easily, have no advantage.
    """
    rows_a, columns_a = energy_a.shape[0] - 1, energy_a.shape[1] - 1
    rows_b, columns_b = energy_b.shape[0] - 1, energy_b.shape[1] - 1
    for i in range(products.shape[0]):
        drow = row_low + i
        r0, r1 = max(0, drow), min(rows_a, drow + rows_b)
        for j in range(products.shape[1]):
            dcol = column_low + j
            c0, c1 = max(0, dcol), min(columns_a, dcol + columns_b)
            heights[i, j] = 0
            area = (r1 - r0) * (c1 - c0)
            if min(r1 - r0, c1 - c0) < LEAST_SIDE or area < LEAST_AREA:
                continue
            in_a = energy_a[r1, c1] - energy_a[r0, c1] - energy_a[r1, c0] + energy_a[r0, c0]
            s0, s1, d0, d1 = r0 - drow, r1 - drow, c0 - dcol, c1 - dcol
            in_b = energy_b[s1, d1] - energy_b[s0, d1] - energy_b[s1, d0] + energy_b[s0, d0]
            if in_a > 0 and in_b > 0:
                heights[i, j] = products[i, j] / np.sqrt(in_a * in_b) * np.sqrt(area)


def _parabola(values: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """Find a maximum between pixels, by a parabola along each axis; 0 at a border."""
    shifts = []
    for line, at in ((values[:, column], row), (values[row], column)):
        shift = 0.0
        if 0 < at < len(line) - 1:
            before, here, after = (float(v) for v in line[at - 1 : at + 2])
            bend = before - 2 * here + after
            shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
        shifts.append(min(max(shift, -0.5), 0.5))
    return shifts[0], shifts[1]


def _texture(a: MatchTile, b: MatchTile, place: tuple[float, float]) -> list[float]:
    """Tell how much more the two overlaps vary in the coarse band than white noise would."""
    (a_rows, a_columns), (b_rows, b_columns) = _overlap(a, b, _whole(place), 0)
    return [
        _texture_of(tile.fine[rows, columns], tile.reduction)
        for tile, rows, columns in ((a, a_rows, a_columns), (b, b_rows, b_columns))
    ]


def _texture_of(fine: NDArray[np.uint8], step: int) -> float:
    if min(fine.shape) < 8 * step:
        return 0.0
    # J. Immerkær, Computer Vision and Image Understanding 64, 1996: noise by a mask that answers
    # neither to slopes nor to straight edges.
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    noise = cv2.filter2D(fine, cv2.CV_32F, mask)
    variance = np.pi / 2 * float(np.abs(noise).mean()) ** 2 + 1 / 12
    size = fine.shape[1] // step, fine.shape[0] // step
    reduced = cv2.resize(fine.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    band = reduced - cv2.GaussianBlur(reduced, (0, 0), COARSE_WIDE)
    return float(band.var()) * step**2 / variance


# --- the fine step


@dataclass(frozen=True)
class _Fine:
    """An offset to a fraction of a pixel, and how the patches bear it out."""

    drow: float
    dcol: float
    sd: float
    correlation: float
    agreeing: float
    patches: int


def _whole(place: tuple[float, float]) -> tuple[int, int]:
    return round(place[0]), round(place[1])


def _overlap(
    a: MatchTile, b: MatchTile, offset: tuple[int, int], margin: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Give the overlap within the parts, as slices of a's pixels and of b's."""
    in_a, in_b = [], []
    for axis in (0, 1):
        begin_a, begin_b = (a.top, a.left)[axis], (b.top, b.left)[axis] + offset[axis]
        begin = max(begin_a, begin_b) + margin
        end = min(begin_a + a.fine.shape[axis], begin_b + b.fine.shape[axis]) - margin
        end = max(begin, end)
        in_a.append(slice(begin - begin_a, end - begin_a))
        in_b.append(slice(begin - begin_b, end - begin_b))
    return (in_a[0], in_a[1]), (in_b[0], in_b[1])


def _refine(a: MatchTile, b: MatchTile, place: tuple[float, float]) -> _Fine | None:
    """Measure the offset at full resolution on several patches."""
    offset = _whole(place)
    (rows, columns), (b_rows, b_columns) = _overlap(a, b, offset, 0)
    band_a, band_b = _band(a.fine[rows, columns]), _band(b.fine[b_rows, b_columns])
    margin = REACH * (RECENTRES + 1)
    patches = _patches(band_a.shape, REACH)
    if band_a.size == 0 or not len(patches):
        return None
    del margin
    lag = np.zeros(2, np.int64)
    costs = np.empty((len(patches), 2 * REACH + 1, 2 * REACH + 1), np.float64)
    for _ in range(RECENTRES):
        patches = _patches(band_a.shape, REACH + int(np.abs(lag).max()))
        if not len(patches):
            return None
        costs = np.empty((len(patches), 2 * REACH + 1, 2 * REACH + 1), np.float64)
        _differences(band_a, band_b, patches, lag[0], lag[1], costs)
        total = costs.sum(axis=0)
        best = np.array(divmod(int(total.argmin()), total.shape[1])) - REACH
        if np.abs(best).max() < REACH:
            break
        lag += best
    else:
        return None
    return _combine(band_a, band_b, patches, costs, offset, lag)


def _combine(
    band_a: NDArray[np.float32],
    band_b: NDArray[np.float32],
    patches: NDArray[np.int64],
    costs: NDArray[np.float64],
    offset: tuple[int, int],
    lag: NDArray[np.int64],
) -> _Fine | None:
    whole = _minimum(costs.sum(axis=0))
    if whole is None:
        return None
    places = np.full((len(patches), 2), np.nan)
    weights = np.zeros(len(patches))
    for i, cost in enumerate(costs):
        found = _minimum(cost)
        # How deep the valley is says how much the patch knows, whether it agrees or not.
        weights[i] = float(np.median(cost) - cost.min())
        if found is not None:
            places[i] = found[:2]
    with np.errstate(invalid="ignore"):
        agree = np.hypot(*(places - whole[:2]).T) < AGREE
    if not agree.any() or weights.sum() <= 0:
        return None
    best = _minimum(costs[agree].sum(axis=0))
    if best is None:
        return None
    area = float(np.prod(patches[agree, 1::2] - patches[agree, ::2], axis=1).sum())
    noise = best[2] / area
    theory = float(np.sqrt(2 * noise * 4 * np.pi * FINE_SIGMA**2 / best[3]))
    count = int(agree.sum())
    sd = theory
    if count >= 3:
        share = weights[agree] / weights[agree].sum()
        errors = (places[agree] - best[:2]) * share[:, None]
        sd = max(float(np.sqrt((errors**2).sum() / 2 * count / (count - 1))), theory / 2)
    energy = float(band_a.var() + band_b.var())
    return _Fine(
        drow=offset[0] - (lag[0] + best[0]),
        dcol=offset[1] - (lag[1] + best[1]),
        sd=sd,
        correlation=1 - noise / max(energy, 1e-12),
        agreeing=float(weights[agree].sum() / weights.sum()),
        patches=count,
    )


def _band(fine: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Take off the fine noise and the slow changes, and bring the contrast to 1."""
    image = fine.astype(np.float32)
    if not image.size:
        return image
    band = cv2.GaussianBlur(image, (0, 0), FINE_SIGMA)
    band -= cv2.blur(image, (FINE_BOX, FINE_BOX))
    band /= max(float(cv2.meanStdDev(band)[1].item()), 1e-6)
    return np.ascontiguousarray(band)


def _patches(shape: tuple[int, ...], margin: int) -> NDArray[np.int64]:
    """Divide an overlap into patches [top, bottom, left, right], `margin` from its border."""
    inner = [side - 2 * margin for side in shape]
    if min(inner) < 8:
        return np.empty((0, 4), np.int64)
    side = min(max(min(inner), 64), PATCH)
    counts = [max(1, round(length / side)) for length in inner]
    edges = [
        margin + np.linspace(0, length, count + 1).astype(np.int64)
        for length, count in zip(inner, counts, strict=True)
    ]
    all_patches = np.array(
        [
            (edges[0][i], edges[0][i + 1], edges[1][j], edges[1][j + 1])
            for i in range(counts[0])
            for j in range(counts[1])
        ]
    )
    if len(all_patches) > PATCHES:
        keep = np.linspace(0, len(all_patches) - 1, PATCHES).astype(int)
        return all_patches[keep]
    return all_patches


@njit(nogil=True, cache=True, fastmath=True)
def _differences(a, b, patches, row_lag, column_lag, costs):  # type: ignore[no-untyped-def]
    """Sum ``(a[x] − b[x + lag])²`` over each patch, for every lag about the one that is given."""
    for p in range(len(patches)):
        top, bottom, left, right = patches[p]
        for i in range(costs.shape[1]):
            for j in range(costs.shape[2]):
                down, across = row_lag + i - REACH, column_lag + j - REACH
                total = np.float64(0)
                for r in range(top, bottom):
                    line = np.float32(0)
                    for c in range(left, right):
                        d = a[r, c] - b[r + down, c + across]
                        line += d * d
                    total += line
                costs[p, i, j] = total


def _minimum(cost: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """Find the lag of the least cost, that cost, and the mean curvature; None at the border."""
    i, j = divmod(int(cost.argmin()), cost.shape[1])
    if not (0 < i < cost.shape[0] - 1 and 0 < j < cost.shape[1] - 1):
        return None
    c = cost[i - 1 : i + 2, j - 1 : j + 2]
    gy, gx = (c[2, 1] - c[0, 1]) / 2, (c[1, 2] - c[1, 0]) / 2
    hyy, hxx = c[2, 1] - 2 * c[1, 1] + c[0, 1], c[1, 2] - 2 * c[1, 1] + c[1, 0]
    hxy = (c[2, 2] - c[2, 0] - c[0, 2] + c[0, 0]) / 4
    determinant = hyy * hxx - hxy**2
    if determinant <= 0:
        return None
    dy = -(hxx * gy - hxy * gx) / determinant
    dx = -(hyy * gx - hxy * gy) / determinant
    if max(abs(dy), abs(dx)) > 1:
        return None
    least = c[1, 1] + (gy * dy + gx * dx) / 2
    return i - REACH + dy, j - REACH + dx, float(max(least, 0.0)), float((hyy + hxx) / 2)
