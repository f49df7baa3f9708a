"""The beam of electrons: how many fall on each place of the specimen in an exposure.

The camera's light and the specimen's dose are two sides of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

FAR = 60.0
"""Softnesses beyond the edge where it is as dark as anywhere."""


@dataclass(frozen=True)
class Beam:
    """The light of a frame.

    Attributes
    ----------
    to_edge : ndarray of float64, shape (2, 2)
        Takes a stage vector from the middle of the beam, in µm, to units of its edge.
    middle : (float, float)
        Stage vector from the middle of the frame to the middle of the beam, in µm.
    edge, falloff : float
        Softness of the edge and how much the rim is darker, as fractions of the radius and of the
        middle.
    electrons : float
        Electrons that fall on a µm² in the middle of the beam, in the exposure.
    """

    to_edge: NDArray[np.float64]
    middle: tuple[float, float]
    edge: float
    falloff: float
    electrons: float

    def share(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the light at stage vectors from the middle of the frame, as a share of the peak.

        Parameters
        ----------
        vectors : ndarray of float64, shape (..., 2)
            In µm.

        Returns
        -------
        ndarray of float64, shape (...)
        """
        radius = np.linalg.norm((vectors - self.middle) @ self.to_edge.T, axis=-1)
        away = np.minimum((radius - 1) / self.edge, FAR)
        return np.maximum(1 - self.falloff * radius**2, 0) / (1 + np.exp(away))


def beam_peak(current: float, exposure: float, area: float, edge: float, falloff: float) -> float:
    """Return the electrons on a µm² in the middle of a beam.

    Parameters
    ----------
    current : float
        In nA.
    exposure : float
        In s.
    area : float
        Of a disk with the beam's edge, in µm².
    edge, falloff : float
        See `Beam`.

    Returns
    -------
    float
    """
    electrons = current * 1e-9 * exposure / 1.602176634e-19
    # The integral of (1 − fρ²) / (1 + exp((ρ − 1)/e)) over the plane, to the second order in e.
    share = 1 + (pi * edge) ** 2 / 3 - falloff / 2 * (1 + 2 * (pi * edge) ** 2)
    return electrons / (area * share)
