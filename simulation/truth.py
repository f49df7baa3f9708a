"""What was really behind each frame: for tests and for figures of accuracy, never for the stack.

Kept for the last frames in memory and, if a path is given, for all of them as lines of JSON.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.geometry import FrameGeometry
from simulation.distortion import Distortion, FineField
from simulation.errors import SimulationError
from simulation.frame_map import FrameMap
from simulation.sensor import opening
from simulation.settings import DarkCornerSettings


@dataclass(frozen=True)
class FrameTruth:
    """What was really behind one frame.

    Attributes
    ----------
    frame : int
        Number of the frame.
    timestamp : float
        Unix time of the end of the exposure, the same as the frame's, in s.
    time : float
        Simulated time of the middle of the exposure, in s.
    exposure : float
        In s.
    x, y : float
        Place of the specimen, in the stage's frame, at the middle of the frame; the mean over the
        exposure, with image shift, beam tilt, drift, vibration and all errors in it; µm.
    z : float
        In µm.
    tilt : float
        In degrees, about stage x.
    aperture : int
        Counted from 1.
    magnification : int
    pixel_size : float
        Of a pixel of this frame (binning included), in nm.
    angle : float
        In degrees.
    flip_columns, flip_rows : bool
    binning : int
    shape : (int, int)
        (height, width) of the frame in px.
    defocus : float
        Of the middle of the frame over the section, in µm, negative is underfocus.
    astigmatism : float
        In µm.
    astigmatism_angle : float
        In degrees from stage x.
    blur_px : float
        Standard deviation of defocus and motion blur together, in px of this frame.
    motion_px : float
        Standard deviation of the motion in the exposure alone, in px of this frame.
    drift_x, drift_y, vibration_x, vibration_y, image_shift_x, image_shift_y : float
        What of x and y is drift, vibration, and image shift with beam tilt; in µm.
    dose : float
        Electrons per Å² on the specimen at the middle of the beam.
    dose_before : float
        What the middle of the frame had had before, in electrons per Å².
    distortion : Distortion
        In sensor px (binning 1).
    warp : ndarray of float64, shape (2, 2)
        Affine map of the frame's own: of stage vectors from the middle of the frame, from where
        pixel size and angle put a pixel to where it looks.
    light : ndarray of float64, shape (9, 9)
        What of the light in the middle of the beam would fall on the frame without a specimen, at
        places evenly spaced from its first to its last pixel: beam, uneven light and contamination.
    dark_corners : DarkCornerSettings or None
        The aperture that hides the corners.
    conditions : tuple of str
        The imperfections that the frame has.
    faults : tuple of str
        Those that struck the frame.
    """

    frame: int
    timestamp: float
    time: float
    exposure: float
    x: float
    y: float
    z: float
    tilt: float
    aperture: int
    magnification: int
    pixel_size: float
    angle: float
    flip_columns: bool
    flip_rows: bool
    binning: int
    shape: tuple[int, int]
    defocus: float
    astigmatism: float
    astigmatism_angle: float
    blur_px: float
    motion_px: float
    drift_x: float
    drift_y: float
    vibration_x: float
    vibration_y: float
    image_shift_x: float
    image_shift_y: float
    dose: float
    dose_before: float
    distortion: Distortion
    warp: NDArray[np.float64]
    light: NDArray[np.float64]
    dark_corners: DarkCornerSettings | None = None
    conditions: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def geometry(self) -> FrameGeometry:
        """The true geometry of the column: pixel size, angle and flips of a pixel of the frame."""
        return FrameGeometry(self.pixel_size, self.angle, self.flip_columns, self.flip_rows)

    @property
    def map(self) -> FrameMap:
        """The exact way from the frame's pixels to the specimen, and back."""
        return FrameMap(
            self.x,
            self.y,
            self.geometry,
            self.warp,
            self.tilt,
            self.distortion,
            self.binning,
            self.shape,
        )

    def pixel_to_stage(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Find the places that pixels show; see `FrameMap.pixel_to_stage`."""
        return self.map.pixel_to_stage(pixels)

    def stage_to_pixel(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find the pixels that show places; see `FrameMap.stage_to_pixel`."""
        return self.map.stage_to_pixel(places)

    def mask(self) -> NDArray[np.bool_]:
        """Whether light falls on each pixel of the frame: not behind the aperture."""
        if self.dark_corners is None:
            return np.ones(self.shape, bool)
        n = self.binning
        height, width = self.shape
        share = opening(self.dark_corners, self.distortion.shape)[: height * n, : width * n]
        return np.asarray(share.reshape(height, n, width, n).mean(axis=(1, 3)) > 0.5)

    def to_dict(self) -> dict[str, object]:
        """Give everything as plain data, as a line of the log holds it."""
        values: dict[str, object] = {item.name: getattr(self, item.name) for item in fields(self)}
        fine, corners = self.distortion.fine, self.dark_corners
        values["distortion"] = self.distortion.coefficients.tolist()
        values["sensor"] = list(self.distortion.shape)
        values["fine"] = None if fine is None else [fine.seed, fine.rms, fine.pitch]
        values["warp"] = self.warp.tolist()
        values["light"] = self.light.round(4).tolist()
        values["dark_corners"] = corners and [corners.radius, corners.softness]
        values["shape"] = list(self.shape)
        values["conditions"] = list(self.conditions)
        values["faults"] = list(self.faults)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make the truth of what `to_dict` gave, such as a line of the log."""
        given = dict(values)
        sensor, fine, corners = tuple(given.pop("sensor")), given.pop("fine"), given["dark_corners"]
        given["distortion"] = Distortion(
            np.array(given["distortion"]), sensor, fine and FineField(*fine, sensor)
        )
        given["warp"], given["light"] = np.array(given["warp"]), np.array(given["light"])
        given["dark_corners"] = corners and DarkCornerSettings(True, *corners)
        for name in ("shape", "conditions", "faults"):
            given[name] = tuple(given[name])
        return cls(**given)


class TruthStore:
    """Truth of the last frames. Its methods may be called from any thread.

    Parameters
    ----------
    kept : int
        Frames that are kept in memory.

    Attributes
    ----------
    path : Path or None
        A file to append a line of JSON a frame to.
    """

    def __init__(self, kept: int = 1000) -> None:
        self.path: Path | None = None
        self._kept = kept
        self._lock = threading.Lock()
        self._frames: OrderedDict[int, FrameTruth] = OrderedDict()

    def add(self, truth: FrameTruth) -> None:
        """Keep the truth of a frame, and write it down if there is a path."""
        with self._lock:
            self._frames[truth.frame] = truth
            while len(self._frames) > self._kept:
                self._frames.popitem(last=False)
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(truth.to_dict()) + "\n")

    def get(self, frame: int) -> FrameTruth:
        """Give the truth of a frame.

        Raises
        ------
        SimulationError
            If there is none, or it is no longer kept.
        """
        with self._lock:
            if frame in self._frames:
                return self._frames[frame]
            known = f"{min(self._frames)} to {max(self._frames)}" if self._frames else "none"
            raise SimulationError(f"there is no truth of frame {frame}; there is of {known}")
