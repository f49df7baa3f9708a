"""Brings the numbers of files to uint8 or uint16.

Those that fit stay as they are; others are shifted or scaled, all of a file alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHITE = 65535
BYTE_SHIFT, SHORT_SHIFT = 128, 32768
"""What brings signed numbers of 8 and 16 bits above zero; IMOD shows signed bytes so, too."""
NOISE_SHARE = 1 / 64
"""Of the brightest: numbers below zero by so little are noise about it, and become 0."""
MIN_LEVELS = 4096
"""Zero stays zero if that leaves so many levels, 12 bits, for what the image shows."""
EXTREMES = 0.05, 99.95
"""Percentiles between which the bulk of an image lies; the rest may be hot pixels."""


@dataclass(frozen=True)
class Levels:
    """How numbers become uint16: (number − offset) · scale, rounded; what is not finite is 0.

    Attributes
    ----------
    offset, scale : float
    """

    offset: float = 0.0
    scale: float = 1.0

    def apply(self, numbers: NDArray[Any]) -> NDArray[np.uint16]:
        """Bring numbers to uint16; what lies beyond its ends is clipped."""
        if self.scale == 1 and numbers.dtype.kind in "iu":
            return self._shifted(numbers)
        # Of 32 bits, a float holds more than the result; larger integers need 64.
        exact = (
            np.float32 if numbers.dtype.kind == "f" and numbers.dtype.itemsize <= 4 else np.float64
        )
        values: NDArray[Any] = numbers.astype(exact)
        values -= exact(self.offset)
        values *= exact(self.scale)
        np.nan_to_num(values, copy=False, nan=0.0, posinf=WHITE, neginf=0.0)
        return np.clip(np.rint(values, out=values), 0, WHITE, out=values).astype(np.uint16)

    def _shifted(self, numbers: NDArray[Any]) -> NDArray[np.uint16]:
        """Subtract the offset from whole numbers, without floats: in uint16 it wraps into place."""
        offset, info = int(self.offset), np.iinfo(numbers.dtype)
        clipped = np.clip(numbers, max(offset, info.min), min(offset + WHITE, info.max))
        return clipped.astype(np.uint16) - np.uint16(offset % (WHITE + 1))

    @classmethod
    def of(cls, samples: Iterable[NDArray[np.generic]]) -> Levels:
        """Find the levels for all that samples stand for.

        - Whole numbers of 0 to 65 535 stay as they are; a little noise below zero becomes 0.
        - Other whole numbers from −32 768 to 32 767 are raised by 32 768.
        - All else is scaled to 16 bits. Zero stays zero, as light is measured from it, unless the
          image would have less than 12 bits then. The ends are the least and the greatest number,
          but no further from the bulk (0.05 to 99.95 %) than the bulk is wide: a hot pixel or a
          spike does not cost the levels of all others.

        Parameters
        ----------
        samples : iterable of ndarray
            Of real numbers; what is not finite does not count.

        Raises
        ------
        ValueError
            If none of the numbers is finite.
        """
        flat = np.concatenate([np.ravel(one).astype(np.float64) for one in samples])
        flat = flat[np.isfinite(flat)]
        if flat.size == 0:
            raise ValueError("none of its numbers is finite")
        low, high = (float(value) for value in np.percentile(flat, EXTREMES))
        reach = high - low
        low, high = max(float(flat.min()), low - reach), min(float(flat.max()), high + reach)
        if -NOISE_SHARE * high <= low < 0:
            low = 0.0
        if (flat == np.rint(flat)).all():
            if low >= 0 and high <= WHITE:
                return cls()
            if low >= -SHORT_SHIFT and high < SHORT_SHIFT:
                return cls(-SHORT_SHIFT)
        if low >= 0 and (high - low) * WHITE >= MIN_LEVELS * high:
            low = 0.0
        return cls(low, WHITE / (high - low) if high > low else 1.0)


def read_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Give the dtype that numbers of another come to: uint8 for those of one byte, else uint16."""
    return np.dtype(np.uint8 if dtype.itemsize == 1 else np.uint16)


def fits(dtype: np.dtype[np.generic]) -> bool:
    """Whether all numbers of a dtype come to uint8 or uint16 as they are, or by one shift."""
    return (dtype.kind in "bu" and dtype.itemsize <= 2) or dtype == np.int8


def as_unsigned(numbers: NDArray[np.generic]) -> NDArray[np.uint8 | np.uint16]:
    """Bring numbers that `fits` tells of to uint8 or uint16.

    They stay as they are, but for two: signed bytes are raised by 128, single bits are 0 and 255.
    """
    if numbers.dtype == bool:
        return np.ascontiguousarray(numbers, np.uint8) * np.uint8(255)
    if numbers.dtype == np.int8:
        return np.ascontiguousarray(numbers).view(np.uint8) ^ np.uint8(BYTE_SHIFT)
    return np.ascontiguousarray(numbers, read_dtype(numbers.dtype))
