"""A driver that plays back a folder of images, with a column and a stage that only remember.

For trying processing on one's own micrographs, and as the shortest complete example of a driver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ioc.drivers.protocol import (
    Axis,
    ColumnReading,
    DriverError,
    Frame,
    Instrument,
    Magnification,
    PixelType,
    Readout,
    Setting,
    StageReading,
    Value,
)

SUFFIXES = (".png", ".tif", ".tiff")
APERTURE_TIME = 0.5  # s from one aperture to the next


class ReplayColumn:
    """A column that has what was written to it."""

    model = "Replay"

    def __init__(self, pixel_size: float) -> None:
        self.magnifications = (
            Magnification("LM", 500, 8 * pixel_size),
            Magnification("M", 2000, 2 * pixel_size),
            Magnification("M", 4000, pixel_size),
        )
        table = tuple(line.magnification for line in self.magnifications)
        self.settings = {
            "high_tension": Setting("float", 0, 120, "kV", 1),
            "mag_mode": Setting("enum", choices=("LM", "M")),
            "magnification": Setting("int", table[0], table[-1], values=table),
            "defocus": Setting("float", -200, 200, "um", 3),
            "beam_spread": Setting("float", 0.1, 1000, "um", 2),
            "screen": Setting("enum", choices=("Up", "Down")),
            "blank": Setting("enum", choices=("Off", "On")),
        }
        self._values: dict[str, Value] = {
            "high_tension": 120.0,
            "mag_mode": "M",
            "magnification": table[-1],
            "defocus": 0.0,
            "beam_spread": 20.0,
            "screen": "Up",
            "blank": "Off",
        }

    def read(self) -> ColumnReading:
        """Give what was written, and figures as of an instrument at rest."""
        line = next(
            each
            for each in self.magnifications
            if each.magnification == self._values["magnification"]
        )
        return ColumnReading(dict(self._values), line, vacuum=2e-5, temperature=21.0)

    def write(self, name: str, value: Value) -> None:
        """Remember a setting; mode and magnification go together."""
        self._values[name] = value
        if name == "magnification":
            self._values["mag_mode"] = next(
                line.mode for line in self.magnifications if line.magnification == value
            )
        elif name == "mag_mode":
            self._values["magnification"] = next(
                line.magnification for line in reversed(self.magnifications) if line.mode == value
            )

    def make_safe(self) -> None:
        """Blank the beam and lower the screen."""
        self._values.update(blank="On", screen="Down")


@dataclass
class _Motion:
    """A move at constant speed."""

    start: float
    target: float
    speed: float
    began: float

    def at(self, now: float) -> float:
        way = self.target - self.start
        done = self.speed * (now - self.began)
        if done >= abs(way):
            return self.target
        return self.start + (done if way > 0 else -done)


class ReplayStage:
    """A stage that moves at constant speed, to a changer of apertures that takes its time."""

    def __init__(self, aperture_count: int) -> None:
        self.axes = {
            "x": Axis(-1000, 1000, "um", 3, 200, 1000, inf),
            "y": Axis(-1000, 1000, "um", 3, 200, 1000, inf),
            "z": Axis(-300, 300, "um", 3, 100, 300, inf),
            "tilt": Axis(-60, 60, "deg", 3, 20, 60, inf),
        }
        self.aperture_count = aperture_count
        self._speed = {name: axis.speed for name, axis in self.axes.items()}
        self._motions = {name: _Motion(0.0, 0.0, 1.0, 0.0) for name in self.axes}
        self._aperture = _Motion(1.0, 1.0, 1.0, 0.0)

    def read(self) -> StageReading:
        """Tell where each axis is by now."""
        now = time.monotonic()
        position = {name: motion.at(now) for name, motion in self._motions.items()}
        moving = {name for name, motion in self._motions.items() if position[name] != motion.target}
        aperture = self._aperture.at(now)
        return StageReading(
            position,
            frozenset(moving),
            aperture=round(aperture),
            aperture_id=f"replay-{round(aperture)}",
            aperture_moving=aperture != self._aperture.target,
        )

    def move(self, targets: Mapping[str, float]) -> None:
        """Set axes in motion."""
        now = time.monotonic()
        for name, target in targets.items():
            self._motions[name] = _Motion(
                self._motions[name].at(now), target, self._speed[name], now
            )

    def set_speed(self, axis: str, speed: float) -> None:
        """Set the speed of an axis for its next moves."""
        self._speed[axis] = speed

    def stop(self, axes: Collection[str] | None = None) -> None:
        """Stop axes where they are; the changer stops at the next aperture."""
        now = time.monotonic()
        for name in self.axes if axes is None else axes:
            here = self._motions[name].at(now)
            self._motions[name] = _Motion(here, here, 1.0, now)
        if axes is None:
            here = round(self._aperture.at(now))
            self._aperture = _Motion(here, here, 1.0, now)

    def go_to_aperture(self, number: int) -> None:
        """Set the changer in motion."""
        now = time.monotonic()
        self._aperture = _Motion(self._aperture.at(now), number, 1 / APERTURE_TIME, now)


class ReplayCamera:
    """A camera whose frames are the images of a folder, by name, over and over.

    Parameters
    ----------
    folder : Path
        With PNG or TIFF images of one size, grey, of 8 or 16 bits. Those of 8 bits are stretched
        to 16 when frames of 16 are asked for, and the other way round.

    Raises
    ------
    ValueError
        If there is no image in the folder, or one differs in size from the first.
    """

    manufacturer = "temline"
    model = "Replay"
    pixel_types: tuple[PixelType, ...] = ("UInt8", "UInt16")
    binnings = (1, 2, 4)
    exposure_limits = (0.001, 60.0)
    temperature_limits = (-50.0, 30.0)

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if not self._paths:
            raise ValueError(f"folder is {str(folder)!r}, which has no {', '.join(SUFFIXES)} image")
        self.sensor_shape = self._load(self._paths[0]).shape
        self._aborted = threading.Event()
        self._readout: Readout | None = None
        self._number = 0
        self._temperature = -20.0

    @staticmethod
    def _load(path: Path) -> np.ndarray:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        if image is None or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"{path} is not an image of 8 or 16 bits")
        return image if image.dtype == np.uint16 else image.astype(np.uint16) * 257

    def expose(self, exposure: float, readout: Readout) -> None:
        """Wait for the time of the exposure."""
        self._aborted.clear()
        if self._aborted.wait(exposure):
            raise DriverError("the exposure was aborted")
        self._readout = readout

    def read_frame(self) -> Frame:
        """Load the next image and cut and bin it."""
        readout, self._readout = self._readout, None
        if readout is None:
            raise DriverError("there is no exposure to read")
        path = self._paths[self._number % len(self._paths)]
        image = self._load(path)
        if image.shape != self.sensor_shape:
            raise DriverError(f"{path} has shape {image.shape}; the first had {self.sensor_shape}")
        top, left, height, width = readout.region
        image = image[top : top + height, left : left + width]
        if readout.binning > 1:
            image = cv2.resize(image, readout.shape[::-1], interpolation=cv2.INTER_AREA)
        data = image if readout.pixel_type == "UInt16" else (image >> 8).astype(np.uint8)
        self._number += 1
        return Frame(np.ascontiguousarray(data), self._number, time.time())

    def readout_time(self, readout: Readout) -> float:
        """Give nothing: an image is there as soon as it is loaded."""
        return 0.0

    def abort(self) -> None:
        """End the exposure that runs."""
        self._aborted.set()

    def temperature(self) -> float:
        """Give what was set."""
        return self._temperature

    def set_temperature(self, value: float) -> None:
        """Remember what is set."""
        self._temperature = value


def connect(options: dict[str, Any]) -> Instrument:
    """Make the instrument.

    Parameters
    ----------
    options : dict
        folder : path, of the images. pixel_size : float, of theirs in nm (4.0).
        aperture_count : int (1).

    Raises
    ------
    ValueError
        If an option is unknown or the folder has no images.
    """
    known = {"folder", "pixel_size", "aperture_count"}
    if unknown := set(options) - known:
        raise ValueError(f"driver_options has {sorted(unknown)}; replay knows {sorted(known)}")
    return Instrument(
        ReplayColumn(float(options.get("pixel_size", 4.0))),
        ReplayStage(int(options.get("aperture_count", 1))),
        ReplayCamera(Path(options.get("folder", "."))),
    )
