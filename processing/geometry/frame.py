"""The map between the pixels of a frame and the stage, for one magnification.

Plans, the solver and the simulator use this one class, so signs stand in one place only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NM_PER_UM = 1000.0


@dataclass(frozen=True)
class FrameGeometry:
    """Pixel size, angle and flips of the frames taken at one magnification.

    ``stage = centre + R(angle) · pixel_size · (column − (width − 1)/2, (height − 1)/2 − row)``:
    with no rotation and no flip, stage x grows along the columns and stage y against the rows.
    `centre` is the place on the specimen that the middle of the frame shows.

    Parameters
    ----------
    pixel_size : float
        Size of a pixel at the specimen, in nm. Must be positive.
    angle : float
        Rotation from image axes to stage axes, in degrees, counter-clockwise.
    flip_columns, flip_rows : bool
        Whether the camera mirrors the image along its columns or its rows.

    Raises
    ------
    ValueError
        If the pixel size is not a positive, finite number or the angle is not finite.

    Examples
    --------
    >>> geometry = FrameGeometry(pixel_size=4.0)
    >>> geometry.pixel_to_stage([0, 0], shape=(2048, 2048), centre=(10.0, 20.0))
    array([ 5.906, 24.094])
    """

    pixel_size: float
    angle: float = 0.0
    flip_columns: bool = False
    flip_rows: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise ValueError(
                f"pixel_size is {self.pixel_size!r} nm; it must be positive and finite"
            )
        if not np.isfinite(self.angle):
            raise ValueError(f"angle is {self.angle!r}; it must be a finite number of degrees")

    @classmethod
    def from_mapping(cls, calibration: Mapping[str, Any]) -> FrameGeometry:
        """Make the geometry that the `calibration` of a start document tells, among other things.

        Raises
        ------
        KeyError
            If there is no ``pixel_size``.
        ValueError
            If a value is out of range.
        """
        return cls(
            calibration["pixel_size"],
            calibration.get("angle", 0.0),
            calibration.get("flip_columns", False),
            calibration.get("flip_rows", False),
        )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The (2, 2) matrix that takes a pixel vector (d_row, d_column) to stage (dx, dy) in µm."""
        scale = self.pixel_size / NM_PER_UM
        right = -scale if self.flip_columns else scale
        up = -scale if self.flip_rows else scale
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        return np.array([[s * up, c * right], [-c * up, s * right]])

    @cached_property
    def _inverse(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)

    def stage_vector(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Turn pixel vectors into stage vectors.

        Parameters
        ----------
        pixels : array_like, shape (..., 2)
            Vectors (d_row, d_column) in px.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            Vectors (dx, dy) in µm.
        """
        return np.asarray(pixels, dtype=float) @ self.matrix.T

    def pixel_vector(self, stage: ArrayLike) -> NDArray[np.float64]:
        """Turn stage vectors into pixel vectors: the inverse of `stage_vector`.

        Parameters
        ----------
        stage : array_like, shape (..., 2)
            Vectors (dx, dy) in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            Vectors (d_row, d_column) in px.
        """
        return np.asarray(stage, dtype=float) @ self._inverse.T

    def pixel_to_stage(
        self, pixels: ArrayLike, shape: tuple[int, int], centre: ArrayLike
    ) -> NDArray[np.float64]:
        """Find where pixels of a frame lie on the stage.

        Parameters
        ----------
        pixels : array_like, shape (..., 2)
            Positions (row, column) in px; whole numbers are the centres of pixels.
        shape : tuple of int
            (height, width) of the frame, in px.
        centre : array_like, shape (2,)
            Stage (x, y) at the middle of the frame, in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            Stage (x, y) in µm.
        """
        return np.asarray(centre) + self.stage_vector(np.asarray(pixels) - self.middle(shape))

    def stage_to_pixel(
        self, stage: ArrayLike, shape: tuple[int, int], centre: ArrayLike
    ) -> NDArray[np.float64]:
        """Find the pixels of a frame that show places on the stage: `pixel_to_stage` inverted.

        Parameters
        ----------
        stage : array_like, shape (..., 2)
            Stage (x, y) in µm.
        shape : tuple of int
            (height, width) of the frame, in px.
        centre : array_like, shape (2,)
            Stage (x, y) at the middle of the frame, in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            Positions (row, column) in px.
        """
        return self.middle(shape) + self.pixel_vector(np.asarray(stage) - np.asarray(centre))

    def size(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Height and width of a frame at the specimen, in µm."""
        return np.asarray(shape) * (self.pixel_size / NM_PER_UM)

    def to_dict(self) -> dict[str, float | bool]:
        """Give the fields by name, as they stand in the `calibration` of a start document."""
        return asdict(self)

    @staticmethod
    def middle(shape: tuple[int, int]) -> NDArray[np.float64]:
        """Give the (row, column) of the middle of a frame, in px."""
        return (np.asarray(shape) - 1) / 2
