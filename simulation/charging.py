"""Charge on the specimen: the image moves when the beam first falls on a place.

What had its dose before has its charge already, and moves less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.settings import ChargingSettings


def charge_motion(
    settings: ChargingSettings,
    before: float,
    doses: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return how far the image is from where it comes to rest, in the course of an exposure.

    Parameters
    ----------
    settings : ChargingSettings
    before : float
        What the place had of the beam before, in e⁻/Å².
    doses : ndarray of float64, shape (n,)
        What it has had in the exposure up to each moment, in e⁻/Å².
    rng : numpy.random.Generator
        Draws the direction.

    Returns
    -------
    ndarray of float64, shape (2, n)
        Along stage x and y, in nm.
    """
    way = settings.shift * rng.standard_normal(2)
    return np.outer(way, np.exp(-(before + doses) / settings.settling_dose))
