"""Focus: how much fine detail a frame holds for its coarse detail, and whether it has a direction.

Taken from the power spectrum less its noise floor, so that dose and contrast do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

CROP = 1024  # the central square that is looked at, in px
WINDOW = 512  # side of the windows whose spectra are averaged, in px
# Bands of the spectrum in cycles a px. Below the low one lie the beam's shape and shading; the
# floor is where the camera's transfer leaves least of the specimen.
LOW_BAND = (0.015, 0.06)
HIGH_BAND = (0.08, 0.25)
FLOOR_BAND = (0.42, 0.5)
# The power of sharp edges in random directions falls as the cube of the frequency.
EDGE_POWER = 3.0
LEAST_WAVES = 4  # the widest waves looked at fit so many times into a window
LEAST_TEXTURE = 4.0  # power of the low band over the floor below which there is nothing to focus on
LEAST_SIGNIFICANT = 2.0  # standard deviations of noise that the high band's power must reach
LEAST_DIRECTED = 0.02  # the score below which too little detail is left to have a direction
CORRELATED = 2.25  # a Hann window makes so many neighbouring elements of a spectrum one
SPIKE = (
    6.0  # pixels beyond so many standard deviations are cut, or one of them would fill the floor
)


@dataclass(frozen=True)
class Focus:
    """How sharp a frame is.

    Attributes
    ----------
    score : float
        0 to 1. Sharp edges in random directions have 0.5; a blurred frame nears 0. It falls with
        the size of the defocus, whatever its sign. 0 if there is no texture.
    astigmatism : float
        0 to 1: how much more detail there is in one direction than across it, beyond what the
        coarse detail shows of the specimen's own direction. 0 if there is no texture or no detail.
    astigmatism_angle : float
        Direction along which the detail is sharpest, in degrees counter-clockwise from the
        columns' axis, 0 to 180.
    texture : float
        Power of the coarse detail over the noise floor.
    textured : bool
        Whether that is enough to tell the focus.
    """

    score: float
    astigmatism: float
    astigmatism_angle: float
    texture: float
    textured: bool


def focus_score(frame: NDArray[np.generic]) -> Focus:
    """Measure the focus of a frame on its middle.

    The spectra of overlapping windows are averaged (P. D. Welch, IEEE Trans. Audio
    Electroacoustics 15, 1967). The score compares the power in a high band with that in a low one,
    each less the noise floor and relative to the power that sharp edges have there, which falls as
    the cube of the frequency. Astigmatism is the second angular moment of the high band, less that
    of the low band: the spectrum's direction is what it has long been read from (S. J. Erasmus and
    K. C. A. Smith, J. Microscopy 127, 1982, review earlier ways and use the variance).

    Parameters
    ----------
    frame : ndarray, shape (height, width)
        Real pixel values, flat-field corrected for preference; 128 × 128 at least.

    Returns
    -------
    Focus

    Raises
    ------
    ValueError
        If `frame` is not two-dimensional or too small, or holds a number that is not finite.
    """
    spectrum, windows = power_spectrum(frame)
    size = len(spectrum)
    # A small window knows nothing of what is wider than it.
    low_limits = max(LOW_BAND[0], LEAST_WAVES / size), LOW_BAND[1]
    low_band, high_band = _band(size, low_limits, 0.0), _band(size, HIGH_BAND, EDGE_POWER)
    floor_band = _band(size, FLOOR_BAND, 0.0)
    floor = float(spectrum.ravel()[floor_band.places].mean())
    coarse = float(spectrum.ravel()[low_band.places].mean())
    texture = coarse / floor if floor > 0 else 0.0
    if texture < LEAST_TEXTURE:
        return Focus(0.0, 0.0, 0.0, texture, False)
    noise = floor * (CORRELATED / windows) ** 0.5
    # The low band's widest waves tell its power, which hardly any blur takes away; its finest tell
    # the specimen's direction, which may not be the same at every scale.
    low, _ = low_band.power(spectrum, floor)
    whitened, low_moment = _band(size, low_limits, EDGE_POWER).power(spectrum, floor)
    high, high_moment = high_band.power(spectrum, floor)
    error = high_band.error(noise)
    if high < LEAST_SIGNIFICANT * error:
        return Focus(0.0, 0.0, 0.0, texture, True)
    score = high / (high + low)
    if score < LEAST_DIRECTED:
        return Focus(score, 0.0, 0.0, texture, True)
    moment = high_moment / high - low_moment / max(whitened, error)
    # Noise alone gives a moment; its mean square is taken off.
    strength = max(abs(moment) ** 2 - (error / high) ** 2, 0.0) ** 0.5
    return Focus(
        score=score,
        astigmatism=min(strength, 1.0),
        astigmatism_angle=float(np.degrees(np.angle(moment)) / 2 % 180),
        texture=texture,
        textured=True,
    )


def power_spectrum(frame: NDArray[np.generic]) -> tuple[NDArray[np.float32], int]:
    """Average the power spectra of windows over the middle of a frame.

    Parameters
    ----------
    frame : ndarray, shape (height, width)

    Returns
    -------
    ndarray of float32, shape (n, n // 2 + 1)
        Half spectrum as `scipy.fft.rfft2` lays it out; n is 512, or less for a small frame.
    int
        How many windows were averaged.

    Raises
    ------
    ValueError
        If `frame` is not two-dimensional or too small, or holds a number that is not finite.
    """
    if frame.ndim != 2 or min(frame.shape) < 128:
        raise ValueError(f"frame has shape {frame.shape}; it must be two-dimensional, 128² or more")
    side = min(CROP, *frame.shape)
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    crop = frame[top : top + side, left : left + side].astype(np.float32)
    middle = float(crop.mean())
    spread = float(crop.std())
    if not np.isfinite(spread):
        raise ValueError("frame holds a number that is not finite")
    np.clip(crop, middle - SPIKE * spread, middle + SPIKE * spread, out=crop)
    size = min(WINDOW, side)
    window = _window(size)
    starts = range(0, side - size + 1, max(1, size // 2))
    total = np.zeros((size, size // 2 + 1), np.float32)
    for row in starts:
        for column in starts:
            part = crop[row : row + size, column : column + size]
            spectrum = scipy.fft.rfft2((part - part.mean()) * window)
            total += spectrum.real**2 + spectrum.imag**2
    windows = len(starts) ** 2
    total /= np.float32(windows)
    return total, windows


@dataclass(frozen=True, eq=False)
class _Band:
    """Elements of a half spectrum at some frequencies: where, their weights and directions."""

    places: NDArray[np.intp]
    weights: NDArray[np.float64]
    direction: NDArray[np.complex128]

    def power(self, spectrum: NDArray[np.float32], floor: float) -> tuple[float, complex]:
        """Give the mean weighted power above the floor, and its second angular moment."""
        above = self.weights * (spectrum.ravel()[self.places] - floor)
        mean = float(above.sum() / len(above))
        return mean, complex((above * self.direction).sum() / len(above))

    def error(self, noise: float) -> float:
        """Give the standard deviation of the mean weighted power, from that of each element."""
        return noise * float(np.sqrt(np.square(self.weights).sum())) / len(self.weights)


@lru_cache(maxsize=16)
def _band(size: int, limits: tuple[float, float], steepness: float) -> _Band:
    """Pick the elements of one band, and weigh them by a power of the frequency.

    Weights are scaled so that the power of edges has a mean of 1 in every band.
    """
    down = scipy.fft.fftfreq(size)[:, None]
    across = scipy.fft.rfftfreq(size)[None]
    frequency = np.hypot(down, across)
    # A half spectrum holds the column of frequency 0 whole and half of all others.
    whole = np.where(across == 0, 0.5, 1.0) * np.ones_like(frequency)
    places = np.flatnonzero((frequency >= limits[0]) & (frequency < limits[1]))
    angle = np.arctan2(-down, across).ravel()[places]
    weights = (whole * frequency**steepness).ravel()[places]
    edges = (weights * frequency.ravel()[places] ** -EDGE_POWER).mean()
    return _Band(places, weights / edges, np.exp(2j * angle))


@lru_cache(maxsize=4)
def _window(size: int) -> NDArray[np.float32]:
    line = np.hanning(size + 1)[:size].astype(np.float32)
    return np.outer(line, line)
