"""Textures with known shifts, and cameras that spoil them: what the tests of processing look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

LEVEL, CONTRAST = 12000.0, 1200.0  # mean and standard deviation of a tile, in counts


@lru_cache(maxsize=8)
def texture(side: int, seed: int = 0, falloff: float = 1.5, finest: float = 0.35) -> NDArray:
    """A periodic random field whose amplitude falls with frequency as tissue's does; std 1."""
    rng = np.random.default_rng(seed)
    down = scipy.fft.fftfreq(side)[:, None]
    across = scipy.fft.rfftfreq(side)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1.0
    amplitude = frequency**-falloff * np.exp(-((frequency / finest) ** 4)) * (frequency > 0.004)
    field = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((side, side))) * amplitude)
    return field / field.std()


def cut(scene: NDArray, place: tuple[float, float], shape: tuple[int, int]) -> NDArray:
    """Cut a part out at any place, exactly: a periodic scene is moved by Fourier's theorem."""
    whole = np.floor(place).astype(int)
    fraction = np.asarray(place) - whole
    if fraction.any():
        down = scipy.fft.fftfreq(scene.shape[0])[:, None]
        across = scipy.fft.fftfreq(scene.shape[1])[None]
        phase = np.exp(2j * np.pi * (down * fraction[0] + across * fraction[1]))
        scene = scipy.fft.ifft2(scipy.fft.fft2(scene) * phase).real
    rows, columns = (
        np.arange(start, start + side) % size
        for start, side, size in zip(whole, shape, scene.shape, strict=True)
    )
    return scene[np.ix_(rows, columns)]


def stripes(
    shape: tuple[int, int],
    place: tuple[float, float],
    period: float,
    angle: float,
    *,
    sharp: float = 0.0,
    jitter: float = 0.0,
    seed: int = 0,
) -> NDArray:
    """Parallel stripes as they are seen from a place of the scene; std 1.

    Knife marks are seen from where a tile lies, fringes of a camera from (0, 0) by every tile. Each
    stripe may be narrow, and off its place by a random fraction of a period.
    """
    rows, columns = np.indices(shape) + np.reshape(place, (2, 1, 1))
    phase = (np.cos(np.radians(angle)) * rows + np.sin(np.radians(angle)) * columns) / period
    if jitter:
        number = np.arange(-4000, 4000)
        off = jitter * np.random.default_rng(seed).standard_normal(len(number))
        phase += np.interp(phase, number, off)
    wave = np.cos(2 * np.pi * phase)
    if sharp:
        wave = np.exp(sharp * wave)
    return (wave - wave.mean()) / wave.std()


def expose(
    scene: NDArray, snr: float = 5.0, seed: int = 0, dtype: type = np.uint16, level: float = LEVEL
) -> NDArray:
    """Turn a part of a scene into a frame with white noise; `snr` is the ratio of the two stds."""
    noise = np.random.default_rng((seed, 99)).standard_normal(scene.shape)
    counts = level + CONTRAST * (scene + noise / snr)
    return np.clip(counts + 0.5, 0, np.iinfo(dtype).max).astype(dtype)


def _marks(period: float, **how: float) -> Callable[..., NDArray]:
    """Knife marks, which move with the specimen."""
    return lambda place, shape: stripes(shape, place, period, 35.0, **how)


def _fringes(period: float, angle: float = 35.0) -> Callable[..., NDArray]:
    """Fringes of the camera, which are at one place in every tile."""
    return lambda place, shape: stripes(shape, (0, 0), period, angle)


def _both(*parts: Callable[..., NDArray]) -> Callable[..., NDArray]:
    return lambda place, shape: sum(part(place, shape) for part in parts) / len(parts) ** 0.5


REPEATS: dict[str, Callable[[NDArray, tuple[int, int]], NDArray]] = {
    "regular marks": _marks(31.0),
    "fine marks": _marks(8.0),
    "sharp marks": _marks(31.0, sharp=4.0),
    "irregular marks": _marks(31.0, sharp=3.0, jitter=0.1),
    "fringes": _fringes(9.3),
    "wide fringes": _fringes(44.0),
    "a lattice of the camera": _both(_fringes(27.0), _fringes(33.0, 110.0)),
    "marks and fringes": _both(_marks(31.0), _fringes(9.3)),
}
"""What repeats in tiles, by where a tile lies and its shape; std 1."""
