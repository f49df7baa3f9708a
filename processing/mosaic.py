"""Mosaic: blend tiles at their solved positions into one image with a pyramid, block by block.

A block needs the parts of the tiles that touch it and nothing else, so a mosaic may be larger than
the memory, and blocks may be made in any order by any number of workers: each pixel is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from processing.masks import blank
from processing.pyramid import level_shapes, pyramid
from processing.statistics import percentiles, value_counts

Seam = Literal["blend", "cut"]
SEAMS: tuple[Seam, ...] = ("blend", "cut")
BLOCK = 4096  # side of a block, in px: a power of two, so that blocks meet on every level
SMALLEST_LEVEL = 512  # the pyramid ends once both sides are this or less, in px

Window = tuple[slice, slice]
ReadTile = Callable[[int, Window], NDArray[np.unsignedinteger] | None]


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


def mosaic_levels(
    shape: tuple[int, int], smallest: int = SMALLEST_LEVEL
) -> tuple[tuple[int, int], ...]:
    """Give the shapes of a mosaic and its pyramid, each level half the one before, rounded down.

    Parameters
    ----------
    shape : (int, int)
        (height, width) of level 0, in px.
    smallest : int
        The last level is the first whose sides are both this or less, in px.
    """
    halvings = 0
    while max(shape) >> halvings > smallest:
        halvings += 1
    return (int(shape[0]), int(shape[1])), *level_shapes(shape, halvings)


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


def render(
    read_tile: ReadTile, layout: Layout, block: Window, *, seam: Seam = "blend"
) -> NDArray[np.uint16]:
    """Make one block of a mosaic.

    Where tiles overlap, "blend" takes their mean weighted by the distance to the nearest edge of
    each (as in feathering), and "cut" the pixel of the tile whose centre is nearest. A pixel that
    is 0 holds nothing (a tile may have been written in part) and takes no part; where there is no
    tile the mosaic is 0. Of a masked array that holds for the pixels that are masked, and no other.

    Parameters
    ----------
    read_tile : callable
        Called with a tile's index and the (rows, columns) that are wanted of it; gives these pixels
        as uint8 or uint16, masked where they hold no signal, or None for a tile that is missing.
    layout : Layout
    block : (slice, slice)
        Rows and columns of the mosaic.
    seam : {"blend", "cut"}

    Returns
    -------
    ndarray of uint16, shape (rows, columns)

    Raises
    ------
    ValueError
        If a tile is not of the layout's shape, or `seam` is unknown.
    """
    if seam not in SEAMS:
        raise ValueError(f"seam is {seam!r}; it must be one of {', '.join(SEAMS)}")
    pieces = _read_pieces(read_tile, layout, block)
    image = np.zeros([side.stop - side.start for side in block], np.uint16)
    put_together = _blend if seam == "blend" else _cut
    for cell, covering in _cells(pieces, block):
        here = image[_shifted(cell, block)]
        if len(covering) == 1:
            here[...] = covering[0].part(cell)
        else:
            put_together(covering, cell, layout.tile_shape, here)
    return image


def halve(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Give the next level of an image: the rounded mean of each 2 × 2 pixels.

    Parameters
    ----------
    image : ndarray of uint16, shape (height, width)
        Of 2 px at least on both sides.

    Returns
    -------
    ndarray of uint16, shape (height // 2, width // 2)
        Without a last odd row or column.
    """
    half = np.empty((image.shape[0] // 2, image.shape[1] // 2), np.uint16)
    pyramid(image, [half])
    return half


def display_range(
    image: NDArray[np.unsignedinteger], low: float = 0.5, high: float = 99.5
) -> tuple[int, int]:
    """Find the values to show as black and white.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)
        A small level of the pyramid will do. Zeros are taken for places without a tile.
    low, high : float
        Percentiles of the other pixels.

    Returns
    -------
    (int, int)
        Black and white; white is above black, even for an empty image.
    """
    counts = value_counts(image)
    counts[0] = 0
    if not counts.any():
        return 0, 1
    black, white = percentiles(counts, (low, high))
    return int(black), max(int(white), int(black) + 1)


@dataclass(frozen=True, eq=False)
class _Piece:
    """What a block needs of a tile.

    Attributes
    ----------
    corner : (int, int)
        (row, column) of the tile's first pixel in the mosaic.
    window : (slice, slice)
        Rows and columns of the mosaic that the piece covers.
    pixels : ndarray, shape of the window
    """

    corner: tuple[int, int]
    window: Window
    pixels: NDArray[np.unsignedinteger]

    def covers(self, axis: int, start: int) -> bool:
        """Tell whether a row (axis 0) or column (axis 1) of the mosaic lies in the piece."""
        return bool(self.window[axis].start <= start < self.window[axis].stop)

    def part(self, cell: Window) -> NDArray[np.unsignedinteger]:
        """Give the pixels of a window of the mosaic."""
        return self.pixels[_shifted(cell, self.window)]


def _shifted(window: Window, origin: Window) -> Window:
    """Give a window as seen from the first pixel of another."""
    (rows, columns), (down, right) = window, (origin[0].start, origin[1].start)
    return (
        slice(rows.start - down, rows.stop - down),
        slice(columns.start - right, columns.stop - right),
    )


def _read_pieces(read_tile: ReadTile, layout: Layout, block: Window) -> list[_Piece]:
    """Read the parts of tiles that a block is made of, in the order of the tiles."""
    first, last = layout.overlap(block)
    pieces = []
    for index in layout.touching(block):
        (top, left), (bottom, right) = first[index].tolist(), last[index].tolist()
        corner = int(layout.corners[index, 0]), int(layout.corners[index, 1])
        window = slice(top, bottom), slice(left, right)
        wanted = _shifted(window, (slice(corner[0], None), slice(corner[1], None)))
        pixels = read_tile(int(index), wanted)
        if pixels is None:
            continue
        if pixels.shape != (bottom - top, right - left):
            raise ValueError(
                f"rows {top - corner[0]} to {bottom - corner[0]}, columns {left - corner[1]} to "
                f"{right - corner[1]} of tile {index} came with shape {pixels.shape}; "
                f"tiles must be of {layout.tile_shape} px"
            )
        if isinstance(pixels, np.ma.MaskedArray):
            pixels = blank(pixels.data.copy(), np.ma.getmaskarray(pixels))
        pieces.append(_Piece(corner, window, pixels))
    return pieces


def _cells(pieces: list[_Piece], block: Window) -> Iterator[tuple[Window, list[_Piece]]]:
    """Divide a block into rectangles, over each of which the same pieces lie; those of none apart.

    Most of a mosaic lies under one tile, and is copied; only the seams are worth arithmetic.
    """
    for rows in _runs(pieces, 0):
        band = [piece for piece in pieces if piece.covers(0, rows.start)]
        for columns in _runs(band, 1):
            covering = [piece for piece in band if piece.covers(1, columns.start)]
            if covering:
                yield (rows, columns), covering


def _runs(pieces: list[_Piece], axis: int) -> Iterator[slice]:
    """Divide an axis at every edge of the pieces."""
    edges = sorted({edge for piece in pieces for edge in _ends(piece.window[axis])})
    return (slice(start, stop) for start, stop in pairwise(edges))


def _ends(run: slice) -> tuple[int, int]:
    return run.start, run.stop


def _blend(
    pieces: list[_Piece], cell: Window, tile_shape: tuple[int, int], image: NDArray[np.uint16]
) -> None:
    """Take the mean of pieces, weighted by the distance to the nearest edge of their tile."""
    total = np.zeros(image.shape, np.float32)
    weight = np.zeros(image.shape, np.float32)
    for piece in pieces:
        rows, columns = (
            _edge_distance(run, first, side)
            for run, first, side in zip(cell, piece.corner, tile_shape, strict=True)
        )
        _add(piece.part(cell), rows, columns, total, weight)
    _divide(total, weight, image)


def _edge_distance(run: slice, first: int, side: int) -> NDArray[np.float32]:
    """Give the distance of rows or columns to the nearer edge of a tile, in px; 1 at the edge."""
    at = np.arange(run.start - first, run.stop - first, dtype=np.float32)
    return np.minimum(at + 1, side - at)


# No fastmath: the order of sums, and so each pixel, must not depend on where blocks begin.


@njit(nogil=True, cache=True)
def _add(pixels, down, across, total, weight):  # type: ignore[no-untyped-def]
    rows, columns = total.shape
    for r in range(rows):
        for c in range(columns):
            value = pixels[r, c]
            w = min(down[r], across[c]) if value else np.float32(0)
            total[r, c] += w * np.float32(value)
            weight[r, c] += w


@njit(nogil=True, cache=True, error_model="numpy")
def _divide(total, weight, image):  # type: ignore[no-untyped-def]
    rows, columns = image.shape
    half, least = np.float32(0.5), np.float32(0.5)
    for r in range(rows):
        for c in range(columns):
            # Weights are whole numbers: below 1/2 is where nothing lies, and total is 0 there.
            image[r, c] = np.uint16(total[r, c] / max(weight[r, c], least) + half)


def _cut(
    pieces: list[_Piece], cell: Window, tile_shape: tuple[int, int], image: NDArray[np.uint16]
) -> None:
    """Take each pixel from the piece whose tile's centre is nearest; the first one of two."""
    nearest = np.full(image.shape, np.inf, np.float32)
    for piece in pieces:
        rows, columns = (
            np.square(np.arange(run.start, run.stop) - first - (side - 1) / 2)
            for run, first, side in zip(cell, piece.corner, tile_shape, strict=True)
        )
        _take(piece.part(cell), rows, columns, nearest, image)


@njit(nogil=True, cache=True)
def _take(pixels, down, across, nearest, image):  # type: ignore[no-untyped-def]
    rows, columns = image.shape
    for r in range(rows):
        for c in range(columns):
            distance = np.float32(down[r] + across[c])
            if pixels[r, c] and distance < nearest[r, c]:
                nearest[r, c] = distance
                image[r, c] = pixels[r, c]
