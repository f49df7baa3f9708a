"""A grid of dots in exactly known places, to calibrate and to test the signs of axes with."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from simulation.specimen.base import NM_PER_UM, OPAQUE_TO_EMPTY, PyramidSpecimen


class PointGrid(PyramidSpecimen):
    """Dark dots on an empty film, at whole multiples of the pitch in x and in y.

    The dot at (0, 0) is twice as wide. Two bars make its surroundings unlike any mirror image or
    rotation of themselves: a long one from (0, 0) along +x to the next dot, and a short one along
    +y to half way.

    Parameters
    ----------
    pitch_um : float
        Distance of the dots in µm.
    radius_um : float
        Radius of a dot in µm; at most a fifth of the pitch.
    dark, empty : float
        Transmission of the dots and of the film, in [0, 1].
    **pyramid
        See `PyramidSpecimen`.

    Raises
    ------
    ValueError
        If a length is not positive or the dots would touch.
    """

    def __init__(
        self,
        pitch_um: float = 1.0,
        radius_um: float = 0.1,
        *,
        dark: float = 0.2,
        empty: float = 0.95,
        **pyramid: int,
    ) -> None:
        super().__init__(**pyramid)
        if not (isfinite(pitch_um) and pitch_um > 0 and 0 < radius_um <= pitch_um / 5):
            raise ValueError(
                f"pitch_um is {pitch_um!r} and radius_um {radius_um!r}; expected a positive pitch, "
                "and a radius of at most a fifth of it"
            )
        self.pitch_um = float(pitch_um)
        self.radius_um = float(radius_um)
        self.dark = dark
        self.empty = empty

    def marks(self, x: float, y: float, width_um: float, height_um: float) -> NDArray[np.float64]:
        """List the dots within a rectangle.

        Parameters
        ----------
        x, y, width_um, height_um : float
            Middle and size of the rectangle in µm.

        Returns
        -------
        ndarray of float64, shape (N, 2)
            x, y of the middles of the dots in µm, by rising y, then x.
        """
        axes = [
            np.arange(
                np.ceil((middle - size / 2) / self.pitch_um),
                np.floor((middle + size / 2) / self.pitch_um) + 1,
            )
            * self.pitch_um
            for middle, size in ((x, width_um), (y, height_um))
        ]
        grid_y, grid_x = np.meshgrid(axes[1], axes[0], indexing="ij")
        return np.column_stack([grid_x.ravel(), grid_y.ravel()])

    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """See `PyramidSpecimen.render`."""
        x = ((column + 0.5 + np.arange(width)) * level / NM_PER_UM)[None, :]
        y = (-(row + 0.5 + np.arange(height)) * level / NM_PER_UM)[:, None]
        pixel = level / NM_PER_UM
        pitch, radius = self.pitch_um, self.radius_um
        away_x, away_y = x - pitch * np.round(x / pitch), y - pitch * np.round(y / pitch)
        cover = _disc(away_x, away_y, radius, pixel)
        cover = np.maximum(cover, _disc(x, y, 2 * radius, pixel))
        bar = radius / 2
        cover = np.maximum(cover, _span(x, 0, pitch, pixel) * _span(y, -bar, bar, pixel))
        cover = np.maximum(cover, _span(y, 0, pitch / 2, pixel) * _span(x, -bar, bar, pixel))
        transmission = self.empty + (self.dark - self.empty) * cover
        return np.round(transmission * OPAQUE_TO_EMPTY).astype(np.uint8)


def _disc(
    x: NDArray[np.float64], y: NDArray[np.float64], radius: float, pixel: float
) -> NDArray[np.float64]:
    """Share of each pixel that a disc at (0, 0) covers; all lengths in one unit."""
    if pixel <= 2 * radius:
        return np.clip(0.5 + (radius - np.hypot(x, y)) / pixel, 0, 1)
    # A disc that is smaller than a pixel: its area, shared between the pixels round it.
    area = np.pi * radius**2 / pixel**2
    near_x, near_y = (np.clip(1 - np.abs(t) / pixel, 0, 1) for t in (x, y))
    return np.minimum(area * near_x * near_y, 1.0)


def _span(place: NDArray[np.float64], low: float, high: float, pixel: float) -> NDArray[np.float64]:
    """Share of each pixel of a line that lies between two places."""
    return np.clip(
        (np.minimum(place + pixel / 2, high) - np.maximum(place - pixel / 2, low)) / pixel, 0, 1
    )
