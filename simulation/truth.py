"""What was really behind each frame: for tests and for figures of accuracy, never for the stack.

Kept for the last frames in memory and, if a path is given, for all of them as lines of JSON.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.geometry import FrameGeometry
from simulation.distortion import Distortion
from simulation.errors import SimulationError

INVERSION_STEPS = 40
"""Steps of the fixed point for the inverse distortion; each gains at least a factor of two."""


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
    distortion : Distortion
        In sensor px (binning 1).
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
    distortion: Distortion
    faults: tuple[str, ...] = ()

    @property
    def geometry(self) -> FrameGeometry:
        """The true geometry of the frame."""
        return FrameGeometry(self.pixel_size, self.angle, self.flip_columns, self.flip_rows)

    def pixel_to_stage(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Find the place of the specimen that pixels of the frame show, distortion included.

        Parameters
        ----------
        pixels : array_like, shape (..., 2)
            (row, column) in px of the frame.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (x, y) in µm.
        """
        pixels = np.asarray(pixels, dtype=float)
        sensor = pixels * self.binning + (self.binning - 1) / 2
        moved = pixels + self.distortion.shift(sensor[..., 0], sensor[..., 1]) / self.binning
        vectors = self.geometry.stage_vector(moved - self.geometry.middle(self.shape))
        vectors[..., 1] /= np.cos(np.radians(self.tilt))
        return vectors + np.array([self.x, self.y])

    def stage_to_pixel(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find the pixels of the frame that show places of the specimen: the inverse.

        Parameters
        ----------
        places : array_like, shape (..., 2)
            (x, y) in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the frame.
        """
        vectors = np.asarray(places, dtype=float) - (self.x, self.y)
        vectors[..., 1] *= np.cos(np.radians(self.tilt))
        ideal = self.geometry.middle(self.shape) + self.geometry.pixel_vector(vectors)
        pixels = ideal
        for _ in range(INVERSION_STEPS):
            sensor = pixels * self.binning + (self.binning - 1) / 2
            pixels = ideal - self.distortion.shift(sensor[..., 0], sensor[..., 1]) / self.binning
        return pixels

    def to_dict(self) -> dict[str, object]:
        """Give everything as plain data, as a line of the log holds it."""
        values: dict[str, object] = {item.name: getattr(self, item.name) for item in fields(self)}
        values["distortion"] = self.distortion.coefficients.tolist()
        values["sensor"] = list(self.distortion.shape)
        values["shape"] = list(self.shape)
        values["faults"] = list(self.faults)
        return values


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
