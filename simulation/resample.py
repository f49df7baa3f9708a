"""The inner loops of a frame: texture to expected counts, and expected counts to a noisy frame.

Compiled, and free of the interpreter's lock, so that a frame costs tens of ms on one core.
"""

# numba compiles these loops from plain code: no annotations, and every index is unsigned, because
# numba would check a signed one for being negative, which costs half of the speed.
from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 16
"""Columns that are sampled together; the texture must reach this far over the last column."""

_F = np.float32
_I = np.uint64
_0, _1, _2, _3, _4 = (_I(i) for i in range(5))


@njit(nogil=True, fastmath=True, cache=True, inline="always")
def _bspline(distance):
    """Cubic B-spline of a distance in px (Unser, IEEE Signal Proc. Mag. 16, 1999)."""
    a = abs(distance)
    outer = max(_F(2) - a, _F(0))
    inner = max(_F(1) - a, _F(0))
    return outer * outer * outer * _F(1 / 6) - inner * inner * inner * _F(4 / 6)


@njit(nogil=True, fastmath=True, cache=True, inline="always")
def _place(c, d):
    """Cubic polynomial of the column."""
    return c[0] + d * (c[1] + d * (c[2] + d * c[3]))


@njit(nogil=True, fastmath=True, cache=True)
def sample_row(texture, width, row_place, column_place, middle, line, weights, rows):
    """Sample one row of the sensor from the texture by cubic B-splines.

    Parameters
    ----------
    texture : ndarray of float32, shape (width · height,)
        Flat; B-spline coefficients, not samples.
    width : int
        Of the texture.
    row_place, column_place : ndarray of float64, shape (4,)
        Polynomials that give the texture's row and column from a sensor column minus `middle`.
    middle : float
        Middle column of the sensor.
    line : ndarray of float32
        Result; its length is a multiple of `BLOCK`.
    weights : ndarray of float32, shape (5, BLOCK)
        Scratch.
    rows : ndarray of float32, shape (BLOCK,)
        Scratch.
    """
    last = BLOCK - 1
    for first in range(0, line.size, BLOCK):
        da = first - middle
        db = da + last
        xa = _place(column_place, da) - 1.0
        xb = _place(column_place, db) - 1.0
        ya = _place(row_place, da) - 1.0
        yb = _place(row_place, db) - 1.0
        # Within a block the map is linear, to far better than a thousandth of a pixel.
        step_x = (xb - xa) / last
        step_y = (yb - ya) / last
        left = int(min(xa, xb - last))
        top = int(min(ya, yb))
        if max(xa, xb - last) < left + 2 and 0 < step_x:
            _sample_along(
                texture, _I(width), xa - left, step_x - 1, ya - top, step_y,
                _I(top * width + left), int(max(ya, yb)) - top + 4,
                first, line, weights, rows,
            )  # fmt: skip
        else:
            _sample_across(texture, _I(width), xa, step_x, ya, step_y, first, line)


@njit(nogil=True, fastmath=True, cache=True, inline="always")
def _sample_along(texture, width, x, step_x, y, step_y, corner, n_rows, first, line, weights, rows):
    """Sample a block that runs nearly along the texture's rows: whole vectors are read."""
    for k in range(BLOCK):
        dx = _F(x) + _F(step_x) * _F(k)
        rows[k] = _F(y) + _F(step_y) * _F(k)
        for j in range(5):
            weights[j, k] = _bspline(dx - _F(j - 1))
        line[first + k] = _F(0)
    start = corner
    for i in range(n_rows):
        offset = _F(i - 1)
        for k in range(BLOCK):
            p = start + _I(k)
            line[first + k] += _bspline(rows[k] - offset) * (
                weights[0, k] * texture[p]
                + weights[1, k] * texture[p + _1]
                + weights[2, k] * texture[p + _2]
                + weights[3, k] * texture[p + _3]
                + weights[4, k] * texture[p + _4]
            )
        start += width


@njit(nogil=True, fastmath=True, cache=True)
def _sample_across(texture, width, x, step_x, y, step_y, first, line):
    """Sample a block in any direction and at any scale: pixel by pixel."""
    for k in range(BLOCK):
        px = x + step_x * k
        py = y + step_y * k
        left = int(px)
        top = int(py)
        u = _F(px - left)
        v = _F(py - top)
        start = _I(top) * width + _I(left)
        total = _F(0)
        for i in range(4):
            total += _bspline(v - _F(i - 1)) * (
                _bspline(u + _F(1)) * texture[start]
                + _bspline(u) * texture[start + _1]
                + _bspline(u - _F(1)) * texture[start + _2]
                + _bspline(u - _F(2)) * texture[start + _3]
            )
            start += width
        line[first + k] = total


@njit(nogil=True, fastmath=True, cache=True)
def expose(texture, row_places, column_places, bright, binning, signal):
    """Sum what the sensor's pixels see into the pixels of a frame.

    Parameters
    ----------
    texture : ndarray of float32, shape (height, width)
        B-spline coefficients of the transmission, blurred by optics and camera.
    row_places, column_places : ndarray of float64, shape (H, 4)
        For each sensor row, where its pixels lie in the texture; see `sample_row`.
    bright : ndarray of float32, shape (H, W)
        Counts that each sensor pixel would have without a specimen.
    binning : int
    signal : ndarray of float32, shape (H // binning, W // binning)
        Result: expected counts.
    """
    flat = texture.ravel()
    width = texture.shape[1]
    sensor_width = bright.shape[1]
    middle = (sensor_width - 1) / 2
    line = np.empty((sensor_width + BLOCK - 1) // BLOCK * BLOCK, np.float32)
    weights = np.empty((5, BLOCK), np.float32)
    rows = np.empty(BLOCK, np.float32)
    for r in range(signal.shape[0] * binning):
        sample_row(flat, width, row_places[r], column_places[r], middle, line, weights, rows)
        lit = bright[r]
        out = signal[r // binning]
        if r % binning == 0:
            out[:] = 0
        if binning == 1:
            for c in range(out.size):
                out[c] = max(lit[c] * line[c], _F(0))
        else:
            for c in range(out.size * binning):
                out[c // binning] += max(lit[c] * line[c], _F(0))


@njit(nogil=True, fastmath=True, cache=True)
def digitise(signal, offset, dark, gain, read_noise, bank, starts, divisor, top, frame):
    """Add dark level and noise to expected counts and read them as whole numbers.

    Shot noise and read noise are one normal deviate with the variance of both: a Poisson
    variable of over twenty electrons is normal to within the rounding.

    Parameters
    ----------
    signal : ndarray of float32, shape (H, W)
        Expected counts by electrons.
    offset : ndarray of float32, shape (W,)
        Level of the dark frame in each column, in counts.
    dark : float
        Counts by dark current.
    gain : float
        Counts per electron.
    read_noise : float
        Standard deviation in counts.
    bank : ndarray of float32, shape (n,)
        Normal deviates.
    starts : ndarray of int64, shape (H,)
        Where in the bank each row begins; at most n − W.
    divisor : float
        Counts in one step of the result.
    top : float
        Largest value of the result.
    frame : ndarray of uint8 or uint16, shape (H, W)
        Result.
    """
    height, width = signal.shape
    fixed = _F(read_noise * read_noise + gain * dark)
    scale = _F(1 / divisor)
    limit = _F(top)
    factor = _F(gain)
    level = _F(dark)
    half = _F(0.5)
    for r in range(height):
        noise = bank[starts[r] : starts[r] + width]
        row = signal[r]
        out = frame[r]
        for c in range(width):
            s = row[c]
            counts = s + offset[c] + level + np.sqrt(s * factor + fixed) * noise[c]
            out[c] = np.int32(min(max(counts * scale + half, _F(0)), limit))


@njit(nogil=True, fastmath=True, cache=True)
def illuminate(gain, to_beam, edge, falloff, peak, bright):
    """Work out the counts of each sensor pixel without a specimen: beam profile times sensitivity.

    Parameters
    ----------
    gain : ndarray of float32, shape (H, W)
        Sensitivity of each pixel, about 1.
    to_beam : ndarray of float64, shape (2, 3)
        Takes (row, column, 1) to a place in the beam, in units of its radius.
    edge, falloff : float
        Softness of the edge and how much the rim is darker, as fractions.
    peak : float
        Counts at the middle of the beam.
    bright : ndarray of float32, shape (H, W)
        Result.
    """
    height, width = gain.shape
    for r in range(height):
        u0 = to_beam[0, 0] * r + to_beam[0, 2]
        v0 = to_beam[1, 0] * r + to_beam[1, 2]
        for c in range(width):
            u = u0 + to_beam[0, 1] * c
            v = v0 + to_beam[1, 1] * c
            square = u * u + v * v
            away = min((np.sqrt(square) - 1) / edge, 60.0)
            level = peak * max(1 - falloff * square, 0.0) / (1 + np.exp(away))
            bright[r, c] = _F(level) * gain[r, c]
