"""The aperture changer: which section of a tape or grid is under the beam.

A positioner, so that `bps.mv` and a progress bar work on it as on any motor.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.positioner import PositionerBase
from ophyd.status import wait as wait_for_status
from ophyd.utils import LimitError

from devices.connection import Connectable
from devices.stage import PositionError
from devices.status import MoveOutcome, finish

CHANGE_TIMEOUT = 120.0
"""Seconds that the longest change, from one end of a tape to the other, may take."""


class ApertureChanger(Connectable, PositionerBase):
    """Brings one of the apertures of the substrate under the beam.

    Apertures are counted from 1. PVs: ``Aperture``, ``Aperture_RBV``, ``ApertureMoving_RBV``,
    ``ApertureCount_RBV``, ``ApertureId_RBV``, and the stage's ``StopAll`` and ``Error_RBV``.

    Examples
    --------
    >>> aperture = ApertureChanger("TEM:STAGE:", name="aperture")
    >>> RE(bps.mv(aperture, 3))
    """

    readback = Cpt(EpicsSignalRO, "Aperture_RBV", kind="hinted")
    setpoint = Cpt(EpicsSignal, "Aperture", kind="normal", auto_monitor=True)
    count = Cpt(EpicsSignalRO, "ApertureCount_RBV", kind="config", auto_monitor=True)
    identity = Cpt(EpicsSignalRO, "ApertureId_RBV", string=True, kind="normal")
    in_motion = Cpt(EpicsSignalRO, "ApertureMoving_RBV", kind="omitted", auto_monitor=True)
    stop_all = Cpt(EpicsSignal, "StopAll", kind="omitted")
    error = Cpt(EpicsSignalRO, "Error_RBV", string=True, kind="omitted", auto_monitor=True)

    def __init__(
        self,
        prefix: str = "TEM:STAGE:",
        *,
        name: str,
        timeout: float = CHANGE_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("labels", {"positioners"})
        self._outcome: MoveOutcome | None = None
        self._outcome_lock = Lock()
        super().__init__(prefix, name=name, timeout=timeout, **kwargs)
        self.readback.name = self.name
        self.readback.subscribe(self._readback_changed, run=False)

    @property
    def position(self) -> int | None:
        """The aperture that was seen last; it can be asked for when the IOC is gone, too."""
        position: int | None = self._position
        return position

    @property
    def egu(self) -> str:
        """Apertures have no unit."""
        return ""

    @property
    def limits(self) -> tuple[int, int]:
        """The first and the last aperture."""
        return 1, int(self.count.get())

    def check_value(self, value: int) -> None:
        """Refuse what is not an aperture.

        Raises
        ------
        ophyd.utils.LimitError
            If it is not a whole number from 1 to the number of apertures.
        """
        first, last = self.limits
        if value != int(value) or not first <= value <= last:
            raise LimitError(
                f"{self.name} cannot be {value!r}: apertures are whole numbers, {first} to {last}"
            )

    def move(
        self,
        position: int,
        wait: bool = True,
        moved_cb: Any = None,
        timeout: float | None = None,
    ) -> MoveOutcome:
        """Bring an aperture under the beam.

        Parameters
        ----------
        position : int
            The aperture, from 1.
        wait : bool
            Whether to return only when it is there.
        moved_cb : callable, optional
            Called with the status, and the changer as `obj`, at the end.
        timeout : float, optional
            Seconds to wait, if not those given at the start.

        Raises
        ------
        ophyd.utils.LimitError
            If there is no such aperture.
        """
        self.check_value(position)
        self._end(PositionError(f"{self.name} was sent to {position} before it had arrived"))
        outcome = MoveOutcome(
            self,
            position,
            timeout=self.timeout if timeout is None else timeout,
            settle_time=self.settle_time,
            call_stop_on_failure=False,
            explain=lambda: (
                f"{self._where(position, self.position)}: is the IOC alive? Look at its log"
            ),
        )
        if moved_cb is not None:
            outcome.add_callback(lambda status: moved_cb(status, obj=self))
        self._outcome = outcome
        # The IOC completes the put when the change is over, or has failed. The monitor of the
        # motion would not do: its news of the change before may come only now.
        self.setpoint.put(position, use_complete=True, callback=lambda **_: self._settle(outcome))
        if wait:
            wait_for_status(outcome)
        return outcome

    def stop(self, *, success: bool = False) -> None:
        """Stop a change that is under way."""
        if self._outcome is not None:
            self._end(None if success else PositionError(f"{self.name} was stopped on its way"))
            self.stop_all.put(1, wait=False)

    def _readback_changed(self, value: int, **_: Any) -> None:
        """Keep the position that was seen last, and pass it on to progress bars."""
        self._set_position(value)

    def _settle(self, outcome: MoveOutcome) -> None:
        """Finish a change by where the changer is; the next one may have begun meanwhile."""
        # Asked for, since the monitor's last news may come after the completion.
        found, target = int(self.readback.get(use_monitor=False)), outcome.target
        self._set_position(found)
        error = None if found == target else PositionError(self._where(target, found))
        self._end(error, outcome)

    def _where(self, target: int, found: int | None) -> str:
        said = f" ({self.error.get()})" if self.error.connected and self.error.get() else ""
        return f"{self.name} did not reach aperture {target}, it is at {found}{said}"

    def _end(self, error: Exception | None, outcome: MoveOutcome | None = None) -> None:
        """Finish the change that is under way, if one is (or this one, if it is): once."""
        with self._outcome_lock:
            if outcome is not None and outcome is not self._outcome:
                return
            outcome, self._outcome = self._outcome, None
        finish(outcome, error)
