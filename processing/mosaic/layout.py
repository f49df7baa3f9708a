"""Where tiles lie in a mosaic, and the blocks that it is made in.

Whole pixels where tiles are straight; where they are turned or bent, the boxes that hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 4096  # side of a block, in px: a power of two, so that blocks meet on every level

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tiles lie in a mosaic.

    Positions are rounded to whole pixels: a seam is then off by half a pixel at most, while
    interpolation would blur the finest detail and make the noise uneven over each tile.

    Attributes
    ----------
    corners : ndarray of int64, shape (n, 2)
        (row, column) of each tile's first pixel in the mosaic.
    tile_shape : (int, int)
        (height, width) of a tile, in px.
    shape : (int, int)
        (height, width) of the mosaic, in px: the box round all tiles.
    origin : (int, int)
        What was taken from the rounded solved positions to give `corners`, in px.
    """

    corners: NDArray[np.int64]
    tile_shape: tuple[int, int]
    shape: tuple[int, int]
    origin: tuple[int, int]

    def touching(self, window: Window) -> NDArray[np.intp]:
        """Give the indices of the tiles that lie in a window of the mosaic, in rising order."""
        first, last = self.overlap(window)
        return np.flatnonzero((first < last).all(axis=1))

    def only(self, indices: ArrayLike) -> Layout:
        """Give the same mosaic with some of its tiles alone, which are counted anew."""
        return replace(self, corners=self.corners[np.asarray(indices, dtype=np.intp)])

    def overlap(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the first (row, column) of each tile in a window, and that after the last."""
        begin, end = ([side.start for side in window], [side.stop for side in window])
        return (
            np.maximum(self.corners, begin),
            np.minimum(self.corners + self.tile_shape, end),
        )


def plan_mosaic(positions: ArrayLike, tile_shape: tuple[int, int]) -> Layout:
    """Lay tiles out in the smallest mosaic that holds them all.

    Parameters
    ----------
    positions : array_like, shape (n, 2)
        Solved (row, column) of each tile's first pixel, in px.
    tile_shape : (int, int)
        (height, width) of a tile, in px.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If there is no tile, or a position is not finite.
    """
    places = np.asarray(positions, dtype=float)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ValueError(f"positions has shape {places.shape}; it must be (n, 2), n at least 1")
    if not np.isfinite(places).all():
        raise ValueError("positions holds a number that is not finite")
    # floor(x + 0.5), since numpy rounds halves to even: tiles 0.5 px off would jump to and fro.
    rounded = np.floor(places + 0.5).astype(np.int64)
    origin = rounded.min(axis=0)
    corners = rounded - origin
    rows, columns = (corners.max(axis=0) + tile_shape).tolist()
    height, width = tile_shape
    return Layout(corners, (height, width), (rows, columns), (int(origin[0]), int(origin[1])))


def blocks(shape: tuple[int, int], side: int = BLOCK) -> tuple[Window, ...]:
    """Divide an image into square blocks, in rows to and fro: each shares tiles with the last.

    Parameters
    ----------
    shape : (int, int)
        (height, width) of the image, in px.
    side : int
        Of a block, in px; those at the lower and right edge are smaller.

    Returns
    -------
    tuple of (slice, slice)
        Rows and columns of each block.
    """
    rows, columns = (
        [slice(start, min(start + side, end)) for start in range(0, end, side)] for end in shape
    )
    return tuple(
        (row, column)
        for number, row in enumerate(rows)
        for column in (reversed(columns) if number % 2 else columns)
    )


def seen_from(window: Window, origin: Window) -> Window:
    """Give a window as seen from the first pixel of another."""
    rows, columns = window
    down, right = origin[0].start, origin[1].start
    return (
        slice(rows.start - down, rows.stop - down),
        slice(columns.start - right, columns.stop - right),
    )


def begin_of(window: Window, origin: Window) -> tuple[int, int]:
    """Give the first (row, column) of a window as seen from the first pixel of another."""
    return window[0].start - origin[0].start, window[1].start - origin[1].start


def shape_of(window: Window) -> tuple[int, int]:
    """Give the (height, width) of a window, in px."""
    return window[0].stop - window[0].start, window[1].stop - window[1].start
