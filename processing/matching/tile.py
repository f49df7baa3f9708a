"""What matching keeps of a tile: its pixels in 256 levels, and a reduced, band-passed copy.

Made once for all neighbours, and small enough that the edges of a whole row of tiles can wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

Side = Literal["top", "bottom", "left", "right"]

LEAST_TILE = 64  # px
# How far beyond the greatest offset a match looks, to tell "out of range" from wrong, in px.
MARGIN = 8
REDUCTIONS = ((3072, 8), (1024, 4), (512, 2))  # (least side of a tile in px, reduction)
# The band that is kept, as standard deviations of two Gaussians, in reduced px.
BAND_FINE, BAND_WIDE = 0.8, 4.0
CLIP = 3.0  # values beyond so many standard deviations are cut, so that debris cannot rule
SAMPLE = 61  # every so manieth pixel sets the levels; a prime, so that no column is favoured


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
    """

    shape: tuple[int, int]
    reduction: int
    fine: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    top: int = 0
    left: int = 0

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
        height, across = self.fine.shape
        keep = -(-int(width + MARGIN) // step) * step
        top = max(0, (height - keep) // step * step) if side == "bottom" else 0
        left = max(0, (across - keep) // step * step) if side == "right" else 0
        bottom = min(height, keep) if side == "top" else height
        right = min(across, keep) if side == "left" else across
        rows, columns = (
            slice(top // step, -(-bottom // step)),
            slice(left // step, -(-right // step)),
        )
        return replace(
            self,
            fine=self.fine[top:bottom, left:right].copy(),
            coarse=self.coarse[rows, columns].copy(),
            top=self.top + top,
            left=self.left + left,
        )


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
    if tile.ndim != 2 or min(tile.shape) < LEAST_TILE:
        raise ValueError(
            f"tile has shape {tile.shape}; it must be (height, width), "
            f"{LEAST_TILE} × {LEAST_TILE} px or more"
        )
    tile = np.ascontiguousarray(tile)
    reduction = next((step for least, step in REDUCTIONS if max(tile.shape) >= least), 1)
    low, high = np.percentile(tile.ravel()[::SAMPLE], (0.5, 99.5)).tolist()
    # Room for what the sample did not see; beyond it pixels are hot, dead or opaque.
    margin = max((high - low) / 4, 1.0)
    scale = 255 / (high - low + 2 * margin)
    fine = np.empty(tile.shape, np.uint8)
    _quantise(tile, np.float32(low - margin), np.float32(scale), fine)
    return MatchTile(
        (tile.shape[0], tile.shape[1]), reduction, fine, _reduced_band(fine, reduction)
    )


def prepare_edges(
    tile: NDArray[np.unsignedinteger], widths: Mapping[Side, float]
) -> dict[Side, MatchTile]:
    """Make what `match` needs of those edges of a tile that have a neighbour.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected pixels, 64 × 64 at least.
    widths : mapping of {"top", "bottom", "left", "right"} to float
        How much to keep on each side, in px: the nominal overlap and the greatest offset.

    Returns
    -------
    dict of {"top", "bottom", "left", "right"} to MatchTile
        Each matches as the whole tile does, within its width.

    Raises
    ------
    TypeError, ValueError
        As `prepare`.
    """
    whole = prepare(tile)
    return {side: whole.edge(side, width) for side, width in widths.items()}


def overlap(
    a: MatchTile, b: MatchTile, offset: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give what two tiles, or parts, show of their overlap.

    Parameters
    ----------
    a, b : MatchTile
    offset : sequence of int, length 2
        Position of b's first pixel minus that of a's, whole tiles meant, in px.

    Returns
    -------
    (ndarray of uint8, ndarray of uint8)
        Views of a's `fine` and of b's, of one shape; empty if there is no overlap.
    """
    in_a, in_b = [], []
    for axis in (0, 1):
        begin_a, begin_b = (a.top, a.left)[axis], (b.top, b.left)[axis] + int(offset[axis])
        begin = max(begin_a, begin_b)
        end = min(begin_a + a.fine.shape[axis], begin_b + b.fine.shape[axis])
        end = max(begin, end)
        in_a.append(slice(begin - begin_a, end - begin_a))
        in_b.append(slice(begin - begin_b, end - begin_b))
    return a.fine[in_a[0], in_a[1]], b.fine[in_b[0], in_b[1]]


def _reduced_band(fine: NDArray[np.uint8], reduction: int) -> NDArray[np.float32]:
    """Reduce an image, keep a band of frequencies, and bring its contrast to 1."""
    reduced = np.empty([side // reduction for side in fine.shape], np.float32)
    _block_means(fine, reduction, reduced)
    band = cv2.GaussianBlur(reduced, (0, 0), BAND_FINE)
    cv2.subtract(band, cv2.GaussianBlur(reduced, (0, 0), BAND_WIDE), dst=band)
    spread = max(float(band.std()), 1e-6)
    return np.clip(band, -CLIP * spread, CLIP * spread) / np.float32(spread)


@njit(nogil=True, cache=True, fastmath=True)
def _quantise(tile, low, scale, fine):  # type: ignore[no-untyped-def]
    """Scale to 256 levels."""
    rows, columns = tile.shape
    half, zero, top = np.float32(0.5), np.float32(0), np.float32(255)
    for r in range(rows):
        for c in range(columns):
            value = (np.float32(tile[r, c]) - low) * scale + half
            fine[r, c] = np.uint8(min(max(value, zero), top))


@njit(nogil=True, cache=True, fastmath=True)
def _block_means(image, side, means):  # type: ignore[no-untyped-def]
    """Average blocks of pixels."""
    share = np.float32(1 / side**2)
    for i in range(means.shape[0]):
        for j in range(means.shape[1]):
            total = np.uint32(0)
            for r in range(i * side, (i + 1) * side):
                for c in range(j * side, (j + 1) * side):
                    total += image[r, c]
            means[i, j] = np.float32(total) * share
