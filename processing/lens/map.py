"""Correct whole frames: every pixel is fetched from where the lens put it.

The shift changes slowly along a row, so a row is cut into short runs of one whole-pixel shift,
which are read and interpolated as contiguous vectors: several times faster than pixel by pixel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from processing.arrays import output_array
from processing.lens.model import LensModel

LANES = 16  # pixels of a run; one AVX-512 register of float32, or two of AVX2
AHEAD = 16  # rows by which the frame is asked for before it is wanted
MAPS_KEPT = 4
MAX_PIXELS = 2**31 - 1  # places are kept as int32
STEPS, CLOSE = 30, 1e-4  # of Newton's method: at most, and the step in px that is the last
FAR = 1.3  # how far from the middle, in half sides, a place is looked for
ROUNDING = 1e-3  # px
SPACINGS = (16, 8, 4)  # from place to place that is traced on a row, in px
BEND = 0.01  # px; what the shift may depart from a straight line between two of them

_Places = tuple[NDArray[np.int32], NDArray[np.float32]]


class LensMap:
    """The correction of frames of one shape by one model, worked out once.

    Pixels are interpolated linearly between the four nearest ones. That softens the finest detail
    where the shift is not whole: half-way between two pixels along one axis, contrast at half the
    Nyquist frequency, and the standard deviation of white noise, are 0.71 of what they were. The
    camera's own transfer has left little so fine, and neighbours are matched in a band below it.

    What lies outside the frame as it was taken is filled with its nearest pixel, and not with 0:
    a step of brightness would be matched, equalised and blended as if it were specimen. As the
    model neither moves nor scales the frame as a whole, this is a narrow rim (`rim`).

    Use `lens_map` to get one: it keeps the last ones.

    Parameters
    ----------
    model : LensModel

    Attributes
    ----------
    model : LensModel
    shape : (int, int)
        (height, width) of the frames, in px.
    rim : float
        Share of the corrected frame that is filled from outside the frame as it was taken.
    """

    def __init__(self, model: LensModel) -> None:
        if model.shape[0] * model.shape[1] > MAX_PIXELS:
            raise ValueError(f"frames of {model.shape} px are too large: 2³¹ px at most")
        self.model = model
        self.shape = model.shape
        self._runs, self._rim, outside = _cut(model)
        self.rim = outside / (self.shape[0] * self.shape[1])

    def correct(
        self, image: NDArray[np.unsignedinteger], out: NDArray[np.unsignedinteger] | None = None
    ) -> NDArray[np.unsignedinteger]:
        """Correct a frame.

        Parameters
        ----------
        image : ndarray of uint8 or uint16, shape (height, width)
            The frame as it was taken.
        out : ndarray of the same type and shape, optional
            Where to put the result; C-contiguous, and not `image` itself.

        Returns
        -------
        ndarray
            The corrected frame, of the same type and shape.

        Raises
        ------
        TypeError
            If `image` is not uint8 or uint16, or `out` is of another type or not contiguous.
        ValueError
            If a shape is another than the model's, or `out` shares memory with `image`.
        """
        if image.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"the frame is {image.dtype}; it must be uint8 or uint16")
        if image.shape != self.shape:
            raise ValueError(
                f"the frame is {image.shape} px and the lens model is of frames of {self.shape} "
                "px: take lens-correction tiles with this camera setting"
            )
        out = output_array(out, self.shape, image.dtype)
        if np.may_share_memory(image, out):
            raise ValueError("out shares memory with the frame; give another array")
        pixels = np.ascontiguousarray(image)
        _interpolate(pixels.reshape(-1), *self._runs, self.shape[1], out.reshape(-1))
        _fill(pixels, *self._rim, out.reshape(-1))
        return out

    def to_corrected(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find where pixels of the frame as it was taken lie in the corrected one."""
        return self.model.to_corrected(places)

    def to_distorted(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find where pixels of the corrected frame were in the one that was taken."""
        return self.model.to_distorted(places)

    @property
    def nbytes(self) -> int:
        """How many bytes of memory it holds."""
        return sum(part.nbytes for part in (*self._runs, *self._rim))


@lru_cache(maxsize=MAPS_KEPT)
def lens_map(model: LensModel) -> LensMap:
    """Give the map of a model; the last four are kept, in each process."""
    return LensMap(model)


def _cut(model: LensModel) -> tuple[_Places, _Places, int]:
    """Cut the corrected frame into runs, and into pixels that no run can hold.

    Returns
    -------
    runs : (ndarray of int32, shape (n, 2); ndarray of float32, shape (n, 4))
        The first pixel written and the first one read, counted along the rows; the fractions of a
        pixel, down and right, to go on from there, and how they grow from pixel to pixel.
    rim : (ndarray of int32, shape (m,); ndarray of float32, shape (m, 2))
        The pixel written; the (row, column) read.
    outside : int
        How many pixels lie outside the frame as it was taken.
    """
    height, width = model.shape
    powers = np.ascontiguousarray(model.powers)
    spacing = _spacing(model)
    sources = np.empty((width // spacing + 2, 2))
    row_runs = np.empty((width, 2), np.int32), np.empty((width, 4), np.float32)
    row_rim = np.empty(width, np.int32), np.empty((width, 2), np.float32)
    parts: tuple[list[NDArray[Any]], ...] = ([], [], [], [])
    outside = 0
    for row in range(height):
        _trace(powers, model.shape, row, spacing, sources)
        n_runs, n_rim, beyond = _cut_row((sources, spacing), model.shape, row, row_runs, row_rim)
        new = [part[:n_runs] for part in row_runs] + [part[:n_rim] for part in row_rim]
        for kept, part in zip(parts, new, strict=True):
            kept.append(part.copy())
        outside += beyond
    to_from, fractions, rim, rim_from = map(np.concatenate, parts)
    return (to_from, fractions), (rim, rim_from), outside


def _spacing(model: LensModel) -> int:
    """Choose how far apart places may be traced for the shift to be straight between them."""
    _, bend = model.bends
    fine = (spacing for spacing in SPACINGS if bend * spacing**2 / 8 <= BEND)
    return next(fine, SPACINGS[-1])


@njit(nogil=True, cache=True)
def _trace(powers, shape, row, spacing, sources):  # type: ignore[no-untyped-def]
    """Find which places of the taken frame belong at every so manieth pixel of a row.

    And at its last, by Newton's method. Places are (row, column) over half the sides, from the
    middle of the frame.
    """
    half_height, half_width = shape[0] / 2, shape[1] / 2
    for k in range(len(sources)):
        wanted_v = (row - (shape[0] - 1) / 2) / half_height
        wanted_u = (min(k * spacing, shape[1] - 1) - (shape[1] - 1) / 2) / half_width
        v, u = wanted_v, wanted_u
        for _ in range(STEPS):
            down, down_v, down_u = _polynomial(powers[0], v, u)
            right, right_v, right_u = _polynomial(powers[1], v, u)
            error_v = v + down / half_height - wanted_v
            error_u = u + right / half_width - wanted_u
            a, b = 1 + down_v / half_height, down_u / half_height
            c, d = right_v / half_width, 1 + right_u / half_width
            determinant = a * d - b * c
            step_v = (d * error_v - b * error_u) / determinant
            step_u = (a * error_u - c * error_v) / determinant
            # Not far outside, where the polynomials mean nothing.
            v = min(max(v - step_v, -FAR), FAR)
            u = min(max(u - step_u, -FAR), FAR)
            if abs(step_v) * half_height < CLOSE and abs(step_u) * half_width < CLOSE:
                break
        sources[k, 0], sources[k, 1] = v, u


@njit(nogil=True, cache=True)
def _polynomial(powers, v, u):  # type: ignore[no-untyped-def]
    """Give ``Σ powers[i, j] · v^i · u^j`` and its slopes along v and u, by Horner's scheme."""
    size = len(powers)
    value = slope_v = slope_u = 0.0
    for i in range(size - 1, -1, -1):
        line = line_slope = 0.0
        for j in range(size - 1, -1, -1):
            line_slope = line_slope * u + line
            line = line * u + powers[i, j]
        slope_v = slope_v * v + value
        slope_u = slope_u * v + line_slope
        value = value * v + line
    return value, slope_v, slope_u


@njit(nogil=True, cache=True)
def _cut_row(traced, shape, row, runs, rim):  # type: ignore[no-untyped-def]
    """Cut one row; tell how many runs, how many other pixels, how many of those lie outside."""
    sources, spacing = traced
    height, width = shape
    size = height * width
    n_runs = n_rim = n_outside = 0
    previous, expected = False, (0, 0)
    for x in range(width):
        k, at = x // spacing, x % spacing
        # Between the places that were traced the shift is taken for linear.
        length = max(min((k + 1) * spacing, width - 1) - k * spacing, 1)
        down = (sources[k + 1, 0] - sources[k, 0]) * height / 2 / length
        right = (sources[k + 1, 1] - sources[k, 1]) * width / 2 / length
        r = sources[k, 0] * height / 2 + (height - 1) / 2 + at * down
        c = sources[k, 1] * width / 2 + (width - 1) / 2 + at * right
        whole = int(np.floor(r)), int(np.floor(c))
        to, start = row * width + x, whole[0] * width + whole[1]
        inside = whole[0] >= 0 and 0 <= whole[1] < width - 1
        if not inside or max(to, start + width + 1) + LANES > size:
            rim[0][n_rim] = to
            rim[1][n_rim] = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
            n_rim += 1
            n_outside += max(-r, -c, r - (height - 1), c - (width - 1)) > ROUNDING
            previous = False
            continue
        if not (previous and at and whole == expected):
            runs[0][n_runs] = to, start
            runs[1][n_runs] = r - whole[0], c - whole[1], down, right - 1
            n_runs += 1
        previous, expected = True, (whole[0], whole[1] + 1)
    return n_runs, n_rim, n_outside


@njit(nogil=True, cache=True, fastmath=True)
def _interpolate(pixels, to_from, fractions, width, out):  # type: ignore[no-untyped-def]
    """Fetch all runs.

    Always as many pixels as fill the vectors: those beyond the end of a run are written again, by
    the run after it. Indices are unsigned, so that none is looked at for counting from the end.

    Runs jump from row to row, so the processor does not see what comes next. One pixel of each is
    therefore read some rows ahead, straight on: memory is waited for half as long.
    """
    half, right_of, below_of = np.float32(0.5), np.uint64(1), np.uint64(width)
    ahead, last, seen = np.uint64(AHEAD * width), np.uint64(len(pixels) - 1), np.uint16(0)
    for n in range(len(to_from)):
        to, start = np.uint64(to_from[n, 0]), np.uint64(to_from[n, 1])
        seen ^= pixels[min(to + ahead, last)]
        row, column, row_step, column_step = fractions[n]
        for lane in range(LANES):
            at = start + np.uint64(lane)
            down = row + row_step * np.float32(lane)
            right = column + column_step * np.float32(lane)
            a, b = np.float32(pixels[at]), np.float32(pixels[at + right_of])
            at += below_of
            c, d = np.float32(pixels[at]), np.float32(pixels[at + right_of])
            above, below = a + right * (b - a), c + right * (d - c)
            out[to + np.uint64(lane)] = np.int32(above + down * (below - above) + half)
    return seen  # or the compiler would leave it out


@njit(nogil=True, cache=True)
def _fill(image, rim, rim_from, out):  # type: ignore[no-untyped-def]
    """Fetch the other pixels one by one, those on the last row and column of the frame, too."""
    height, width = image.shape
    for n in range(len(rim)):
        r = min(int(rim_from[n, 0]), height - 2)
        c = min(int(rim_from[n, 1]), width - 2)
        down, right = rim_from[n, 0] - r, rim_from[n, 1] - c
        above = image[r, c] + right * (np.float32(image[r, c + 1]) - image[r, c])
        below = image[r + 1, c] + right * (np.float32(image[r + 1, c + 1]) - image[r + 1, c])
        out[rim[n]] = np.int32(above + down * (below - above) + np.float32(0.5))
