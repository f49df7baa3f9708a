"""Blur along one direction: by drift in the exposure, or by an astigmatic lens.

Both take fine detail along one direction. How much, and which way, can be told of small blur; which
of the two it was, only by the shape of what is left, and that shows when it is several px long.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from processing.spectrum import CORRELATED, TileSpectrum, direction, frequency, whole

# Rings in cycles a px, and sectors of the half plane, into which the spectrum is summed up.
RINGS = (0.03, 0.05, 0.07, 0.09, 0.11, 0.135, 0.16, 0.19, 0.22, 0.25, 0.28, 0.32, 0.36)
SECTORS = 24
LENGTHS = np.geomspace(1.0, 16.0, 20)  # of the motions that are tried, in px
LEAST_SIGNIFICANT = 2.0  # standard deviations of noise that a ring's power must reach
LEAST_RINGS = 4  # that must be seen; in fewer, a specimen's own direction is like a long motion
# The power of tissue scatters between directions by so much, beside the noise's scatter.
SCATTER = 0.15
# Least share of the differences between directions that a blur must explain: as such, and of those
# that are left when the specimen's own direction, the same at all frequencies, is taken off. Of 408
# simulated tiles without such a blur, in and out of focus and at 1 nC to 10 nC, none has both.
LEAST_EXPLAINED = 0.25
LEAST_BEYOND_OWN = 0.05
SEEN_AT = 0.2  # cycles a px; astigmatism is told as the loss at this frequency
HALF_SURE = 0.006  # difference of the shares that two shapes explain which makes odds of e to 1


@dataclass(frozen=True)
class DirectedBlur:
    """Blur along one direction.

    Attributes
    ----------
    length : float
        Length of the motion that would make it, in px; 0 if there is none to be seen.
    angle : float
        Along which it lies, in degrees counter-clockwise from the columns' axis, 0 to 180.
    strength : float
        0 to 1: how much of the power at 0.2 cycles a px is lost along it compared with across,
        times the share of the differences between directions that it explains.
    motion : float
        0 to 1: how much more the shape is that of a motion (sinc²) than that of a lens out of focus
        along one direction (a Gaussian); 0.5 if that cannot be told.
    """

    length: float = 0.0
    angle: float = 0.0
    strength: float = 0.0
    motion: float = 0.5

    @property
    def sharpest(self) -> float:
        """The direction along which detail is sharpest, in degrees, 0 to 180."""
        return (self.angle + 90) % 180


def directed_blur(spectrum: TileSpectrum) -> DirectedBlur:
    """Find blur along one direction.

    The power of each ring of frequencies, relative to its mean, is compared with what motions and
    one-sided defocus of all lengths and directions leave, by weighted least squares. (The transfer
    of a motion: L. Levi, Applied Optics 10, 1971; that spectra show astigmatism: S. J. Erasmus and
    K. C. A. Smith, J. Microscopy 127, 1982.)

    Parameters
    ----------
    spectrum : TileSpectrum

    Returns
    -------
    DirectedBlur
    """
    relative, weights = _relative_power(spectrum)
    rings_seen = np.count_nonzero(weights.reshape(-1, SECTORS).any(axis=1))
    if rings_seen < LEAST_RINGS:
        return DirectedBlur()
    start = float((weights * (relative - 1) ** 2).sum())
    motions, lenses = _templates()
    by_motion, by_lens = (_misfits(each, relative, weights) for each in (motions, lenses))
    best = int(by_motion.argmin())
    left = min(float(by_motion[best]), float(by_lens.min()))
    explained = 1 - left / start
    beyond_own = 1 - left / max(_without_own_direction(relative, weights), 1e-12)
    if explained < LEAST_EXPLAINED or beyond_own < LEAST_BEYOND_OWN:
        return DirectedBlur()
    length, angle = LENGTHS[best // SECTORS], (best % SECTORS + 0.5) * 180 / SECTORS
    odds = float(by_lens.min() - by_motion[best]) / start / HALF_SURE
    return DirectedBlur(
        length=float(length),
        angle=float(angle),
        strength=float(explained * (1 - _loss(length * SEEN_AT))),
        motion=float(1 / (1 + np.exp(-np.clip(odds, -30, 30)))),
    )


def _relative_power(
    spectrum: TileSpectrum,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the power by ring and sector over its ring's mean, and what each is worth; both flat."""
    counts = _counts()
    power = _sum_up(spectrum.power)
    above = power - spectrum.floor
    mean = (above * counts).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
    variance = power**2 * CORRELATED / (counts * spectrum.windows)
    error = np.sqrt((variance * counts**2).sum(axis=1, keepdims=True))
    seen = mean > LEAST_SIGNIFICANT * error / counts.sum(axis=1, keepdims=True)
    mean = np.where(seen, mean, 1.0)
    weights = (seen & (counts >= 0.5)) / (variance / mean**2 + SCATTER**2)
    return (above / mean).ravel(), weights.ravel()


def _misfits(
    templates: NDArray[np.float32], relative: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the weighted sum of squared differences from each template."""
    weighted = (weights * relative).astype(np.float32)
    squares = templates**2 @ weights.astype(np.float32)
    return np.asarray((weights * relative**2).sum() - 2 * (templates @ weighted) + squares)


def _without_own_direction(relative: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Give what is left when a direction that all frequencies share is fitted."""
    rest, shapes = relative - 1, _own_directions()
    weighted = shapes * weights
    matrix, side = weighted @ shapes.T, weighted @ rest
    return float((weights * rest**2).sum() - side @ np.linalg.pinv(matrix) @ side)


@lru_cache(maxsize=1)
def _own_directions() -> NDArray[np.float64]:
    """Make the two shapes of a direction that all rings share, (2, rings · sectors)."""
    angle = 2 * np.pi * (np.arange(SECTORS) + 0.5) / SECTORS
    return np.stack([np.tile(f(angle), len(RINGS) - 1) for f in (np.cos, np.sin)])


def _loss(waves: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Give the power that a motion of so many waves leaves; a smooth bound, without zeros."""
    return np.exp(-((np.pi * np.asarray(waves)) ** 2) / 3)


@lru_cache(maxsize=1)
def _bins() -> NDArray[np.intp]:
    """Give the number of the ring and sector of each element; the last is for those in none."""
    ring = np.digitize(frequency(), RINGS) - 1
    sector = np.minimum((direction() / 180 * SECTORS).astype(np.intp), SECTORS - 1)
    n = len(RINGS) - 1
    return np.where((ring >= 0) & (ring < n), ring * SECTORS + sector, n * SECTORS).ravel()


@lru_cache(maxsize=1)
def _counts() -> NDArray[np.float64]:
    """Give how many elements each ring and sector holds, shape (rings, sectors); over 0."""
    n = (len(RINGS) - 1) * SECTORS
    counts = np.bincount(_bins(), whole().ravel(), n + 1)[:n]
    return np.maximum(counts, 1e-9).reshape(-1, SECTORS)


def _sum_up(power: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the mean of a half spectrum in each ring and sector, shape (rings, sectors)."""
    n = (len(RINGS) - 1) * SECTORS
    total = np.bincount(_bins(), (power * whole()).ravel(), n + 1)[:n]
    return total.reshape(-1, SECTORS) / _counts()


@lru_cache(maxsize=1)
def _templates() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make the relative power that motions, and one-sided lenses, of all lengths leave.

    Each has shape (lengths · sectors, rings · sectors). A lens is as wide as the motion's variance,
    and a little more, so that both fit the same range.
    """
    made: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for length in LENGTHS:
        for number in range(SECTORS):
            angle = np.radians(direction() - (number + 0.5) * 180 / SECTORS)
            waves = length * frequency() * np.cos(angle)
            for store, power in zip(made, (np.sinc(waves) ** 2, _loss(1.08 * waves)), strict=True):
                binned = _sum_up(power)
                mean = (binned * _counts()).sum(axis=1) / _counts().sum(axis=1)
                store.append((binned / mean[:, None]).ravel())
    return np.array(made[0], np.float32), np.array(made[1], np.float32)
