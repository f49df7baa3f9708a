"""A setting of the microscope: a PV to write and its readback.

Channel Access refuses a bad value without telling ophyd, so a write is checked before and after.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from ophyd import EpicsSignal
from ophyd.signal import DEFAULT_WRITE_TIMEOUT
from ophyd.utils import DisconnectedError

from devices.connection import circuit_broke
from devices.status import SettingOutcome


class SettingRefusedError(RuntimeError):
    """An IOC did not take a value that was written to a setting."""


class Setting(EpicsSignal):
    """A value to set, ``NAME``, with its readback, ``NAME_RBV``.

    `set` refuses what lies outside the control limits or is not one of the choices before it
    writes; it ends when the IOC has completed the put *and* the readback shows the value.

    Parameters
    ----------
    prefix : str
        The PV that is written; its readback has ``_RBV`` added.
    tolerance : float, optional
        How far the readback may lie from what was asked for. Without it: one unit of the last
        digit that the PV shows (its PREC), or no difference at all.
    **kwargs
        As of `ophyd.EpicsSignal`.

    Examples
    --------
    >>> class Lens(Device):
    ...     defocus = Component(Setting, "Defocus", kind="hinted")
    >>> lens.defocus.set(-2.0).wait()
    >>> lens.defocus.set(1e6)
    Traceback (most recent call last):
    LimitError: lens_defocus: value 1000000.0 outside of range: [-200.0, 200.0]
    """

    def __init__(self, prefix: str, **kwargs: Any) -> None:
        kwargs.setdefault("limits", True)
        kwargs.setdefault("auto_monitor", True)
        self._writing: _Writing | None = None
        super().__init__(prefix + "_RBV", write_pv=prefix, **kwargs)

    def check_value(self, value: Any) -> None:
        """Refuse a value that is out of range, or none of the choices.

        Raises
        ------
        ophyd.utils.LimitError
            If a number lies outside the PV's control limits.
        ValueError
            If the PV is a menu and the value is none of its entries, or if it holds whole numbers
            and the value is not one.
        """
        if self.enum_strs:
            if not self._is_choice(value):
                choices = ", ".join(self.enum_strs)
                raise ValueError(f"{self.name} cannot be {value!r}: choose one of {choices}")
            return
        if isinstance(self._readback, int) and value != int(value):
            raise ValueError(f"{self.name} cannot be {value!r}: it takes whole numbers")
        super().check_value(value)

    def _is_choice(self, value: Any) -> bool:
        return value in (self.enum_strs if isinstance(value, str) else range(len(self.enum_strs)))

    def set(
        self,
        value: Any,
        *,
        timeout: float | None = DEFAULT_WRITE_TIMEOUT,
        settle_time: float | None = None,
    ) -> SettingOutcome:
        """Write a value, and finish when the readback shows it.

        Parameters
        ----------
        value : number or str
            In the PV's units, or an entry of its menu.
        timeout : float, optional
            Seconds to wait for the readback.
        settle_time : float, optional
            Seconds to wait after that.

        Returns
        -------
        SettingOutcome

        Raises
        ------
        ophyd.utils.LimitError, ValueError
            As `check_value`.
        """
        if timeout is DEFAULT_WRITE_TIMEOUT:
            timeout = self.write_timeout
        self.check_value(value)
        pending = self._writing
        if pending is not None and not pending.status.done:
            if self.matches(value, pending.value):
                return pending.status  # the same write, asked for twice
            pending.give_up(value)
        writing = self._writing = _Writing(self, value, timeout, settle_time)
        # ophyd gives no sign of a write that the IOC refused, so the callback looks for itself.
        self.put(value, use_complete=True, callback=writing.put_completed)
        return writing.status

    def matches(self, wanted: Any, found: Any) -> bool:
        """Tell whether what was found is what was wanted, within the tolerance."""
        if self.enum_strs:
            wanted, found = self._choice(wanted), self._choice(found)
        if isinstance(wanted, str) or isinstance(found, str):
            return str(wanted) == str(found)
        return bool(np.all(np.abs(np.subtract(found, wanted)) <= (self.tolerance or 0.0)))

    def _choice(self, value: Any) -> str:
        return value if isinstance(value, str) else self.enum_strs[int(value)]


class _Writing:
    """One write on its way: from the put to a readback that shows it."""

    def __init__(
        self, signal: Setting, value: Any, timeout: float | None, settle_time: float | None
    ) -> None:
        self._signal = signal
        self.value = value
        self._lock = Lock()
        self._finished = False
        self.status = SettingOutcome(
            timeout=timeout, settle_time=settle_time or 0.0, explain=self._explain
        )

    def give_up(self, value: Any) -> None:
        """End, as another value is written."""
        text = f"{self._signal.name} was set to {value!r} before it had reached {self.value!r}"
        self._finish(SettingRefusedError(text))

    def put_completed(self, **_: Any) -> None:
        """Look whether the IOC took the value, then wait for the readback to follow."""
        if self._finished:
            return
        try:
            setpoint = self._signal.get_setpoint(use_monitor=False)
            if self._signal.matches(self.value, setpoint):
                self._follow_readback()
            else:
                self._finish(self._refusal(setpoint))
        except Exception as error:  # raised here it would end in a log, and the status never
            self._finish(self._lost() if circuit_broke(error) else error)

    def _follow_readback(self) -> None:
        signal = self._signal
        signal.subscribe(self._readback_changed, run=False)
        self.status.add_callback(lambda _: signal.clear_sub(self._readback_changed))
        self._readback_changed(signal.get(use_monitor=False))

    def _readback_changed(self, value: Any, **_: Any) -> None:
        if self._signal.matches(self.value, value):
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        with self._lock:
            if self._finished:
                return
            self._finished = True
        if error is None:
            self.status.set_finished()
        else:
            self.status.set_exception(error)

    def _refusal(self, setpoint: Any) -> SettingRefusedError:
        low, high = self._signal.limits
        allowed = (
            "" if self._signal.enum_strs or low >= high else f" (allowed: {low:g} to {high:g})"
        )
        return SettingRefusedError(
            f"{self._signal.setpoint_pvname} refused {self.value!r} and stays at "
            f"{setpoint!r}{allowed}{self._reason()}"
        )

    def _lost(self) -> DisconnectedError:
        signal = self._signal
        return DisconnectedError(
            f"{signal.name} was set to {self.value!r} and its IOC is lost ({signal.pvname}): look "
            "at the IOC's log, and start it with `temline up`"
        )

    def _explain(self) -> str:
        signal = self._signal
        found = signal._readback if signal.connected else "a PV that is not connected"
        return (
            f"{signal.name} was set to {self.value!r} but {signal.pvname} shows {found!r}"
            f"{self._reason()}: is its IOC alive, and the hardware free to move?"
        )

    def _reason(self) -> str:
        """Give what the IOC itself says went wrong, where its device has such a PV."""
        error = getattr(self._signal.parent, "error", None)
        text = error.get() if error is not None and error.connected else ""
        return f": {text}" if text else ""
