"""Reduced copies of an image: a pyramid of halves, and pictures of any smaller scale.

Means over the area that each pixel covers, so that noise falls, nothing shifts and nothing aliases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray


def level_shapes(shape: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Give the shapes of the levels after the first image, each half the one before, in px.

    Sides are rounded down, and 1 at least.
    """
    return [
        (max(1, shape[0] >> number), max(1, shape[1] >> number)) for number in range(1, levels + 1)
    ]


def pyramid(image: NDArray[np.uint16], levels: Sequence[NDArray[np.uint16]]) -> None:
    """Fill each level with the rounded 2 × 2 means of the one before; an odd last line is left out.

    Parameters
    ----------
    image : ndarray of uint16, shape (height, width)
    levels : sequence of ndarray of uint16
        Of the shapes that `level_shapes` gives.

    Raises
    ------
    ValueError
        If a level is not half the one before, rounded down, or nothing is left of it.
    """
    for level in levels:
        expected = image.shape[0] // 2, image.shape[1] // 2
        if level.shape != expected or not min(expected):
            raise ValueError(
                f"a level has shape {level.shape} and the one before {image.shape}; "
                "it must be half as high and wide, and not empty"
            )
        _halve(image, level)
        image = level


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Give the shape of a picture at a scale, rounded, 1 px at least."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def reduce_to(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce an image to any smaller shape, by the rounded mean over what each pixel covers.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width)
    out : ndarray of uint8
        Where to put the result; not larger than the image along either axis.

    Returns
    -------
    ndarray of uint8
        `out`.

    Raises
    ------
    ValueError
        If `out` is larger than the image.
    """
    if out.shape[0] > image.shape[0] or out.shape[1] > image.shape[1]:
        raise ValueError(f"an image of {image.shape} px cannot be reduced to {out.shape}")
    _reduce(image, out)
    return out


@njit(nogil=True, cache=True)
def _halve(image, half):  # type: ignore[no-untyped-def]
    for row in range(half.shape[0]):
        upper, lower, out = image[2 * row], image[2 * row + 1], half[row]
        for column in range(len(out)):
            total = np.uint32(upper[2 * column]) + np.uint32(upper[2 * column + 1])
            total += np.uint32(lower[2 * column]) + np.uint32(lower[2 * column + 1])
            out[column] = np.uint16((total + np.uint32(2)) >> np.uint32(2))


@njit(nogil=True, cache=True)
def _reduce(image, out):  # type: ignore[no-untyped-def]
    rows, row_weights = _spans(image.shape[0], out.shape[0])
    columns, weights = _spans(image.shape[1], out.shape[1])
    line = np.empty(image.shape[1], np.float32)
    for row in range(out.shape[0]):
        line[:] = 0
        for k in range(row_weights.shape[1]):
            if row_weights[row, k] > 0:
                _add(image[rows[row] + k], row_weights[row, k], line)
        _sum_spans(line, columns, weights, out[row])


@njit(nogil=True, cache=True)
def _spans(length, parts):  # type: ignore[no-untyped-def]
    """Divide a line of pixels into equal parts.

    Tells the first pixel of each, and the shares of that and the ones after it, which sum up to 1.
    """
    size = length / parts
    count = int(np.ceil(size)) + 1
    first = np.empty(parts, np.uint64)
    weights = np.empty((parts, count), np.float32)
    for part in range(parts):
        begin, end = part * size, (part + 1) * size
        first[part] = min(int(begin), length - count) if length > count else 0
        for k in range(count):
            pixel = int(first[part]) + k
            weights[part, k] = max(0.0, min(pixel + 1, end) - max(pixel, begin)) / size
    return first, weights


@njit(nogil=True, cache=True, fastmath=True)
def _add(row, weight, line):  # type: ignore[no-untyped-def]
    for column in range(len(line)):
        line[column] += weight * np.float32(row[column])


@njit(nogil=True, cache=True)
def _sum_spans(line, first, weights, out):  # type: ignore[no-untyped-def]
    for part in range(len(out)):
        total = np.float32(0.5)
        for k in range(np.uint64(min(weights.shape[1], len(line)))):
            total += line[first[part] + k] * weights[part, k]
        out[part] = np.uint8(total)
