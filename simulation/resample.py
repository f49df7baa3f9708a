"""The inner loops of a frame: texture to expected counts, and expected counts to a noisy frame.

Compiled, and free of the interpreter's lock, so that a frame costs tens of ms on one core.
"""

# numba compiles these loops from plain code: no annotations, and every index is unsigned, because
# numba would check a signed one for being negative, which costs half of the speed.
from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 16
"""Columns that are sampled together; the texture must reach this far over the last column."""
STRAIGHT = 1e-4
"""Sagitta in px under which the pixels of a block are taken to lie on a straight line."""
PROFILE_END = 4.0  # radii of the beam, beyond which it is as dark as there
PROFILE_STEPS = 2**15

FAST = {"nnan", "ninf", "nsz"}
"""What a loop may take for granted. It may not change the order of sums: how it would depends on
whether it was just compiled or comes from the cache, and frames are to be the same bit for bit."""

_F = np.float32
_I = np.uint64
_1, _2, _3, _4 = _I(1), _I(2), _I(3), _I(4)


class Places(NamedTuple):
    """Where the sensor's pixels lie in a texture."""

    rows: NDArray[np.float64]
    """Shape (H, n): for each sensor row, a polynomial of its column minus the middle one."""
    columns: NDArray[np.float64]
    """The same for the texture's column."""
    fine: NDArray[np.float64]
    """Shape (2, m, W / BLOCK + 1): what is added to (row, column), linear between its nodes."""
    pitch: int
    """Sensor rows from one row of nodes to the next; their columns are `BLOCK` apart."""


class Light(NamedTuple):
    """What the sensor's pixels see of the beam, as a share of its peak: the product of both."""

    bright: NDArray[np.float32]
    """Shape (H, W): what is the same in many frames."""
    shade: NDArray[np.float32]
    """Shape (m, W / BLOCK + 1): what is smooth over the sensor, linear between its nodes."""
    pitch: int
    """Sensor rows from one row of nodes to the next; their columns are `BLOCK` apart."""


@njit(nogil=True, fastmath=FAST, cache=True, inline="always")
def _bspline(distance):
    """Cubic B-spline of a distance in px (Unser, IEEE Signal Proc. Mag. 16, 1999)."""
    a = abs(distance)
    outer = max(_F(2) - a, _F(0))
    inner = max(_F(1) - a, _F(0))
    return outer * outer * outer * _F(1 / 6) - inner * inner * inner * _F(4 / 6)


@njit(nogil=True, fastmath=FAST, cache=True, inline="always")
def _place(c, d):
    """Polynomial of the column."""
    value = c[-1]
    for i in range(c.size - 2, -1, -1):
        value = c[i] + d * value
    return value


@njit(nogil=True, fastmath=FAST, cache=True, inline="always")
def _bend(first, middle, last):
    """Find b in ``place(k) = first + step · k + b · k · (k − last)``, from ends and middle."""
    sagitta = middle - 0.5 * (first + last)
    return -4.0 / (BLOCK - 1) ** 2 * sagitta if abs(sagitta) > STRAIGHT else 0.0


@njit(nogil=True, fastmath=FAST, cache=True)
def _row_of(nodes, pitch, r, line):
    """Interpolate between two rows of nodes."""
    i = r // pitch
    part = (r - i * pitch) / pitch
    for k in range(line.size):
        line[k] = nodes[i, k] + part * (nodes[i + 1, k] - nodes[i, k])


@njit(nogil=True, fastmath=FAST, cache=True)
def sample_row(texture, width, row_place, column_place, fine, middle, line, scratch):  # noqa: PLR0917
    """Sample one row of the sensor from the texture by cubic B-splines.

    Parameters
    ----------
    texture : ndarray of float32, shape (width · height,)
        Flat; B-spline coefficients, not samples.
    width : int
        Of the texture.
    row_place, column_place : ndarray of float64, shape (n,)
        Polynomials that give the texture's row and column from a sensor column minus `middle`.
    fine : ndarray of float64, shape (2, n_blocks + 1)
        What is added to row and column at the first sensor column of each block.
    middle : float
        Middle column of the sensor.
    line : ndarray of float32
        Result; its length is a multiple of `BLOCK`.
    scratch : ndarray of float32, shape (7, BLOCK)
    """
    last = BLOCK - 1
    half = 0.5 * last
    for first in range(0, line.size, BLOCK):
        d = first - middle
        b = first // BLOCK
        y0, x0 = fine[0, b] - 1.0, fine[1, b] - 1.0
        climb_y = (fine[0, b + 1] - fine[0, b]) / BLOCK
        climb_x = (fine[1, b + 1] - fine[1, b]) / BLOCK
        xa = _place(column_place, d) + x0
        xm = _place(column_place, d + half) + (x0 + half * climb_x)
        xb = _place(column_place, d + last) + (x0 + last * climb_x)
        ya = _place(row_place, d) + y0
        ym = _place(row_place, d + half) + (y0 + half * climb_y)
        yb = _place(row_place, d + last) + (y0 + last * climb_y)
        # A parabola through three places is within a thousandth of a pixel of any lens.
        x_map = (xb - xa) / last, _bend(xa, xm, xb)
        y_map = (yb - ya) / last, _bend(ya, ym, yb)
        left = int(min(xa, xm - half, xb - last))
        top = int(min(ya, ym, yb))
        block = line[first : first + BLOCK]
        if max(xa, xm - half, xb - last) < left + 2 and x_map[0] > 0:
            n_rows = int(max(ya, ym, yb)) - top + 4
            corner = _I(top * width + left)
            x_map = (xa - left, x_map[0] - 1, x_map[1])
            _along(texture, _I(width), corner, n_rows, x_map, (ya - top, *y_map), block, scratch)
        else:
            _across(texture, _I(width), (xa, *x_map), (ya, *y_map), block)


@njit(nogil=True, fastmath=FAST, cache=True)
def _along(texture, width, corner, n_rows, x_map, y_map, block, scratch):  # noqa: PLR0917
    """Sample a block that runs nearly along the texture's rows: whole vectors are read."""
    x, step_x, bend_x = _F(x_map[0]), _F(x_map[1]), _F(x_map[2])
    y, step_y, bend_y = _F(y_map[0]), _F(y_map[1]), _F(y_map[2])
    for k in range(BLOCK):
        bent = _F(k * (k - BLOCK + 1))
        along = x + step_x * _F(k) + bend_x * bent
        for j in range(5):
            scratch[j, k] = _bspline(along - _F(j - 1))
        scratch[5, k] = y + step_y * _F(k) + bend_y * bent
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


@njit(nogil=True, fastmath=FAST, cache=True)
def _across(texture, width, x_map, y_map, block):
    """Sample a block in any direction and at any scale: pixel by pixel."""
    x, step_x, bend_x = x_map
    y, step_y, bend_y = y_map
    for k in range(BLOCK):
        bent = k * (k - BLOCK + 1)
        px = x + step_x * k + bend_x * bent
        py = y + step_y * k + bend_y * bent
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


@njit(nogil=True, fastmath=FAST, cache=True)
def expose(texture, places, light, binning, signal):
    """Sum what the sensor's pixels see into the pixels of a frame.

    Parameters
    ----------
    texture : ndarray of float32, shape (height, width)
        B-spline coefficients of the image, blurred by optics and camera, in counts.
    places : Places
    light : Light
    binning : int
    signal : ndarray of float32, shape (H // binning, W // binning)
        Result: expected counts.
    """
    flat = texture.ravel()
    width = texture.shape[1]
    sensor_width = light.bright.shape[1]
    middle = (sensor_width - 1) / 2
    n_blocks = (sensor_width + BLOCK - 1) // BLOCK
    line = np.empty(n_blocks * BLOCK, np.float32)
    fine = np.empty((2, n_blocks + 1))
    shade = np.empty(n_blocks + 1, np.float32)
    scratch = np.empty((7, BLOCK), np.float32)
    for r in range(signal.shape[0] * binning):
        for a in range(2):
            _row_of(places.fine[a], places.pitch, r, fine[a])
        sample_row(flat, width, places.rows[r], places.columns[r], fine, middle, line, scratch)
        _row_of(light.shade, light.pitch, r, shade)
        _shade(line, shade)
        lit = light.bright[r]
        out = signal[r // binning]
        if r % binning == 0:
            out[:] = 0
        if binning == 1:
            for c in range(out.size):
                out[c] = max(lit[c] * line[c], _F(0))
        else:
            for c in range(out.size * binning):
                out[c // binning] += max(lit[c] * line[c], _F(0))


@njit(nogil=True, fastmath=FAST, cache=True)
def _shade(line, shade):
    """Multiply a row by a factor that is given at the first column of each block."""
    for b in range(shade.size - 1):
        climb = (shade[b + 1] - shade[b]) / _F(BLOCK)
        block = line[b * BLOCK : (b + 1) * BLOCK]
        for k in range(BLOCK):
            block[k] *= shade[b] + climb * _F(k)


@njit(nogil=True, fastmath=FAST, cache=True)
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


@njit(nogil=True, fastmath=FAST, cache=True)
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


@njit(nogil=True, fastmath=FAST, cache=True)
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
    middle, along = np.zeros((2, BLOCK, 4))
    middle[:, 0] = along[:, 0] = 32.0
    along[:, 1] = 1.0
    places = Places(middle, along, np.zeros((2, 2, 2)), BLOCK)
    expose(blurred, places, Light(bright, np.ones((2, 2), np.float32), BLOCK), 1, signal)
    offset, starts = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.int64)
    for kind in (np.uint8, np.uint16):
        frame = np.empty(signal.shape, kind)
        digitise(signal, offset, 0.0, 1.0, 1.0, gain.ravel(), starts, 1, 255, frame)
