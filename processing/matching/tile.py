"""What matching keeps of a tile: its pixels in 256 levels, and a reduced, band-passed copy.

Made once for all neighbours, and small enough that the edges of a whole row of tiles can wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.masks import check_mask, find_mask, reduce_mask
from processing.matching.lines import FLAT, Lines, find_lines, spread_windows, take_out
from processing.statistics import quantiles

Side = Literal["top", "bottom", "left", "right"]
Mask = NDArray[np.bool_] | Literal["find"] | None
Part = tuple[slice, slice]

LEAST_TILE = 64  # px
# How far beyond the greatest offset a match looks, to tell "out of range" from wrong, in px.
MARGIN = 8
REDUCTIONS = ((2048, 8), (1024, 4), (512, 2))  # (least side of a tile in px, reduction)
# The band that is kept, as standard deviations of two Gaussians, in reduced px. Two boxes of
# BAND_BOX are near to the wider one and cost a tenth.
BAND_FINE, BAND_WIDE, BAND_BOX = 0.8, 4.0, 9
CLIP = 3.0  # values beyond so many standard deviations are cut, so that debris cannot rule
SAMPLE = 8192  # about so many pixels set the levels
LINE_WINDOWS = 3  # along a side of a tile, by which lines are found that repeat
# Standard deviations of the kernels that take them out, in px and in reduced px. A short one also
# takes what is near a line, but makes nothing differ between two tiles where their borders lie.
NOTCH, NOTCH_REDUCED = 3.0, 6.0


@dataclass(frozen=True, eq=False)
class MatchTile:
    """A tile, or a part of it, as matching sees it.

    Attributes
    ----------
    shape : (int, int)
        (height, width) of the whole tile, in px.
    reduction : int
        How many px make a reduced px.
    fine : ndarray of uint8, shape (height, width) of the part
        The tile in 256 grey levels.
    coarse : ndarray of float32, shape of the part over the reduction
        The tile reduced and band-passed, with a standard deviation near 1.
    top, left : int
        Where the part begins in the tile, in px; multiples of `reduction`.
    mask : ndarray of bool, shape of `coarse`, or None
        True where a reduced pixel holds no signal, wholly or in part; None: all do.
    lines : Lines or None
        What repeats in the tile; None: nothing.
    """

    shape: tuple[int, int]
    reduction: int
    fine: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    top: int = 0
    left: int = 0
    mask: NDArray[np.bool_] | None = None
    lines: Lines | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes of memory it holds."""
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
            A copy that matches as the whole tile does, within that width.
        """
        step = self.reduction
        rows, columns = _edge(self.fine.shape, side, width, step)
        reduced = _over(rows, step), _over(columns, step)
        return replace(
            self,
            fine=self.fine[rows, columns].copy(),
            coarse=self.coarse[reduced].copy(),
            mask=None if self.mask is None else self.mask[reduced].copy(),
            top=self.top + rows.start,
            left=self.left + columns.start,
        )


def prepare(tile: NDArray[np.unsignedinteger], mask: Mask = "find") -> MatchTile:
    """Make what `match` needs of a tile, once for all its neighbours.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected pixels, 64 × 64 at least.
    mask : ndarray of bool, shape (height, width), "find", or None
        True where there is no signal; None: there is everywhere. By default, see `find_mask`.

    Returns
    -------
    MatchTile

    Raises
    ------
    TypeError
        If `tile` is not uint8 or uint16, or `mask` not bool.
    ValueError
        If it is not two-dimensional or too small, or the mask is of another shape or leaves
        nothing.
    """
    mask = _check(tile, mask)
    whole = slice(0, tile.shape[0]), slice(0, tile.shape[1])
    return _prepare(tile, mask, [whole])[0]


def prepare_edges(
    tile: NDArray[np.unsignedinteger], widths: Mapping[Side, float], mask: Mask = "find"
) -> dict[Side, MatchTile]:
    """Make what `match` needs of those edges of a tile that have a neighbour.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected pixels, 64 × 64 at least.
    widths : mapping of {"top", "bottom", "left", "right"} to float
        How much to keep on each side, in px: the nominal overlap and the greatest offset.
    mask : ndarray of bool, shape (height, width), "find", or None
        As in `prepare`.

    Returns
    -------
    dict of {"top", "bottom", "left", "right"} to MatchTile
        Each matches as the whole tile does, within its width.

    Raises
    ------
    TypeError, ValueError
        As `prepare`.
    """
    mask = _check(tile, mask)
    step = _reduction(tile.shape)
    parts = [_edge(tile.shape, side, width, step) for side, width in widths.items()]
    return dict(zip(widths, _prepare(tile, mask, parts), strict=True))


def overlap_box(
    a: MatchTile, b: MatchTile, offset: Sequence[int] | NDArray[np.int64]
) -> tuple[int, int, int, int]:
    """Give (top, bottom, left, right) of what two tiles, or parts, share, in px of a's `fine`.

    Parameters
    ----------
    a, b : MatchTile
    offset : sequence of int, length 2
        Position of b's first pixel minus that of a's, whole tiles meant, in px.

    Returns
    -------
    (int, int, int, int)
        Of no height or width if there is no overlap.
    """
    box: list[int] = []
    for axis in (0, 1):
        begin_a, begin_b = (a.top, a.left)[axis], (b.top, b.left)[axis] + int(offset[axis])
        begin = max(begin_a, begin_b)
        end = min(begin_a + a.fine.shape[axis], begin_b + b.fine.shape[axis])
        box += [begin - begin_a, max(begin, end) - begin_a]
    return box[0], box[1], box[2], box[3]


def overlap(
    a: MatchTile, b: MatchTile, offset: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give what two tiles, or parts, show of their overlap: views of one shape.

    Parameters
    ----------
    a, b : MatchTile
    offset : sequence of int, length 2
        As in `overlap_box`.
    """
    top, bottom, left, right = overlap_box(a, b, offset)
    down, across = a.top - b.top - int(offset[0]), a.left - b.left - int(offset[1])
    return (
        a.fine[top:bottom, left:right],
        b.fine[top + down : bottom + down, left + across : right + across],
    )


def without_lines(a: MatchTile, b: MatchTile) -> tuple[MatchTile, MatchTile]:
    """Take what repeats in either of two tiles out of both, so that it makes no difference.

    Parameters
    ----------
    a, b : MatchTile

    Returns
    -------
    (MatchTile, MatchTile)
        The two as they are, if nothing repeats.
    """
    found = [tile.lines for tile in (a, b) if tile.lines is not None]
    if not found:
        return a, b
    both = Lines(*map(np.concatenate, zip(*found, strict=True)))
    return _take_out(a, both), _take_out(b, both)


def _check(tile: NDArray[np.unsignedinteger], mask: Mask) -> NDArray[np.bool_] | None:
    """Refuse what is no tile or no mask of it; give the mask."""
    if tile.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"tile is {tile.dtype}; it must be uint8 or uint16")
    if tile.ndim != 2 or min(tile.shape) < LEAST_TILE:
        raise ValueError(
            f"tile has shape {tile.shape}; it must be (height, width), "
            f"{LEAST_TILE} × {LEAST_TILE} px or more"
        )
    if isinstance(mask, str):
        return find_mask(tile)
    return None if mask is None else check_mask(mask, tile.shape)


def _reduction(shape: tuple[int, ...]) -> int:
    return next((step for least, step in REDUCTIONS if max(shape) >= least), 1)


def _edge(shape: tuple[int, ...], side: Side, width: float, step: int) -> tuple[slice, slice]:
    """Give the rows and columns of an edge, beginning at multiples of a step."""
    height, across = shape
    keep = -(-int(width + MARGIN) // step) * step
    rows, columns = slice(0, height), slice(0, across)
    if side == "top":
        rows = slice(0, min(height, keep))
    elif side == "bottom":
        rows = slice(max(0, height - keep) // step * step, height)
    elif side == "left":
        columns = slice(0, min(across, keep))
    else:
        columns = slice(max(0, across - keep) // step * step, across)
    return rows, columns


def _over(part: slice, step: int) -> slice:
    return slice(part.start // step, -(-part.stop // step))


def _levels(
    tile: NDArray[np.unsignedinteger], mask: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """Give the lowest grey level that is kept, and how many of the 256 levels one count makes."""
    stride = max(1, tile.size // SAMPLE)
    # Without a common divisor with the width, the sample favours no column.
    while gcd(stride, tile.shape[1]) > 1:
        stride += 1
    sample = tile.ravel()[::stride]
    if mask is not None and not (lost := mask.ravel()[::stride]).all():
        sample = sample[~lost]
    low, high = quantiles(sample, (0.005, 0.995))
    # Room for what the sample did not see; beyond it pixels are hot, dead or opaque.
    margin = max((high - low) / 4, 1.0)
    return low - margin, 255 / (high - low + 2 * margin)


def _prepare(
    tile: NDArray[np.unsignedinteger], mask: NDArray[np.bool_] | None, parts: Sequence[Part]
) -> list[MatchTile]:
    """Make what matching keeps of parts of a tile, and find what repeats in it."""
    if not parts:
        return []
    levels = np.array(_levels(tile, mask), np.float32)
    tile = np.ascontiguousarray(tile)
    made = [_quantised(tile, mask, part, levels) for part in parts]
    lines = _lines(tile, mask, made)
    return made if lines is None else [replace(part, lines=lines) for part in made]


def _quantised(
    tile: NDArray[np.unsignedinteger],
    mask: NDArray[np.bool_] | None,
    part: Part,
    levels: NDArray[np.float32],
) -> MatchTile:
    """Make what matching keeps of a part of a tile."""
    step = _reduction(tile.shape)
    top, left = part[0].start, part[1].start
    sides = part[0].stop - top, part[1].stop - left
    fine = np.empty(sides, np.uint8)
    reduced = np.empty([side // step for side in sides], np.float32)
    _quantise(tile, (top, left, step), levels, fine, reduced)
    lost = None
    if mask is not None and mask[part].any():
        lost = reduce_mask(mask[part], step)
        _fill(fine, reduced, mask[part], lost)
    return MatchTile(
        shape=(tile.shape[0], tile.shape[1]),
        reduction=step,
        fine=fine,
        coarse=_band(reduced, lost),
        top=top,
        left=left,
        mask=lost,
    )


def _lines(
    tile: NDArray[np.unsignedinteger], mask: NDArray[np.bool_] | None, parts: Sequence[MatchTile]
) -> Lines | None:
    """Find the lines in the spectra of a tile and of the reduced one."""
    fine = np.empty((0, 2))
    if parts[0].reduction > 1:
        windows = spread_windows(tile, LINE_WINDOWS)
        if mask is not None:
            windows = windows[~spread_windows(mask, LINE_WINDOWS).any(axis=(1, 2))]
        if len(windows):
            fine = find_lines(windows, FLAT)
    coarse = [find_lines(spread_windows(part.coarse, LINE_WINDOWS)) for part in parts]
    lines = Lines(fine, np.concatenate(coarse))
    return lines if len(lines.fine) or len(lines.coarse) else None


def _take_out(part: MatchTile, lines: Lines) -> MatchTile:
    """Take lines out of a part of a tile."""
    step = part.reduction
    pixels = take_out(part.fine, np.concatenate([lines.fine, lines.coarse / step]), NOTCH)
    height, width = (side // step for side in part.fine.shape)
    whole = part.fine[: height * step, : width * step].astype(np.float32)
    reduced = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return replace(
        part,
        fine=np.clip(pixels + 0.5, 0, 255).astype(np.uint8),
        coarse=_band(take_out(reduced, lines.coarse, NOTCH_REDUCED), part.mask),
    )


def _fill(
    fine: NDArray[np.uint8],
    reduced: NDArray[np.float32],
    mask: NDArray[np.bool_],
    lost: NDArray[np.bool_],
) -> None:
    """Put what lies round a mask into it, blurred, so that its edge is none."""
    seen = (~lost).astype(np.float32)
    share = cv2.GaussianBlur(seen, (0, 0), BAND_WIDE)
    around = cv2.GaussianBlur(reduced * seen, (0, 0), BAND_WIDE)
    far = share < 0.01  # than this no weight is told from rounding
    level = float((reduced * seen).sum() / max(seen.sum(), 1))
    around = np.where(far, level, around / np.maximum(share, 0.01)).astype(np.float32)
    np.copyto(reduced, around, where=lost)
    blurred = cv2.resize(around, fine.shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.copyto(fine, blurred.astype(np.uint8), where=mask)


def _band(reduced: NDArray[np.float32], lost: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Keep a band of frequencies, and bring its contrast to 1; 0 where there is no signal."""
    band = cv2.GaussianBlur(reduced, (0, 0), BAND_FINE)
    wide = cv2.blur(cv2.blur(reduced, (BAND_BOX, BAND_BOX)), (BAND_BOX, BAND_BOX))
    cv2.subtract(band, wide, dst=band)
    seen = None if lost is None else (~lost).view(np.uint8)
    spread = max(float(cv2.meanStdDev(band, mask=seen)[1].item()), 1e-6)
    band = np.clip(band, -CLIP * spread, CLIP * spread) / np.float32(spread)
    if lost is not None:
        band[lost] = 0
    return band


@njit(nogil=True, cache=True, fastmath=True)
def _quantise(tile, place, levels, fine, reduced):  # type: ignore[no-untyped-def]
    """Scale a part of a tile to 256 levels, and average blocks of them, in one pass."""
    first, left, step = place
    low, scale = levels
    rows, columns = fine.shape
    half, zero, top = np.float32(0.5), np.float32(0), np.float32(255)
    share = np.float32(1 / step**2)
    sums = np.zeros(columns, np.uint16)
    for r in range(rows):
        # Slices, so that the inner loops have no index to check and use vectors.
        line, out = tile[first + r, left : left + columns], fine[r]
        for c in range(len(out)):
            value = (np.float32(line[c]) - low) * scale + half
            out[c] = np.uint8(np.int32(min(max(value, zero), top)))
        for c in range(len(out)):
            sums[c] += out[c]
        if (r + 1) % step == 0:
            means = reduced[r // step]
            for j in range(len(means)):
                total = np.uint32(0)
                for c in range(j * step, (j + 1) * step):
                    total += sums[c]
                means[j] = np.float32(total) * share
            sums[:] = 0
