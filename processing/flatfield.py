"""Flat field: take the camera's dark level, gain and bad pixels and the beam's shape out.

Neighbouring tiles only match and blend when the same place has the same value in both of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from processing.arrays import output_array
from processing.masks import check_mask
from processing.statistics import count_line

BAD_SIGMAS = 8.0  # robust standard deviations from its neighbourhood at which a pixel is bad
MAX_RESPONSE_ERROR = 0.25  # and the least departure of its response, as a fraction, that is bad
MAX_BAD_FRACTION = 0.05  # more bad pixels than this mean wrong frames, not a bad camera
# Pixels that no light reaches: the corners outside an aperture. A few of them are a bad camera's.
MIN_RESPONSE = 0.05  # of the median one
MIN_UNLIT_SHARE = 0.001  # of the frame
UNLIT_GROWTH = 2  # px
SAMPLE = 2**20  # about so many pixels tell the median of all to a thousandth of their spread
PART = 65536  # px that are corrected before they are counted: they fit into a core's cache
MAX_REACH = 5  # how far round a bad pixel good neighbours are looked for, in px


@dataclass(frozen=True, eq=False)
class References:
    """What a flat field needs to know of a camera and its beam.

    Attributes
    ----------
    dark : ndarray of float32, shape (height, width)
        Counts of each pixel with no beam.
    gain : ndarray of float32, shape (height, width)
        What to multiply a frame's counts above dark by; its mean response is 1, so that a corrected
        frame keeps the mean level of the raw one.
    bad : ndarray of bool, shape (height, width)
        Hot and dead pixels, which are replaced by the median of their good neighbours.
    mask : ndarray of bool, shape (height, width), or None
        True where no light comes, so that a corrected frame is 0; None if it comes everywhere.

    Raises
    ------
    ValueError
        If the shapes differ or dark or gain hold a number that is not finite.
    """

    dark: NDArray[np.float32]
    gain: NDArray[np.float32]
    bad: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None = None
    bad_places: NDArray[np.int32] = field(init=False, repr=False)
    _steps: tuple[NDArray[np.uint16], NDArray[np.uint16], np.float32, np.float32] = field(
        init=False, repr=False
    )
    _flipped: dict[tuple[bool, bool], References] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        dark = np.ascontiguousarray(self.dark, dtype=np.float32)
        gain = np.ascontiguousarray(self.gain, dtype=np.float32)
        bad = np.ascontiguousarray(self.bad, dtype=np.bool_)
        if dark.ndim != 2 or not dark.shape == gain.shape == bad.shape:
            raise ValueError(
                f"dark, gain and bad have shapes {dark.shape}, {gain.shape} and {bad.shape}; "
                "they must be one (height, width)"
            )
        if not (np.isfinite(dark).all() and np.isfinite(gain).all()):
            raise ValueError("dark or gain holds a number that is not finite; take them again")
        if self.mask is not None:
            check_mask(self.mask, gain.shape)
        for name, value in (("dark", dark), ("gain", gain), ("bad", bad)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "bad_places", np.argwhere(bad).astype(np.int32, "C"))
        # Frames are corrected at the speed of memory, and this is half of what is read: steps of
        # 1/65535 of the largest value are a tenth of a count or less at 10 000 counts.
        (darks, dark_step), (gains, gain_step) = _in_steps(dark), _in_steps(gain)
        object.__setattr__(self, "_steps", (darks, gains, dark_step, gain_step))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the frames that these references fit, in px."""
        return self.dark.shape[0], self.dark.shape[1]

    def flipped(self, rows: bool, columns: bool) -> References:
        """Give the references for frames that are mirrored along rows, columns or both."""
        key = rows, columns
        if key not in self._flipped:
            turned = np.s_[:: -1 if rows else 1, :: -1 if columns else 1]
            mask = None if self.mask is None else np.ascontiguousarray(self.mask[turned])
            self._flipped[key] = References(
                self.dark[turned], self.gain[turned], self.bad[turned], mask
            )
        return self._flipped[key]


def make_references(
    bright: ArrayLike, dark: ArrayLike, mask: ArrayLike | None = None
) -> References:
    """Make references from frames of the beam without specimen and frames without beam.

    A pixel is bad if its dark level or its response lies far from the median of the 5 × 5 pixels
    round it, by the robust spread (median absolute deviation) of all pixels. Where areas get less
    than a twentieth of the light, as the corners outside a round aperture, there is no signal.

    Parameters
    ----------
    bright, dark : array_like, shape (height, width) or (n, height, width)
        Mean frames or stacks of frames, in counts; a stack is averaged.
    mask : array_like of bool, shape (height, width), optional
        True where there is no signal, beside what is found.

    Returns
    -------
    references : References
        With the gain normalised to a mean response of 1, of the pixels that get light.

    Raises
    ------
    TypeError
        If `mask` is not bool.
    ValueError
        If shapes differ, a number is not finite, bright is nowhere above dark, or over 5 % of the
        pixels are bad.
    """
    bright_mean, dark_mean = _mean_frame(bright, "bright"), _mean_frame(dark, "dark")
    if bright_mean.shape != dark_mean.shape:
        raise ValueError(
            f"bright frames are {bright_mean.shape} and dark frames {dark_mean.shape} px; "
            "take both with the same camera settings"
        )
    response = bright_mean - dark_mean
    level = float(np.median(_sample(response)))
    if not level > 0:
        raise ValueError(
            f"bright is {level:.4g} counts above dark (median); it must be above: "
            "take the bright frames with the beam on, the screen up and no specimen"
        )
    # In place as far as may be: a montage waits for this, and new memory takes most of the time.
    error = np.asarray(cv2.medianBlur(dark_mean, 5), dtype=np.float32)
    np.subtract(dark_mean, error, out=error)
    bad = _outliers(error, least=1.0)
    around = cv2.medianBlur(response, 5)
    unlit = _unlit(np.asarray(around, np.float32), level)
    if mask is not None:
        given = check_mask(mask, response.shape)
        unlit = given if unlit is None else unlit | given
    if unlit is not None:
        level = float(np.median(_sample(response[~unlit])))
    np.maximum(around, np.float32(1e-3 * level), out=around)
    np.divide(response, around, out=error)
    error -= 1
    bad |= _outliers(error, least=MAX_RESPONSE_ERROR)
    if unlit is not None:
        bad &= ~unlit
    fraction = float(bad.mean())
    if fraction > MAX_BAD_FRACTION:
        raise ValueError(
            f"{fraction:.1%} of the pixels are bad; at most {MAX_BAD_FRACTION:.0%} are allowed: "
            "look at the bright and dark frames and take them again"
        )
    np.copyto(response, around, where=bad)
    lit = response if unlit is None else response[~unlit]
    mean = np.float32(lit.mean(dtype=np.float64))
    if unlit is not None:
        response[unlit] = np.inf
    gain = np.divide(mean, response, out=response)
    return References(dark_mean, gain, bad, unlit)


def flat_field(
    frame: NDArray[np.unsignedinteger],
    references: References,
    out: NDArray[np.uint16] | None = None,
    counts: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint16]:
    """Correct a frame: ``(frame − dark) · gain``, rounded and clipped, bad pixels replaced.

    Parameters
    ----------
    frame : ndarray of uint8 or uint16, shape (height, width)
        Raw counts.
    references : References
    out : ndarray of uint16, shape (height, width), optional
        Where to put the result; it may be `frame` itself.
    counts : ndarray of uint32, shape (65536,), optional
        Where to put how many pixels of each value the result has, which costs less here than
        in a pass of its own.

    Returns
    -------
    ndarray of uint16, shape (height, width)
        Counts at the raw frame's mean level, with no dark level; right to 0.65 of a count up to
        10 000 counts, 0.5 of which is the rounding.

    Raises
    ------
    ValueError
        If `frame` or `out` has another shape than the references.
    TypeError
        If `frame` is not uint8 or uint16, or `out` not uint16.
    """
    if frame.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"frame is {frame.dtype}; it must be uint8 or uint16")
    if frame.shape != references.shape:
        raise ValueError(
            f"frame is {frame.shape} px and the references {references.shape}: "
            "take bright and dark frames with this camera setting"
        )
    out = output_array(out, references.shape, np.uint16)
    tables = np.zeros((2, 0 if counts is None else 65536), np.uint32)
    raw = np.ascontiguousarray(frame).ravel()
    _correct(raw, references._steps, out.ravel(), tables)
    _replace(out, references.bad, references.bad_places, tables[0])
    if counts is not None:
        np.add(tables[0], tables[1], out=counts)
    return out


def _mean_frame(frames: ArrayLike, name: str) -> NDArray[np.float32]:
    """Average a stack, or take a frame as it is."""
    array = np.asarray(frames)
    if array.ndim == 3 and len(array):
        array = array.mean(axis=0, dtype=np.float64)
    if array.ndim != 2 or min(array.shape) < 5:
        raise ValueError(
            f"{name} has shape {array.shape}; it must be (height, width) or (n, height, width), "
            "of 5 × 5 px at least"
        )
    mean = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(mean).all():
        raise ValueError(f"{name} holds a number that is not finite; take the frames again")
    return mean


def _unlit(response: NDArray[np.float32], level: float) -> NDArray[np.bool_] | None:
    """Find areas that no light reaches; None if there are none."""
    dim = response < MIN_RESPONSE * level
    least = MIN_UNLIT_SHARE * dim.size
    if np.count_nonzero(dim) < least:
        return None
    _, areas, figures, _ = cv2.connectedComponentsWithStats(dim.view(np.uint8))
    large = figures[:, cv2.CC_STAT_AREA] >= least
    large[0] = False  # the rest of the frame
    if not large.any():
        return None
    side = 2 * UNLIT_GROWTH + 1
    unlit = cv2.dilate(large[areas].view(np.uint8), np.ones((side, side), np.uint8))
    return unlit.view(np.bool_)


def _in_steps(values: NDArray[np.float32]) -> tuple[NDArray[np.uint16], np.float32]:
    """Give values as numbers of equal steps, in one line, and the step; negative ones become 0."""
    step = np.float32(max(float(values.max(initial=0)), 1e-6) / 65535)
    steps = np.empty(values.size, np.uint16)
    _count_steps(values.ravel(), np.float32(1) / step, steps)
    return steps, step


def _outliers(deviation: NDArray[np.floating], least: float) -> NDArray[np.bool_]:
    """Tell which deviations exceed the robust spread of all, and a least amount.

    Only their sizes are left of them.
    """
    size = np.abs(deviation, out=deviation)
    sigma = 1.4826 * float(np.median(_sample(size)))
    return np.asarray(size > max(BAD_SIGMAS * sigma, least))


def _sample(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Give pixels spread over a frame, or all of a small one: enough for a median."""
    # An odd distance, or all would lie in a few columns of a frame.
    return values.ravel()[:: values.size // SAMPLE | 1]


@njit(nogil=True, cache=True, fastmath=True)
def _count_steps(values, a_unit, steps):  # type: ignore[no-untyped-def]
    half, low, high = np.float32(0.5), np.float32(0), np.float32(65535)
    for i in range(len(steps)):
        steps[i] = np.uint16(np.int32(min(max(values[i] * a_unit + half, low), high)))


@njit(nogil=True, cache=True)
def _correct(frame, steps, out, tables):  # type: ignore[no-untyped-def]
    """Correct and count, part by part: each is still in the cache when it is counted."""
    dark, gain, dark_step, gain_step = steps
    for begin in range(0, len(out), PART):
        part = slice(begin, begin + PART)
        _correct_line(frame[part], (dark[part], gain[part], dark_step, gain_step), out[part])
        if tables.shape[1]:
            count_line(out[part], tables[0], tables[1])


@njit(nogil=True, cache=True, fastmath=True)
def _correct_line(frame, steps, out):  # type: ignore[no-untyped-def]
    dark, gain, dark_step, gain_step = steps
    half, low, high = np.float32(0.5), np.float32(0), np.float32(65535)
    for i in range(len(out)):
        level = np.float32(frame[i]) - np.float32(dark[i]) * dark_step
        value = level * (np.float32(gain[i]) * gain_step) + half
        out[i] = np.uint16(np.int32(min(max(value, low), high)))


@njit(nogil=True, cache=True)
def _replace(image, bad, places, counts):  # type: ignore[no-untyped-def]
    """Put the median of the nearest good neighbours into each bad pixel."""
    rows, columns = image.shape
    found = np.empty((2 * MAX_REACH + 1) ** 2, image.dtype)
    for i in range(len(places)):
        row, column = places[i, 0], places[i, 1]
        for reach in range(1, MAX_REACH + 1):
            n = 0
            for r in range(max(0, row - reach), min(rows, row + reach + 1)):
                for c in range(max(0, column - reach), min(columns, column + reach + 1)):
                    if not bad[r, c]:
                        found[n] = image[r, c]
                        n += 1
            if n >= 3:
                value = np.uint16(np.median(found[:n]) + 0.5)
                if len(counts):
                    counts[image[row, column]] -= np.uint32(1)
                    counts[value] += np.uint32(1)
                image[row, column] = value
                break
