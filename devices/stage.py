"""The specimen stage: four motor records whose moves are verified.

A stock motor that is stopped by someone else reports success far from its target; these do not.
"""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsMotor, EpicsSignalRO
from ophyd.status import Status
from ophyd.status import wait as wait_for_status
from ophyd.utils import DisconnectedError

from devices.connection import Connectable
from devices.status import MoveOutcome, finish, finished
from devices.timeouts import MOVE_MARGIN

_LOOK = "is the IOC alive? Look at its log, and start it with `temline up`"

_log = logging.getLogger(__name__)


class PositionError(RuntimeError):
    """A move ended somewhere else than where it was to end."""


class Departure:
    """Sends an axis on to where it is wanted next; nobody waits for it yet.

    The next `set` of the axis to the same place has the outcome of this move. To any other place,
    it goes there instead.
    """

    parent = None

    def __init__(self, axis: StageAxis) -> None:
        self.name = f"{axis.name}_departure"
        self._axis = axis

    def check_value(self, position: float) -> None:
        """Raise LimitError if the axis cannot go there."""
        self._axis.check_value(position)

    def set(self, position: float) -> Status:
        """Begin to move."""
        self._axis.depart(position)
        return finished()


class StageAxis(EpicsMotor):
    """A motor record whose moves succeed only where they were asked to go.

    A move fails, with a message that names target, position and tolerance, if it ends elsewhere
    (someone wrote ``.STOP``, a limit switch was hit), if the IOC is lost, or if it takes longer
    than its distance and speed explain.

    Parameters
    ----------
    prefix : str
        The motor record.
    name : str
    tolerance : float
        How far from its target a move may end, in the axis' units.
    **kwargs
        As of `ophyd.EpicsMotor`.

    Attributes
    ----------
    departure : Departure
        To send it on early, from a plan.
    arrived : float
        When the last move ended where it was to end, on the monotonic clock, in s.

    Examples
    --------
    >>> x = StageAxis("TEM:STAGE:X", name="x", tolerance=0.1)
    >>> x.set(25.0).wait()
    """

    def __init__(self, prefix: str, *, name: str, tolerance: float, **kwargs: Any) -> None:
        kwargs.setdefault("labels", {"motors"})
        self.tolerance = tolerance
        self.arrived = float("-inf")
        self._departed: MoveOutcome | None = None
        self._outcome: MoveOutcome | None = None
        self._outcome_lock = Lock()
        super().__init__(prefix, name=name, **kwargs)
        self.departure = Departure(self)
        self.motor_done_move.subscribe(
            self._connection_changed, event_type=self.motor_done_move.SUB_META, run=False
        )

    @property
    def position(self) -> float | None:
        """The position that was seen last; it can be asked for when the IOC is gone, too."""
        position: float | None = self._position
        return position

    def travel_time(self, target: float) -> float:
        """Give the longest time, in s, that a move from here to `target` can take.

        Distance over speed, the time to speed up and slow down, half as much again, and a margin.
        """
        low, high = self.limits
        distance = abs(target - (high if self.position is None else self.position))
        distance = min(distance, high - low) if low < high else distance
        speed = self.velocity.get()
        travel = distance / speed if speed > 0 else 0.0
        return float(1.5 * (travel + 2 * self.acceleration.get()) + MOVE_MARGIN)

    def depart(self, position: float) -> None:
        """Begin a move that the next one to the same place continues.

        Raises
        ------
        ophyd.utils.LimitError, ophyd.utils.DisconnectedError
            As `move`.
        """
        self._departed = self.move(position, wait=False)

    def move(
        self,
        position: float,
        wait: bool = True,
        moved_cb: Any = None,
        timeout: float | None = None,
    ) -> MoveOutcome:
        """Move to a position.

        Parameters
        ----------
        position : float
            In the axis' units.
        wait : bool
            Whether to return only when the move is over.
        moved_cb : callable, optional
            Called with the status, and the axis as `obj`, when the move is over.
        timeout : float, optional
            Seconds to wait; `travel_time` if it is left out.

        Returns
        -------
        MoveOutcome
            It fails with PositionError, TimeoutError or ophyd.utils.DisconnectedError.

        Raises
        ------
        ophyd.utils.LimitError
            If the position lies outside the soft limits.
        ophyd.utils.DisconnectedError
            If the axis' PVs are not connected.
        """
        if not self.connected:
            raise DisconnectedError(f"{self._lost()}, so it cannot be moved: {_LOOK}")
        self.check_value(position)
        departed, self._departed = self._departed, None
        for asked in (self._outcome, departed):
            if asked is not None and asked.target == position and self._holds(asked):
                return asked  # the same move, asked for twice
        self._end(PositionError(f"{self.name} was sent to {position:g} before it had arrived"))
        self._started_moving = False
        outcome = MoveOutcome(
            self,
            position,
            timeout=self.travel_time(position) if timeout is None else timeout,
            settle_time=self.settle_time,
            call_stop_on_failure=False,
            explain=lambda: self._overdue(position),
        )
        outcome.add_callback(self._stop_if_overdue)
        if moved_cb is not None:
            outcome.add_callback(lambda status: moved_cb(status, obj=self))
        self._outcome = outcome
        self.user_setpoint.put(position, wait=False)
        if wait:
            try:
                wait_for_status(outcome)
            except KeyboardInterrupt:
                self.stop()
                raise
        return outcome

    def stop(self, *, success: bool = False) -> None:
        """Stop the axis.

        Parameters
        ----------
        success : bool
            Whether the move that this cuts off counts as done, as when a plan is paused.
        """
        self._end(None if success else PositionError(f"{self.name} was stopped on its way"))
        if self.connected:
            super().stop(success=success)
        else:
            _log.error("%s, so it cannot be stopped: %s", self._lost(), _LOOK)

    def _done_moving(self, success: bool = True, **kwargs: Any) -> None:
        """Compare the position with the target, now that the record says that it is done."""
        super()._done_moving(success=success, **kwargs)
        outcome = self._outcome
        if outcome is None:
            return
        if success and self._is_near(outcome.target):
            self._end(None)
        elif self._started_moving:
            self._end(PositionError(self._missed(outcome.target)))
        # Else a move that this one cut off has ended, and this one has yet to start.

    def _holds(self, outcome: MoveOutcome) -> bool:
        """Tell whether a move is still on its way, or ended well and the axis is still there."""
        return not outcome.done or (outcome.success and self._is_near(outcome.target))

    def _is_near(self, target: float) -> bool:
        # The monitor is free but may be late; ask the IOC only before crying wolf.
        return any(
            abs(self.user_readback.get(use_monitor=use_monitor) - target) <= self.tolerance
            for use_monitor in (True, False)
        )

    def _missed(self, target: float) -> str:
        found = self.user_readback.get(use_monitor=False)
        switches = {"high": self.high_limit_switch, "low": self.low_limit_switch}
        hit = [name for name, switch in switches.items() if switch.get(use_monitor=False)]
        why = f"its {hit[0]} limit switch is on" if hit else f"was {self.prefix}.STOP written?"
        return (
            f"{self.name} ended at {found:.{self.precision}f} {self.egu}, not at its target "
            f"{target:.{self.precision}f} (tolerance {self.tolerance:g}): {why}"
        )

    def _overdue(self, target: float) -> str:
        return (
            f"{self.name} did not arrive: target {target:g}, last seen at {self.position:g} "
            f"(tolerance {self.tolerance:g}): {_LOOK}"
        )

    def _stop_if_overdue(self, outcome: MoveOutcome) -> None:
        if isinstance(outcome.exception(timeout=0), TimeoutError):
            self._outcome = None
            if self.connected:
                self.motor_stop.put(1, wait=False)

    def _connection_changed(self, connected: bool, **_: Any) -> None:
        outcome = self._outcome
        if outcome is not None and not connected:
            self._end(
                DisconnectedError(
                    f"{self._lost()} on its way to {outcome.target:g}, last seen at "
                    f"{self.position:g}: {_LOOK}"
                )
            )

    def _lost(self) -> str:
        return f"{self.name} has lost its IOC ({self.prefix})"

    def _end(self, error: Exception | None) -> None:
        """Finish the move that is under way, if one is: exactly once, whoever comes first."""
        with self._outcome_lock:
            outcome, self._outcome = self._outcome, None
        if outcome is not None and error is None:
            self.arrived = time.monotonic()
        finish(outcome, error)


class Stage(Connectable):
    """The specimen stage.

    ``X``, ``Y``, ``Z`` in µm and ``Tilt`` in degrees are motor records; ``Error_RBV`` says what
    went wrong last.

    Examples
    --------
    >>> stage = Stage("TEM:STAGE:", name="stage")
    >>> stage.wait_for_connection()
    >>> RE(bps.mv(stage.x, 10, stage.y, -5))
    """

    x = Cpt(StageAxis, "X", tolerance=0.1)
    y = Cpt(StageAxis, "Y", tolerance=0.1)
    z = Cpt(StageAxis, "Z", tolerance=0.1)
    tilt = Cpt(StageAxis, "Tilt", tolerance=0.05)
    error = Cpt(EpicsSignalRO, "Error_RBV", string=True, kind="omitted", auto_monitor=True)

    def __init__(self, prefix: str = "TEM:STAGE:", *, name: str, **kwargs: Any) -> None:
        kwargs.setdefault("labels", {"stages"})
        super().__init__(prefix, name=name, **kwargs)
