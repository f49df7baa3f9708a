"""A procedural ultrathin section of neuropil: endless detail from a seed, the same at every visit.

What real sections put a montage through, with the truth known: at 4 nm a pixel and at any other.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, cos, isfinite, sin
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from simulation.settings import SectionSettings
from simulation.specimen.base import NM_PER_UM, OPAQUE_TO_EMPTY, PyramidSpecimen
from simulation.specimen.neuropil.cells import SPACING, Cells, build_cells
from simulation.specimen.neuropil.features import (
    EDGE_UM,
    EMPTY_FILM,
    Feature,
    Patch,
    draw,
    place_features,
    place_vessels,
)
from simulation.specimen.neuropil.shading import (
    BLOCK,
    COARSEST_STAMPED,
    develop,
    membrane_profiles,
    shade,
    stamp,
    vary_thickness,
)
from simulation.specimen.noise import NoiseField

STAMP_REACH_NM = 62.0
"""How far a dense-core vesicle, the largest that is stamped, reaches from its middle."""
CELL_REACH_NM = 2500.0
"""How far outside a chunk the warp may reach for its cells."""
RESOLVED_PIXELS = 3
"""A lattice of cells is drawn while its spacing is at least this many pixels."""
KNIFE_STEP_NM = 64.0
CHATTER = (0.02, 1300.0)
"""Amplitude relative to the thickness, and wavelength in nm, of a section that was cut well."""
WARP_MARGIN = 3
"""Pixels round what is squeezed, for the interpolation at its edge."""


class NeuropilSection(PyramidSpecimen):
    """An ultrathin section of brain tissue, about its middle at (0, 0), on an empty film.

    Closed profiles of 0.1 to 10 µm with membranes cut at all angles, synapses with vesicles and
    densities, mitochondria, myelin, reticulum, microtubules, cell bodies and capillaries; grain
    and stain from 1 nm to the whole section, knife marks and chatter; and blemishes in known
    places (`features`). Every level of the pyramid is drawn from the same geometry. Where cells
    are smaller than three pixels, their mean and its scatter stand for them.

    Parameters
    ----------
    seed : int
        Another seed is another section.
    size_um : tuple of float
        Width and height in µm.
    section : SectionSettings
        How badly it was cut, and whether there is bare resin in it; by default it was cut well.
    **pyramid
        See `PyramidSpecimen`; `chunk` must be a multiple of 16. With a `period`, what lies farther
        from the middle (blemishes, the edge of the section) is never seen.

    Raises
    ------
    ValueError
        If a size is not positive or `chunk` is not a multiple of 16.

    Examples
    --------
    >>> section = NeuropilSection(seed=1)
    >>> section.region(0.0, 0.0, width=2048, height=2048, pixel_size=4.0).shape
    (2048, 2048)
    """

    def __init__(
        self,
        seed: int = 0,
        size_um: tuple[float, float] = (600.0, 600.0),
        section: SectionSettings | None = None,
        **pyramid: Any,
    ) -> None:
        super().__init__(**pyramid)
        if self.chunk % BLOCK:
            raise ValueError(f"chunk is {self.chunk} px; it must be a multiple of {BLOCK}")
        if len(size_um) != 2 or not all(isfinite(side) and side > 0 for side in size_um):
            raise ValueError(f"size_um is {size_um!r}; it must be two positive lengths in µm")
        self.seed = int(seed)
        self.size_um = (float(size_um[0]), float(size_um[1]))
        section = section or SectionSettings()
        self._features = place_features(self.seed, self.size_um)
        if section.bare_resin.enabled:
            self._features += place_vessels(self.seed, self.size_um, section.bare_resin)
        rng = np.random.default_rng((self.seed, 0))
        self._phases = rng.uniform(0, 2 * np.pi, 8)
        angle = rng.uniform(0, 2 * np.pi)
        self._cut = (cos(angle), sin(angle))
        self._knife = _knife_marks(rng)
        self._chatter = CHATTER
        if section.knife_marks.enabled:
            self._knife *= np.float32(section.knife_marks.streaks)
            self._chatter = section.knife_marks.chatter, section.knife_marks.period * NM_PER_UM
        squeeze = section.compression.amount if section.compression.enabled else 0.0
        self._to_block = _stretch(self._cut, 1 / (1 - squeeze)) if squeeze else None
        fine = {1: 0.05, 2: 0.06, 4: 0.065, 8: 0.06, 16: 0.045, 32: 0.025, 64: 0.015}
        self._texture = NoiseField((self.seed, 1), fine)
        warp = {32: 4.0, 64: 12.0, 128: 30.0, 256: 58.0, 512: 85.0, 1024: 120.0, 4096: 250.0}
        self._warp = (NoiseField((self.seed, 2), warp), NoiseField((self.seed, 3), warp))
        self._wrinkle = NoiseField(
            (self.seed, 4), {32: 0.25, 64: 0.55, 128: 0.6, 256: 0.5, 512: 0.25, 1024: 0.2}
        )
        self._stain = NoiseField(
            (self.seed, 5), {2**k: 0.013 if k < 13 else 0.024 for k in range(7, 18)}
        )
        self._rough = NoiseField(
            (self.seed, 6), {2**k: 0.022 * 1.6 ** (k - 5) for k in range(5, 14)}
        )
        # What is left of processes too small to draw: the scatter of their means over a pixel.
        self._unresolved = NoiseField(
            (self.seed, 7), {128: 0.05, 256: 0.04, 512: 0.03, 1024: 0.02, 2048: 0.015, 4096: 0.01}
        )

    def features(self) -> tuple[Feature, ...]:
        """List the blemishes of the section: where they are and how large, in µm."""
        return self._features

    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """See `PyramidSpecimen.render`. First pixels and sizes are multiples of 16."""
        where = (level, row, column, height, width)
        if self._is_bare(level, row, column, height, width):
            bare = np.round(OPAQUE_TO_EMPTY * np.exp(-EMPTY_FILM))
            return np.full((height, width), bare, np.uint8)
        thickness = np.empty((height, width), np.float32)
        vary_thickness(
            level,
            row,
            column,
            _blurred_knife(self._knife.tobytes(), level),
            KNIFE_STEP_NM,
            self._cut,
            self._waves_at(level),
            self._stain.sample(*where),
            thickness,
        )
        patch = Patch(
            x=((column + 0.5 + np.arange(width, dtype=np.float32)) * level / NM_PER_UM)[None, :],
            y=-((row + 0.5 + np.arange(height, dtype=np.float32)) * level / NM_PER_UM)[:, None],
            pixel=level / NM_PER_UM,
            darkness=self._compressed(*where),
            thickness=thickness,
            rough=self._rough.sample(*where),
        )
        draw(self._features, self.size_um, patch)
        result = np.empty((height, width), np.uint8)
        develop(patch.darkness, patch.thickness, result)
        return result

    def _is_bare(self, level: int, row: int, column: int, height: int, width: int) -> bool:
        """Say whether a rectangle lies wholly on the film beside the section."""
        half_x, half_y = (side / 2 + EDGE_UM for side in self.size_um)
        um = level / NM_PER_UM
        return (
            max(column * um, -(column + width) * um) > half_x
            or max(row * um, -(row + height) * um) > half_y
        )

    def _waves_at(self, level: int) -> tuple[float, float]:
        """Return amplitude and wavelength of the chatter, blurred to the pixel of a level."""
        amplitude, length = self._chatter
        return amplitude * float(np.exp(-2 * (1.5 * level / length) ** 2)), length

    def _compressed(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.float32]:
        """Draw the tissue as it lies in the section, which is shorter than the block was."""
        if self._to_block is None:
            return self._tissue(level, row, column, height, width)
        # Columns and rows of the middles of pixels, on the grid of the level.
        first = np.array([column + 0.5, row + 0.5])
        corners = first + np.array([(i, j) for i in (0, width - 1) for j in (0, height - 1)])
        source = corners @ self._to_block.T
        low = np.floor((source.min(axis=0) - WARP_MARGIN) / BLOCK).astype(int) * BLOCK
        high = np.ceil((source.max(axis=0) + WARP_MARGIN) / BLOCK).astype(int) * BLOCK
        tissue = self._tissue(level, int(low[1]), int(low[0]), *map(int, (high - low)[::-1]))
        origin = self._to_block @ first - 0.5 - low
        return cv2.warpAffine(
            tissue,
            np.column_stack([self._to_block, origin]),
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def _tissue(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.float32]:
        """Draw cells and what is in them; return their darkness."""
        pad = ceil(STAMP_REACH_NM / level / BLOCK) * BLOCK if level <= COARSEST_STAMPED else 0
        row, column, height, width = row - pad, column - pad, height + 2 * pad, width + 2 * pad
        where = (level, row, column, height, width)
        finest = int(np.sum(RESOLVED_PIXELS * level > SPACING))
        cells = self._cells(where, finest)
        shape = (height, width)
        outputs = (
            np.empty(shape, np.float32),
            np.empty(shape, np.int32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
        )
        shade(
            level,
            row,
            column,
            finest,
            tuple(cells),
            tuple(field.sample(*where) for field in self._warp),
            (self._unresolved if finest else self._texture).sample(*where),
            self._wrinkle.sample(*where),
            membrane_profiles(level),
            outputs,
        )
        if level <= COARSEST_STAMPED:
            stamp(level, row, column, self.seed, tuple(cells), outputs)
        # One memory layout for every level: each other one would be compiled for, once more.
        return np.ascontiguousarray(outputs[0][pad : height - pad, pad : width - pad])

    def _cells(self, where: tuple[int, int, int, int, int], finest: int) -> Cells:
        """Draw the cells that reach into a rectangle: (level, row, column, height, width)."""
        level, row, column, height, width = where
        return Cells(
            *build_cells(
                self.seed,
                self._phases,
                column * level - CELL_REACH_NM,
                row * level - CELL_REACH_NM,
                (column + width) * level + CELL_REACH_NM,
                (row + height) * level + CELL_REACH_NM,
                finest,
            )
        )


def _stretch(direction: tuple[float, float], factor: float) -> NDArray[np.float64]:
    """Return the (2, 2) matrix that stretches along a direction."""
    return np.eye(2) + (factor - 1) * np.outer(direction, direction)


def _knife_marks(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw thin streaks along the cut: few deep ones, many faint; repeats after 1 mm."""
    n = int(1e6 / KNIFE_STEP_NM)
    marks = np.zeros(n)
    for _ in range(900):
        middle, half = rng.integers(n), rng.uniform(0.8, 5)
        reach = np.arange(-20, 21)
        depth = 0.03 * rng.standard_normal() * rng.exponential()
        marks[(middle + reach) % n] += depth * np.exp(-0.5 * (reach / half) ** 2)
    return (marks - marks.mean()).astype(np.float32)


@lru_cache(maxsize=64)
def _blurred_knife(marks: bytes, level: int) -> NDArray[np.float32]:
    """Blur the streaks to the pixel of a level."""
    blur = 0.4 * level / KNIFE_STEP_NM
    blurred = gaussian_filter1d(np.frombuffer(marks, np.float32), max(blur, 0.1), mode="wrap")
    return np.append(blurred, blurred[0])
