"""The driver of the virtual microscope: everything can be developed and shown without a real one.

It turns the IOC's calls into those of `simulation.VirtualMicroscope`, and its errors into ours.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ioc.drivers.protocol import (
    Axis,
    ColumnReading,
    DriverError,
    DriverTimeoutError,
    Frame,
    Instrument,
    LostFrameError,
    Magnification,
    PixelType,
    Readout,
    Setting,
    StageReading,
    Value,
)
from simulation import (
    CameraTimeoutError,
    FaultSet,
    MicroscopeSettings,
    SectionSettings,
    SettingsError,
    SimulationError,
    VirtualCamera,
    VirtualColumn,
    VirtualMicroscope,
    VirtualStage,
    warm_up,
)
from simulation import LostFrameError as SimulatedLossError
from simulation.specimen import ImageSpecimen, NeuropilSection, PointGrid, Tape
from simulation.specimen.files import load_micrograph

UNITS = {"x": ("um", 3), "y": ("um", 3), "z": ("um", 3), "tilt": ("deg", 3)}
BITS: dict[PixelType, int] = {"UInt8": 8, "UInt16": 16}
COOLING_LIMITS = (-60.0, 40.0)
TWIN_SENSOR = (64, 64)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn the simulation's errors into those of the protocol."""
    try:
        yield
    except SimulatedLossError as error:
        raise LostFrameError(str(error)) from error
    except CameraTimeoutError as error:
        raise DriverTimeoutError(str(error)) from error
    except SimulationError as error:
        raise DriverError(str(error)) from error


class SimulatedColumn:
    """The virtual column."""

    def __init__(self, column: VirtualColumn) -> None:
        self._column = column
        self.model = column.model
        self.settings = {
            name: Setting(**vars(setting)) for name, setting in column.settings.items()
        }
        self.magnifications = [Magnification(**vars(line)) for line in column.magnifications]

    def read(self) -> ColumnReading:
        """Read the whole state."""
        column = self._column
        return ColumnReading(
            column.read(),
            Magnification(**vars(column.magnification)),
            column.vacuum(),
            column.beam_current(),
            column.temperature(),
        )

    def write(self, name: str, value: Value) -> None:
        """Set one thing."""
        with _our_errors():
            self._column.set(name, value)

    def make_safe(self) -> None:
        """Blank the beam and lower the screen."""
        self._column.make_safe()


class SimulatedStage:
    """The virtual stage."""

    def __init__(self, stage: VirtualStage) -> None:
        self._stage = stage
        self.aperture_count = stage.n_apertures
        self.axes = {
            name: Axis(
                axis.low, axis.high, *UNITS[name], axis.speed, axis.max_speed, axis.acceleration
            )
            for name, axis in stage.axes.items()
        }

    def read(self) -> StageReading:
        """Read the whole state."""
        stage = self._stage
        # Motion is read first: an axis that comes to rest in between is then read at rest.
        moving = stage.moving_axes()
        aperture = stage.aperture
        return StageReading(
            stage.position(),
            moving,
            stage.stalled(),
            aperture,
            f"A{aperture:04d}",
            stage.aperture_moving(),
        )

    def move(self, targets: Mapping[str, float]) -> None:
        """Set axes in motion."""
        with _our_errors():
            self._stage.move(**targets)

    def set_speed(self, axis: str, speed: float) -> None:
        """Set the speed of an axis for its next moves."""
        with _our_errors():
            self._stage.set_speed(axis, speed)

    def stop(self, axes: Collection[str] | None = None) -> None:
        """Stop these axes, or everything."""
        with _our_errors():
            self._stage.stop(axes)

    def go_to_aperture(self, number: int) -> None:
        """Set the aperture changer in motion."""
        with _our_errors():
            self._stage.go_to_aperture(number)


class SimulatedCamera:
    """The virtual camera; a region is cut out of the whole frame."""

    manufacturer = "temline"
    model = "Virtual camera"
    pixel_types: tuple[PixelType, ...] = ("UInt8", "UInt16")
    binnings = (1, 2, 4)
    temperature_limits = COOLING_LIMITS

    def __init__(self, camera: VirtualCamera) -> None:
        self._camera = camera
        self._readout: Readout | None = None
        self.sensor_shape = camera.sensor
        self.exposure_limits = (camera.settings.min_exposure, camera.settings.max_exposure)

    def expose(self, exposure: float, readout: Readout) -> None:
        """Expose, and return when the light is in."""
        with _our_errors():
            self._camera.expose(exposure, readout.binning, BITS[readout.pixel_type])
        self._readout = readout

    def read_frame(self) -> Frame:
        """Read the frame of the last exposure."""
        readout, self._readout = self._readout, None
        if readout is None:
            raise DriverError("there is no exposure to read")
        with _our_errors():
            frame = self._camera.read()
        top, left, height, width = (side // readout.binning for side in readout.region)
        data = np.ascontiguousarray(frame.data[top : top + height, left : left + width])
        return Frame(data, frame.number, frame.timestamp)

    def readout_time(self, readout: Readout) -> float:
        """Give what the settings say: it is the same for every readout."""
        return self._camera.settings.readout_time

    def abort(self) -> None:
        """End a running exposure."""
        self._camera.abort()

    def temperature(self) -> float:
        """Read the sensor's temperature."""
        return self._camera.temperature()

    def set_temperature(self, value: float) -> None:
        """Set what the sensor is cooled to."""
        with _our_errors():
            self._camera.set_temperature(value)


class SimulatedFaults:
    """What can be made to fail in the virtual microscope, and what is imperfect about it.

    A full disk is a fault that the IOC asks for.
    """

    def __init__(self, faults: FaultSet, conditions: FaultSet) -> None:
        self._faults = faults
        self._sets = faults, conditions
        self.names: Sequence[str] = faults.names + conditions.names

    def set(self, name: str, on: bool, count: int | None = None) -> None:
        """Switch a fault on or off, or on for its next so many events."""
        faults, conditions = self._sets
        (conditions if name in conditions.names else faults).set(name, on, count)

    def active(self) -> Mapping[str, int | None]:
        """Give the faults that are on, and the events that each has left."""
        return {name: left for each in self._sets for name, left in each.active().items()}

    def check_storage(self) -> None:
        """Pass one write of a frame."""
        if self._faults.strikes("disk_full"):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (a simulated fault)")


def make_specimen(
    name: str,
    seed: int,
    pixel_size: float | None,
    apertures: int,
    period: float | None = None,
    *,
    section: SectionSettings | None = None,
) -> Any:
    """Make what lies on the stage.

    Parameters
    ----------
    name : str
        "neuropil", "points", "tape", or the path of a PNG, TIFF or MRC image.
    seed : int
    pixel_size : float, optional
        Of an image, in nm; else what its file says, else a size that fills some tiles.
    apertures : int
        Of a tape.
    period : float, optional
        Of neuropil, in µm: it repeats, and its texture is made once; see `PyramidSpecimen`.
    section : SectionSettings, optional
        How neuropil was cut, on a tape too; an image has what it was cut with.

    Raises
    ------
    ValueError
        If it is none of these, or cannot repeat; the message says what there is.
    """
    if period is not None and name != "neuropil":
        raise ValueError(f"specimen_period is {period!r}; only neuropil can repeat, not {name!r}")
    built_in: dict[str, Callable[[], Any]] = {
        "neuropil": lambda: NeuropilSection(seed, section=section, period=period),
        "points": PointGrid,
        "tape": lambda: Tape(apertures, section=section, seed=seed),
    }
    if name in built_in:
        return built_in[name]()
    if not Path(name).is_file():
        raise ValueError(
            f"specimen is {name!r}; it must be {', '.join(built_in)} or the path of an image"
        )
    image = load_micrograph(name)
    return ImageSpecimen(image.pixels, pixel_size or image.pixel_size or "auto", seed=seed)


def _compile(settings: MicroscopeSettings, specimen: Any) -> None:
    """Take small frames with a twin of the microscope, so that all that numba compiles is there.

    After an installation that takes up to a minute, and no exposure is to wait for it.
    """
    warm_up()
    camera = replace(settings.camera, sensor=TWIN_SENSOR)
    twin = VirtualMicroscope(replace(settings, camera=camera), specimen)
    twin.column.set("screen", "Up")
    twin.column.set("blank", "Off")
    for bits in BITS.values():
        twin.stage.move(x=1.0)  # in motion, since blur has kernels of its own
        twin.camera.expose(camera.min_exposure, 1, bits)
        twin.camera.read()


def connect(options: dict[str, Any]) -> Instrument:
    """Make the virtual microscope.

    Parameters
    ----------
    options : dict
        specimen : "neuropil", "points", "tape" or the path of an image ("neuropil").
        specimen_pixel_size : float, of an image, in nm. apertures : int, of a tape (20).
        specimen_period : float, of neuropil, in µm: it repeats, so that frames anywhere cost no
        new texture (null: it does not; rounded, see `PyramidSpecimen`).
        sensor : [height, width] in px, short for the same in camera.
        truth_log : path of a file for the truth of each frame, one JSON object a line.
        world : "kind", where nothing is imperfect unless it is enabled, or "real" ("kind").
        All else goes to `simulation.MicroscopeSettings` of that world: seed, time_scale, column,
        optics, camera, stage, imperfections, section.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    rest = dict(options)
    name = str(rest.pop("specimen", "neuropil"))
    pixel_size = rest.pop("specimen_pixel_size", None)
    period = rest.pop("specimen_period", None)
    apertures = int(rest.pop("apertures", 20))
    truth_log = rest.pop("truth_log", None)
    world = rest.pop("world", "kind")
    if (sensor := rest.pop("sensor", None)) is not None:
        rest["camera"] = {**rest.get("camera", {}), "sensor": sensor}
    try:
        settings = MicroscopeSettings.of_world(world).updated(rest)
    except SettingsError as error:
        raise ValueError(f"driver_options: {error}") from error
    specimen = make_specimen(
        name, settings.seed, pixel_size, apertures, period, section=settings.section
    )
    _compile(settings, specimen)
    microscope = VirtualMicroscope(settings, specimen)
    if truth_log is not None:
        microscope.truth_log = Path(truth_log)
    return Instrument(
        SimulatedColumn(microscope.column),
        SimulatedStage(microscope.stage),
        SimulatedCamera(microscope.camera),
        SimulatedFaults(microscope.faults, microscope.conditions),
    )
