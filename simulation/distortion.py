"""Where a sensor pixel looks, other than straight down: distortion by the lenses and the camera.

A smooth part, polynomials over the sensor, and an irregular one of some hundredths of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, sqrt

import numpy as np
from numpy.polynomial import polynomial
from numpy.polynomial.legendre import leg2poly
from numpy.typing import NDArray

from simulation.settings import LensFieldSettings, OpticsSettings
from simulation.settings.imperfections import LENS_DEGREES

FINE_RMS_OF_NODES = 2 / 3
"""What interpolation between independent nodes leaves of their RMS: ∫(1−t)² + t² = 2/3 an axis."""


@dataclass(frozen=True)
class FineField:
    """A fixed irregular distortion: independent shifts at nodes, linear in between.

    Attributes
    ----------
    seed : int
    rms : float
        RMS length of the shift over the sensor, in px.
    pitch : int
        Distance of the nodes, in px.
    shape : (int, int)
        (height, width) of the sensor.
    """

    seed: int
    rms: float
    pitch: int
    shape: tuple[int, int]

    @cached_property
    def nodes(self) -> NDArray[np.float64]:
        """Shifts (rows, columns) at the nodes, in px, shape (n, m, 2); the first is at (0, 0)."""
        rows, columns = (ceil(side / self.pitch) + 1 for side in self.shape)
        size = self.rms / sqrt(2) / FINE_RMS_OF_NODES
        return size * np.random.default_rng(self.seed).standard_normal((rows, columns, 2))

    def shift(self, row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shift at sensor pixels, in px, shape (..., 2); outside that of the edge."""
        last = np.array(self.nodes.shape[:2]) - 1
        place = np.stack([row, column], axis=-1) / self.pitch
        first = np.clip(np.floor(place), 0, last - 1).astype(int)
        part = np.clip(place - first, 0, 1)
        (i, j), (v, u) = np.moveaxis(first, -1, 0), np.moveaxis(part, -1, 0)[..., None]
        above = (1 - u) * self.nodes[i, j] + u * self.nodes[i, j + 1]
        below = (1 - u) * self.nodes[i + 1, j] + u * self.nodes[i + 1, j + 1]
        return (1 - v) * above + v * below


@dataclass(frozen=True, eq=False)
class Distortion:
    """Distortion of the projection lenses and the camera.

    A sensor pixel at (row, column) shows the place that, without distortion, would fall on
    ``(row, column) + shift(row, column)``.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (2, n, n)
        ``shift[a] = Σ coefficients[a, i, j] · v^i · u^j`` in px, a = 0 for rows and 1 for columns;
        v and u are row and column from the middle of the sensor, over half its diagonal.
    shape : (int, int)
        (height, width) of the sensor.
    fine : FineField or None
        What comes on top.
    """

    coefficients: NDArray[np.float64]
    shape: tuple[int, int]
    fine: FineField | None = None

    @classmethod
    def make(
        cls, settings: OpticsSettings, shape: tuple[int, int], rng: np.random.Generator
    ) -> Distortion:
        """Make the radial term and a random smooth field, without shift, scale or turn."""
        c = np.zeros((2, 4, 4))
        for i in range(4):
            for j in range(4):
                if 2 <= i + j <= 3:
                    c[:, i, j] = rng.uniform(-1, 1, 2)
        field = cls(c, shape)
        edge = np.linspace(0, 1, 9)
        rows, columns = np.meshgrid(edge * (shape[0] - 1), edge * (shape[1] - 1), indexing="ij")
        largest = float(np.linalg.norm(field.shift(rows, columns), axis=-1).max())
        c *= settings.field_distortion / largest
        # A pincushion shows at a pixel what lies nearer the middle; ρ² = u² + v², 1 at the corner.
        for a, (i, j) in ((0, (1, 0)), (1, (0, 1))):
            c[a, i + 2, j] -= settings.radial_distortion
            c[a, i, j + 2] -= settings.radial_distortion
        return cls(c, shape)

    def with_lens_field(self, settings: LensFieldSettings, rng: np.random.Generator) -> Distortion:
        """Add the field of a real lens and camera, drawn at random.

        Its parts are Legendre polynomials over the sensor, so that they neither move nor turn,
        scale nor shear the frame as a whole, and have the RMS length that is set for their degree.
        """
        size = LENS_DEGREES[-1] + 1
        total = np.zeros((2, size, size))
        before = self.coefficients.shape[1]
        total[:, :before, :before] = self.coefficients
        for degree, amount in zip(LENS_DEGREES, settings.degrees, strict=True):
            total += self._legendre_part(degree, 1e-3 * amount * min(self.shape), rng)
        seed = int(rng.integers(2**31))
        fine = FineField(seed, settings.fine, settings.fine_pitch, self.shape)
        return replace(self, coefficients=total, fine=fine)

    def _legendre_part(
        self, degree: int, rms: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw the part of one degree, as coefficients of powers of v and u."""
        size = LENS_DEGREES[-1] + 1
        # Legendre's variables run to 1 at the sides, those of the coefficients at the corners.
        to_side = [2 * self.radius / side for side in self.shape]
        part = np.zeros((2, size, size))
        drawn = rng.standard_normal((2, degree + 1))
        mean_square = 1 / ((2 * np.arange(degree + 1) + 1) * (2 * np.arange(degree, -1, -1) + 1))
        drawn *= rms / sqrt(float((drawn**2 @ mean_square).sum()))
        for i in range(degree + 1):
            j = degree - i
            rows = leg2poly([0] * i + [1]) * to_side[0] ** np.arange(i + 1)
            columns = leg2poly([0] * j + [1]) * to_side[1] ** np.arange(j + 1)
            part[:, : i + 1, : j + 1] += drawn[:, i, None, None] * np.outer(rows, columns)
        return part

    @property
    def radius(self) -> float:
        """Half the diagonal of the sensor, in px."""
        return 0.5 * sqrt(self.shape[0] ** 2 + self.shape[1] ** 2)

    def shift(
        self, row: NDArray[np.floating] | float, column: NDArray[np.floating] | float
    ) -> NDArray[np.float64]:
        """Return the shift (rows, columns) at some sensor pixels, in px, shape (..., 2).

        Far outside the sensor it is that of a place nearer by: the polynomials hold on it only.
        """
        rows, columns = np.asarray(row, float), np.asarray(column, float)
        v = np.clip((rows - (self.shape[0] - 1) / 2) / self.radius, -1.1, 1.1)
        u = np.clip((columns - (self.shape[1] - 1) / 2) / self.radius, -1.1, 1.1)
        smooth = np.stack([polynomial.polyval2d(v, u, c) for c in self.coefficients], axis=-1)
        return smooth if self.fine is None else smooth + self.fine.shift(rows, columns)
