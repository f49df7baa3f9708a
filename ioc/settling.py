"""Waits until the stage stands where it was sent, by what its own readings say.

A time alone would not do: a stage that was stopped on its way is at rest too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import hypot

from ioc.drivers.protocol import StageReading
from ioc.sequence_protocol import FaultCode, Hardware, SequenceError
from ioc.trajectory import Rules

COARSE_POLL = 0.01  # s between readings of the stage while it is on its way
FINE_POLL = 0.001  # and when it should have arrived
SETTLING_POLL = 0.005  # s between readings at rest
STALL_TIME = 5.0  # s without a change of position, after which motion counts as stalled
STILL = 1e-3  # µm that count as no change of position

Place = tuple[float, float]


def settle(
    hardware: Hardware, target: Place, due: float, rules: Rules, leave: Callable[[], bool]
) -> Place | None:
    """Wait until the stage has come to rest and has stayed in position long enough.

    Parameters
    ----------
    hardware : Hardware
    target : (float, float)
        In µm.
    due : float
        When it is expected there, in s of `time.monotonic`.
    rules : Rules
    leave : callable
        Tells whether to stop the stage and to leave it there.

    Returns
    -------
    (float, float) or None
        Where it stands, in µm; None if it was left.

    Raises
    ------
    SequenceError
        If it stalled, or rests elsewhere.
    """
    rested: float | None = None
    not_there = 0.0  # when it was last seen in motion, or out of position
    progress = time.monotonic(), target
    while True:
        reading = hardware.position()
        now = time.monotonic()
        if leave():
            hardware.stop()
            return None
        place = reading.position["x"], reading.position["y"]
        if reading.moving & {"x", "y"}:
            rested, not_there = None, now
            if _distance(place, progress[1]) > STILL:
                progress = now, place
            elif now - progress[0] > STALL_TIME:
                hardware.stop()
                raise SequenceError(FaultCode.STALL, _stuck(target, place))
            time.sleep(_pause(due - now))
            continue
        _check_stalls(reading)
        # Readings come late: it came to rest after it was seen in motion, not before it was due.
        rested = rested or min(now, max(not_there, due))
        away = _distance(target, place)
        if away > rules.tolerance:
            not_there = now
            if now - rested >= rules.settle and away <= rules.shift_limit:
                hardware.shift_by(target[0] - place[0], target[1] - place[1])
                time.sleep(rules.shift_settle)
                return place
            if now - rested > rules.settle_timeout:
                raise SequenceError(FaultCode.NOT_IN_POSITION, _off(target, place, rules))
            time.sleep(FINE_POLL)
        elif (left := max(rested, not_there) + rules.settle - now) <= 0:
            return place
        else:
            time.sleep(min(SETTLING_POLL, left))


def _check_stalls(reading: StageReading) -> None:
    for axis in ("x", "y"):
        if axis in reading.stalled:
            raise SequenceError(FaultCode.STALL, reading.stalled[axis])


def _distance(a: Place, b: Place) -> float:
    return hypot(a[0] - b[0], a[1] - b[1])


def _pause(left: float) -> float:
    """Say how long to wait for the next reading of a stage that is to arrive after some time."""
    return min(left, COARSE_POLL) if left > FINE_POLL else FINE_POLL


def _stuck(target: Place, found: Place) -> str:
    return (
        f"the stage says that it moves, and has stood at ({found[0]:.3f}, {found[1]:.3f}) um for "
        f"{STALL_TIME:g} s, on its way to ({target[0]:.3f}, {target[1]:.3f})"
    )


def _off(target: Place, found: Place, rules: Rules) -> str:
    """Say that the stage is not where it was sent."""
    return (
        f"the stage came to rest at ({found[0]:.3f}, {found[1]:.3f}) um, "
        f"{_distance(target, found):.3f} um from ({target[0]:.3f}, {target[1]:.3f}) and not in "
        f"position; {rules.tolerance:g} um are allowed: was it stopped from outside?"
    )
