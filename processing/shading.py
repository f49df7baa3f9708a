"""Uneven light, estimated from the tiles of a montage themselves: for want of a bright frame.

All tiles were lit alike, and the specimen differs from tile to tile: what is the same at one place
of all of them is the light. Whether there are enough tiles to tell, tiles that were held out judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.flatfield import References

GRID = 32  # blocks along each side of a tile
DEGREE = 4  # of the polynomial: light is smooth, and what is left of the specimen is not
MIN_TILES = 12  # of which a half is held out
MIN_UNEVENNESS = 0.01  # RMS, relative, that is worth correcting
MAX_LEFT = 0.5  # of it, that the light found in other tiles may leave
MIN_LIGHT = 0.05  # relative to the mean; less is beyond the beam, and no polynomial tells it
MIN_SHOWN = 0.5  # of a block's pixels that must not be masked


@dataclass(frozen=True, eq=False)
class Shading:
    """Uneven light.

    Attributes
    ----------
    field : ndarray of float64, shape (GRID, GRID)
        Of blocks of a tile, with a mean of 1.
    tiles : int
        That it was estimated from.
    unevenness : float
        RMS of what it departs from 1 by.
    left : float
        RMS of what is left of the light of one half of the tiles if that of the other is taken off.
    """

    field: NDArray[np.float64]
    tiles: int
    unevenness: float
    left: float

    @property
    def is_worth_it(self) -> bool:
        """Whether light is uneven, and tiles that were held out are evener without it."""
        return self.unevenness >= MIN_UNEVENNESS and self.left <= MAX_LEFT * self.unevenness

    def references(self, shape: tuple[int, int]) -> References:
        """Return the references that take it off.

        Parameters
        ----------
        shape : (int, int)
            (height, width) of a tile, in px.
        """
        size = shape[1], shape[0]
        field = cv2.resize(self.field.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        gain = np.asarray(1 / np.maximum(field, MIN_LIGHT), np.float32)
        return References(np.zeros(shape, np.float32), gain, np.zeros(shape, np.bool_))


def block_levels(
    tile: NDArray[np.unsignedinteger], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the mean of each block of a tile, over the median of all.

    Parameters
    ----------
    tile : ndarray of uint8 or uint16, shape (height, width)
    mask : ndarray of bool, shape (height, width), optional
        True where there is no signal.

    Returns
    -------
    ndarray of float64, shape (GRID, GRID)
        NaN where there is no signal, or no light at all.
    """
    size = (GRID, GRID)
    shown = np.ones(tile.shape, np.float32) if mask is None else (~mask).astype(np.float32)
    share = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(tile * shown, size, interpolation=cv2.INTER_AREA)
    seen = share >= MIN_SHOWN
    levels = np.where(seen, sums / np.maximum(share, MIN_SHOWN), np.nan).astype(np.float64)
    middle = np.median(levels[seen]) if seen.any() else 0.0
    return levels / middle if middle > 0 else np.full(size, np.nan)


def estimate_shading(levels: ArrayLike) -> Shading | None:
    """Estimate uneven light from the tiles of a montage.

    The median over all tiles, as robust retrospective corrections take it (S. Singh et al.,
    J. Microscopy 256, 231, 2014; T. Peng et al., Nature Communications 8, 14836, 2017), smoothed by
    a polynomial. The first half of the tiles judges what the second half tells, and the other way
    round.

    Parameters
    ----------
    levels : array_like, shape (n, GRID, GRID)
        As `block_levels` gives them, in the order in which the tiles lie or were taken.

    Returns
    -------
    Shading or None
        None if there are too few tiles. Ask whether it `is_worth_it`.
    """
    every = np.asarray(levels, dtype=float).reshape(-1, GRID, GRID)
    every = every[np.isfinite(every).any(axis=(1, 2))]
    if len(every) < MIN_TILES:
        return None
    field = _smooth(_middle(every))
    first, second = (_smooth(_middle(half)) for half in np.array_split(every, 2))
    left = _rms(first / np.maximum(second, MIN_LIGHT))
    return Shading(field, len(every), _rms(field), left)


def _middle(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median over tiles, with a mean of 1; NaN where no tile shows anything."""
    shown = np.isfinite(levels).any(axis=0)
    middle = np.full(levels.shape[1:], np.nan)
    middle[shown] = np.nanmedian(levels[:, shown], axis=0)
    return np.asarray(middle / middle[shown].mean())


def _smooth(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a polynomial to a field, with a mean of 1."""
    along = np.linspace(-1, 1, GRID)
    terms = np.polynomial.legendre.legvander(along, DEGREE)
    powers = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    design = np.stack([np.outer(terms[:, i], terms[:, j]).ravel() for i, j in powers], axis=1)
    shown = np.isfinite(field).ravel()
    factors = np.linalg.lstsq(design[shown], field.ravel()[shown], rcond=None)[0]
    smooth = (design @ factors).reshape(field.shape)
    return np.asarray(smooth / smooth.mean())


def _rms(field: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.nanmean((field - 1) ** 2)))
