"""Mosaic: blend tiles at their solved positions into one image, with its pyramid, block by block.

Only one block and a few tiles are held at a time, so a mosaic may be larger than the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from processing.statistics import percentiles, value_counts

Seam = Literal["blend", "cut"]
SEAMS: tuple[Seam, ...] = ("blend", "cut")
BLOCK = 2048  # side of a block, in px: a power of two, so that blocks meet on every level
SMALLEST_LEVEL = 512  # the pyramid ends once both sides are this or less, in px

ReadTile = Callable[[int], NDArray[np.unsignedinteger] | None]
Progress = Callable[[int, int], None]


class Target(Protocol):
    """What a level is written into: an h5py dataset, a zarr array or a numpy array."""

    shape: Any

    def __setitem__(self, key: tuple[slice, slice], value: NDArray[np.uint16]) -> None: ...


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


def level_shapes(
    shape: tuple[int, int], smallest: int = SMALLEST_LEVEL
) -> tuple[tuple[int, int], ...]:
    """Give the shapes of a pyramid, each level half the one before, rounded up.

    Parameters
    ----------
    shape : (int, int)
        (height, width) of level 0, in px.
    smallest : int
        The last level is the first whose sides are both this or less, in px.

    Returns
    -------
    tuple of (int, int)
        At most as many levels as a block of `BLOCK` px can be halved into.
    """
    shapes = [(int(shape[0]), int(shape[1]))]
    while max(shapes[-1]) > smallest and BLOCK >> len(shapes):
        rows, columns = shapes[-1]
        shapes.append(((rows + 1) // 2, (columns + 1) // 2))
    return tuple(shapes)


def write_mosaic(
    read_tile: ReadTile,
    layout: Layout,
    levels: Sequence[Target],
    *,
    seam: Seam = "blend",
    tiles_held: int = 16,
    progress: Progress | None = None,
) -> None:
    """Write a mosaic and its pyramid.

    Where tiles overlap, "blend" takes their mean weighted by the distance to the nearest edge of
    each (as in feathering), and "cut" the pixel of the tile whose centre is nearest. Where there is
    no tile it is 0.

    Parameters
    ----------
    read_tile : callable
        Gives the pixels of a tile by its index, as uint8 or uint16; None for one that is missing.
        It is called about twice a tile, in the order of the blocks.
    layout : Layout
    levels : sequence of Target
        Level 0 and those after it, of the shapes that `level_shapes` gives.
    seam : {"blend", "cut"}
    tiles_held : int
        How many tiles are kept in memory at a time, at least 1.
    progress : callable, optional
        Called with (blocks done, blocks in all).

    Raises
    ------
    ValueError
        If a level has the wrong shape, there are too many, a tile has another shape than the layout
        says, or `seam` is unknown.
    """
    if seam not in SEAMS:
        raise ValueError(f"seam is {seam!r}; it must be one of {', '.join(SEAMS)}")
    _check_levels(layout, levels)
    tiles = _TileCache(read_tile, layout.tile_shape, max(1, tiles_held))
    blocks = _blocks(layout.shape)
    for done, (row, column) in enumerate(blocks, start=1):
        image = _render(tiles, layout, row, column, seam)
        for number, level in enumerate(levels):
            if number:
                image = halve(image)
            top, left = row >> number, column >> number
            level[top : top + image.shape[0], left : left + image.shape[1]] = image
        if progress is not None:
            progress(done, len(blocks))


def halve(image: NDArray[np.unsignedinteger]) -> NDArray[np.uint16]:
    """Halve an image: the mean of each 2 × 2 pixels, rounded.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    ndarray of uint16, shape ((height + 1) // 2, (width + 1) // 2)
        A last odd row or column is averaged with itself.
    """
    rows, columns = image.shape
    half = np.empty(((rows + 1) // 2, (columns + 1) // 2), np.uint16)
    _halve(np.ascontiguousarray(image), half)
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


def _check_levels(layout: Layout, levels: Sequence[Target]) -> None:
    """Refuse levels that a mosaic does not fit."""
    expected = level_shapes(layout.shape, smallest=1)
    if not 1 <= len(levels) <= len(expected):
        raise ValueError(f"there are {len(levels)} levels; give 1 to {len(expected)}")
    for number, (level, shape) in enumerate(zip(levels, expected, strict=False)):
        if tuple(level.shape) != shape:
            raise ValueError(f"level {number} has shape {tuple(level.shape)}; it must be {shape}")


def _blocks(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """List the corners of the blocks, to and fro, so that each shares tiles with the last."""
    rows, columns = range(0, shape[0], BLOCK), range(0, shape[1], BLOCK)
    return [
        (row, column)
        for number, row in enumerate(rows)
        for column in (reversed(columns) if number % 2 else columns)
    ]


class _TileCache:
    """The tiles that were read last."""

    def __init__(self, read_tile: ReadTile, shape: tuple[int, int], size: int) -> None:
        self._read, self._shape, self._size = read_tile, shape, size
        self._tiles: OrderedDict[int, NDArray[np.unsignedinteger] | None] = OrderedDict()

    def __getitem__(self, index: int) -> NDArray[np.unsignedinteger] | None:
        if index in self._tiles:
            self._tiles.move_to_end(index)
            return self._tiles[index]
        while len(self._tiles) >= self._size:
            self._tiles.popitem(last=False)
        tile = self._read(index)
        if tile is not None and tile.shape != self._shape:
            raise ValueError(f"tile {index} has shape {tile.shape}; it must be {self._shape}")
        self._tiles[index] = tile
        return tile


def _render(
    tiles: _TileCache, layout: Layout, row: int, column: int, seam: Seam
) -> NDArray[np.uint16]:
    """Put the tiles that touch a block together."""
    height, width = layout.tile_shape
    rows, columns = min(BLOCK, layout.shape[0] - row), min(BLOCK, layout.shape[1] - column)
    local = layout.corners - (row, column)
    touching = (
        (local[:, 0] < rows)
        & (local[:, 0] > -height)
        & (local[:, 1] < columns)
        & (local[:, 1] > -width)
    )
    image = np.zeros((rows, columns), np.uint16)
    total = np.zeros((rows, columns) if seam == "blend" else (1, 1), np.float32)
    weight = np.zeros((rows, columns), np.float32)
    for index in np.flatnonzero(touching):
        tile = tiles[int(index)]
        if tile is None:
            continue
        top, left = (int(side) for side in local[index])
        if seam == "blend":
            _add(tile, top, left, total, weight)
        else:
            _cut(tile, top, left, image, weight)
    if seam == "blend":
        _divide(total, weight, image)
    return image


@njit(nogil=True, cache=True, fastmath=True)
def _add(tile, top, left, total, weight):  # type: ignore[no-untyped-def]
    height, width = tile.shape
    rows, columns = weight.shape
    for r in range(max(0, top), min(rows, top + height)):
        i = r - top
        across = np.float32(min(i + 1, height - i))
        for c in range(max(0, left), min(columns, left + width)):
            j = c - left
            w = min(across, np.float32(min(j + 1, width - j)))
            total[r, c] += w * np.float32(tile[i, j])
            weight[r, c] += w


@njit(nogil=True, cache=True, fastmath=True)
def _divide(total, weight, image):  # type: ignore[no-untyped-def]
    rows, columns = image.shape
    half, least = np.float32(0.5), np.float32(0.5)
    for r in range(rows):
        for c in range(columns):
            # Weights are whole numbers: below 1/2 is where no tile lies, and total is 0 there.
            image[r, c] = np.uint16(total[r, c] / max(weight[r, c], least) + half)


@njit(nogil=True, cache=True, fastmath=True)
def _cut(tile, top, left, image, weight):  # type: ignore[no-untyped-def]
    """Take the tile's pixels wherever its centre is the nearest so far."""
    height, width = tile.shape
    rows, columns = image.shape
    farthest = np.float32(height * height + width * width)
    middle_row = np.float32(top + (height - 1) / 2)
    middle_column = np.float32(left + (width - 1) / 2)
    for r in range(max(0, top), min(rows, top + height)):
        down = (r - middle_row) ** 2
        for c in range(max(0, left), min(columns, left + width)):
            near = farthest - down - (c - middle_column) ** 2
            if near > weight[r, c]:
                weight[r, c] = near
                image[r, c] = tile[r - top, c - left]


@njit(nogil=True, cache=True)
def _halve(image, half):  # type: ignore[no-untyped-def]
    rows, columns = image.shape
    even_rows, even_columns = rows // 2, columns // 2
    for r in range(even_rows):
        for c in range(even_columns):
            total = np.uint32(image[2 * r, 2 * c]) + np.uint32(image[2 * r, 2 * c + 1])
            total += np.uint32(image[2 * r + 1, 2 * c]) + np.uint32(image[2 * r + 1, 2 * c + 1])
            half[r, c] = np.uint16((total + 2) >> 2)
    for r in range(half.shape[0]):
        for c in range(even_columns if r < even_rows else 0, half.shape[1]):
            below, right = min(2 * r + 1, rows - 1), min(2 * c + 1, columns - 1)
            total = np.uint32(image[2 * r, 2 * c]) + np.uint32(image[2 * r, right])
            total += np.uint32(image[below, 2 * c]) + np.uint32(image[below, right])
            half[r, c] = np.uint16((total + 2) >> 2)
