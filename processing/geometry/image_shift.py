"""Image shift as a second, faster stage: how far it moves the place seen, and how far it may go.

It is quick and does not drift, but the beam that follows it leaves the axis of the lens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ImageShift:
    """The calibration of the image shift: ``shift = scale · R(rotation) · setting``.

    Parameters
    ----------
    rotation : float
        From the axes of the setting to those of the stage, in degrees, counter-clockwise.
    scale : float
        µm at the specimen for a µm of the setting. Must be positive.
    most_shift : float
        The largest shift at the specimen, in µm. Must be positive.

    Raises
    ------
    ValueError
        If a number is not finite, or out of range.

    Notes
    -----
    Beyond `most_shift` coma is too large. A place at the distance d from the axis is lit through
    an objective lens of focal length f at an angle to its axis of about d/f, as if the beam was
    tilted by that much; so tilted, the phase of a spatial frequency k is wrong by
    2π · Cs · λ² · k³ · d/f (R. M. Glaeser et al., J. Struct. Biol. 174, 1, 2011, for the tilt).
    As Cs and f of such lenses are alike, a phase error of 45° at the finest detail of pixels of
    the size p, k = 1/2p, is reached at about d = p³/λ². At 120 kV (λ = 3.35 pm) these are 5.7 µm
    for pixels of 0.4 nm and 12 µm for 0.51 nm; with the pixels of a section, of 2 nm or more, coma
    shows nowhere in the deflectors' range. A site that compensates coma, or images finer, sets
    its own limit.

    Examples
    --------
    >>> ImageShift(rotation=90.0, scale=2.0).setting((0.0, 3.0))
    array([1.5, 0. ])
    """

    rotation: float = 0.0
    scale: float = 1.0
    most_shift: float = 12.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.rotation):
            raise ValueError(
                f"rotation is {self.rotation!r}; it must be a finite number of degrees"
            )
        for name in ("scale", "most_shift"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; it must be positive and finite")

    @property
    def _turn(self) -> NDArray[np.float64]:
        c, s = cos(radians(self.rotation)), sin(radians(self.rotation))
        return np.array([[c, -s], [s, c]])

    def setting(self, shift: ArrayLike) -> NDArray[np.float64]:
        """Give what to set for a shift of the place that is seen.

        Parameters
        ----------
        shift : array_like, shape (..., 2)
            Along stage x and y, in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            ImageShiftX and ImageShiftY, in µm.
        """
        return np.asarray(shift, dtype=float) @ self._turn / self.scale

    def shift(self, setting: ArrayLike) -> NDArray[np.float64]:
        """Give how far a setting shifts the place that is seen: the inverse of `setting`.

        Parameters
        ----------
        setting : array_like, shape (..., 2)
            ImageShiftX and ImageShiftY, in µm.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            Along stage x and y, in µm.
        """
        return np.asarray(setting, dtype=float) @ self._turn.T * self.scale

    def to_dict(self) -> dict[str, float]:
        """Give the fields by name, as they stand in a start document."""
        return asdict(self)
