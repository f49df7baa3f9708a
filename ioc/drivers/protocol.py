"""What the IOC asks of hardware: a column, a stage and a camera behind blocking calls.

A driver knows no EPICS; the IOC knows no vendor. docs/writing-a-driver.md tells how to write one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Value = float | int | str
PixelType = Literal["UInt8", "UInt16"]


class DriverError(Exception):
    """The hardware refused or failed; the message says what was asked and what it answered."""


class DriverTimeoutError(DriverError):
    """The hardware did not answer in time."""


class LostFrameError(DriverError):
    """The exposure was made, but its frame did not arrive."""


@dataclass(frozen=True)
class Setting:
    """One thing that can be set on the column.

    Attributes
    ----------
    kind : {"float", "int", "enum"}
    low, high : float
        Limits of a number, both included; equal limits mean none.
    units : str
        Plain ASCII ("um", not "µm"): Channel Access does not say how its bytes are to be read.
    precision : int
        Digits after the point that are worth showing.
    choices : tuple of str
        What an enum may be, in the order of its index.
    values : tuple of int
        What an int may be, if not everything between its limits (a table of magnifications).
    doc : str
        What it does, for lists and screens.
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
        """Give `value` back in the setting's own type.

        Raises
        ------
        ValueError
            If it is not allowed; the message names the setting, the value and what is allowed.
        """
        if self.kind == "enum":
            if value not in self.choices:
                choices = ", ".join(self.choices)
                raise ValueError(f"{name} is {value!r}; it must be one of {choices}")
            return value
        number = float(value)
        if not isfinite(number) or (self.low != self.high and not self.low <= number <= self.high):
            raise ValueError(
                f"{name} is {number:g} {self.units}; "
                f"it must lie between {self.low:g} and {self.high:g} {self.units}"
            )
        if self.kind == "float":
            return number
        if self.values and number not in self.values:
            nearest = min(self.values, key=lambda known: abs(known - number))
            raise ValueError(
                f"{name} is {number:g}; the nearest that exists is {nearest} "
                f"(all: {', '.join(map(str, self.values))})"
            )
        if number != int(number):
            raise ValueError(f"{name} is {number:g}; it must be a whole number")
        return int(number)


@dataclass(frozen=True)
class Magnification:
    """One line of the column's table: what a magnification means at the camera, binning 1.

    Attributes
    ----------
    mode : str
        The lens mode that it belongs to ("LM", "M").
    magnification : int
    pixel_size : float
        At the specimen, in nm.
    rotation : float
        From image axes to stage axes, in degrees, counter-clockwise.
    flip_columns, flip_rows : bool
        Whether the image is mirrored along its columns or its rows.
    """

    mode: str
    magnification: int
    pixel_size: float
    rotation: float = 0.0
    flip_columns: bool = False
    flip_rows: bool = False


@dataclass(frozen=True)
class ColumnReading:
    """The state of the column at one moment, as the hardware has it.

    Attributes
    ----------
    settings : mapping of str to float, int or str
        Every setting by name.
    geometry : Magnification
        The line of the table that is in force.
    vacuum : float
        In Pa.
    beam_current : float
        In nA.
    temperature : float
        Of the specimen's surroundings, in °C.
    """

    settings: Mapping[str, Value]
    geometry: Magnification
    vacuum: float = 0.0
    beam_current: float = 0.0
    temperature: float = 0.0


@runtime_checkable
class ColumnDriver(Protocol):
    """The microscope's column. All calls come from one thread."""

    model: str
    settings: Mapping[str, Setting]
    magnifications: Sequence[Magnification]

    def read(self) -> ColumnReading:
        """Read the whole state; called a few times a second."""

    def write(self, name: str, value: Value) -> None:
        """Set one thing and return once the hardware has it.

        Raises
        ------
        DriverError
            If the hardware refuses; the IOC has checked type and limits before.
        """

    def make_safe(self) -> None:
        """Blank the beam and lower the screen, whatever the state."""


@dataclass(frozen=True)
class Axis:
    """One axis of the stage.

    Attributes
    ----------
    low, high : float
        Limits, both included.
    units : str
    precision : int
        Digits after the point that are worth showing.
    speed, max_speed : float
        Speed at the start and its limit, in units per s.
    acceleration : float
        In units per s²: the time of a move is told from it. Infinite if speed is reached at once.
    """

    low: float
    high: float
    units: str
    precision: int
    speed: float
    max_speed: float
    acceleration: float


@dataclass(frozen=True)
class StageReading:
    """The state of the stage at one moment.

    Attributes
    ----------
    position : mapping of str to float
        Every axis by name, in its units, as the encoder says.
    moving : frozenset of str
        The axes that have not come to rest at their target.
    stalled : mapping of str to str
        Axes that stopped short of their target, and why.
    aperture : int
        The aperture under the beam, counted from 1; the one that was last passed in a change.
    aperture_id : str
        What is written on it (a barcode), or an empty string.
    aperture_moving : bool
    """

    position: Mapping[str, float]
    moving: frozenset[str] = frozenset()
    stalled: Mapping[str, str] = field(default_factory=dict)
    aperture: int = 1
    aperture_id: str = ""
    aperture_moving: bool = False


@runtime_checkable
class StageDriver(Protocol):
    """The stage and the aperture changer. All calls come from one thread and return at once."""

    axes: Mapping[str, Axis]
    aperture_count: int

    def read(self) -> StageReading:
        """Read the whole state; called up to a hundred times a second while something moves."""

    def move(self, targets: Mapping[str, float]) -> None:
        """Set axes in motion and return; a new target replaces the old one of that axis."""

    def set_speed(self, axis: str, speed: float) -> None:
        """Set the speed of an axis for its next moves, in units per second."""

    def stop(self, axes: Collection[str] | None = None) -> None:
        """Stop these axes, or everything with the aperture changer, as fast as is safe."""

    def go_to_aperture(self, number: int) -> None:
        """Set the aperture changer in motion and return."""


@dataclass(frozen=True)
class Readout:
    """How a frame is to be read.

    Attributes
    ----------
    binning : int
        Pixels of the sensor that make up one of the frame, along each side.
    pixel_type : {"UInt8", "UInt16"}
    region : (int, int, int, int)
        First row, first column, height and width on the sensor, in unbinned px.
    """

    binning: int
    pixel_type: PixelType
    region: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the frame, in px."""
        return self.region[2] // self.binning, self.region[3] // self.binning

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixels' type as numpy has it."""
        return np.dtype(self.pixel_type.lower())


@dataclass(frozen=True)
class Frame:
    """One frame: pixels, shape (height, width); its number, unique and rising; unix time in s."""

    data: NDArray[np.uint8] | NDArray[np.uint16]
    number: int
    timestamp: float


@runtime_checkable
class CameraDriver(Protocol):
    """The camera.

    `expose` and `read_frame` come from one thread; `abort`, `temperature` and `set_temperature`
    from another, also while the first is inside `expose`; `readout_time` from any.
    """

    manufacturer: str
    model: str
    sensor_shape: tuple[int, int]
    pixel_types: tuple[PixelType, ...]
    binnings: tuple[int, ...]
    exposure_limits: tuple[float, float]
    temperature_limits: tuple[float, float]

    def expose(self, exposure: float, readout: Readout) -> None:
        """Expose for so many seconds and return when the light is in: the stage may move then.

        Raises
        ------
        DriverError
            If the exposure failed or was aborted.
        """

    def read_frame(self) -> Frame:
        """Fetch the frame of the last exposure, laid out as its `Readout` asked.

        Raises
        ------
        LostFrameError
            If the frame did not arrive.
        """

    def readout_time(self, readout: Readout) -> float:
        """Give the least time from the end of an exposure to its frame, in s, without asking it.

        Estimates are made with it: what `read_frame` takes when nothing else holds it up.
        """

    def abort(self) -> None:
        """Make a running `expose` return early; do nothing if none runs."""

    def temperature(self) -> float:
        """Read the sensor's temperature, in °C."""

    def set_temperature(self, value: float) -> None:
        """Set what the sensor is cooled to, in °C."""


@runtime_checkable
class FaultInjector(Protocol):
    """Faults that a simulated instrument can be given. Calls are quick and come from any thread.

    A fault is on until it is cleared or, with a count, for its next so many events.
    """

    names: Sequence[str]

    def set(self, name: str, on: bool, count: int | None = None) -> None:
        """Switch a fault on or off; with `count`, for the next so many events."""

    def active(self) -> Mapping[str, int | None]:
        """Give the faults that are on, each with the events it has left (None: no end)."""

    def check_storage(self) -> None:
        """Pass one write of a frame.

        Raises
        ------
        OSError
            With ENOSPC, if the disk is meant to be full.
        """


@dataclass(frozen=True)
class Instrument:
    """All that a driver's factory gives to the IOC; `close` is called once, at the end."""

    column: ColumnDriver
    stage: StageDriver
    camera: CameraDriver
    faults: FaultInjector | None = None
    close: Callable[[], None] = lambda: None


BUILT_IN = {"simulated": "ioc.drivers.simulated:connect", "replay": "ioc.drivers.replay:connect"}


def connect(name: str, options: Mapping[str, Any]) -> Instrument:
    """Connect to hardware by the name of its driver.

    Parameters
    ----------
    name : str
        "simulated", "replay", or "package.module:factory".
    options : mapping
        What the factory is called with, as one argument.

    Raises
    ------
    ValueError
        If there is no such driver.
    """
    module_name, _, factory_name = BUILT_IN.get(name, name).partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(
            f"driver is {name!r}, which cannot be had ({error}); it must be one of "
            f"{', '.join(BUILT_IN)} or 'package.module:factory'"
        ) from error
    return factory(dict(options))
