"""Something opaque before a specimen: grid bars, or dirt on the film.

It can be put there and taken away between exposures, as a test or a benchmark wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np

from simulation.specimen.base import NM_PER_UM, NativeRegion, Specimen


@dataclass(frozen=True)
class Bar:
    """An opaque bar without ends.

    Attributes
    ----------
    x, y : float
        A place on its middle line, in µm.
    angle : float
        Of that line, in degrees from stage x, counter-clockwise.
    width : float
        In µm.
    """

    x: float
    y: float
    angle: float
    width: float


class Obstructed:
    """A specimen behind opaque bars.

    Parameters
    ----------
    specimen : Specimen

    Attributes
    ----------
    bars : tuple of Bar
        Those that are there now.
    """

    def __init__(self, specimen: Specimen) -> None:
        self._specimen = specimen
        self.bars: tuple[Bar, ...] = ()

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> NativeRegion:
        """Give the specimen's pixels, 0 behind the bars."""
        region = self._specimen.native_region(x, y, width_um, height_um, level)
        if not self.bars:
            return region
        pixels = region.pixels
        step = level / NM_PER_UM
        across = region.x + step * np.arange(pixels.shape[1])[None, :]
        up = region.y - step * np.arange(pixels.shape[0])[:, None]
        for bar in self.bars:
            turn = radians(bar.angle)
            off = (up - bar.y) * cos(turn) - (across - bar.x) * sin(turn)
            pixels[np.abs(off) < bar.width / 2] = 0
        return region

    def prefetch(
        self, x: float, y: float, width_um: float, height_um: float, pixel_size: float
    ) -> None:
        """Have the specimen's texture made ready in the background."""
        self._specimen.prefetch(x, y, width_um, height_um, pixel_size)

    def close(self) -> None:
        """Stop the specimen's work in the background."""
        self._specimen.close()
