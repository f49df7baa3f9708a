"""The smaller levels of a mosaic, and the range of values to show it in.

What a viewer needs to show a mosaic of gigapixels at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processing.arrays import output_array
from processing.pyramid import level_shapes, pyramid
from processing.statistics import percentiles, value_counts

SMALLEST_LEVEL = 512  # the pyramid ends once both sides are this or less, in px


def mosaic_levels(
    shape: tuple[int, int], smallest: int = SMALLEST_LEVEL
) -> tuple[tuple[int, int], ...]:
    """Return the shapes of a mosaic and its pyramid, each level half the one before, rounded down.

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


def halve(image: NDArray[np.uint16], out: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """Return the next level of an image: the rounded mean of each 2 × 2 pixels.

    Parameters
    ----------
    image : ndarray of uint16, shape (height, width)
        Of 2 px at least on both sides.
    out : ndarray of uint16, shape (height // 2, width // 2), optional
        Where to put it.

    Returns
    -------
    ndarray of uint16, shape (height // 2, width // 2)
        Without a last odd row or column.
    """
    half = output_array(out, (image.shape[0] // 2, image.shape[1] // 2), np.uint16)
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
