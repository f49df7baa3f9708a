"""A tape of apertures with a section in each, as GridTape carries serial sections.

Sections sit off centre and turned, as they do on a real tape, but by known amounts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import cos, radians, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from simulation.settings import SectionSettings
from simulation.specimen.base import NM_PER_UM, PyramidSpecimen, Specimen
from simulation.specimen.neuropil import NeuropilSection

APERTURE_UM = (2000.0, 1500.0)
PITCH_UM = 6000.0
SECTION_UM = (1200.0, 900.0)
CORNER = 0.08
"""Radius of the corners of an aperture, as a share of its shorter side."""
KEPT = 2
"""Apertures whose texture is kept; one that is gone back to later is made again, the same."""

SectionFactory = Callable[[int], Specimen]


@dataclass(frozen=True)
class Placement:
    """Where a section sits in its aperture.

    Parameters
    ----------
    seed : int
        Given to the section factory.
    x, y : float
        Middle of the section from the middle of the aperture, in µm.
    angle : float
        Rotation of the section, in degrees, counter-clockwise.
    """

    seed: int
    x: float
    y: float
    angle: float

    def to_aperture(self, x: float, y: float) -> tuple[float, float]:
        """Turn a place on the section into one in the aperture; both in µm."""
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        return self.x + c * x - s * y, self.y + s * x + c * y

    def to_section(self, x: float, y: float) -> tuple[float, float]:
        """Turn a place in the aperture into one on the section; both in µm."""
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        x, y = x - self.x, y - self.y
        return c * x + s * y, c * y - s * x


class Tape:
    """A row of apertures, numbered from 1, each with a section of its own.

    Parameters
    ----------
    apertures : int
        How many there are.
    section_factory : callable, optional
        Makes the section for a seed. It must be empty film (transmission about 0.95) beyond its
        edge; by default a `NeuropilSection` of 1200 × 900 µm.
    section : SectionSettings, optional
        How those were cut.
    pitch : float
        Distance of the apertures along the tape, in µm.
    aperture_um : tuple of float
        Width and height of an aperture, in µm. Opaque outside.
    seed : int
        Of the tape: what sections it carries and where they sit.

    Raises
    ------
    ValueError
        If there is no aperture, or they would overlap.
    """

    def __init__(
        self,
        apertures: int = 20,
        section_factory: SectionFactory | None = None,
        *,
        section: SectionSettings | None = None,
        pitch: float = PITCH_UM,
        aperture_um: tuple[float, float] = APERTURE_UM,
        seed: int = 0,
    ) -> None:
        if apertures < 1:
            raise ValueError(f"apertures is {apertures}; a tape has at least one")
        if min(aperture_um) <= 0 or pitch <= aperture_um[0]:
            raise ValueError(
                f"apertures of {aperture_um} µm at a pitch of {pitch} µm overlap or are empty; "
                "the pitch must be larger than the width"
            )
        self.count = int(apertures)
        self.pitch = float(pitch)
        self.aperture_um = (float(aperture_um[0]), float(aperture_um[1]))
        self.seed = int(seed)
        self._section_factory = section_factory or partial(_default_section, section=section)
        self._lock = threading.Lock()
        self._made: OrderedDict[int, ApertureSpecimen] = OrderedDict()

    def __len__(self) -> int:
        return self.count

    def place(self, index: int) -> float:
        """Say how far along the tape the middle of an aperture is from that of the first, in µm."""
        self._check(index)
        return (index - 1) * self.pitch

    def placement(self, index: int) -> Placement:
        """Say where the section of an aperture sits in it.

        Parameters
        ----------
        index : int
            Number of the aperture, from 1.

        Returns
        -------
        Placement

        Raises
        ------
        IndexError
            If there is no such aperture.
        """
        self._check(index)
        rng = np.random.default_rng((self.seed, index))
        x, y = (round(float(rng.uniform(-0.03, 0.03) * side), 2) for side in self.aperture_um)
        return Placement(
            seed=int(rng.integers(2**31)), x=x, y=y, angle=round(float(rng.uniform(-6, 6)), 2)
        )

    def specimen(self, index: int) -> ApertureSpecimen:
        """Give what the beam sees through one aperture; (0, 0) is the middle of it.

        Parameters
        ----------
        index : int
            Number of the aperture, from 1.

        Returns
        -------
        ApertureSpecimen

        Raises
        ------
        IndexError
            If there is no such aperture.
        """
        placement = self.placement(index)
        with self._lock:
            if index not in self._made:
                section = self._section_factory(placement.seed)
                self._made[index] = ApertureSpecimen(section, placement, self.aperture_um)
            self._made.move_to_end(index)
            gone = self._made.popitem(last=False)[1] if len(self._made) > KEPT else None
            specimen = self._made[index]
        if gone is not None:
            gone.close()
        return specimen

    def close(self) -> None:
        """Stop work in the background."""
        with self._lock:
            made = list(self._made.values())
        for specimen in made:
            specimen.close()

    def _check(self, index: int) -> None:
        if not 1 <= index <= self.count:
            raise IndexError(f"there is no aperture {index}; this tape has 1 to {self.count}")


class ApertureSpecimen(PyramidSpecimen):
    """A section on film behind an opaque mask with one opening.

    Parameters
    ----------
    section : Specimen
    placement : Placement
        Where the section sits.
    aperture_um : tuple of float
        Width and height of the opening, in µm; its corners are round.
    **pyramid
        See `PyramidSpecimen`.
    """

    def __init__(
        self,
        section: Specimen,
        placement: Placement,
        aperture_um: tuple[float, float] = APERTURE_UM,
        **pyramid: int,
    ) -> None:
        super().__init__(**pyramid)
        self.section = section
        self.placement = placement
        self.aperture_um = aperture_um

    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """See `PyramidSpecimen.render`."""
        pixel = level / NM_PER_UM
        x = (column + 0.5 + np.arange(width)) * pixel
        y = -(row + 0.5 + np.arange(height)) * pixel
        opening = self._opening(x[None, :], y[:, None], pixel)
        if not opening.any():
            return np.zeros((height, width), np.uint8)
        pixels = self._section_pixels(level, x, y)
        if opening.all() and opening.min() == 1:
            return pixels
        return np.round(pixels * opening).astype(np.uint8)

    def close(self) -> None:
        """Stop work in the background, the section's too."""
        super().close()
        self.section.close()

    def _section_pixels(
        self, level: int, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Sample the section, which is turned and shifted, at places of the aperture."""
        pixel = level / NM_PER_UM
        across, down = len(x) * pixel, len(y) * pixel
        c, s = cos(radians(self.placement.angle)), sin(radians(self.placement.angle))
        native = self.section.native_region(
            *self.placement.to_section((x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2),
            abs(c) * across + abs(s) * down + 6 * pixel,
            abs(s) * across + abs(c) * down + 6 * pixel,
            level,
        )
        first_x, first_y = self.placement.to_section(x[0], y[0])
        # Columns of the chunk step by (c, −s) on the section, rows by (−s, −c); rows grow
        # downwards.
        inverse = np.array(
            [[c, -s, (first_x - native.x) / pixel], [s, c, (native.y - first_y) / pixel]]
        )
        return cv2.warpAffine(
            native.pixels,
            inverse,
            (len(x), len(y)),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def _opening(
        self, x: NDArray[np.float64], y: NDArray[np.float64], pixel: float
    ) -> NDArray[np.float64]:
        """Share of each pixel that the opening, a rectangle with round corners, leaves free."""
        half_x, half_y = self.aperture_um[0] / 2, self.aperture_um[1] / 2
        corner = 2 * CORNER * min(half_x, half_y)
        out_x, out_y = np.abs(x) - (half_x - corner), np.abs(y) - (half_y - corner)
        outside = np.hypot(np.maximum(out_x, 0), np.maximum(out_y, 0))
        distance = outside + np.minimum(np.maximum(out_x, out_y), 0) - corner
        return np.clip(0.5 - distance / pixel, 0, 1)


def _default_section(seed: int, section: SectionSettings | None) -> NeuropilSection:
    # The aperture keeps the chunks; the section behind it only needs those in hand.
    return NeuropilSection(seed, SECTION_UM, section, cache_bytes=64 * 2**20)
