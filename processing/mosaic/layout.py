"""Where tiles lie in a mosaic, and the blocks that it is made in.

Whole pixels where tiles are straight; where they are turned or bent, the boxes that hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.solve.maps import TileMaps

BLOCK = 4096  # side of a block, in px: a power of two, so that blocks meet on every level
SLACK = 0.05  # px to which the boxes of bent tiles are right
# Straight tiles are put down at whole pixels: what bends them by less is not worth interpolating.
MIN_BEND = 0.5  # px

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tiles lie in a mosaic.

    Attributes
    ----------
    corners, ends : ndarray of int64, shape (n, 2)
        (row, column) of the first pixel of each tile in the mosaic, and that after the last; of
        the box that holds it, if it is turned or bent.
    tile_shape : (int, int)
        (height, width) of a tile, in px.
    shape : (int, int)
        (height, width) of the mosaic, in px: the box round all tiles.
    origin : (int, int)
        What was taken from the solved places to give those in the mosaic, in px.
    maps : TileMaps or None
        Where the pixels of each tile lie in the mosaic; None if tiles lie straight.
    """

    corners: NDArray[np.int64]
    ends: NDArray[np.int64]
    tile_shape: tuple[int, int]
    shape: tuple[int, int]
    origin: tuple[int, int]
    maps: TileMaps | None = None

    def touching(self, window: Window) -> NDArray[np.intp]:
        """Return the indices of the tiles that lie in a window of the mosaic, in rising order."""
        first, last = self.overlap(window)
        return np.flatnonzero((first < last).all(axis=1))

    def only(self, indices: ArrayLike) -> Layout:
        """Return the same mosaic with some of its tiles alone, which are counted anew."""
        chosen = np.asarray(indices, dtype=np.intp)
        maps = None if self.maps is None else self.maps.only(chosen)
        return replace(self, corners=self.corners[chosen], ends=self.ends[chosen], maps=maps)

    def overlap(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first (row, column) of each tile in a window, and that after the last."""
        begin, end = ([side.start for side in window], [side.stop for side in window])
        return np.maximum(self.corners, begin), np.minimum(self.ends, end)


def lay_out(maps: TileMaps) -> Layout:
    """Lay tiles out as they were solved: straight, unless some are bent so far that it shows.

    Parameters
    ----------
    maps : TileMaps
        Of one tile at least.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If there is no tile.
    """
    if maps.bend > MIN_BEND:
        return plan_warped_mosaic(maps)
    return plan_mosaic(maps.positions, maps.shape)


def mosaic_origin(maps: TileMaps) -> NDArray[np.int64]:
    """Return where the first pixel lies of the mosaic that `lay_out` makes, in little time.

    Parameters
    ----------
    maps : TileMaps
        Of one tile at least.

    Returns
    -------
    ndarray of int64, shape (2,)
        (row, column) in px.
    """
    if maps.bend > MIN_BEND:
        return np.ceil(maps.first_pixel - SLACK).astype(np.int64)
    return np.floor(maps.positions.min(axis=0) + 0.5).astype(np.int64)


def plan_mosaic(positions: ArrayLike, tile_shape: tuple[int, int]) -> Layout:
    """Lay straight tiles out in the smallest mosaic that holds them all.

    Positions are rounded to whole pixels: a seam is then off by half a pixel at most, while
    interpolation would blur the finest detail and make the noise uneven over each tile.

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
    height, width = tile_shape
    return _layout(rounded, rounded + tile_shape, (height, width))


def plan_warped_mosaic(maps: TileMaps) -> Layout:
    """Lay tiles that are turned or bent out in the smallest mosaic that holds them all.

    Parameters
    ----------
    maps : TileMaps
        Of one tile at least.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If there is no tile.
    """
    if not len(maps):
        raise ValueError("there are maps of no tile; a mosaic needs one at least")
    least, most = maps.boxes
    first = np.ceil(least - SLACK).astype(np.int64)
    layout = _layout(first, np.floor(most + SLACK).astype(np.int64) + 1, maps.shape)
    return replace(layout, maps=maps.moved(np.negative(layout.origin)))


def _layout(
    first: NDArray[np.int64], after: NDArray[np.int64], tile_shape: tuple[int, int]
) -> Layout:
    """Count from the first pixel of all tiles."""
    origin = first.min(axis=0)
    rows, columns = (after - origin).max(axis=0).tolist()
    begin = int(origin[0]), int(origin[1])
    return Layout(first - origin, after - origin, tile_shape, (rows, columns), begin)


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
    """Return a window as seen from the first pixel of another."""
    rows, columns = window
    down, right = origin[0].start, origin[1].start
    return (
        slice(rows.start - down, rows.stop - down),
        slice(columns.start - right, columns.stop - right),
    )


def begin_of(window: Window, origin: Window) -> tuple[int, int]:
    """Return the first (row, column) of a window as seen from the first pixel of another."""
    return window[0].start - origin[0].start, window[1].start - origin[1].start


def shape_of(window: Window) -> tuple[int, int]:
    """Return the (height, width) of a window, in px."""
    return window[0].stop - window[0].start, window[1].stop - window[1].start
