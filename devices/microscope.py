"""The column of the microscope: lenses, beam, screen and valves.

Staged it illuminates, unstaged it is safe; so whatever ends a plan, the specimen is spared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils import DisconnectedError

from devices.connection import Connectable
from devices.setting import Setting

_log = logging.getLogger(__name__)

BLANKED, UNBLANKED = "On", "Off"
SCREEN_UP, SCREEN_DOWN = "Up", "Down"


class NotSafeError(RuntimeError):
    """The beam could not be blanked, or the screen not lowered."""


class Microscope(Connectable):
    """A transmission electron microscope, less its stage and its camera.

    Each setting is a PV with a readback, ``Name`` and ``Name_RBV``; units are the PVs' own: µm,
    mrad, kV, nm, degrees, Pa, nA, °C.

    Staging raises the screen and lets the beam through; unstaging blanks the beam and lowers the
    screen, whatever they were before. A paused plan has its beam blanked. So a stock plan that is
    given the microscope as a detector or a motor, and even `RE.halt()`, leaves it safe.

    Attributes
    ----------
    rest_first : callable, optional
        Called before a pause blanks the beam, since the RunEngine pauses devices in any order: what
        exposes by itself has to rest before.

    Examples
    --------
    >>> scope = Microscope("TEM:SCOPE:", name="scope")
    >>> scope.wait_for_connection()
    >>> RE(bps.mv(scope.defocus, -1.5))
    >>> RE(bp.scan([camera], scope.defocus, -4, 4, 9))
    """

    defocus = Cpt(Setting, "Defocus", kind="hinted")
    image_shift_x = Cpt(Setting, "ImageShiftX", kind="normal")
    image_shift_y = Cpt(Setting, "ImageShiftY", kind="normal")
    beam_current = Cpt(EpicsSignalRO, "BeamCurrent_RBV", kind="normal", auto_monitor=True)
    vacuum = Cpt(EpicsSignalRO, "Vacuum_RBV", kind="normal", auto_monitor=True)
    temperature = Cpt(EpicsSignalRO, "Temperature_RBV", kind="normal", auto_monitor=True)

    high_tension = Cpt(Setting, "HighTension", kind="config")
    mag_mode = Cpt(Setting, "MagMode", string=True, kind="config")
    magnification = Cpt(Setting, "Magnification", kind="config")
    spot_size = Cpt(Setting, "SpotSize", kind="config")
    beam_spread = Cpt(Setting, "BeamSpread", kind="config")
    beam_x = Cpt(Setting, "BeamX", kind="config")
    beam_y = Cpt(Setting, "BeamY", kind="config")
    beam_tilt_x = Cpt(Setting, "BeamTiltX", kind="config")
    beam_tilt_y = Cpt(Setting, "BeamTiltY", kind="config")
    stigmator_x = Cpt(Setting, "StigmatorX", kind="config")
    stigmator_y = Cpt(Setting, "StigmatorY", kind="config")
    condenser_stigmator_x = Cpt(Setting, "CondenserStigmatorX", kind="config")
    condenser_stigmator_y = Cpt(Setting, "CondenserStigmatorY", kind="config")
    column_valve = Cpt(Setting, "ColumnValve", string=True, kind="config")
    screen = Cpt(Setting, "Screen", string=True, kind="config")
    blank = Cpt(Setting, "Blank", string=True, kind="config")

    model = Cpt(EpicsSignalRO, "Model_RBV", string=True, kind="config", auto_monitor=True)
    pixel_size = Cpt(EpicsSignalRO, "PixelSize_RBV", kind="config", auto_monitor=True)
    rotation = Cpt(EpicsSignalRO, "Rotation_RBV", kind="config", auto_monitor=True)
    flip_columns = Cpt(EpicsSignalRO, "FlipColumns_RBV", kind="config", auto_monitor=True)
    flip_rows = Cpt(EpicsSignalRO, "FlipRows_RBV", kind="config", auto_monitor=True)

    magnifications = Cpt(EpicsSignalRO, "Magnifications_RBV", kind="omitted")
    pixel_sizes = Cpt(EpicsSignalRO, "PixelSizes_RBV", kind="omitted")
    rotations = Cpt(EpicsSignalRO, "Rotations_RBV", kind="omitted")
    error = Cpt(EpicsSignalRO, "Error_RBV", string=True, kind="omitted", auto_monitor=True)
    make_safe = Cpt(EpicsSignal, "MakeSafe", kind="omitted", put_complete=True)

    def __init__(self, prefix: str = "TEM:SCOPE:", *, name: str, **kwargs: Any) -> None:
        kwargs.setdefault("labels", {"microscopes"})
        super().__init__(prefix, name=name, **kwargs)
        self._blanked_by_pause = False
        self.rest_first: Callable[[], None] | None = None
        self.stage_sigs.update([("screen", SCREEN_UP), ("blank", UNBLANKED)])

    def unstage(self) -> list[object]:
        """Blank the beam and lower the screen, whatever they were before.

        Raises
        ------
        NotSafeError
            If one of them did not follow; both are tried.
        """
        self._original_vals.clear()
        failures = [
            f"{signal.name} is not {value!r}: {error}"
            for signal, value in ((self.blank, BLANKED), (self.screen, SCREEN_DOWN))
            if (error := _failure_to_set(signal, value)) is not None
        ]
        unstaged: list[object] = super().unstage()
        if failures:
            raise NotSafeError(
                f"{self.name} may still have its beam on the specimen: {'; '.join(failures)}. "
                "Blank the beam at the microscope"
            )
        return unstaged

    def pause(self) -> None:
        """Blank the beam while the RunEngine is paused, once what needs it has come to rest."""
        if self.rest_first is not None:
            self.rest_first()
        self._blanked_by_pause = self.blank.get() == UNBLANKED
        if self._blanked_by_pause:
            self._try_to_blank(BLANKED)

    def resume(self) -> None:
        """Let the beam through again if it was blanked by the pause."""
        if self._blanked_by_pause:
            self._blanked_by_pause = False
            self._try_to_blank(UNBLANKED)

    def _try_to_blank(self, value: str) -> None:
        # Raised from pause or resume, an error would end the RunEngine.
        if (error := _failure_to_set(self.blank, value)) is not None:
            _log.critical("%s is not %r: %s", self.blank.name, value, error)


def _failure_to_set(signal: Setting, value: str) -> Exception | None:
    """Set a signal and wait; give what went wrong, if anything did."""
    if not signal.connected:  # ophyd would wait for it: too long for what is urgent
        return DisconnectedError(f"{signal.setpoint_pvname} is not connected")
    try:
        signal.set(value).wait()
    except Exception as error:
        return error
    return None
