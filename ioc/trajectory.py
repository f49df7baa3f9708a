"""What a sequence walks and what comes of it: points, rules, results, and the time that it takes.

Arrays over all points, since Channel Access brings them so and ten thousand are checked at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ioc.drivers.protocol import Axis


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The points of a sequence, in order; all arrays of float64 have shape (n,).

    Attributes
    ----------
    x, y : ndarray
        Where the stage goes, in µm.
    focus : ndarray
        What is added to the defocus, in µm.
    shift_x, shift_y : ndarray
        What is added to the image shift, in µm as the column has it.
    exposure : ndarray
        In s.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    focus: NDArray[np.float64]
    shift_x: NDArray[np.float64]
    shift_y: NDArray[np.float64]
    exposure: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def empty(cls) -> Trajectory:
        """Make one of no points."""
        return cls(*(np.empty(0) for _ in fields(cls)))


@dataclass(eq=False)
class Results:
    """What came of each point; −1 and NaN where nothing has yet. All arrays have shape (n,).

    Attributes
    ----------
    x, y : ndarray of float64
        Where the stage stood, in µm.
    settle : ndarray of float64
        From the start of the move until the stage stood still long enough, in s.
    start, end : ndarray of float64
        Of the exposure, in unix time.
    frame, place : ndarray of int32
        The camera's number of the frame, and its place in the file.
    mean, sharpness : ndarray of float64
        Of the frame, as Stats1 measures them.
    fault : ndarray of int32
        What went wrong at the point last (a FaultCode), also if it was done in the end.
    order : list of int
        The points that are done, in the order of their frames.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    settle: NDArray[np.float64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    frame: NDArray[np.int32]
    place: NDArray[np.int32]
    mean: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    fault: NDArray[np.int32]
    order: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, n: int) -> Results:
        """Make those of n points, none of which is done."""
        arrays = {
            each.name: np.full(n, np.nan)
            if "float64" in str(each.type)
            else np.full(n, 0 if each.name == "fault" else -1, np.int32)
            for each in fields(cls)
            if each.name != "order"
        }
        return cls(**arrays)


@dataclass(frozen=True)
class Rules:
    """How a sequence is walked.

    Attributes
    ----------
    settle : float
        How long the stage must stay in position before an exposure, in s.
    tolerance : float
        How far from its target it may be then, in µm.
    settle_timeout : float
        How long it may take to get there after it has come to rest, in s.
    shift_settle : float
        What is waited after a change of image shift alone, in s.
    shift_limit : float
        Up to what distance from its target the image shift makes up for the stage, in µm; 0: not.
    watchdog : float
        How long a client may be silent until the sequence pauses, in s; 0: for ever.
    """

    settle: float = 0.05
    tolerance: float = 0.05
    settle_timeout: float = 0.5
    shift_settle: float = 0.02
    shift_limit: float = 0.0
    watchdog: float = 0.0


def check(trajectory: Trajectory, limits: dict[str, tuple[float, float]]) -> None:
    """Refuse a trajectory of which any number is not finite or beyond its limits.

    Parameters
    ----------
    trajectory : Trajectory
    limits : dict of str to (float, float)
        Least and most by the trajectory's names, both included.

    Raises
    ------
    ValueError
        It names the first point, its value and what is allowed.
    """
    for each in fields(trajectory):
        values: NDArray[np.float64] = getattr(trajectory, each.name)
        low, high = limits[each.name]
        bad = np.flatnonzero(~((values >= low) & (values <= high)))
        if len(bad):
            raise ValueError(
                f"{each.name} of point {bad[0]} is {values[bad[0]]:g}; it must lie between "
                f"{low:g} and {high:g}" + (f" ({len(bad)} such points)" if len(bad) > 1 else "")
            )


def travel_time(distance: float, speed: float, acceleration: float) -> float:
    """Give the time from rest to rest, with constant acceleration and braking, in s."""
    return float(_travel_times(np.array([distance]), speed, acceleration)[0])


def _travel_times(
    distances: NDArray[np.float64], speed: float, acceleration: float
) -> NDArray[np.float64]:
    away = np.abs(distances)
    if not isfinite(acceleration):
        return away / speed
    short = away < speed**2 / acceleration
    return np.where(
        short, 2 * np.sqrt(away / acceleration), away / speed + (away > 0) * speed / acceleration
    )


def time_left(
    trajectory: Trajectory,
    start: tuple[float, float],
    axes: tuple[Axis, Axis],
    rules: Rules,
    readout: float,
) -> NDArray[np.float64]:
    """Estimate how long a sequence takes by the hardware's own numbers.

    Each point takes its exposure, and before it the longer of the move with its settling and the
    readout of the frame before.

    Parameters
    ----------
    trajectory : Trajectory
    start : (float, float)
        Where the stage is, in µm.
    axes : (Axis, Axis)
        Of x and y, with the speed that is set.
    rules : Rules
    readout : float
        Of a frame, in s.

    Returns
    -------
    ndarray of float64, shape (n + 1,)
        Time from the start of each point to the end of all, in s; the last is 0.
    """
    travel = np.maximum(
        *(
            _travel_times(np.diff(places, prepend=first), axis.speed, axis.acceleration)
            for places, first, axis in zip((trajectory.x, trajectory.y), start, axes, strict=True)
        )
    )
    shifted = np.diff(trajectory.shift_x, prepend=0) != 0
    shifted |= np.diff(trajectory.shift_y, prepend=0) != 0
    ready = np.where(travel > 0, travel + rules.settle, rules.shift_settle * shifted)
    ready[1:] = np.maximum(ready[1:], readout)
    each = ready + trajectory.exposure
    each[-1:] += readout
    return np.append(np.cumsum(each[::-1])[::-1], 0.0)
