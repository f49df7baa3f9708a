"""The column: what can be set on it, within which limits, and what it reports.

It holds settings and tells their consequences (current, pixel size, vacuum); it makes no image.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, isfinite, pi, radians, sin, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from processing.geometry import FrameGeometry
from simulation.clock import SimulationClock
from simulation.errors import ColumnError
from simulation.faults import FaultSet
from simulation.settings import ColumnSettings, Magnification

Value = float | int | str
BAD_VACUUM = 0.05
WORST_VACUUM_WITH_BEAM = 1e-3
VACUUM_RECOVERY = 2.0
ROOM = 21.0


@dataclass(frozen=True)
class Setting:
    """One thing that can be set on the column.

    Attributes
    ----------
    kind : {"float", "int", "enum"}
    low, high : float
        Limits of a number, both included.
    units : str
        Plain ASCII, as EPICS wants it.
    precision : int
        Digits after the point that are worth showing.
    choices : tuple of str
        What an enum may be.
    values : tuple of int
        What an int may be, if not everything between its limits.
    doc : str
    """

    kind: Literal["float", "int", "enum"]
    low: float = 0.0
    high: float = 0.0
    units: str = ""
    precision: int = 0
    choices: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    doc: str = ""

    def check(self, name: str, value: Value) -> Value:
        """Give a value back in the setting's own type.

        Raises
        ------
        ColumnError
            If it is not allowed; the message names the setting, the value and what is allowed.
        """
        if self.kind == "enum":
            if value not in self.choices:
                raise ColumnError(f"{name} is {value!r}; it must be {' or '.join(self.choices)}")
            return value
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ColumnError(f"{name} is {value!r}; it must be a number") from None
        if not (isfinite(number) and self.low <= number <= self.high):
            units = f" {self.units}" if self.units else ""
            raise ColumnError(
                f"{name} is {number:g}{units}; "
                f"it must lie between {self.low:g} and {self.high:g}{units}"
            )
        if self.kind == "float":
            return number
        if number != int(number) or (self.values and number not in self.values):
            allowed = ", ".join(map(str, self.values)) if self.values else "a whole number"
            raise ColumnError(f"{name} is {number:g}; it must be {allowed}")
        return int(number)


@dataclass(frozen=True)
class ColumnState:
    """Everything that is set on the column, at one moment.

    Lengths in µm, angles in mrad, high tension in kV; the stigmators run from −1 to 1.
    """

    high_tension: float
    mag_mode: str
    magnification: int
    beam_spread: float
    defocus: float = 0.0
    spot_size: int = 1
    beam_x: float = 0.0
    beam_y: float = 0.0
    beam_tilt_x: float = 0.0
    beam_tilt_y: float = 0.0
    image_shift_x: float = 0.0
    image_shift_y: float = 0.0
    stigmator_x: float = 0.0
    stigmator_y: float = 0.0
    condenser_stigmator_x: float = 0.0
    condenser_stigmator_y: float = 0.0
    screen: str = "Up"
    blank: str = "Off"
    column_valve: str = "Open"


def _settings(table: tuple[Magnification, ...]) -> dict[str, Setting]:
    known = tuple(sorted(line.magnification for line in table))
    modes = tuple(dict.fromkeys(line.mode for line in table))
    stigmator = Setting("float", -1, 1, "", 4)
    beam_tilt = Setting("float", -30, 30, "mrad", 3, doc="Tilt of the beam at the specimen")
    beam = Setting("float", -1000, 1000, "um", 3, doc="Where the beam falls")
    shift = Setting("float", -20, 20, "um", 4, doc="How far the image is deflected")
    return {
        "high_tension": Setting("float", 20, 300, "kV", 2, doc="Accelerating voltage"),
        "mag_mode": Setting("enum", choices=modes, doc="Range of the lenses: low or high"),
        "magnification": Setting("int", known[0], known[-1], "", 0, values=known),
        "defocus": Setting("float", -200, 200, "um", 4, doc="Objective; negative is underfocus"),
        "spot_size": Setting("int", 1, 8, doc="Demagnification of the source: 1 is brightest"),
        "beam_spread": Setting("float", 0.5, 5000, "um", 2, doc="Diameter of the beam"),
        "beam_x": beam,
        "beam_y": beam,
        "beam_tilt_x": beam_tilt,
        "beam_tilt_y": beam_tilt,
        "image_shift_x": shift,
        "image_shift_y": shift,
        "stigmator_x": stigmator,
        "stigmator_y": stigmator,
        "condenser_stigmator_x": stigmator,
        "condenser_stigmator_y": stigmator,
        "screen": Setting("enum", choices=("Up", "Down"), doc="Down: it hides the camera"),
        "blank": Setting("enum", choices=("Off", "On"), doc="On: the beam is kept off"),
        "column_valve": Setting("enum", choices=("Closed", "Open"), doc="Between gun and column"),
    }


class VirtualColumn:
    """The column's settings and readings. All methods may be called from any thread.

    Parameters
    ----------
    settings : ColumnSettings
    clock : SimulationClock
    faults : FaultSet

    Attributes
    ----------
    settings : mapping of str to Setting
        What can be set, by name.
    magnifications : tuple of Magnification
        The table, as the column reports it.
    """

    def __init__(self, settings: ColumnSettings, clock: SimulationClock, faults: FaultSet) -> None:
        self.model = settings.model
        self.magnifications = settings.magnifications
        self.settings: Mapping[str, Setting] = _settings(settings.magnifications)
        self._design = settings
        self._clock = clock
        self._faults = faults
        self._lock = threading.RLock()
        self._tripped_at: float | None = None
        line = self._line(settings.magnification)
        self._last_in_mode = {
            entry.mode: entry.magnification for entry in reversed(self.magnifications)
        } | {line.mode: line.magnification}
        self._state = ColumnState(
            settings.high_tension, line.mode, line.magnification, settings.beam_spread
        )

    # -- settings -------------------------------------------------------------------------------

    def state(self) -> ColumnState:
        """Give everything that is set, at this moment."""
        self._watch_vacuum()
        with self._lock:
            return self._state

    def read(self) -> dict[str, Value]:
        """Give everything that is set, by name."""
        return dict(vars(self.state()))

    def get(self, name: str) -> Value:
        """Give one setting.

        Raises
        ------
        ColumnError
            If there is no such setting.
        """
        self._known(name)
        value: Value = getattr(self.state(), name)
        return value

    def set(self, name: str, value: Value) -> None:
        """Set one thing.

        Parameters
        ----------
        name : str
            One of `settings`.
        value : float, int or str

        Raises
        ------
        ColumnError
            If there is no such setting, the value is not allowed, or the valve is to be opened
            while the vacuum is bad. Nothing changes.
        """
        self._known(name)
        value = self.settings[name].check(name, value)
        self._watch_vacuum()
        with self._lock:
            if name == "magnification":
                self._magnify(int(value))
            elif name == "mag_mode":
                if value != self._state.mag_mode:
                    self._magnify(self._last_in_mode[str(value)])
            elif name == "column_valve" and value == "Open":
                self._open_valve()
            else:
                self._state = replace(self._state, **{name: value})

    def make_safe(self) -> None:
        """Blank the beam and lower the screen."""
        with self._lock:
            self._state = replace(self._state, blank="On", screen="Down")

    # -- readings -------------------------------------------------------------------------------

    @property
    def geometry(self) -> FrameGeometry:
        """The nominal geometry of a frame: pixel size, angle and flips of the table."""
        line = self._line(self.state().magnification)
        return FrameGeometry(line.pixel_size, line.rotation, line.flip_columns, line.flip_rows)

    @property
    def magnification(self) -> Magnification:
        """The line of the table that is in force."""
        return self._line(self.state().magnification)

    def vacuum(self) -> float:
        """Read the pressure in Pa."""
        self._watch_vacuum()
        with self._lock:
            if self._faults.is_on("vacuum_trip"):
                return BAD_VACUUM
            if self._tripped_at is None:
                return self._design.vacuum
            since = self._clock.now() - self._tripped_at
            decay = (self._design.vacuum / BAD_VACUUM) ** min(1.0, since / VACUUM_RECOVERY)
            return float(BAD_VACUUM * decay)

    def beam_current(self) -> float:
        """Read the current that falls on the specimen, in nA."""
        return 0.0 if self._faults.is_on("beam_drop") else self.current(self.state())

    def temperature(self) -> float:
        """Read the temperature round the specimen, in °C: it swings with the room."""
        return ROOM + 0.2 * sin(2 * pi * self._clock.now() / 1200)

    # -- truth ----------------------------------------------------------------------------------

    def current(self, state: ColumnState) -> float:
        """Give the current at the specimen in nA that a state has."""
        if state.blank == "On" or state.column_valve == "Closed":
            return 0.0
        steps = state.spot_size - 1
        return self._design.gun_current * self._design.spot_current_ratio**steps

    def true_geometry(self, state: ColumnState) -> FrameGeometry:
        """Give the real geometry of a frame, which differs a little from the table."""
        line = self._line(state.magnification)
        return FrameGeometry(
            line.pixel_size * (1 + self._design.pixel_size_error / 100),
            line.rotation + self._design.rotation_error,
            line.flip_columns,
            line.flip_rows,
        )

    def true_image_shift(self, state: ColumnState) -> NDArray[np.float64]:
        """Give how far the place that is seen is really shifted, along stage x and y in µm."""
        scale, angle = self._design.image_shift_error
        c, s = cos(radians(angle)), sin(radians(angle))
        turned = np.array([[c, -s], [s, c]]) @ (state.image_shift_x, state.image_shift_y)
        return (1 + scale / 100) * turned

    def true_beam(self, state: ColumnState) -> tuple[NDArray[np.float64], float]:
        """Give the beam's place on the specimen's plane as stage (x, y), and its diameter, µm.

        The place is relative to the column's axis.
        """
        offset = np.array([state.beam_x, state.beam_y]) + self._design.beam_offset
        return offset, state.beam_spread

    # -- inside ---------------------------------------------------------------------------------

    def _known(self, name: str) -> None:
        if name not in self.settings:
            raise ColumnError(f"there is no setting {name!r}; there are {', '.join(self.settings)}")

    def _line(self, magnification: int) -> Magnification:
        return next(m for m in self.magnifications if m.magnification == magnification)

    def _magnify(self, magnification: int) -> None:
        before, after = self._line(self._state.magnification), self._line(magnification)
        spread = self._state.beam_spread
        if self._design.intensity_zoom:
            limits = self.settings["beam_spread"]
            spread *= after.pixel_size / before.pixel_size
            spread = min(max(spread, limits.low), limits.high)
        self._last_in_mode[after.mode] = magnification
        self._state = replace(
            self._state, magnification=magnification, mag_mode=after.mode, beam_spread=spread
        )

    def _open_valve(self) -> None:
        pressure = self.vacuum()
        if pressure > WORST_VACUUM_WITH_BEAM:
            raise ColumnError(
                f"column_valve cannot open at {pressure:.2g} Pa; wait for the vacuum to fall "
                f"under {WORST_VACUUM_WITH_BEAM:g} Pa"
            )
        self._tripped_at = None
        self._state = replace(self._state, column_valve="Open")

    def _watch_vacuum(self) -> None:
        """Close the valve when the vacuum fails, as the interlock does."""
        with self._lock:
            if self._state.column_valve == "Open" and self._faults.strikes("vacuum_trip"):
                self._tripped_at = self._clock.now()
                self._state = replace(self._state, column_valve="Closed")
            elif self._tripped_at is not None and self._faults.is_on("vacuum_trip"):
                self._tripped_at = self._clock.now()


def axes_of_beam(spread: float, stigmator: tuple[float, float]) -> NDArray[np.float64]:
    """Give the matrix that takes a place in the beam, in µm, to units of its edge.

    The condenser stigmators stretch the beam along one direction and squeeze it across.

    Parameters
    ----------
    spread : float
        Diameter of the round beam, in µm.
    stigmator : (float, float)
        Condenser stigmators, −1 to 1; both at full scale make axes of about 1 : 2.

    Returns
    -------
    ndarray of float64, shape (2, 2)
        The edge lies where the matrix gives a vector of length 1. Its determinant is that of the
        round beam, so the current is kept.
    """
    a, b = stigmator
    size = 0.35 * sqrt(a * a + b * b)
    angle = 0.5 * np.arctan2(b, a)
    c, s = cos(angle), sin(angle)
    turn = np.array([[c, s], [-s, c]])
    stretch = np.diag([np.exp(-size), np.exp(size)])
    return turn.T @ stretch @ turn / (spread / 2)
