"""Search for patches of one tile in another: the costs of all offsets near an expected one.

One compiled pass reduces, smooths and levels each patch and compares it at every lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.cells import Cells

SMOOTH = 2  # how far the smoothing by 1 4 6 4 1 reaches, in px looked at


@dataclass(frozen=True, eq=False)
class Costs:
    """How badly each patch fits at each lag.

    Attributes
    ----------
    of : ndarray of float64, shape (n, 2 reach + 1, 2 reach + 1)
        Sum of squared differences over each patch, by the lag down and across that is added to its
        shift, in px looked at; contrasts are brought to one.
    energy : ndarray of float64, shape (n,)
        What a cost would be if the two had nothing in common.
    """

    of: NDArray[np.float64]
    energy: NDArray[np.float64]

    @property
    def reach(self) -> int:
        """The greatest lag, in px looked at."""
        return self.of.shape[1] // 2

    def depths(self) -> NDArray[np.float64]:
        """Tell how far the least cost of each patch lies below the mean: what it knows."""
        return np.asarray(self.of.mean(axis=(1, 2)) - self.of.min(axis=(1, 2)))


def search(
    pixels: tuple[NDArray[np.generic], NDArray[np.generic]],
    cells: Cells,
    shifts: NDArray[np.float64],
    step: int,
    reach: int,
) -> Costs:
    """Compare patches of one image with another at every lag up to a reach.

    Parameters
    ----------
    pixels : (ndarray of uint8 or float32, ndarray of the same)
        The two images.
    cells : Cells
        Of the patches in the first image.
    shifts : ndarray of float64, shape (n, 2)
        Where each patch is expected in the second image: what is added to its rows and columns, in
        whole px.
    step : int
        How many px are averaged to one px looked at, along each axis.
    reach : int
        The greatest lag, in px looked at.

    Returns
    -------
    Costs
    """
    side, count = 2 * reach + 1, len(cells.boxes)
    cross = np.empty((count, side, side))
    energy_b = np.empty_like(cross)
    energy_a = np.empty(count)
    whole = np.round(cells.shifts(shifts)).astype(np.int64)
    _compare(*pixels, np.hstack([cells.boxes, whole]), step, (cross, energy_b, energy_a))
    cross, energy_b, energy_a = (cells.total(each) for each in (cross, energy_b, energy_a))
    at_middle = energy_b[:, reach, reach]
    gain = np.sqrt(energy_a.sum() / max(float(at_middle.sum()), 1e-12))
    return Costs(
        of=energy_a[:, None, None] - 2 * gain * cross + gain**2 * energy_b,
        energy=energy_a + gain**2 * at_middle,
    )


@njit(nogil=True, cache=True, fastmath=True)
def _compare(a, b, patches, step, results):  # type: ignore[no-untyped-def]
    """Sum products at every lag, and the squares that they are to be compared with."""
    cross, energy_b, energy_a = results
    reach = cross.shape[1] // 2
    for p in range(len(patches)):
        top, bottom, left, right, down, across = patches[p]
        height, width = (bottom - top) // step, (right - left) // step
        patch = _window(a, (top, left), step, (height, width))
        # As wide as the one that it is compared with and 0 there, so that both can be run through
        # as one line: a lag is then a distance along it.
        wide = width + 2 * reach
        line_a = np.zeros((height, wide), np.float32)
        # By loops: for an array that is assigned to a part of another one, numba compiles what it
        # would say if they did not fit, which takes seconds.
        for r in range(height):
            for c in range(width):
                line_a[r, c] = patch[r, c]
        first = top + down - step * reach, left + across - step * reach
        line_b = _window(b, first, step, (height + 2 * reach, wide))
        flat_a = line_a.ravel()
        # A row more, which the last lag's zeros fall upon.
        flat_b = np.zeros(line_b.size + wide, np.float32)
        whole_b = line_b.ravel()
        for k in range(len(whole_b)):
            flat_b[k] = whole_b[k]
        energy_a[p] = np.sum(flat_a * flat_a)
        _box_sums(line_b, width, energy_b[p])
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                part = flat_b[i * wide + j : i * wide + j + len(flat_a)]
                product = np.float32(0)
                for k in range(len(part)):
                    product += flat_a[k] * part[k]
                cross[p, i, j] = product


@njit(nogil=True, cache=True, fastmath=True)
def _box_sums(image, width, sums):  # type: ignore[no-untyped-def]
    """Sum the squares in a box of some width that fills the image but for the lags."""
    side = len(sums)
    height = len(image) - side + 1
    sums[:] = 0
    for r in range(len(image)):
        line = image[r]
        total = np.float32(0)
        for c in range(width):
            total += line[c] * line[c]
        first, last = max(0, r - height + 1), min(side - 1, r)
        for j in range(side):
            for i in range(first, last + 1):
                sums[i, j] += total
            if j < side - 1:
                total += line[width + j] ** 2 - line[j] ** 2


@njit(nogil=True, cache=True, fastmath=True)
def _window(image, corner, step, shape):  # type: ignore[no-untyped-def]
    """Cut a window out, reduced, smoothed by 1 4 6 4 1, and with its mean and slopes taken off.

    Beyond the image's border its last pixels are repeated.
    """
    height, width = shape
    raw = np.empty((height + 2 * SMOOTH, width + 2 * SMOOTH), np.float32)
    _reduce(image, (corner[0] - SMOOTH * step, corner[1] - SMOOTH * step), step, raw)
    window = np.empty((height, width), np.float32)
    line = np.empty(width + 2 * SMOOTH, np.float32)
    four, six, share = np.float32(4), np.float32(6), np.float32(1 / 256)
    middle_row, middle_column = np.float32((height - 1) / 2), np.float32((width - 1) / 2)
    mean = slope_down = slope_across = np.float64(0)
    for r in range(height):
        above, over, here, under, below = raw[r], raw[r + 1], raw[r + 2], raw[r + 3], raw[r + 4]
        for c in range(len(line)):
            line[c] = above[c] + below[c] + four * (over[c] + under[c]) + six * here[c]
        out = window[r]
        total, moment = np.float32(0), np.float32(0)
        for c in range(len(out)):
            value = line[c] + line[c + 4] + four * (line[c + 1] + line[c + 3]) + six * line[c + 2]
            out[c] = value * share
            total += out[c]
            moment += out[c] * (np.float32(c) - middle_column)
        mean += total
        slope_down += total * (r - middle_row)
        slope_across += moment
    mean /= height * width
    slope_down *= 12.0 / max(1.0, width * height * (height**2 - 1.0))
    slope_across *= 12.0 / max(1.0, height * width * (width**2 - 1.0))
    tilt = np.float32(slope_across)
    for r in range(height):
        level = np.float32(mean + slope_down * (r - middle_row))
        out = window[r]
        for c in range(len(out)):
            out[c] -= level + tilt * (np.float32(c) - middle_column)
    return window


@njit(nogil=True, cache=True, fastmath=True)
def _reduce(image, corner, step, reduced):  # type: ignore[no-untyped-def]
    """Average blocks of step × step px."""
    rows, columns = image.shape
    top, left = corner
    share = np.float32(1 / step**2)
    inside = left >= 0 and left + step * reduced.shape[1] <= columns
    sums = np.empty(step * reduced.shape[1], np.float32)
    for i in range(reduced.shape[0]):
        sums[:] = 0
        for k in range(step):
            line = image[min(max(top + i * step + k, 0), rows - 1)]
            if inside:
                part = line[left : left + len(sums)]
                for c in range(len(part)):
                    sums[c] += np.float32(part[c])
            else:
                for c in range(len(sums)):
                    sums[c] += np.float32(line[min(max(left + c, 0), columns - 1)])
        out = reduced[i]
        if step == 1:
            for j in range(len(out)):
                out[j] = sums[j]
        elif step == 2:
            for j in range(len(out)):
                out[j] = (sums[2 * j] + sums[2 * j + 1]) * share
        else:
            for j in range(len(out)):
                out[j] = np.sum(sums[step * j : step * (j + 1)]) * share


@njit(nogil=True, cache=True)
def valleys(costs):  # type: ignore[no-untyped-def]
    """Fit a quadratic to the 3 × 3 costs about the least of each patch.

    Parameters
    ----------
    costs : ndarray of float64, shape (n, 2 reach + 1, 2 reach + 1)

    Returns
    -------
    ndarray of float64, shape (n, 3)
        The lag down and across at the bottom of each valley and the cost there; NaN where the least
        cost is at the border or no valley.
    """
    found = np.full((len(costs), 3), np.nan)
    side = costs.shape[1]
    for p in range(len(costs)):
        i, j = divmod(costs[p].argmin(), side)
        if not (0 < i < side - 1 and 0 < j < side - 1):
            continue
        c = costs[p, i - 1 : i + 2, j - 1 : j + 2]
        slope_down, slope_across = (c[2, 1] - c[0, 1]) / 2, (c[1, 2] - c[1, 0]) / 2
        down = c[2, 1] - 2 * c[1, 1] + c[0, 1]
        across = c[1, 2] - 2 * c[1, 1] + c[1, 0]
        both = (c[2, 2] - c[2, 0] - c[0, 2] + c[0, 0]) / 4
        determinant = down * across - both * both
        if down <= 0 or determinant <= 0:
            continue
        drow = (both * slope_across - across * slope_down) / determinant
        dcol = (both * slope_down - down * slope_across) / determinant
        if abs(drow) <= 1 and abs(dcol) <= 1:
            least = c[1, 1] + (slope_down * drow + slope_across * dcol) / 2
            found[p, 0], found[p, 1] = i - side // 2 + drow, j - side // 2 + dcol
            found[p, 2] = max(least, 0.0)
    return found
