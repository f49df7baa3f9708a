"""Light that is uneven over the sensor, and changes in the course of frames.

What is smooth over the sensor is known at nodes a few dozen pixels apart, and linear in between.
"""

from __future__ import annotations

from math import ceil, pi, sqrt

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from simulation.seeds import frame_rng
from simulation.settings import UnevenLightSettings

DEGREE = 3
MIN_LIGHT = 0.02
"""So little is left of it at least, however uneven it is set to be."""


def nodes_of(shape: tuple[int, int], pitch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sensor rows and columns of nodes that cover a sensor, from 0 on, in px."""
    rows, columns = (np.arange(ceil(side / pitch) + 1) * float(pitch) for side in shape)
    return rows, columns


class UnevenLight:
    """Gives the light of each frame over the sensor, as a factor.

    Parameters
    ----------
    settings : UnevenLightSettings
    shape : (int, int)
        (height, width) of the sensor, in px.
    pitch : int
        Distance of the nodes, in px.
    seed : numpy.random.SeedSequence
    """

    def __init__(
        self,
        settings: UnevenLightSettings,
        shape: tuple[int, int],
        pitch: int,
        seed: np.random.SeedSequence,
    ) -> None:
        self._settings = settings
        drawing_seed, self._flicker_seed = seed.spawn(2)
        rng = np.random.default_rng(drawing_seed)
        self._terms = _smooth_terms(shape, pitch)
        count = len(self._terms)
        self._fixed = settings.amplitude * _of_length_one(rng.standard_normal(count))
        self._wander = settings.wander * sqrt(2) * _of_length_one(rng.standard_normal(count))
        self._periods = settings.wander_frames * np.exp(rng.uniform(-0.7, 0.7, count))
        self._phases = rng.uniform(0, 2 * pi, count)

    def of(self, number: int) -> NDArray[np.float64]:
        """Return the light of a frame at the nodes, 1 on the average of sensor and frames."""
        turns = 2 * pi * number / self._periods + self._phases
        uneven = self._fixed + self._wander * np.sin(turns)
        rng = frame_rng(self._flicker_seed, number)
        whole = 1 + self._settings.flicker * rng.standard_normal()
        return np.maximum(whole * (1 + np.tensordot(uneven, self._terms, 1)), MIN_LIGHT)


def _smooth_terms(shape: tuple[int, int], pitch: int) -> NDArray[np.float64]:
    """Return products of Legendre polynomials at the nodes, of degree 1 to 3 and mean square 1."""
    rows, columns = (
        np.clip(2 * line / (side - 1) - 1, -1, 1)
        for line, side in zip(nodes_of(shape, pitch), shape, strict=True)
    )
    down, along = legvander(rows, DEGREE), legvander(columns, DEGREE)
    return np.array(
        [
            sqrt((2 * i + 1) * (2 * j + 1)) * np.outer(down[:, i], along[:, j])
            for i in range(DEGREE + 1)
            for j in range(DEGREE + 1)
            if 1 <= i + j <= DEGREE
        ]
    )


def _of_length_one(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)
