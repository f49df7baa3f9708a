"""Render a block of a mosaic: read what of the tiles lies in it, and put it together at the seams.

Most of a block lies under one tile; only the seams are worth arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.arrays import output_array
from processing.masks import blank
from processing.mosaic.layout import Layout, Window, begin_of, seen_from, shape_of
from processing.mosaic.pieces import StraightPiece
from processing.mosaic.warped import Warp, WarpedPiece

Seam = Literal["blend", "cut"]
SEAMS: tuple[Seam, ...] = ("blend", "cut")
STRIP = 2**17  # px that are put together at a time: sums of them fit into a core's cache

Piece = StraightPiece | WarpedPiece
ReadTile = Callable[[int, Window], NDArray[np.unsignedinteger] | None]


def render(
    read_tile: ReadTile,
    layout: Layout,
    block: Window,
    *,
    seam: Seam = "blend",
    out: NDArray[np.uint16] | None = None,
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
    out : ndarray of uint16, shape (rows, columns), optional
        Where to put the block.

    Returns
    -------
    ndarray of uint16, shape (rows, columns)

    Raises
    ------
    ValueError
        If a tile or `out` is not of the layout's shape, or `seam` is unknown.
    """
    if seam not in SEAMS:
        raise ValueError(f"seam is {seam!r}; it must be one of {', '.join(SEAMS)}")
    pieces = _read_pieces(read_tile, layout, block)
    image = output_array(out, shape_of(block), np.uint16)
    image[:] = 0
    put_together = _blend if seam == "blend" else _cut
    for cell, covering in _cells(pieces, block):
        if len(covering) == 1:
            covering[0].put(cell, image[seen_from(cell, block)])
            continue
        for strip in _strips(cell):
            put_together(covering, strip, image, block)
    return image


def _read_pieces(read_tile: ReadTile, layout: Layout, block: Window) -> list[Piece]:
    """Read the parts of tiles that a block is made of, in the order of the tiles."""
    first, last = layout.overlap(block)
    pieces: list[Piece] = []
    for index in layout.touching(block).tolist():
        (top, left), (bottom, right) = first[index].tolist(), last[index].tolist()
        window = slice(top, bottom), slice(left, right)
        warp = None if layout.maps is None else Warp.of_tile(layout.maps, index)
        corner = int(layout.corners[index, 0]), int(layout.corners[index, 1])
        origin = slice(corner[0], None), slice(corner[1], None)
        wanted = seen_from(window, origin) if warp is None else warp.window(window)
        pixels = _read(read_tile, layout, index, wanted)
        if pixels is None:
            continue
        if warp is None:
            pieces.append(StraightPiece(corner, layout.tile_shape, window, pixels))
        else:
            begin = wanted[0].start, wanted[1].start
            pieces.append(WarpedPiece(warp, window, begin, pixels))
    return pieces


def _read(
    read_tile: ReadTile, layout: Layout, index: int, wanted: Window
) -> NDArray[np.unsignedinteger] | None:
    """Read a part of a tile; None if it is missing."""
    pixels = read_tile(index, wanted)
    if pixels is None:
        return None
    if pixels.shape != shape_of(wanted):
        rows, columns = wanted
        raise ValueError(
            f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop} of tile "
            f"{index} came with shape {pixels.shape}; tiles must be of {layout.tile_shape} px"
        )
    if isinstance(pixels, np.ma.MaskedArray):
        pixels = blank(pixels.data.copy(), np.ma.getmaskarray(pixels))
    return np.ascontiguousarray(pixels)


def _cells(pieces: Sequence[Piece], block: Window) -> Iterator[tuple[Window, list[Piece]]]:
    """Divide a block into rectangles, over each of which the same pieces lie, without bare ones."""
    for rows in _runs(pieces, 0):
        band = [piece for piece in pieces if _covers(piece, 0, rows.start)]
        for columns in _runs(band, 1):
            covering = [piece for piece in band if _covers(piece, 1, columns.start)]
            if covering:
                yield (rows, columns), covering


def _runs(pieces: Sequence[Piece], axis: int) -> Iterator[slice]:
    """Divide an axis at every edge of the pieces."""
    ends = ((piece.window[axis].start, piece.window[axis].stop) for piece in pieces)
    edges = sorted({edge for both in ends for edge in both})
    return (slice(start, stop) for start, stop in pairwise(edges))


def _covers(piece: Piece, axis: int, start: int) -> bool:
    """Whether a row (axis 0) or column (axis 1) of the mosaic lies in a piece."""
    return bool(piece.window[axis].start <= start < piece.window[axis].stop)


def _strips(cell: Window) -> Iterator[Window]:
    """Divide a rectangle into strips of some rows."""
    rows, columns = cell
    height = max(1, STRIP // (columns.stop - columns.start))
    for top in range(rows.start, rows.stop, height):
        yield slice(top, min(top + height, rows.stop)), columns


def _blend(pieces: Sequence[Piece], cell: Window, image: NDArray[np.uint16], block: Window) -> None:
    """Put the weighted mean of pieces into their cell of a block."""
    sums = np.zeros((2, *shape_of(cell)), np.float32)
    for piece in pieces:
        piece.add(cell, sums)
    _divide(sums, image, begin_of(cell, block))


def _cut(pieces: Sequence[Piece], cell: Window, image: NDArray[np.uint16], block: Window) -> None:
    """Put each pixel of the piece whose tile's centre is nearest; the first one of two."""
    nearest = np.full(shape_of(cell), np.inf, np.float32)
    for piece in pieces:
        piece.take(cell, nearest, image[seen_from(cell, block)])


@njit(nogil=True, cache=True, error_model="numpy")
def _divide(sums, image, begin):  # type: ignore[no-untyped-def]
    """Divide sums by weights, into the place of an image that begins at some pixel."""
    top, left = np.uint64(begin[0]), np.uint64(begin[1])
    half, least = np.float32(0.5), np.float32(0.25)
    for r in range(np.uint64(sums.shape[1])):
        for c in range(np.uint64(sums.shape[2])):
            # No pixel that holds something has less than half a weight: below lies nothing, and
            # the sum is 0.
            mean = sums[0, r, c] / max(sums[1, r, c], least) + half
            image[top + r, left + c] = np.uint16(np.int32(mean))
