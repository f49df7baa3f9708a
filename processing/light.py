"""How a tile is lit: whether the edge of the beam runs through it, or something stands before it.

Both leave a part dark. What is in the way has a sharp edge; that of the beam is soft. So is a fold
of the section, but it has light on both sides, and beyond the edge of a round beam there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from processing.masks import check_mask
from processing.statistics import quantiles

GRID = 64  # blocks along each side
ROWS_A_BLOCK = 4  # that are read; a mean needs no more
BRIGHT = 80.0  # percentile of the blocks that is taken for fully lit
# The edge of the beam may be softer than a tile is wide; then hardly any of it is fully lit.
BRIGHTEST = 95.0
DARK = 0.25  # of that, below which a block is dark: tissue lets more through
LIT = 0.6  # of that, which must be reached within `REACH` blocks of a sharp edge
REACH = 2
SMOOTH = 9  # blocks along each side of a square whose mean says on which sides light lies
LEAST_BLOCKS = 4  # dark blocks side by side below which they may be a stain
LEAST_SEEN = 0.25  # share of a block that must hold signal, or it is left out


@dataclass(frozen=True)
class Light:
    """The dark parts of a tile, of what a mask leaves of it.

    Attributes
    ----------
    beam_edge : float
        Share of the tile that is dark to one side with a soft edge, 0 to 1: it lies outside the
        beam.
    obstructed : float
        Share of the tile that is dark with a sharp edge, 0 to 1: it lies behind something opaque.
    """

    beam_edge: float
    obstructed: float


def find_light(image: NDArray[np.unsignedinteger], mask: NDArray[np.bool_] | None = None) -> Light:
    """Find the dark parts of a tile, and tell how sharp their edges are.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)
        Flat-field corrected for preference.
    mask : ndarray of bool, shape (height, width), optional
        True where there is no signal: neither dark nor lit.

    Returns
    -------
    Light

    Raises
    ------
    TypeError
        If `mask` is not bool.
    ValueError
        If `image` is smaller than 64 × 64, or `mask` is of another shape or leaves nothing.
    """
    if mask is None:
        blocks, seen = _block_means(image), np.ones((GRID, GRID), np.bool_)
    else:
        blocks, seen = _means_beside(image, check_mask(mask, image.shape))
    beyond = sum(area for area, edge in _dark_parts(blocks, seen, BRIGHTEST) if edge == "beam")
    before = sum(area for area, edge in _dark_parts(blocks, seen, BRIGHT) if edge == "sharp")
    n_seen = max(1, int(seen.sum()))
    return Light(beyond / n_seen, before / n_seen)


def _dark_parts(
    blocks: NDArray[np.float32], seen: NDArray[np.bool_], bright: float
) -> Iterator[tuple[int, Literal["sharp", "beam", "fold"]]]:
    """Find dark parts, with how many blocks each has, and what its edge is like.

    Parameters
    ----------
    blocks : ndarray of float32, shape (64, 64)
    seen : ndarray of bool, shape (64, 64)
        Those that count.
    bright : float
        Percentile of the blocks that is taken for fully lit.
    """
    (full,) = quantiles(blocks, (bright / 100,))
    dark = (blocks < DARK * full).astype(np.uint8)
    if not dark.any():
        return
    near = cv2.dilate(blocks, np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8))
    inner = cv2.erode(
        dark, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1
    )
    lit = cv2.blur(blocks, (SMOOTH, SMOOTH)) > LIT * full
    enclosed = _between(lit, 0) | _between(lit, 1)
    n_parts, parts = cv2.connectedComponents(dark)
    for number in range(1, n_parts):
        part = parts == number
        area = int((part & seen).sum())
        if area >= LEAST_BLOCKS:
            edge = part & (inner == 0)
            if np.mean(near[edge] > LIT * full) > 0.5:
                yield area, "sharp"
            else:
                yield area, "fold" if np.mean(enclosed[part]) > 0.5 else "beam"


def _between(lit: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Tell which blocks have light on both sides along an axis."""
    before = np.logical_or.accumulate(lit, axis)
    after = np.flip(np.logical_or.accumulate(np.flip(lit, axis), axis), axis)
    return before & after


def _means_beside(
    image: NDArray[np.unsignedinteger], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reduce what a mask leaves of an image to blocks; tell which have any of it.

    The others are given what the nearest of these has, so that a mask has no edge.
    """
    whole = 2**15
    shares = _block_means(np.where(mask, 0, whole).astype(np.uint16)) / whole
    seen = shares >= LEAST_SEEN
    if not seen.any():
        return np.zeros_like(shares), seen
    means = _block_means(np.where(mask, 0, image)) / np.maximum(shares, LEAST_SEEN)
    nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
    return means[tuple(nearest)], seen


def _block_means(image: NDArray[np.unsignedinteger]) -> NDArray[np.float32]:
    """Reduce an image to blocks; what is left over at its far sides is not looked at."""
    height, width = (length // GRID for length in image.shape)
    if not (height and width):
        raise ValueError(f"frame has shape {image.shape}; it must be {GRID}² or more")
    rows = image[: GRID * height].reshape(GRID, height, image.shape[1])
    rows = rows[:, :: max(1, height // ROWS_A_BLOCK), : GRID * width]
    lines = rows.reshape(-1, GRID * width)
    return cv2.resize(lines, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
