"""The inner loops of a frame: texture to expected counts, and expected counts to a noisy frame.

Compiled, and free of the interpreter's lock, so that a frame costs tens of ms on one core.
"""

# numba compiles these loops from plain code: no annotations, and every index is unsigned, because
# numba would check a signed one for being negative, which costs half of the speed.
from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

BLOCK = 16
"""Columns that are sampled together; the texture must reach this far over the last column."""
PROFILE_END = 4.0  # radii of the beam, beyond which it is as dark as there
PROFILE_STEPS = 2**15

_F = np.float32
_I = np.uint64
_1, _2, _3, _4 = _I(1), _I(2), _I(3), _I(4)


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
def sample_row(texture, width, row_place, column_place, middle, line, scratch):  # noqa: PLR0917
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
    scratch : ndarray of float32, shape (7, BLOCK)
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
        block = line[first : first + BLOCK]
        if max(xa, xb - last) < left + 2 and step_x > 0:
            x, y = xa - left, ya - top
            corner = _I(top * width + left)
            n_rows = int(max(ya, yb)) - top + 4
            _along(texture, _I(width), corner, n_rows, x, step_x - 1, y, step_y, block, scratch)
        else:
            _across(texture, _I(width), xa, step_x, ya, step_y, block)


@njit(nogil=True, fastmath=True, cache=True)
def _along(texture, width, corner, n_rows, x, step_x, y, step_y, block, scratch):  # noqa: PLR0917
    """Sample a block that runs nearly along the texture's rows: whole vectors are read."""
    for k in range(BLOCK):
        along = _F(x) + _F(step_x) * _F(k)
        for j in range(5):
            scratch[j, k] = _bspline(along - _F(j - 1))
        scratch[5, k] = _F(y) + _F(step_y) * _F(k)
        scratch[6, k] = _F(0)
    for i in range(n_rows):
        below = _F(i - 1)
        for k in range(BLOCK):
            p = corner + _I(k)
            scratch[6, k] += _bspline(scratch[5, k] - below) * (
                scratch[0, k] * texture[p]
                + scratch[1, k] * texture[p + _1]
                + scratch[2, k] * texture[p + _2]
                + scratch[3, k] * texture[p + _3]
                + scratch[4, k] * texture[p + _4]
            )
        corner += width
    for k in range(BLOCK):
        block[k] = scratch[6, k]


@njit(nogil=True, fastmath=True, cache=True)
def _across(texture, width, x, step_x, y, step_y, block):  # noqa: PLR0917
    """Sample a block in any direction and at any scale: pixel by pixel."""
    for k in range(BLOCK):
        px = x + step_x * k
        py = y + step_y * k
        left = int(px)
        top = int(py)
        u = _F(px - left)
        v = _F(py - top)
        a, b, c, d = _bspline(u + _F(1)), _bspline(u), _bspline(u - _F(1)), _bspline(u - _F(2))
        p = _I(top) * width + _I(left)
        q = p + width
        r = q + width
        s = r + width
        block[k] = (
            _bspline(v + _F(1))
            * (a * texture[p] + b * texture[p + _1] + c * texture[p + _2] + d * texture[p + _3])
            + _bspline(v)
            * (a * texture[q] + b * texture[q + _1] + c * texture[q + _2] + d * texture[q + _3])
            + _bspline(v - _F(1))
            * (a * texture[r] + b * texture[r + _1] + c * texture[r + _2] + d * texture[r + _3])
            + _bspline(v - _F(2))
            * (a * texture[s] + b * texture[s + _1] + c * texture[s + _2] + d * texture[s + _3])
        )


@njit(nogil=True, fastmath=True, cache=True)
def expose(texture, row_places, column_places, bright, binning, signal):  # noqa: PLR0917
    """Sum what the sensor's pixels see into the pixels of a frame.

    Parameters
    ----------
    texture : ndarray of float32, shape (height, width)
        B-spline coefficients of the image, blurred by optics and camera, in counts.
    row_places, column_places : ndarray of float64, shape (H, 4)
        For each sensor row, where its pixels lie in the texture; see `sample_row`.
    bright : ndarray of float32, shape (H, W)
        What each sensor pixel sees of the beam, as a share of its peak.
    binning : int
    signal : ndarray of float32, shape (H // binning, W // binning)
        Result: expected counts.
    """
    flat = texture.ravel()
    width = texture.shape[1]
    sensor_width = bright.shape[1]
    middle = (sensor_width - 1) / 2
    line = np.empty((sensor_width + BLOCK - 1) // BLOCK * BLOCK, np.float32)
    scratch = np.empty((7, BLOCK), np.float32)
    for r in range(signal.shape[0] * binning):
        sample_row(flat, width, row_places[r], column_places[r], middle, line, scratch)
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
def blur_by_pairs(texture, down, along, blurred):
    """Filter a texture by a sum of products of one-dimensional kernels, line by line.

    Parameters
    ----------
    texture : ndarray of uint8 or float32, shape (h, w)
    down, along : ndarray of float32, shape (rank, 2 · n + 1)
        Kernels along the row's and along the column's index, origin in the middle; the result is
        their correlation with the texture. Zeros at both ends cost nothing.
    blurred : ndarray of float32, shape (h, w)
        Result; within n of the border it is zero.
    """
    height, width = texture.shape
    n = down.shape[1] // 2
    line = np.empty(width, np.float32)
    inside = width - 2 * n
    for r in range(height):
        result = blurred[r]
        result[:] = 0
        if r < n or r >= height - n:
            continue
        middle = result[n : n + inside]
        for i in range(down.shape[0]):
            line[:] = 0
            for k in range(down.shape[1]):
                weight = down[i, k]
                if weight != 0:
                    source = texture[r + k - n]
                    for c in range(width):
                        line[c] += weight * _F(source[c])
            for k in range(along.shape[1]):
                weight = along[i, k]
                if weight != 0:
                    part = line[k : k + inside]
                    for c in range(inside):
                        middle[c] += weight * part[c]


@njit(nogil=True, fastmath=True, cache=True)
def digitise(signal, offset, dark, gain, read_noise, bank, starts, divisor, top, frame):  # noqa: PLR0917
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
def illuminate(gain, to_beam, edge, falloff, bright):
    """Work out what each sensor pixel sees of the beam: its profile times the sensitivity.

    Parameters
    ----------
    gain : ndarray of float32, shape (H, W)
        Sensitivity of each pixel, about 1.
    to_beam : ndarray of float64, shape (2, 3)
        Takes (row, column, 1) to a place in the beam, in units of its radius.
    edge, falloff : float
        Softness of the edge and how much the rim is darker, as fractions.
    bright : ndarray of float32, shape (H, W)
        Result.
    """
    height, width = gain.shape
    profile = _profile(edge, falloff)
    step = PROFILE_END / PROFILE_STEPS
    for r in range(height):
        u0 = to_beam[0, 0] * r + to_beam[0, 2]
        v0 = to_beam[1, 0] * r + to_beam[1, 2]
        for c in range(width):
            u = u0 + to_beam[0, 1] * c
            v = v0 + to_beam[1, 1] * c
            place = min(np.sqrt(u * u + v * v), PROFILE_END) / step
            i = min(int(place), PROFILE_STEPS - 1)
            share = _F(place - i)
            level = profile[i] + share * (profile[i + 1] - profile[i])
            bright[r, c] = level * gain[r, c]


@njit(nogil=True, cache=True)
def _profile(edge, falloff):
    """Tabulate the beam along its radius: an exponential a pixel would take longer than all else.

    Between two entries a straight line is off by 1/8 step² f″: 2 · 10⁻⁶ for an edge of 0.01.
    """
    profile = np.empty(PROFILE_STEPS + 1, np.float32)
    for i in range(PROFILE_STEPS + 1):
        radius = i * PROFILE_END / PROFILE_STEPS
        away = min((radius - 1) / edge, 60.0)
        profile[i] = max(1 - falloff * radius * radius, 0.0) / (1 + np.exp(away))
    return profile


@cache
def warm_up() -> None:
    """Compile the loops, or load them from numba's cache, before the first frame needs them."""
    for kind in (np.uint8, np.float32):
        texture = np.zeros((64, 64), kind)
        pair = np.ones((1, 3), np.float32)
        blurred = np.empty((64, 64), np.float32)
        blur_by_pairs(texture, pair, pair, blurred)
    gain = np.ones((BLOCK, BLOCK), np.float32)
    bright, signal = np.empty_like(gain), np.empty_like(gain)
    illuminate(gain, np.zeros((2, 3)), 0.1, 0.1, bright)
    places = np.zeros((2, BLOCK, 4))
    places[:, :, 0] = 32.0
    places[1, :, 1] = 1.0
    expose(blurred, places[0], places[1], bright, 1, signal)
    offset, starts = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.int64)
    for kind in (np.uint8, np.uint16):
        frame = np.empty(signal.shape, kind)
        digitise(signal, offset, 0.0, 1.0, 1.0, gain.ravel(), starts, 1, 255, frame)
