"""The affine map of each frame: what height, charge and the lenses' drift do to it.

It depends on the place, the focus and the number of the frame, so that the same commands give the
same frames however long they take.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from simulation.seeds import frame_rng
from simulation.settings import (
    ImperfectionSettings,
    MagnificationDriftSettings,
    TileDistortionSettings,
)

PPM = 1e-6
WAVES = 6
"""Plane waves that each smooth field is made of."""

Matrix = NDArray[np.float64]


class FrameWarp:
    """Gives the affine map of each frame.

    It takes stage vectors from the middle of a frame, as the geometry of the column gives them, to
    where the specimen is seen.

    Parameters
    ----------
    settings : ImperfectionSettings
    seed : numpy.random.SeedSequence
    """

    def __init__(self, settings: ImperfectionSettings, seed: np.random.SeedSequence) -> None:
        self._drift = settings.magnification_drift
        self._distortion = settings.tile_distortion
        smooth_seed, self._own_seed = seed.spawn(2)
        self._smooth = smooth_field(self._distortion, np.random.default_rng(smooth_seed))

    def at(
        self, x: float, y: float, defocus: float, number: int, conditions: frozenset[str]
    ) -> Matrix:
        """Return the map of one frame.

        Parameters
        ----------
        x, y : float
            Place of its middle, in µm.
        defocus : float
            In µm.
        number : int
            Of the frame.
        conditions : frozenset of str
            Those that are there.

        Returns
        -------
        ndarray of float64, shape (2, 2)
        """
        matrix = np.eye(2)
        if "tile_distortion" in conditions:
            matrix += self._smooth(x, y) + self._own(number)
        if "magnification_drift" in conditions:
            matrix = drifted(self._drift, x, y, defocus, number) @ matrix
        return matrix

    def _own(self, number: int) -> Matrix:
        """Draw what is a frame's alone."""
        rng = frame_rng(self._own_seed, number)
        return self._distortion.own * PPM * rng.standard_normal((2, 2))


def drifted(
    settings: MagnificationDriftSettings, x: float, y: float, defocus: float, number: int
) -> Matrix:
    """Return the magnification and rotation of one frame, as a map of what it shows.

    A frame that is magnified more shows less of the specimen.
    """
    larger = settings.gradient[0] * x + settings.gradient[1] * y
    larger += settings.settling * exp(-number / settings.settling_frames)
    larger += settings.per_focus * defocus
    turn = settings.rotation_gradient[0] * x + settings.rotation_gradient[1] * y
    turn = PPM * (turn + settings.rotation_per_focus * defocus)
    c, s = cos(turn), sin(turn)
    return np.array([[c, -s], [s, c]]) / (1 + PPM * larger)


def smooth_field(
    settings: TileDistortionSettings, rng: np.random.Generator
) -> Callable[[float, float], Matrix]:
    """Make the part of the tiles' affine maps that is smooth over the section.

    Returns
    -------
    callable
        ``field(x, y)``, of a place in µm: ndarray of float64, shape (2, 2); each element is a sum
        of plane waves whose lengths are up to twice the scale.
    """
    angle = rng.uniform(0, 2 * pi, (2, 2, WAVES))
    length = settings.smooth_scale * np.exp(rng.uniform(0, 0.7, (2, 2, WAVES)))
    wave = 2 * pi / length * np.array([np.cos(angle), np.sin(angle)])
    phase = rng.uniform(0, 2 * pi, (2, 2, WAVES))
    size = PPM * settings.smooth * sqrt(2 / WAVES)

    def field(x: float, y: float) -> Matrix:
        values: Matrix = np.sin(wave[0] * x + wave[1] * y + phase).sum(axis=-1)
        return size * values

    return field
