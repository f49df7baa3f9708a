"""The power spectrum of a tile, from windows spread over it: what all measures of sharpness share.

Many small windows instead of one large: resin can be told from tissue, one side from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from processing.masks import check_mask

SIDE = 128  # of a window, in px
GRID = 5  # windows along each side of a large tile
# The middles of the outer windows lie so far in, as a share of the tile: half of an overlap of
# 10 %, so that two neighbours look at the same place of the specimen.
INSET = 0.05
# Bands of frequency in cycles a px. Coarse detail survives any blur; fine detail is what blur takes
# first; where the camera's transfer leaves least of the specimen, there is the noise floor.
COARSE = (0.03, 0.06)
FINE = (0.15, 0.33)
FLOOR = (0.42, 0.5)
# The power of sharp edges in random directions falls as the cube of the frequency.
EDGE_POWER = 3.0
LEAST_TEXTURE = 4.0  # power of the coarse band over the floor below which there is no texture
CORRELATED = 2.25  # a Hann window makes so many neighbouring elements of a spectrum one
# Pixels beyond so many standard deviations are cut, or one of them would fill the floor.
SPIKE = 6.0
MAX_MASKED = 0.1  # share of a window without signal from which on it tells nothing


@dataclass(frozen=True, eq=False)
class TileSpectrum:
    """The power spectrum of a tile.

    Attributes
    ----------
    power : ndarray of float32, shape (128, 65)
        Mean over the textured windows, or over all if there are none; a half spectrum as
        `scipy.fft.rfft2` lays it out.
    windows : int
        How many that is the mean of.
    coarse, fine : ndarray of float64, shape (rows, columns)
        Power of the coarse and the fine detail of each window above its noise floor, as the factor
        of the power that sharp edges have.
    texture : ndarray of float64, shape (rows, columns)
        Power of the coarse detail over the noise floor; −1 where a mask leaves too little.
    """

    power: NDArray[np.float32]
    windows: int
    coarse: NDArray[np.float64]
    fine: NDArray[np.float64]
    texture: NDArray[np.float64]

    @property
    def textured(self) -> NDArray[np.bool_]:
        """Which windows have enough texture to tell sharpness from."""
        return self.texture >= LEAST_TEXTURE

    @property
    def floor(self) -> float:
        """Power of the noise in one element of the spectrum."""
        return mean_power(self.power, FLOOR)


def tile_spectrum(
    image: NDArray[np.generic], mask: NDArray[np.bool_] | None = None
) -> TileSpectrum:
    """Take the spectrum of a tile, averaged over windows (P. D. Welch, IEEE Trans. 1967).

    Parameters
    ----------
    image : ndarray, shape (height, width)
        Pixel values, flat-field corrected, and not resampled: that would take from the noise floor.
    mask : ndarray of bool, shape (height, width), optional
        True where there is no signal. Windows of which a tenth is masked have no texture; in others
        the mean stands there.

    Returns
    -------
    TileSpectrum

    Raises
    ------
    TypeError
        If `mask` is not bool.
    ValueError
        If `image` is not two-dimensional or too small, or holds a number that is not finite, or
        `mask` is of another shape or leaves nothing.
    """
    windows, grid, seen = cut_windows(image, mask)
    power = _power(windows)
    flat = power.reshape(len(power), -1)
    coarse, fine, floor = (flat @ _weights()).T.astype(np.float64)
    whitened = _whitened(COARSE)
    texture = np.divide(coarse, floor, out=np.zeros_like(floor), where=seen & (floor > 0)) - 1
    used = texture >= LEAST_TEXTURE
    # If none has texture, all that show; if none does, all.
    chosen = next(each for each in (used, seen, ~seen) if each.any()).astype(np.float32)
    n = int(chosen.sum())
    return TileSpectrum(
        power=np.asarray(chosen @ flat / np.float32(n), np.float32).reshape(power.shape[1:]),
        windows=n,
        coarse=((coarse - floor) / whitened).reshape(grid),
        fine=(fine - floor * _floor_in_fine()).reshape(grid),
        texture=texture.reshape(grid),
    )


def cut_windows(
    image: NDArray[np.generic], mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], tuple[int, int], NDArray[np.bool_]]:
    """Cut windows out of an image, evenly spread, each less its mean and faded to its sides.

    Parameters
    ----------
    image : ndarray, shape (height, width)
    mask : ndarray of bool, shape (height, width), optional
        True where there is no signal.

    Returns
    -------
    ndarray of float32, shape (n, 128, 128)
    (int, int)
        How many there are along the rows and the columns: n is their product.
    ndarray of bool, shape (n,)
        Which of them are nearly whole; in the others a mask leaves too little.

    Raises
    ------
    TypeError
        If `mask` is not bool.
    ValueError
        If `image` is not two-dimensional or too small, or holds a number that is not finite, or
        `mask` is of another shape or leaves nothing.
    """
    if image.ndim != 2 or min(image.shape) < SIDE:
        raise ValueError(f"frame has shape {image.shape}; it must be two-dimensional, 128² or more")
    lost = None if mask is None else check_mask(mask, image.shape)
    down, across = (
        _starts(*((0, length) if lost is None else _shown(lost.mean(axis=1 - axis))))
        for axis, length in enumerate(image.shape)
    )
    corners = np.array([(row, column) for row in down for column in across])
    windows = np.empty((len(corners), SIDE, SIDE), np.float32)
    _cut(image, corners, windows)
    seen = np.ones(len(windows), np.bool_)
    if lost is not None:
        places = [np.s_[r : r + SIDE, c : c + SIDE] for r, c in corners]
        seen[:] = [_fill(windows[n], lost[place]) for n, place in enumerate(places)]
    if not np.isfinite(_level(windows, _fade())):
        raise ValueError("frame holds a number that is not finite")
    return windows, (len(down), len(across)), seen


def _fill(window: NDArray[np.float32], masked: NDArray[np.bool_]) -> bool:
    """Put the mean of a window where it is masked; tell whether that is little of it."""
    if masked.any():
        window[masked] = 0.0 if masked.all() else window[~masked].mean()
    return bool(masked.mean() <= MAX_MASKED)


def _power(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the power spectrum of each window, shape (n, 128, 65).

    OpenCV's transform of real numbers takes half the time of scipy's.
    """
    power = np.empty((len(windows), SIDE, SIDE // 2 + 1), np.float32)
    packed = np.empty_like(windows)
    for window, its_packed in zip(windows, packed, strict=True):
        cv2.dft(window, its_packed)
    _unpack_power(packed, power)
    return power


def mean_power(power: NDArray[np.float32], band: tuple[float, float]) -> float:
    """Give the mean power of a half spectrum in a band of frequencies, in cycles a px."""
    return float(power.ravel() @ _mean_of(band))


@lru_cache(maxsize=8)
def _mean_of(band: tuple[float, float]) -> NDArray[np.float64]:
    """Return the weights of the elements of a half spectrum in the mean over a band."""
    weights = np.where(in_band(band), whole(), 0.0).ravel()
    return weights / weights.sum()


@lru_cache(maxsize=1)
def frequency() -> NDArray[np.float64]:
    """Give the frequency of each element of a half spectrum, in cycles a px, shape (128, 65)."""
    return np.hypot(scipy.fft.fftfreq(SIDE)[:, None], scipy.fft.rfftfreq(SIDE)[None])


@lru_cache(maxsize=1)
def direction() -> NDArray[np.float64]:
    """Give the direction of each element, in degrees counter-clockwise from the columns' axis."""
    down, across = scipy.fft.fftfreq(SIDE)[:, None], scipy.fft.rfftfreq(SIDE)[None]
    return np.asarray(np.degrees(np.arctan2(-down, across)) % 180)


@lru_cache(maxsize=1)
def whole() -> NDArray[np.float64]:
    """Give how much each element counts: the column of frequency 0 is there whole."""
    return np.where(scipy.fft.rfftfreq(SIDE)[None] == 0, 0.5, 1.0) * np.ones((SIDE, 1))


@lru_cache(maxsize=8)
def in_band(band: tuple[float, float]) -> NDArray[np.bool_]:
    """Tell which elements lie in a band of frequencies, in cycles a px."""
    return (frequency() >= band[0]) & (frequency() < band[1])


def _shown(lost: NDArray[np.floating]) -> tuple[int, int]:
    """Return where lines begin and end of which a mask leaves half; all, if that is too little."""
    shown = np.flatnonzero(lost <= 0.5)
    if not len(shown) or shown[-1] + 1 - shown[0] < SIDE:
        return 0, len(lost)
    return int(shown[0]), int(shown[-1]) + 1


def _starts(first: int, end: int) -> list[int]:
    """Place windows along a side, so that the outer ones have their middle `INSET` from its end."""
    length = end - first
    n = min(GRID, length // SIDE)
    inset = int(min(max(0.0, INSET * length - SIDE / 2), (length - n * SIDE) / 2))
    starts = np.linspace(first + inset, end - SIDE - inset, n)
    return starts.round().astype(int).tolist()


@lru_cache(maxsize=1)
def _whitened(band: tuple[float, float]) -> float:
    """Give the mean power that edges of unit strength have in a band."""
    inside = in_band(band)
    weights = whole()[inside]
    return float((weights * frequency()[inside] ** -EDGE_POWER).sum() / weights.sum())


@lru_cache(maxsize=1)
def _floor_in_fine() -> float:
    """Give the mean whitened power of white noise in the fine band."""
    inside = in_band(FINE)
    weights = whole()[inside]
    return float((weights * frequency()[inside] ** EDGE_POWER).sum() / weights.sum())


@lru_cache(maxsize=1)
def _weights() -> NDArray[np.float32]:
    """Make the columns that sum a spectrum up: coarse band, fine band whitened, noise floor."""
    columns = []
    for band, steepness in ((COARSE, 0.0), (FINE, EDGE_POWER), (FLOOR, 0.0)):
        weights = np.where(in_band(band), whole(), 0.0)
        columns.append((weights * frequency() ** steepness).ravel() / weights.sum())
    return np.stack(columns, axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _fade() -> NDArray[np.float32]:
    line = np.hanning(SIDE + 1)[:SIDE].astype(np.float32)
    return np.outer(line, line)


# All windows in one call: each time that one of these ends, its thread waits for Python's lock.


@njit(nogil=True, cache=True)
def _cut(image, corners, windows):  # type: ignore[no-untyped-def]
    """Copy windows out of an image."""
    for n in range(len(corners)):
        top, left = corners[n]
        for row in range(SIDE):
            line = image[top + row, left : left + SIDE]
            for column in range(SIDE):
                windows[n, row, column] = np.float32(line[column])


@njit(nogil=True, cache=True)
def _level(windows, fade):  # type: ignore[no-untyped-def]
    """Take their mean off windows, cut spikes, fade them; return the sum of their deviations."""
    deviations = np.float32(0)
    for n in range(len(windows)):
        deviations += _level_one(windows[n], fade)
    return deviations


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _level_one(window, fade):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for row in range(SIDE):
        for column in range(SIDE):
            total += window[row, column]
    mean = total / np.float32(SIDE * SIDE)
    squares = np.float32(0)
    for row in range(SIDE):
        for column in range(SIDE):
            window[row, column] -= mean
            squares += window[row, column] ** 2
    deviation = np.sqrt(squares / np.float32(SIDE * SIDE))
    most = np.float32(SPIKE) * deviation
    for row in range(SIDE):
        for column in range(SIDE):
            cut = min(max(window[row, column], -most), most)
            window[row, column] = cut * fade[row, column]
    return deviation


@njit(nogil=True, cache=True)
def _unpack_power(all_packed, all_power):  # type: ignore[no-untyped-def]
    """Square transforms in OpenCV's packed form.

    A row holds real and imaginary parts side by side. Frequency 0 and the highest one along the
    columns, the first and the last column, are packed in the same way from top to bottom.
    """
    half = SIDE // 2
    for n in range(len(all_packed)):
        packed, power = all_packed[n], all_power[n]
        for row in range(SIDE):
            for k in range(1, half):
                power[row, k] = packed[row, 2 * k - 1] ** 2 + packed[row, 2 * k] ** 2
        for k, column in ((0, 0), (half, SIDE - 1)):
            power[0, k] = packed[0, column] ** 2
            power[half, k] = packed[SIDE - 1, column] ** 2
            for row in range(1, half):
                square = packed[2 * row - 1, column] ** 2 + packed[2 * row, column] ** 2
                power[row, k] = power[SIDE - row, k] = square
