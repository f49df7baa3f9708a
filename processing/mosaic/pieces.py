"""What a block needs of a tile that lies straight in a mosaic: pixels that are copied or mixed.

Nothing is interpolated: that would blur the finest detail and make the noise uneven.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.mosaic.layout import Window, begin_of, seen_from


@dataclass(frozen=True, eq=False)
class StraightPiece:
    """The part of a tile that lies in a block, whole pixels from the mosaic's.

    Attributes
    ----------
    corner : (int, int)
        (row, column) of the tile's first pixel in the mosaic.
    tile_shape : (int, int)
        (height, width) of the tile, in px.
    window : (slice, slice)
        Rows and columns of the mosaic that the piece covers.
    pixels : ndarray of uint8 or uint16, shape of the window
        C-contiguous.
    """

    corner: tuple[int, int]
    tile_shape: tuple[int, int]
    window: Window
    pixels: NDArray[np.unsignedinteger]

    def put(self, cell: Window, image: NDArray[np.uint16]) -> None:
        """Fill an image with the pixels of a window of the mosaic."""
        image[:] = self.pixels[seen_from(cell, self.window)]

    def add(self, cell: Window, sums: NDArray[np.float32]) -> None:
        """Add to the sums of a window: values times weights, and weights.

        The weight is the distance to the nearest edge of the tile.
        """
        distances = (
            _edge_distance(run, first, side)
            for run, first, side in zip(cell, self.corner, self.tile_shape, strict=True)
        )
        _add(self.pixels, begin_of(cell, self.window), tuple(distances), sums)

    def take(self, cell: Window, nearest: NDArray[np.float32], image: NDArray[np.uint16]) -> None:
        """Replace those pixels of a window whose nearest centre so far lies farther than its own.

        Parameters
        ----------
        cell : (slice, slice)
        nearest : ndarray of float32, shape of the cell
            Squared distances to the nearest centre, in px².
        image : ndarray of uint16, shape of the cell
        """
        distances = (
            np.square(np.arange(run.start, run.stop) - first - (side - 1) / 2)
            for run, first, side in zip(cell, self.corner, self.tile_shape, strict=True)
        )
        _take(self.pixels[seen_from(cell, self.window)], tuple(distances), nearest, image)


def _edge_distance(run: slice, first: int, side: int) -> NDArray[np.float32]:
    """Return the distance of rows or columns to the nearer edge of a tile, in px; 1 at the edge."""
    at = np.arange(run.start - first, run.stop - first, dtype=np.float32)
    return np.minimum(at + 1, side - at)


# No fastmath: the order of sums, and so each pixel, must not depend on where blocks begin.


@njit(nogil=True, cache=True)
def _add(pixels, begin, distances, sums):  # type: ignore[no-untyped-def]
    """Add a piece.

    It comes whole, with the place of the first pixel that is meant, and indices are unsigned: only
    then does the compiler know that pixels lie side by side, and fills vectors with them.
    """
    down, across = distances
    top, left = np.uint64(begin[0]), np.uint64(begin[1])
    for r in range(np.uint64(len(down))):
        for c in range(np.uint64(len(across))):
            value = pixels[top + r, left + c]
            weight = min(down[r], across[c]) if value else np.float32(0)
            sums[0, r, c] += weight * np.float32(value)
            sums[1, r, c] += weight


@njit(nogil=True, cache=True)
def _take(pixels, distances, nearest, image):  # type: ignore[no-untyped-def]
    down, across = distances
    for r in range(len(down)):
        for c in range(len(across)):
            distance = np.float32(down[r] + across[c])
            if pixels[r, c] and distance < nearest[r, c]:
                nearest[r, c] = distance
                image[r, c] = pixels[r, c]
