"""The last step of a match: each patch's offset to where noise sets the limit.

A Gauss–Newton step on both patches, each moved by half of what they differ, so that smoothing and
interpolation do the same to either and favour no offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.cells import middles

# Smoothing, as the standard deviation of a Gaussian in px. Of a texture whose amplitude falls with
# frequency to the power 1.5, as tissue's does, it leaves 1.12 to 1.01 times the least error at
# signal-to-noise ratios from 1 to 30; no other fixed one does better at both ends.
SIGMA = 0.8
TAPS = 3  # how far its kernel reaches
SLOPE = 2  # and that of the derivative, 1 −8 0 8 −1 over 12
ROUNDS = 3  # the most steps, if not said otherwise
SETTLED = 0.5  # steps of so many standard deviations are the last
LEAST_SHARED = 0.01  # curvature relative to the slopes of either image, both squared
# Noise that was smoothed is correlated over 4 π σ² px; what it does to the slopes of a texture
# that was smoothed too is less by the root of 2.
CORRELATED = 4 * np.pi * SIGMA**2 / np.sqrt(2)


@dataclass(frozen=True, eq=False)
class Polished:
    """The shifts of patches, how well each is known, and where.

    Attributes
    ----------
    shifts : ndarray of float64, shape (n, 2)
        Where in the second image each patch is found: what is added to its rows and columns.
    information : ndarray of float64, shape (n, 2, 2)
        Inverse covariance of each shift, by its own noise, in px⁻²; 0 if there is none.
    places : ndarray of float64, shape (n, 2)
        (row, column) in the first image that each shift holds for: the middle of what tells it.
    """

    shifts: NDArray[np.float64]
    information: NDArray[np.float64]
    places: NDArray[np.float64]


def polish(
    pixels: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    boxes: NDArray[np.int64],
    shifts: NDArray[np.float64],
    bends: NDArray[np.float64] | None = None,
    rounds: int = ROUNDS,
) -> Polished:
    """Measure the shift of each patch by least squares, from one known to about half a pixel.

    B. D. Lucas and T. Kanade, Proc. 7th IJCAI, 1981, made symmetric; a gain, an offset and two
    slopes of brightness are nuisance parameters. The curvature is the product of the two patches'
    slopes, whose noises are independent: that of one patch alone counts its noise as signal, and
    steps too short.

    Parameters
    ----------
    pixels : (ndarray of uint8, ndarray of uint8)
        The two images.
    boxes : ndarray of int64, shape (n, 4)
        [top, bottom, left, right] of each patch in the first image, in px.
    shifts : ndarray of float64, shape (n, 2)
        Where the middle of each patch is expected in the second image: what is added to its row
        and column.
    bends : ndarray of float64, shape (n, 2, 2), optional
        How shifts change over a patch: ``bends[:, i, j]`` along axis i by the place on axis j.
    rounds : int
        The most steps.

    Returns
    -------
    Polished
    """
    shifts = shifts.copy()
    information = np.zeros((len(boxes), 2, 2))
    sums, steps = np.empty((len(boxes), 11)), np.empty((len(boxes), 2))
    none = np.empty((0, 2, 2))
    for _ in range(rounds):
        whole = np.round(shifts).astype(np.int64)
        moved = shifts - whole, none if bends is None else bends
        _sum_slopes(*pixels, np.hstack([boxes, whole]), moved, sums)
        # How large the steps are against their errors.
        size = _solve(sums, boxes, steps, information)
        shifts += steps
        if size < SETTLED**2 * len(boxes):
            break
    places = _places(sums, boxes)
    if bends is not None:
        shifts += np.einsum("nij,nj->ni", bends, places - middles(boxes))
    return Polished(shifts, information, places)


def _places(sums: NDArray[np.float64], boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the middle of what tells the shift of each box; noise takes it nowhere beyond."""
    known = np.maximum(sums[:, 2] + sums[:, 4], 1e-9)
    half = (boxes[:, 1::2] - boxes[:, ::2]) / 2
    return middles(boxes) + np.clip(sums[:, 9:] / known[:, None], -half, half)


@njit(nogil=True, cache=True)
def _solve(sums, boxes, steps, information):  # type: ignore[no-untyped-def]
    """Give each patch's step and information, and the sum of squared steps over their variances."""
    size = 0.0
    steps[:], information[:] = 0, 0
    for p in range(len(sums)):
        pull_down, pull_across, down, both, across = sums[p, :5]
        slope_down, slope_both, slope_across, rest = sums[p, 5:9]
        determinant = down * across - both**2
        noisy = slope_down * slope_across - slope_both**2
        # What the two do not share is noise: below it a curvature says nothing.
        if down + across <= 0 or determinant <= LEAST_SHARED * noisy or noisy <= 0:
            continue
        step_down = (across * pull_down - both * pull_across) / determinant
        step_across = (down * pull_across - both * pull_down) / determinant
        if max(abs(step_down), abs(step_across)) > 1:
            continue
        area = (boxes[p, 1] - boxes[p, 0]) * (boxes[p, 3] - boxes[p, 2])
        rest = max(rest - step_down * pull_down - step_across * pull_across, 1e-9 * area)
        # Curvature over the covariance of the pulls, which is that of noise times the slopes.
        scale = area / (CORRELATED * rest * noisy)
        first = slope_across * down - slope_both * both, slope_across * both - slope_both * across
        second = slope_down * both - slope_both * down, slope_down * across - slope_both * both
        information[p, 0, 0] = scale * (down * first[0] + both * second[0])
        information[p, 0, 1] = scale * (down * first[1] + both * second[1])
        information[p, 1, 0] = information[p, 0, 1]
        information[p, 1, 1] = scale * (both * first[1] + across * second[1])
        steps[p, 0], steps[p, 1] = step_down, step_across
        size += information[p, 0, 0] * step_down**2 + information[p, 1, 1] * step_across**2
        size += 2 * information[p, 0, 1] * step_down * step_across
    return size


@njit(nogil=True, cache=True, fastmath=True)
def _sum_slopes(a, b, patches, moved, sums):  # type: ignore[no-untyped-def]
    """Sum what a Gauss–Newton step needs, for each patch.

    In `sums`: slopes times difference (2), products of both images' slopes (3), squares of the mean
    image's slopes (3), squares of the difference; moments of the product of like slopes (2).
    """
    fractions, bends = moved
    for p in range(len(patches)):
        top, bottom, left, right, down, across = patches[p]
        height, width = bottom - top, right - left
        mean = np.empty((height + 2 * SLOPE, width + 2 * SLOPE), np.float32)
        difference = np.empty_like(mean)
        half_down, half_across = fractions[p, 0] / 2, fractions[p, 1] / 2
        in_a = top - SLOPE, left - SLOPE
        in_b = in_a[0] + down, in_a[1] + across
        if len(bends):
            _sample_bent(a, in_a, (-half_down, -half_across), -0.5 * bends[p], mean)
            _sample_bent(b, in_b, (half_down, half_across), 0.5 * bends[p], difference)
        else:
            _sample(a, in_a, (-half_down, -half_across), mean)
            _sample(b, in_b, (half_down, half_across), difference)
        for r in range(len(mean)):
            line_mean, line_difference = mean[r], difference[r]
            for c in range(len(line_mean)):
                one, other = line_mean[c], line_difference[c]
                line_mean[c] = np.float32(0.5) * (one + other)
                line_difference[c] = one - other
        _level(mean, difference)
        _products(mean, difference, sums[p])


@njit(nogil=True, cache=True, fastmath=True)
def _level(mean, difference):  # type: ignore[no-untyped-def]
    """Take off the difference what an offset, two slopes and a gain explain."""
    rows, columns = mean.shape
    middle_row, middle_column = (rows - 1) / 2, (columns - 1) / 2
    sum_m = down_m = across_m = np.float64(0)
    sum_d = down_d = across_d = np.float64(0)
    square = product = np.float64(0)
    for r in range(rows):
        line_m, line_d = mean[r], difference[r]
        total_m, total_d = np.float32(0), np.float32(0)
        moment_m, moment_d = np.float32(0), np.float32(0)
        squares, products = np.float32(0), np.float32(0)
        for c in range(len(line_m)):
            place = np.float32(c) - np.float32(middle_column)
            total_m += line_m[c]
            total_d += line_d[c]
            moment_m += line_m[c] * place
            moment_d += line_d[c] * place
            squares += line_m[c] * line_m[c]
            products += line_m[c] * line_d[c]
        sum_m += total_m
        sum_d += total_d
        down_m += total_m * (r - middle_row)
        down_d += total_d * (r - middle_row)
        across_m += moment_m
        across_d += moment_d
        square += squares
        product += products
    area = rows * columns
    per_row, per_column = 12 / (area * (rows**2 - 1.0)), 12 / (area * (columns**2 - 1.0))
    square -= sum_m**2 / area + down_m**2 * per_row + across_m**2 * per_column
    product -= sum_m * sum_d / area + down_m * down_d * per_row + across_m * across_d * per_column
    gain = product / max(square, 1e-9)
    offset = (sum_d - gain * sum_m) / area
    slope = (down_d - gain * down_m) * per_row
    tilt = (across_d - gain * across_m) * per_column
    tilt32, gain32 = np.float32(tilt), np.float32(gain)
    for r in range(rows):
        line_m, line_d = mean[r], difference[r]
        level = np.float32(offset + slope * (r - middle_row) - tilt * middle_column)
        for c in range(len(line_m)):
            line_d[c] -= gain32 * line_m[c] + level + tilt32 * np.float32(c)


@njit(nogil=True, cache=True, fastmath=True)
def _products(mean, difference, sums):  # type: ignore[no-untyped-def]
    """Sum the products of slopes and differences, clear of the border that slopes need."""
    eight, twelfth, quarter = np.float32(8), np.float32(1 / 12), np.float32(0.25)
    height, width = mean.shape[0] - 2 * SLOPE, mean.shape[1] - 2 * SLOPE
    middle_row, middle_column = (height - 1) / 2, np.float32((width - 1) / 2)
    sums[:] = 0
    for r in range(height):
        m0, m1, m2, m3, m4 = mean[r], mean[r + 1], mean[r + 2], mean[r + 3], mean[r + 4]
        d0, d1, d2 = difference[r], difference[r + 1], difference[r + 2]
        d3, d4 = difference[r + 3], difference[r + 4]
        pull_down, pull_across, squares = np.float32(0), np.float32(0), np.float32(0)
        mean_dd, mean_da, mean_aa = np.float32(0), np.float32(0), np.float32(0)
        diff_dd, diff_da, diff_aa = np.float32(0), np.float32(0), np.float32(0)
        moment = np.float32(0)
        for c in range(width):
            k = c + SLOPE
            down = (m0[k] - m4[k] + eight * (m3[k] - m1[k])) * twelfth
            across = (m2[c] - m2[c + 4] + eight * (m2[c + 3] - m2[c + 1])) * twelfth
            down_d = (d0[k] - d4[k] + eight * (d3[k] - d1[k])) * twelfth
            across_d = (d2[c] - d2[c + 4] + eight * (d2[c + 3] - d2[c + 1])) * twelfth
            rest = d2[k]
            pull_down += down * rest
            pull_across += across * rest
            squares += rest * rest
            mean_dd += down * down
            mean_da += down * across
            mean_aa += across * across
            diff_dd += down_d * down_d
            diff_da += down_d * across_d
            diff_aa += across_d * across_d
            known = (down * down + across * across) - quarter * (
                down_d * down_d + across_d * across_d
            )
            moment += known * (np.float32(c) - middle_column)
        sums[0] += pull_down
        sums[1] += pull_across
        sums[2] += mean_dd - quarter * diff_dd
        sums[3] += mean_da - quarter * diff_da
        sums[4] += mean_aa - quarter * diff_aa
        sums[5] += mean_dd
        sums[6] += mean_da
        sums[7] += mean_aa
        sums[8] += squares
        sums[9] += (mean_dd + mean_aa - quarter * (diff_dd + diff_aa)) * (r - middle_row)
        sums[10] += moment


@njit(nogil=True, cache=True, fastmath=True)
def _sample(image, corner, shift, out):  # type: ignore[no-untyped-def]
    """Smooth an image and sample it a fraction of a pixel further on.

    A shifted Gaussian does both at once, with no error of interpolation to speak of. Beyond the
    image's border its last pixels are repeated.
    """
    rows, columns = image.shape
    top, left = corner[0] - TAPS, corner[1] - TAPS
    k0, k1, k2, k3, k4, k5, k6 = _gaussian(shift[0])
    h0, h1, h2, h3, h4, h5, h6 = _gaussian(shift[1])
    height, width = out.shape
    raw = np.empty((height + 2 * TAPS, width + 2 * TAPS), np.float32)
    inside = left >= 0 and left + raw.shape[1] <= columns
    for r in range(len(raw)):
        line, row = image[min(max(top + r, 0), rows - 1)], raw[r]
        if inside:
            part = line[left : left + len(row)]
            for c in range(len(part)):
                row[c] = np.float32(part[c])
        else:
            for c in range(len(row)):
                row[c] = np.float32(line[min(max(left + c, 0), columns - 1)])
    across = np.empty(width + 2 * TAPS, np.float32)
    for r in range(height):
        r0, r1, r2, r3 = raw[r], raw[r + 1], raw[r + 2], raw[r + 3]
        r4, r5, r6 = raw[r + 4], raw[r + 5], raw[r + 6]
        for c in range(len(across)):
            across[c] = (
                (k0 * r0[c] + k1 * r1[c])
                + (k2 * r2[c] + k3 * r3[c])
                + (k4 * r4[c] + k5 * r5[c])
                + k6 * r6[c]
            )
        line = out[r]
        for c in range(len(line)):
            line[c] = (
                (h0 * across[c] + h1 * across[c + 1])
                + (h2 * across[c + 2] + h3 * across[c + 3])
                + (h4 * across[c + 4] + h5 * across[c + 5])
                + h6 * across[c + 6]
            )


@njit(nogil=True, cache=True, fastmath=True)
def _sample_bent(image, corner, shift, bend, out):  # type: ignore[no-untyped-def]
    """Smooth an image and sample it where a shift that changes over the patch takes each pixel.

    Linearly between pixels: that blurs two images alike which are moved to and fro by the same.
    """
    height, width = out.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    far = 0.5
    for i in range(2):
        reach = abs(bend[i, 0]) * middle_row + abs(bend[i, 1]) * middle_column
        far = max(far, abs(shift[i]) + reach)
    margin = int(far) + 2
    smooth = np.empty((height + 2 * margin, width + 2 * margin), np.float32)
    _sample(image, (corner[0] - margin, corner[1] - margin), (0.0, 0.0), smooth)
    for r in range(height):
        down = shift[0] + bend[0, 0] * (r - middle_row) - bend[0, 1] * middle_column
        across = shift[1] + bend[1, 0] * (r - middle_row) - bend[1, 1] * middle_column
        begin = 0
        while begin < width:
            # A run of pixels between the same rows and columns of the image.
            here = down + bend[0, 1] * begin, across + bend[1, 1] * begin
            whole = int(np.floor(here[0])), int(np.floor(here[1]))
            end = begin + 1
            while (
                end < width
                and np.floor(down + bend[0, 1] * end) == whole[0]
                and np.floor(across + bend[1, 1] * end) == whole[1]
            ):
                end += 1
            first = begin + margin + whole[1]
            _blend_run(
                smooth[r + margin + whole[0], first : first + end - begin + 1],
                smooth[r + margin + whole[0] + 1, first : first + end - begin + 1],
                (here[0] - whole[0], bend[0, 1], here[1] - whole[1], bend[1, 1]),
                out[r, begin:end],
            )
            begin = end


@njit(nogil=True, cache=True, fastmath=True)
def _blend_run(above, below, weights, out):  # type: ignore[no-untyped-def]
    """Interpolate between two rows; weights grow from pixel to pixel."""
    down, down_step, across, across_step = weights
    for c in range(len(out)):
        right = np.float32(across + across_step * c)
        upper = above[c] + right * (above[c + 1] - above[c])
        lower = below[c] + right * (below[c + 1] - below[c])
        out[c] = upper + np.float32(down + down_step * c) * (lower - upper)


@njit(nogil=True, cache=True)
def _gaussian(shift):  # type: ignore[no-untyped-def]
    """Give a kernel's weights about a place a fraction of a pixel on; their sum is 1."""
    k = np.empty(2 * TAPS + 1)
    for i in range(len(k)):
        k[i] = exp(-0.5 * ((i - TAPS - shift) / SIGMA) ** 2)
    w = (k / k.sum()).astype(np.float32)
    return w[0], w[1], w[2], w[3], w[4], w[5], w[6]
