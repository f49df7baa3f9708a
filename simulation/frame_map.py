"""Which place of the specimen each pixel of a frame shows, exactly, and the other way round.

The truth that solved positions and maps of tiles are judged by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.geometry import FrameGeometry
from simulation.distortion import Distortion

MAX_INVERSION_STEPS = 60
INVERSION_PX = 1e-9


@dataclass(frozen=True, eq=False)
class FrameMap:
    """The way from the pixels of a frame to the specimen: distortion, then an affine map.

    Attributes
    ----------
    x, y : float
        Place of the specimen at the middle of the frame, in µm.
    geometry : FrameGeometry
        Of a pixel of the frame, binning included: pixel size, angle and flips of the column.
    warp : ndarray of float64, shape (2, 2)
        The frame's own affine map, of stage vectors from the middle of the frame.
    tilt : float
        Of the specimen about stage x, in degrees: it is foreshortened along y.
    distortion : Distortion
        In sensor px.
    binning : int
    shape : (int, int)
        (height, width) of the frame, in px.
    """

    x: float
    y: float
    geometry: FrameGeometry
    warp: NDArray[np.float64]
    tilt: float
    distortion: Distortion
    binning: int
    shape: tuple[int, int]

    @property
    def to_stage(self) -> NDArray[np.float64]:
        """The (2, 2) matrix from undistorted px (row, column) to the specimen (x, y) in µm."""
        foreshortening = np.diag([1.0, 1 / np.cos(np.radians(self.tilt))])
        return foreshortening @ self.warp @ self.geometry.matrix

    def pixel_to_stage(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Find the places of the specimen that pixels of the frame show.

        Parameters
        ----------
        pixels : array_like, shape (..., 2)
            (row, column) in px of the frame.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (x, y) in µm.
        """
        vectors = self.undistorted(pixels) - self.geometry.middle(self.shape)
        return vectors @ self.to_stage.T + np.array([self.x, self.y])

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
        vectors = (np.asarray(places, dtype=float) - (self.x, self.y)) @ np.linalg.inv(
            self.to_stage
        ).T
        return self.distorted(vectors + self.geometry.middle(self.shape))

    def undistorted(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Return where pixels of the frame would lie without distortion, in px, shape (..., 2)."""
        pixels = np.asarray(pixels, dtype=float)
        sensor = pixels * self.binning + (self.binning - 1) / 2
        return pixels + self.distortion.shift(sensor[..., 0], sensor[..., 1]) / self.binning

    def distorted(self, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return which pixels of the frame would lie at some places without distortion."""
        pixels = ideal
        for _ in range(MAX_INVERSION_STEPS):  # each gains at least a factor of two
            step = ideal - self.undistorted(pixels)
            pixels = pixels + step
            if np.abs(step).max(initial=0.0) < INVERSION_PX:
                break
        return pixels
