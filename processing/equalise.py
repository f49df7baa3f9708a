"""Equalisation: make a tile easy to look at, with as much contrast in each place as noise allows.

For display only: it is not linear, and differs from place to place.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEVELS = 256
CLIP, GRID = 2.0, 16


def grey_levels(
    image: NDArray[np.unsignedinteger],
    black: float,
    white: float,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Scale an image to 256 grey levels, rounded.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (height, width)
    black, white : float
        What becomes 0 and 255; what lies beyond becomes so too.
    out : ndarray of uint8, shape (height, width), optional
        Where to put the result.

    Returns
    -------
    ndarray of uint8, shape (height, width)

    Raises
    ------
    ValueError
        If `white` is not above `black`.
    """
    if not white > black:
        raise ValueError(f"white is {white} and black {black}; white must be above black")
    if out is None:
        out = np.empty(image.shape, np.uint8)
    _scale(image, np.float32(black), np.float32((LEVELS - 1) / (white - black)), out)
    return out


def equalise(
    image: NDArray[np.uint8],
    clip: float = CLIP,
    grid: int = GRID,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Equalise the histogram of each region of an image, its contrast limited.

    Contrast-limited adaptive histogram equalisation: K. Zuiderveld in Graphics Gems IV, 1994. Each
    region has its own table of grey levels, made from its histogram, the bins of which are cut at a
    limit and what was cut shared out among all; each pixel takes the mean of the tables of the four
    nearest regions, weighted by how near their middles are. It shares out as OpenCV's
    ``createCLAHE`` does, and agrees with it to one level where the regions divide the image.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width)
    clip : float
        How much steeper than the identity a table may be: the limit of a bin is `clip` times the
        mean bin.
    grid : int
        Regions along each axis.
    out : ndarray of uint8, shape (height, width), optional
        Where to put the result; it may be `image` itself.

    Returns
    -------
    ndarray of uint8, shape (height, width)

    Raises
    ------
    TypeError
        If `image` is not uint8.
    ValueError
        If it is not two-dimensional or smaller than the grid, or an argument is not positive.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"image is {image.dtype}; it must be uint8: see grey_levels")
    if grid < 1 or not clip > 0:
        raise ValueError(f"grid is {grid} and clip {clip}; both must be positive")
    if image.ndim != 2 or min(image.shape) < grid:
        raise ValueError(
            f"image has shape {image.shape}; it must be (height, width), "
            f"each {grid} px at least for a grid of {grid} × {grid} regions"
        )
    if out is None:
        out = np.empty_like(image)
    rows, columns = (np.linspace(0, side, grid + 1).astype(np.int64) for side in image.shape)
    tables = np.empty((grid, grid, LEVELS), np.float32)
    _make_tables(image, rows, columns, clip, tables)
    _apply_tables(image, tables, out)
    return out


@njit(nogil=True, cache=True)
def _scale(image, black, scale, out):  # type: ignore[no-untyped-def]
    for row in range(len(image)):
        _scale_row(image[row], black, scale, out[row])


@njit(nogil=True, cache=True, fastmath=True)
def _scale_row(line, black, scale, out):  # type: ignore[no-untyped-def]
    half, zero, top = np.float32(0.5), np.float32(0), np.float32(LEVELS - 1)
    for column in range(len(out)):
        value = (np.float32(line[column]) - black) * scale + half
        out[column] = np.uint8(np.int32(min(max(value, zero), top)))


# Rows and columns are counted unsigned below, so that no index is looked at for counting from the
# end, and without slices, each of which costs as much as some pixels: that takes half the time.


@njit(nogil=True, cache=True)
def _make_tables(image, rows, columns, clip, tables):  # type: ignore[no-untyped-def]
    """Make the table of each region from its pixels; rows and columns tell where regions begin."""
    counts = np.empty((len(columns) - 1, 2, LEVELS), np.uint32)
    for i in range(len(tables)):
        counts[:] = 0
        for row in range(np.uint64(rows[i]), np.uint64(rows[i + 1])):
            for j in range(np.uint64(len(counts))):
                _count(image, row, (columns[j], columns[j + np.uint64(1)]), counts[j])
        for j in range(len(counts)):
            area = (rows[i + 1] - rows[i]) * (columns[j + 1] - columns[j])
            limit = max(1, int(clip * area / LEVELS))
            _make_table(counts[j, 0] + counts[j, 1], area, limit, tables[i, j])


@njit(nogil=True, cache=True, inline="always")
def _count(image, row, run, counts):  # type: ignore[no-untyped-def]
    """Count the values of a run of a row, in two tables that are to be added, as `count_line`."""
    one, step, two = np.uint32(1), np.uint64(1), np.uint64(2)
    begin, end = np.uint64(run[0]), np.uint64(run[1])
    even = end - (end - begin) % two
    for column in range(begin, even, two):
        counts[0, image[row, column]] += one
        counts[1, image[row, column + step]] += one
    for column in range(even, end):
        counts[0, image[row, column]] += one


@njit(nogil=True, cache=True)
def _make_table(counts, area, limit, table):  # type: ignore[no-untyped-def]
    """Cut a histogram at a limit, share out what was cut, and sum it up to a table of levels."""
    excess = 0
    for level in range(LEVELS):
        if counts[level] > limit:
            excess += int(counts[level]) - limit
            counts[level] = limit
    each, rest = divmod(excess, LEVELS)
    step = max(1, LEVELS // rest) if rest else LEVELS
    total = 0
    for level in range(LEVELS):
        total += int(counts[level]) + each
        if rest > 0 and level % step == 0:
            total += 1
            rest -= 1
        table[level] = np.round(np.float32(total) * np.float32((LEVELS - 1) / area))


@njit(nogil=True, cache=True)
def _apply_tables(image, tables, out):  # type: ignore[no-untyped-def]
    """Take each pixel through the tables of the regions round it."""
    height, width = image.shape
    grid = len(tables)
    size_down, size_across = height / grid, width / grid
    between = np.empty((grid, LEVELS), np.float32)  # the tables for one row of pixels
    begins, shares = _runs(width, grid, size_across)
    for row in range(height):
        place = row / size_down - 0.5
        above = int(np.floor(place))
        upper, lower = max(above, 0), min(above + 1, grid - 1)
        _mix(tables[upper], tables[lower], np.float32(place - above), between)
        _apply_row(image[row], between, begins, shares, out[row])


@njit(nogil=True, cache=True)
def _runs(width, grid, size):  # type: ignore[no-untyped-def]
    """Divide a row into runs from the middle of one region to that of the next.

    Tells where each begins, and how much each pixel has of the second region of its run.
    """
    begins = np.empty(grid + 2, np.uint64)
    shares = np.empty(width, np.float32)
    for j in range(grid + 2):
        begins[j] = min(max(0, int(np.ceil((j - 0.5) * size))), width)
    for column in range(width):
        place = column / size - 0.5
        shares[column] = place - np.floor(place)
    return begins, shares


@njit(nogil=True, cache=True, fastmath=True)
def _mix(first, second, share, out):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(len(out))):
        for level in range(np.uint64(LEVELS)):
            out[j, level] = first[j, level] + (second[j, level] - first[j, level]) * share


@njit(nogil=True, cache=True)
def _apply_row(line, tables, begins, shares, out):  # type: ignore[no-untyped-def]
    half, last = np.float32(0.5), len(tables) - 1
    for j in range(len(begins) - 1):
        left, right = np.uint64(max(j - 1, 0)), np.uint64(min(j, last))
        for column in range(begins[j], begins[j + 1]):
            value = tables[left, line[column]]
            value += (tables[right, line[column]] - value) * shares[column]
            out[column] = np.uint8(np.int32(value + half))
