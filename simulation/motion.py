"""How one axis of the stage gets from here to there, as a function of time.

Constant acceleration, constant speed, constant braking: a trapezoid of speed, or a triangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Trajectory:
    """A path of pieces with constant acceleration; at rest before the first and after the last.

    Attributes
    ----------
    times : tuple of float
        Start of each piece, then the end of the last, in s; n + 1 numbers.
    positions, speeds, accelerations : tuple of float
        At the start of each piece; n numbers.
    """

    times: tuple[float, ...]
    positions: tuple[float, ...]
    speeds: tuple[float, ...]
    accelerations: tuple[float, ...]

    @property
    def start(self) -> float:
        """Time of the start in s."""
        return self.times[0]

    @property
    def end(self) -> float:
        """Time of coming to rest in s."""
        return self.times[-1]

    @cached_property
    def target(self) -> float:
        """Position at the end."""
        return float(self.position(self.end))

    def position(self, time: ArrayLike) -> NDArray[np.float64]:
        """Give the position at some times.

        Parameters
        ----------
        time : array_like
            In s.

        Returns
        -------
        ndarray of float64
            Of the shape of `time`.
        """
        t = np.clip(time, self.start, self.end)
        piece = np.searchsorted(self.times[1:-1], t, side="right")
        dt = t - np.take(self.times, piece)
        return (
            np.take(self.positions, piece)
            + np.take(self.speeds, piece) * dt
            + 0.5 * np.take(self.accelerations, piece) * dt**2
        )

    def speed(self, time: float) -> float:
        """Give the speed at a time: zero before the start and from the end on."""
        if not self.start <= time < self.end:
            return 0.0
        piece = int(np.searchsorted(self.times[1:-1], time, side="right"))
        return self.speeds[piece] + self.accelerations[piece] * (time - self.times[piece])


def at_rest(time: float, position: float) -> Trajectory:
    """Make the trajectory of an axis that stays where it is."""
    return Trajectory((time, time), (position,), (0.0,), (0.0,))


def go(
    time: float, position: float, target: float, speed: float, acceleration: float
) -> Trajectory:
    """Make the trajectory from rest at one place to rest at another.

    Parameters
    ----------
    time : float
        Start, in s.
    position, target : float
        From where to where.
    speed, acceleration : float
        The largest allowed; positive.

    Returns
    -------
    Trajectory
    """
    distance = abs(target - position)
    if distance == 0:
        return at_rest(time, position)
    sign = 1.0 if target > position else -1.0
    peak = min(speed, sqrt(distance * acceleration))
    ramp = peak / acceleration
    cruise = distance / peak - ramp
    v, a = sign * peak, sign * acceleration
    gained = 0.5 * a * ramp**2
    return Trajectory(
        (time, time + ramp, time + ramp + cruise, time + 2 * ramp + cruise),
        (position, position + gained, position + gained + v * cruise),
        (0.0, v, v),
        (a, 0.0, -a),
    )


def brake(time: float, position: float, speed: float, acceleration: float) -> Trajectory:
    """Make the trajectory of an axis that is brought to rest as fast as it can be.

    Parameters
    ----------
    time : float
        Start, in s.
    position, speed : float
        At that time.
    acceleration : float
        The largest allowed; positive.

    Returns
    -------
    Trajectory
    """
    if speed == 0:
        return at_rest(time, position)
    slowing = -acceleration if speed > 0 else acceleration
    return Trajectory((time, time - speed / slowing), (position,), (speed,), (slowing,))
