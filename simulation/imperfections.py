"""What is imperfect about each frame, of all the conditions that are there.

Nothing here asks a clock: a frame depends on its place, its number and what fell there before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulation.charging import charge_motion
from simulation.distortion import Distortion
from simulation.light import UnevenLight, nodes_of
from simulation.render import SHADE_PITCH
from simulation.seeds import frame_rng
from simulation.settings import MicroscopeSettings
from simulation.warp import FrameWarp

Conditions = frozenset[str]


class Imperfections:
    """The imperfections of one instrument; `simulation.faults.CONDITIONS` has their names.

    Parameters
    ----------
    settings : MicroscopeSettings
    distortion : Distortion
        Of the lenses without their field.
    seed : numpy.random.SeedSequence
    """

    def __init__(
        self, settings: MicroscopeSettings, distortion: Distortion, seed: np.random.SeedSequence
    ) -> None:
        self._settings = settings.imperfections
        field_seed, warp_seed, light_seed, self._charge_seed = seed.spawn(4)
        sensor = settings.camera.sensor
        self._slight = distortion
        self._full = distortion.with_lens_field(
            self._settings.lens_field, np.random.default_rng(field_seed)
        )
        self._warp = FrameWarp(self._settings, warp_seed)
        self._light = UnevenLight(self._settings.uneven_light, sensor, SHADE_PITCH, light_seed)
        #: (row, column) of the places on the sensor where the light is known, from its middle, px.
        self.nodes = np.stack(np.meshgrid(*nodes_of(sensor, SHADE_PITCH), indexing="ij"), axis=-1)
        self.nodes -= (np.array(sensor) - 1) / 2

    def distortion(self, conditions: Conditions) -> Distortion:
        """Return the distortion of lenses and camera."""
        return self._full if "lens_field" in conditions else self._slight

    def warp(
        self, conditions: Conditions, number: int, x: float, y: float, defocus: float
    ) -> NDArray[np.float64]:
        """Return the affine map of a frame at a place in µm; see `FrameWarp`."""
        return self._warp.at(x, y, defocus, number, conditions)

    def shade(
        self, conditions: Conditions, number: int, doses: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float32] | None:
        """Return what changes the light of a frame, at `nodes`.

        Parameters
        ----------
        conditions : frozenset of str
        number : int
            Of the frame.
        doses : callable
            Looks up what fell on the specimen at the nodes before, in e⁻/Å²: ndarray of float64,
            shape (n, m).
        """
        shade = np.ones(self.nodes.shape[:2])
        if "uneven_light" in conditions:
            shade *= self._light.of(number)
        if "contamination" in conditions:
            shade *= np.exp(-self._settings.contamination.rate * doses())
        return None if (shade == 1).all() else shade.astype(np.float32)

    def motion(
        self, conditions: Conditions, number: int, before: float, doses: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how the image moves by charge in an exposure; see `charge_motion`."""
        if "charging" not in conditions:
            return np.zeros((2, doses.size))
        rng = frame_rng(self._charge_seed, number)
        return charge_motion(self._settings.charging, before, doses, rng)
