"""Masks: where a tile holds no signal, because something filled it in or nothing came there.

A rotated or lens-corrected tile has a black rim, and a round aperture leaves corners; neither is
specimen, nor is it in the way of any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Window = tuple[slice, slice]

LATTICE = 32  # every so many rows are looked at, px
RUN = 16  # px of one value in a row, with those beside them, that are no noise
MAX_VALUES = 3  # values that an image is looked through for, the commonest first
# An area at the border is a rim if it holds a corner of the image or lies along so much of a side;
# others are dark specimen that is cut off. An area within is a hole if it is large.
MIN_ALONG = 1 / 8
MIN_HOLE, MIN_HOLE_SHARE = 1024, 0.0025  # px, and share of the image
# Of noise in few grey levels, pixels of one value hang together too, but no such area is solid: a
# pixel of it hardly ever has all its neighbours in it.
MIN_SOLID = 0.3  # share of an area's pixels that have all eight
# Nor does it end with a step, as smooth resin in few levels does not.
MIN_STEP, MAX_STEPLESS = 0.2, 0.5  # standard deviations of the image; share of the pixels beyond
# What lies at an area's edge is mixed with it: by interpolation, and by JPEG in blocks of 8 × 8.
GROWTH, GROWTH_OF_BYTES = 2, 8  # px by which an area is grown
MAX_MASKED = 0.95  # share of an image; one with less left is blank, which is another matter


def find_mask(image: NDArray[np.unsignedinteger]) -> NDArray[np.bool_] | None:
    """Find where an image was filled in with one value: at its border, or in large holes.

    Any value will do but the greatest of the type: what is saturated was looked at.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)
        Before anything that makes pixels of one value differ, as a flat field does.

    Returns
    -------
    ndarray of bool, shape (height, width), or None
        True where there is no signal; None if there is signal everywhere, or hardly any.
    """
    image = np.ascontiguousarray(image)
    rows, columns = _constant_runs(image)
    values = Counter(image[rows, columns].tolist())
    values.pop(int(np.iinfo(image.dtype).max), None)
    mask = np.zeros(image.shape, np.bool_)
    for value, _ in values.most_common(MAX_VALUES):
        here = image[rows, columns] == value
        for window, area in _areas(image == value, rows[here], columns[here]):
            _add_area(image, (window, area, value), mask)
    return mask if 0 < np.count_nonzero(mask) <= MAX_MASKED * mask.size else None


def check_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Refuse a mask that does not fit an image.

    Parameters
    ----------
    mask : array_like of bool, shape (height, width)
        True where there is no signal.
    shape : (int, int)
        (height, width) of the image, in px.

    Returns
    -------
    ndarray of bool, shape (height, width)

    Raises
    ------
    TypeError
        If it is not of bool.
    ValueError
        If it is of another shape, or leaves nothing.
    """
    found = np.asarray(mask)
    if found.dtype != np.bool_:
        raise TypeError(f"the mask is {found.dtype}; it must be bool, True where no signal is")
    if found.shape != shape:
        raise ValueError(
            f"the mask is {found.shape} px and the image {shape}: give one of its shape"
        )
    if found.all():
        raise ValueError("the mask covers the whole image: it must be True only where no signal is")
    return found


def blank(
    image: NDArray[np.unsignedinteger], mask: NDArray[np.bool_]
) -> NDArray[np.unsignedinteger]:
    """Write a mask into an image, in place: 0 where nothing is, and 1 where a pixel really was 0.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)
    mask : ndarray of bool, shape (height, width)
        True where there is no signal.

    Returns
    -------
    ndarray
        `image`.
    """
    np.maximum(image, image.dtype.type(1), out=image)
    image[mask] = 0
    return image


def reduce_mask(mask: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Reduce a mask: a reduced pixel has no signal if any of its step × step pixels has none.

    Parameters
    ----------
    mask : ndarray of bool, shape (height, width)
    step : int

    Returns
    -------
    ndarray of bool, shape (height // step, width // step)
    """
    height, width = (side // step for side in mask.shape)
    parts = mask[: height * step, : width * step].reshape(height, step, width, step)
    return np.asarray(parts.any(axis=(1, 3)))


def _areas(
    equal: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> Iterator[tuple[Window, NDArray[np.bool_]]]:
    """Return the areas of one value that begin at some places and are rims or holes."""
    height, width = equal.shape
    filled = np.zeros((height + 2, width + 2), np.uint8)  # one px more all round, as OpenCV wants
    inside = filled[1:-1, 1:-1]
    here, taken = 2, 1
    flags = cv2.FLOODFILL_MASK_ONLY | 4 | here << 8
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if inside[row, column]:
            continue
        size, _, _, (left, top, wide, high) = cv2.floodFill(
            equal.view(np.uint8), filled, (column, row), 0, flags=flags
        )
        window = slice(top, top + high), slice(left, left + wide)
        area = inside[window] == here
        inside[window][area] = taken
        if min(top, left) == 0 or top + high == height or left + wide == width:
            if _is_rim(area, window, equal.shape):
                yield window, area
        elif size >= max(MIN_HOLE, MIN_HOLE_SHARE * equal.size):
            yield window, area


def _is_rim(area: NDArray[np.bool_], window: Window, shape: tuple[int, ...]) -> bool:
    """Whether an area at the border of an image holds a corner of it, or lies along a side."""
    for axis, (side, length) in enumerate(zip(window, shape, strict=True)):
        across, whole = window[1 - axis], shape[1 - axis]
        for at, border in ((side.start, 0), (side.stop - 1, length - 1)):
            if at != border:
                continue
            line = area.take(at - side.start, axis)
            corner = (across.start == 0 and line[0]) or (across.stop == whole and line[-1])
            if corner or np.count_nonzero(line) >= MIN_ALONG * whole:
                return True
    return False


def _add_area(
    image: NDArray[np.unsignedinteger],
    found: tuple[Window, NDArray[np.bool_], int],
    mask: NDArray[np.bool_],
) -> None:
    """Add an area to a mask, grown, if it is solid and ends with a step."""
    window, area, value = found
    growth = GROWTH_OF_BYTES if image.dtype == np.uint8 else GROWTH
    reach = growth + 1
    around = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in window)
    inner = tuple(
        slice(side.start - outer.start, side.stop - outer.start)
        for side, outer in zip(window, around, strict=True)
    )
    whole = np.zeros(mask[around].shape, np.uint8)
    whole[inner] = area
    if np.count_nonzero(_eroded(whole, (3, 3))) < MIN_SOLID * np.count_nonzero(area):
        return
    # Single pixels of that value beside it are specimen.
    whole = _eroded(whole, (1, 3)) | _eroded(whole, (3, 1))
    grown = _dilated(whole, growth)
    # Round black it may be nearly black for some px; other values are mixed with one px.
    nearest = grown if value == 0 else _dilated(whole, 1)
    beyond = _dilated(nearest, 1) > nearest
    steps = np.abs(image[around][beyond].astype(np.int64) - value)
    spread = float(image[:: LATTICE // 2].std())
    if np.count_nonzero(steps < MIN_STEP * spread) >= MAX_STEPLESS * len(steps):
        return
    mask[around] |= grown > 0


def _eroded(area: NDArray[np.uint8], sides: tuple[int, int]) -> NDArray[np.uint8]:
    """Erode an area, for which the border of the image is no end."""
    element = np.ones(sides, np.uint8)
    return np.asarray(
        cv2.erode(area, element, borderType=cv2.BORDER_CONSTANT, borderValue=1), np.uint8
    )


def _dilated(area: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    element = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.dilate(area, element), np.uint8)


@njit(nogil=True, cache=True)
def _constant_runs(image):  # type: ignore[no-untyped-def]
    """Find runs of one value on every so manieth row and on the border; give where they begin."""
    height, width = image.shape
    rows, columns = [0 for _ in range(0)], [0 for _ in range(0)]
    for lattice_row in range(0, height + LATTICE - 1, LATTICE):
        row = min(lattice_row, height - 1)
        for column in range(0, width - RUN + 1, RUN):
            # Nearly always the first two differ, and slices take time.
            if image[row, column] == image[row, column + 1] and _one_value(
                image[max(row - 1, 0) : row + 2, column : column + RUN]
            ):
                rows.append(row)
                columns.append(column)
    for column in (0, width - 1):
        for row in range(0, height - RUN + 1, RUN):
            if image[row, column] == image[row + 1, column] and _one_value(
                image[row : row + RUN, max(column - 1, 0) : column + 2]
            ):
                rows.append(row)
                columns.append(column)
    return np.array(rows, np.int64), np.array(columns, np.int64)


@njit(nogil=True, cache=True)
def _one_value(block):  # type: ignore[no-untyped-def]
    for row in block:
        for value in row:
            if value != block[0, 0]:
                return False
    return True
