"""What repeats: knife marks and camera fringes are found in a tile's spectrum, and taken out of it.

They agree at many offsets, or at the camera's own. What does not repeat agrees at one only.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

SIDE = 64  # of a window, in px
# The amplitude of a line over the usual one at its frequency. Of tissue it is 2.0 at most. Of
# noise, the median over n windows is 1 + SURE / √n times the usual one once in 10⁸ elements.
MIN_LINE, SURE = 2.2, 4.8
MIN_SHARE = 1e-3  # of the power, in an element; what is less than that pulls no match
HIGHEST = 0.42  # cycles a px; beyond, cameras differ along rows and columns
RINGS = 48  # a cycle a px
FLAT = 0.08  # cycles a px, below which a band-passed tile has one usual amplitude
NEAR = 0.7  # standard deviations of a notch, within which another line needs none
REACH = 3.0  # standard deviations of a notch's kernel
ROUNDS = 2  # at the border of an image, the first leaves some


class Lines(NamedTuple):
    """Frequencies down and across of what repeats in a tile, shape (k, 2).

    In cycles a px of the tile, and in cycles a px of the reduced tile.
    """

    fine: NDArray[np.float64]
    coarse: NDArray[np.float64]


def find_lines(windows: NDArray[np.float32], lowest: float = 0.0) -> NDArray[np.float64]:
    """Find sharp lines in the median spectrum of some windows.

    Parameters
    ----------
    windows : ndarray of float32, shape (n, height, width)
        If one of them is blank, there are no lines.
    lowest : float
        The frequency from which on lines are looked for, in cycles a px. Below `FLAT` the spectrum
        is taken to be flat but for them, as a tile's is whose slow changes were taken off.

    Returns
    -------
    ndarray of float64, shape (k, 2)
        Frequencies down and across, in cycles a px, of the elements of the spectrum that lie on a
        line: several for each.
    """
    shape = windows.shape[1], windows.shape[2]
    levelled = np.empty(windows.shape, np.float32)
    if not _level(windows, _fade(shape), levelled):
        return np.empty((0, 2))
    spectra = scipy.fft.rfft2(levelled, overwrite_x=True).reshape(len(windows), -1)
    ring, frequencies, looked_at = _plane(shape, lowest)
    limit = max(MIN_LINE, 1 + SURE / sqrt(len(windows)))
    least = sqrt(MIN_SHARE * shape[0] * shape[1])
    return frequencies[_stand_out(_median_amplitude(spectra), ring, looked_at, (limit, least))]


def take_out(
    image: NDArray[np.generic], lines: NDArray[np.float64], sigma: float
) -> NDArray[np.float32]:
    """Take lines out of an image.

    Each by a notch, the kernel of which is a wave in a Gaussian. Where the border of the image cuts
    that off, what is left of it counts as much more.

    Parameters
    ----------
    image : ndarray, shape (height, width)
    lines : ndarray of float64, shape (k, 2)
        Frequencies down and across, in cycles a px.
    sigma : float
        Standard deviation of the Gaussian, in px. The shorter, the wider is the notch.

    Returns
    -------
    ndarray of float32, shape (height, width)
        With the mean of the image.
    """
    if not len(lines):
        return image.astype(np.float32)
    mean = np.float32(image.mean())
    rest = image.astype(np.float32) - mean
    height, width = rest.shape
    size = [scipy.fft.next_fast_len(n + int(REACH * sigma), real=True) for n in rest.shape]
    spread = 1 / (2 * np.pi * sigma)
    notches = _notches((size[0], size[1]), _apart(lines, NEAR * spread), spread)
    down, across = (_share(n, m, sigma) for n, m in zip(rest.shape, size, strict=True))
    for _ in range(ROUNDS):
        spectrum = scipy.fft.rfft2(rest, size)
        spectrum *= notches
        repeated = scipy.fft.irfft2(spectrum, size, overwrite_x=True)[:height, :width]
        rest -= repeated / (down[:, None] * across)
    return rest + mean


def spread_windows(image: NDArray[np.generic], count: int) -> NDArray[np.float32]:
    """Cut windows out of an image, spread along its border.

    Parameters
    ----------
    image : ndarray, shape (height, width)
    count : int
        Along the longer side, at most.

    Returns
    -------
    ndarray of float32, shape (n, ≤ 64, ≤ 64)
    """
    places = _places((image.shape[0], image.shape[1]), count)
    side = [min(SIDE, n) for n in image.shape]
    windows = np.empty((len(places), *side), np.float32)
    for window, place in zip(windows, places, strict=True):
        window[:] = image[place]
    return windows


@lru_cache(maxsize=32)
def _places(shape: tuple[int, int], count: int) -> list[tuple[slice, slice]]:
    """Return where windows lie along the border of an image."""
    side = [min(SIDE, n) for n in shape]
    starts = [
        np.linspace(0, n - s, max(1, min(count, n // s))).astype(int).tolist()
        for n, s in zip(shape, side, strict=True)
    ]
    return [
        np.s_[r : r + side[0], c : c + side[1]]
        for r in starts[0]
        for c in starts[1]
        if r in (starts[0][0], starts[0][-1]) or c in (starts[1][0], starts[1][-1])
    ]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _level(windows, fade, levelled):  # type: ignore[no-untyped-def]
    """Take the mean off each window, fade it, bring its contrast to one; false if one is blank."""
    count, height, width = windows.shape
    for n in range(count):
        total = np.float32(0)
        for r in range(height):
            for c in range(width):
                total += windows[n, r, c]
        mean = np.float32(total / (height * width))
        squares = np.float32(0)
        for r in range(height):
            for c in range(width):
                value = (windows[n, r, c] - mean) * fade[r, c]
                levelled[n, r, c] = value
                squares += value * value
        if squares == 0:
            return False
        share = np.float32(1 / np.sqrt(squares))
        for r in range(height):
            for c in range(width):
                levelled[n, r, c] *= share
    return True


@njit(nogil=True, cache=True)
def _median_amplitude(spectra):  # type: ignore[no-untyped-def]
    """Return the amplitude of each element that half of the spectra have or less.

    A line is in most windows; the edge of a fold, or of the beam, in some.
    """
    count, size = spectra.shape
    median = np.empty(size, np.float32)
    powers = np.empty(count, np.float32)
    for k in range(size):
        for n in range(count):
            value = spectra[n, k].real ** 2 + spectra[n, k].imag ** 2
            at = n
            while at > 0 and powers[at - 1] > value:
                powers[at] = powers[at - 1]
                at -= 1
            powers[at] = value
        median[k] = np.sqrt(powers[(count - 1) // 2])
    return median


@njit(nogil=True, cache=True)
def _stand_out(amplitude, ring, looked_at, limits):  # type: ignore[no-untyped-def]
    """Whether each element stands out of what is usual at its frequency."""
    limit, least = limits
    usual = np.full(ring.max() + 1, np.inf)
    # Lines raise the means of their rings: those of the second time are without them.
    for _ in range(2):
        sums, counts = np.zeros(len(usual)), np.zeros(len(usual))
        for k in range(len(amplitude)):
            if looked_at[k] and amplitude[k] < limit * usual[ring[k]]:
                sums[ring[k]] += amplitude[k]
                counts[ring[k]] += 1
        usual = sums / np.maximum(counts, 1)
    found = np.zeros(len(amplitude), np.bool_)
    for k in range(len(amplitude)):
        found[k] = looked_at[k] and amplitude[k] > max(limit * usual[ring[k]], least)
    return found


def _apart(lines: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Leave out lines that are so near to others that one notch does for both."""
    kept: list[NDArray[np.float64]] = []
    for line in lines:
        if all(min(np.hypot(*(line - k)), np.hypot(*(line + k))) > least for k in kept):
            kept.append(line)
    return np.array(kept)


def _notches(
    size: tuple[int, int], lines: NDArray[np.float64], spread: float
) -> NDArray[np.float32]:
    """Return what filters that let lines alone through let through, in a half spectrum."""
    both = np.concatenate([lines, -lines])
    down = scipy.fft.fftfreq(size[0]) - both[:, :1]
    across = scipy.fft.rfftfreq(size[1]) - both[:, 1:]
    passed = np.zeros((size[0], size[1] // 2 + 1), np.float32)
    along = [
        np.exp(-((((off + 0.5) % 1 - 0.5) / spread) ** 2) / 2).astype(np.float32)
        for off in (down, across)
    ]
    for of_rows, of_columns in zip(*along, strict=True):
        rows, columns = of_rows > 1e-3, of_columns > 1e-3
        here = np.ix_(rows, columns)
        passed[here] = np.maximum(passed[here], np.outer(of_rows[rows], of_columns[columns]))
    return passed


def _share(length: int, size: int, sigma: float) -> NDArray[np.float32]:
    """Return how much of a Gaussian about each place of a line lies within it."""
    within = (np.arange(size) < length).astype(float)
    kernel = np.exp(-2 * (np.pi * sigma * scipy.fft.rfftfreq(size)) ** 2)
    blurred = scipy.fft.irfft(scipy.fft.rfft(within) * kernel, size)
    return np.asarray(blurred[:length], dtype=np.float32)


@lru_cache(maxsize=16)
def _plane(
    shape: tuple[int, int], lowest: float
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the ring and the frequencies of each element of a half spectrum, and if it counts."""
    down = np.repeat(scipy.fft.fftfreq(shape[0]), shape[1] // 2 + 1)
    across = np.tile(scipy.fft.rfftfreq(shape[1]), shape[0])
    length = np.hypot(down, across)
    ring = (RINGS * np.maximum(length, FLAT)).astype(np.intp)
    looked_at = (length > lowest) & (length <= HIGHEST)
    return ring, np.stack([down, across], axis=1), looked_at


@lru_cache(maxsize=16)
def _fade(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return a Hann window."""
    down, across = (np.hanning(n + 1)[:n].astype(np.float32) for n in shape)
    return np.outer(down, across)
