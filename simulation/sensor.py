"""What is fixed to the camera: a periodic pattern of its sensitivity, and corners without light.

Both are factors on what a pixel sees; the first is taken out by a flat field, the second never.
"""

from __future__ import annotations

from math import cos, hypot, radians, sin

import numpy as np
from numpy.typing import NDArray

from simulation.settings import DarkCornerSettings, FringeSettings


def fringes(settings: FringeSettings, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Make the periodic pattern of a camera's sensitivity.

    Parameters
    ----------
    settings : FringeSettings
    shape : (int, int)
        (height, width) of the sensor, in px.

    Returns
    -------
    ndarray of float32, shape (height, width)
        A factor, 1 on the average.
    """
    turn = radians(settings.angle)
    step = 2 * np.pi / settings.period
    along = np.exp(1j * step * cos(turn) * np.arange(shape[0]))
    across = np.exp(1j * step * sin(turn) * np.arange(shape[1]))
    return (1 + settings.amplitude * np.outer(along, across).imag).astype(np.float32)


def opening(settings: DarkCornerSettings, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Make the share of the light that a round aperture before the sensor lets through.

    Parameters
    ----------
    settings : DarkCornerSettings
    shape : (int, int)
        (height, width) of the sensor, in px.

    Returns
    -------
    ndarray of float32, shape (height, width)
        1 inside, 0 in the corners.
    """
    rows, columns = (np.arange(side, dtype=np.float32) - (side - 1) / 2 for side in shape)
    radius = settings.radius * hypot(*shape) / 2
    distance = np.hypot(rows[:, None], columns[None, :])
    return np.clip(0.5 + (radius - distance) / np.float32(settings.softness), 0, 1)
