"""Smooth random fields of endless extent, the same at every place whatever the region asked for.

Built from octaves of banked noise, each upsampled onto the next finer one: about 3 ns a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

PERIODS = (1021, 997)
"""Sides of the two noise tiles. They share no factor: their sum repeats after a million pixels."""
MAX_COLUMNS = 2100
INT8_SIGMA = 28.0


@cache
def _tiles() -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Two periodic tiles of blurred noise, standard deviation 28, repeated along columns."""
    return _tile(PERIODS[0], 1), _tile(PERIODS[1], 2)


def _tile(period: int, seed: int) -> NDArray[np.int8]:
    white = np.random.default_rng(seed).standard_normal((period, period), np.float32)
    smooth = gaussian_filter(white, 0.6, mode="wrap")
    smooth *= INT8_SIGMA / smooth.std()
    tile = np.clip(np.round(smooth), -127, 127).astype(np.int8)
    return np.pad(tile, ((0, 0), (0, MAX_COLUMNS)), mode="wrap")


class NoiseField:
    """A random field of zero mean with a given amplitude in each octave.

    Parameters
    ----------
    seed : int or sequence of int
        Of the field.
    amplitudes : mapping of int to float
        Standard deviation of each octave, by its lattice spacing in nm (a power of two). Finer
        than the finest, the field is smooth (a quadratic B-spline); at coarse levels the finer
        octaves are left out, as a mean over a pixel would.
    """

    def __init__(self, seed: int | tuple[int, ...], amplitudes: Mapping[int, float]) -> None:
        self.amplitudes = dict(amplitudes)
        self._coarsest = max(self.amplitudes)
        rng = np.random.default_rng(seed)
        self._origins = {
            level: rng.integers(0, 2**20, 4) for level in sorted(self.amplitudes, reverse=True)
        }

    def sample(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.float32]:
        """Make the field on part of the grid of a level.

        Parameters
        ----------
        level : int
            Pixel size, in nm.
        row, column : int
            First pixel on the grid of the level.
        height, width : int
            Size in pixels; width at most 2100.

        Returns
        -------
        ndarray of float32, shape (height, width)
        """
        if level > self._coarsest:
            return np.zeros((height, width), np.float32)
        tall, wide = (
            (row + height - 1) // 2 - row // 2 + 3,
            (column + width - 1) // 2 - column // 2 + 3,
        )
        coarse = self.sample(2 * level, row // 2 - 1, column // 2 - 1, tall, wide)
        amplitude = np.float32(self.amplitudes.get(level, 0.0) / INT8_SIGMA / 2**0.5)
        fine = np.empty((height, width), np.float32)
        origin = self._origins.get(level)
        if origin is None:
            _double(coarse, row % 2, column % 2, fine)
        else:
            _double_and_add(
                coarse,
                row % 2,
                column % 2,
                *_tiles(),
                *_offsets(row, column, origin),
                amplitude,
                fine,
            )
        return fine


def _offsets(row: int, column: int, origin: NDArray[np.int64]) -> tuple[int, int, int, int]:
    return (
        int((row + origin[0]) % PERIODS[0]),
        int((column + origin[1]) % PERIODS[0]),
        int((row + origin[2]) % PERIODS[1]),
        int((column + origin[3]) % PERIODS[1]),
    )


@njit(nogil=True, cache=True)
def _blend_rows(coarse, i, odd_row, line):
    """Weight the two coarse rows next to fine row `i` by 3/4 and 1/4."""
    k = (i + odd_row) // 2 + 1
    other = k + 1 if (i + odd_row) % 2 else k - 1
    for j in range(line.size):
        line[j] = np.float32(0.75) * coarse[k, j] + np.float32(0.25) * coarse[other, j]


@njit(nogil=True, cache=True)
def _double(coarse, odd_row, odd_column, fine):
    """Upsample by two with weights 3/4 and 1/4 along each axis."""
    line = np.empty(coarse.shape[1], np.float32)
    both = np.empty(2 * coarse.shape[1], np.float32)
    for i in range(fine.shape[0]):
        _blend_rows(coarse, i, odd_row, line)
        for k in range(1, line.size - 1):
            both[2 * k] = np.float32(0.75) * line[k] + np.float32(0.25) * line[k - 1]
            both[2 * k + 1] = np.float32(0.75) * line[k] + np.float32(0.25) * line[k + 1]
        for j in range(fine.shape[1]):
            fine[i, j] = both[j + 2 + odd_column]


@njit(nogil=True, cache=True)
def _double_and_add(  # noqa: PLR0917 (a kernel)
    coarse, odd_row, odd_column, a, b, ra, ca, rb, cb, amplitude, fine
):
    """Upsample as `_double`, and add two noise tiles from given first rows and columns."""
    line = np.empty(coarse.shape[1], np.float32)
    both = np.empty(2 * coarse.shape[1], np.float32)
    for i in range(fine.shape[0]):
        _blend_rows(coarse, i, odd_row, line)
        for k in range(1, line.size - 1):
            both[2 * k] = np.float32(0.75) * line[k] + np.float32(0.25) * line[k - 1]
            both[2 * k + 1] = np.float32(0.75) * line[k] + np.float32(0.25) * line[k + 1]
        row_a, row_b = a[(ra + i) % a.shape[0]], b[(rb + i) % b.shape[0]]
        for j in range(fine.shape[1]):
            grain = np.float32(np.int32(row_a[ca + j]) + np.int32(row_b[cb + j]))
            fine[i, j] = both[j + 2 + odd_column] + amplitude * grain
