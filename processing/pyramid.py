"""Pyramid: copies of an image, each half as high and wide as the one before.

Means of 2 × 2 pixels, so that noise falls and nothing shifts; a viewer reads what its screen shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray


def level_specs(shape: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Give the shapes of the levels after the first image, rounded down, in px."""
    return [
        (max(1, shape[0] >> number), max(1, shape[1] >> number)) for number in range(1, levels + 1)
    ]


def pyramid(image: NDArray[np.uint16], levels: Sequence[NDArray[np.uint16]]) -> None:
    """Fill each level with the rounded 2 × 2 means of the one before; an odd last line is left out.

    Parameters
    ----------
    image : ndarray of uint16, shape (height, width)
    levels : sequence of ndarray of uint16
        Of the shapes that `level_specs` gives.

    Raises
    ------
    ValueError
        If a level is not half the one before, rounded down.
    """
    for level in levels:
        expected = image.shape[0] // 2, image.shape[1] // 2
        if level.shape != expected:
            raise ValueError(f"a level has shape {level.shape}; it must be {expected}")
        _halve(image, level)
        image = level


@njit(nogil=True, cache=True)
def _halve(image, half):  # type: ignore[no-untyped-def]
    for row in range(half.shape[0]):
        upper, lower, out = image[2 * row], image[2 * row + 1], half[row]
        for column in range(len(out)):
            total = np.uint32(upper[2 * column]) + np.uint32(upper[2 * column + 1])
            total += np.uint32(lower[2 * column]) + np.uint32(lower[2 * column + 1])
            out[column] = np.uint16((total + np.uint32(2)) >> np.uint32(2))
