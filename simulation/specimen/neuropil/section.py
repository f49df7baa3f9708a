"""A procedural ultrathin section of neuropil: endless detail from a seed, the same at every visit."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from simulation.specimen.base import PyramidSpecimen
from simulation.specimen.neuropil.cells import SPACING, build_cells
from simulation.specimen.neuropil.shading import (
    BLOCK,
    develop,
    membrane_profiles,
    shade,
    stamp,
)
from simulation.specimen.noise import NoiseField

STAMP_REACH = 48.0
STAMPED_LEVELS = 16


class NeuropilSection(PyramidSpecimen):
    """An ultrathin section of brain tissue (see the module)."""

    def __init__(
        self,
        seed: int = 0,
        size_um: tuple[float, float] = (600.0, 600.0),
        *,
        cache_bytes: int = 512 * 2**20,
        chunk: int = 512,
    ) -> None:
        super().__init__(cache_bytes=cache_bytes, chunk=chunk)
        self.seed = int(seed)
        self.size_um = (float(size_um[0]), float(size_um[1]))
        rng = np.random.default_rng((self.seed, 0))
        self._phases = rng.uniform(0, 2 * np.pi, 8)
        self._texture = NoiseField(
            (self.seed, 1), {1: 0.05, 2: 0.06, 4: 0.055, 8: 0.05, 16: 0.035, 32: 0.02, 64: 0.012}
        )
        warp = {32: 3.0, 64: 10.0, 128: 28.0, 256: 55.0, 512: 80.0, 1024: 110.0, 4096: 250.0}
        self._warp_u = NoiseField((self.seed, 2), warp)
        self._warp_v = NoiseField((self.seed, 3), warp)
        self._wrinkle = NoiseField((self.seed, 4), {32: 0.25, 64: 0.55, 128: 0.6, 256: 0.5})
        self._stain = NoiseField(
            (self.seed, 5), {2**k: 0.012 if k < 12 else 0.018 for k in range(7, 18)}
        )

    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """See `PyramidSpecimen.render`."""
        pad = int(np.ceil(STAMP_REACH / level / BLOCK)) * BLOCK if level <= STAMPED_LEVELS else 0
        where = (level, row - pad, column - pad, height + 2 * pad, width + 2 * pad)
        shape = where[3:]
        finest = int(np.sum(3 * level > SPACING))
        reach = 1500.0
        cells = build_cells(
            self.seed,
            self._phases,
            where[2] * level - reach,
            where[1] * level - reach,
            (where[2] + shape[1]) * level + reach,
            (where[1] + shape[0]) * level + reach,
            finest,
        )
        outputs = (
            np.empty(shape, np.float32),
            np.empty(shape, np.int32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
        )
        shade(
            level,
            where[1],
            where[2],
            finest,
            cells,
            self._warp_u.sample(*where),
            self._warp_v.sample(*where),
            self._texture.sample(*where),
            self._wrinkle.sample(*where),
            _profiles(level),
            outputs,
        )
        if level <= STAMPED_LEVELS:
            stamp(level, where[1], where[2], self.seed, cells, outputs)
        thickness = 1 + self._stain.sample(level, row, column, height, width)
        result = np.empty((height, width), np.uint8)
        develop(outputs[0], pad, thickness, result)
        return result


@cache
def _profiles(level: int) -> NDArray[np.float32]:
    return membrane_profiles(level)
