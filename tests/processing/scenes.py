"""Textures with known shifts, and cameras that spoil them: what the tests of processing look at."""

from __future__ import annotations

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


def expose(
    scene: NDArray, snr: float = 5.0, seed: int = 0, dtype: type = np.uint16, level: float = LEVEL
) -> NDArray:
    """Turn a part of a scene into a frame with white noise; `snr` is the ratio of the two stds."""
    noise = np.random.default_rng((seed, 99)).standard_normal(scene.shape)
    counts = level + CONTRAST * (scene + noise / snr)
    return np.clip(counts + 0.5, 0, np.iinfo(dtype).max).astype(dtype)
