"""What a lens does to a frame: a polynomial that takes distorted pixels to where they belong.

Whatever moves, turns, scales or shears the whole frame is left out of it: a montage cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.polynomial.legendre import leg2poly
from numpy.typing import ArrayLike, NDArray

from processing.points.terms import basis, normalised, terms

CUBIC = 3
MIN_DEGREE, MAX_DEGREE = 2, 9
MIN_SIDE = 16  # px
MAX_SHIFT = 0.25  # of the shorter side: no lens of a microscope that works does more
GRID = 33  # places along each side at which a model is looked at as a whole
MARGIN = 0.05  # beyond the frame, as a share of it, where its inverse must exist, too
INVERSION_STEPS = 20
INVERSION_PX = 1e-6


@dataclass(frozen=True)
class LensModel:
    """The distortion of a lens, as a polynomial over the frame.

    What shows at the distorted pixel ``p`` belongs at the corrected pixel ``p + shift(p)``, both
    (row, column) in px of one frame. With v and u the row and the column from the middle of the
    frame, each over half its side, so that both run from −1 to 1::

        shift(p) = Σ coefficients[:, k] · P_i(v) · P_j(u),   (i, j) = terms(degree)[k]

    P are Legendre polynomials, and 2 ≤ i + j ≤ degree. Over the frame they are orthogonal to the
    terms left out, the constant and the linear ones, so the correction, taken over the whole frame,
    neither moves nor turns, scales nor shears it.

    Parameters
    ----------
    shape : (int, int)
        (height, width) of the frames that it holds for, in px.
    coefficients : sequence of 2 sequences of float
        For rows and columns, in px; as many as `terms` gives.
    degree : int
        Highest total degree, 2 to 9; 3 is a cubic.

    Raises
    ------
    TypeError, ValueError
        If a value has the wrong form or is not finite, if the shift is over a quarter of the
        frame, or if the model folds the frame over itself, so that it has no inverse.

    References
    ----------
    V. Kaynig, B. Fischer, E. Müller, J. M. Buhmann, "Fully automatic stitching and distortion
    correction of transmission electron microscope images", J. Struct. Biol. 171, 163 (2010).

    Examples
    --------
    >>> LensModel.none((2048, 2048)).to_corrected([10.0, 20.0])
    array([10., 20.])
    """

    shape: tuple[int, int]
    coefficients: tuple[tuple[float, ...], tuple[float, ...]]
    degree: int = CUBIC

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        check_degree(self.degree)
        count = len(terms(self.degree))
        given = np.asarray(self.coefficients, dtype=float)
        if given.shape != (2, count):
            raise ValueError(
                f"coefficients have shape {given.shape}; degree {self.degree} needs (2, {count})"
            )
        if not np.isfinite(given).all():
            raise ValueError("coefficients hold a number that is not finite")
        rows, columns = (tuple(line) for line in given.tolist())
        object.__setattr__(self, "coefficients", (rows, columns))
        self._check_shifts()

    @classmethod
    def none(cls, shape: Sequence[int], degree: int = CUBIC) -> LensModel:
        """Make the model of a lens without distortion."""
        zeros = (0.0,) * len(terms(degree))
        return cls((shape[0], shape[1]), (zeros, zeros), degree)

    @classmethod
    def from_shifts(
        cls, places: ArrayLike, shifts: ArrayLike, shape: Sequence[int], degree: int = CUBIC
    ) -> LensModel:
        """Fit a model to known shifts, by least squares, up to an affine map of what they correct.

        Parameters
        ----------
        places, shifts : array_like, shape (n, 2)
            Distorted pixels (row, column), and what to add to them to correct them, in px.
        shape : (int, int)
            (height, width) of the frames, in px.
        degree : int

        Returns
        -------
        LensModel
        """
        size = _checked_shape(shape)
        at = np.asarray(places, dtype=float)
        straight = np.column_stack([np.ones(len(at)), normalised(at, size)])
        design = np.column_stack([straight, basis(at, size, degree)])
        found = np.linalg.lstsq(design, np.asarray(shifts, dtype=float), rcond=None)[0]
        # Corrected places are affine(p) + bent(p); taking the affine map off turns the rest, too.
        affine = np.eye(2) + found[1:3].T / (np.asarray(size) / 2)
        rows, columns = np.linalg.solve(affine, found[3:].T).tolist()
        return cls(size, (tuple(rows), tuple(columns)), degree)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LensModel:
        """Make a model of what `to_dict` gave.

        Raises
        ------
        TypeError, ValueError
            If a key is missing or unknown, or a value makes no model.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a lens model is a mapping, not {type(data).__name__}")
        keys = {"shape", "degree", "coefficients"}
        if set(data) != keys:
            raise ValueError(
                f"a lens model has the keys {', '.join(sorted(keys))}; "
                f"there are {', '.join(sorted(map(str, data))) or 'none'}"
            )
        try:
            return cls(data["shape"], data["coefficients"], data["degree"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"this is no lens model: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Give the model as plain data, as its file and the documents hold it."""
        return {
            "shape": list(self.shape),
            "degree": self.degree,
            "coefficients": [list(line) for line in self.coefficients],
        }

    def shift(self, places: ArrayLike) -> NDArray[np.float64]:
        """Give what to add to distorted pixels to correct them.

        Parameters
        ----------
        places : array_like, shape (..., 2)
            (row, column) in px.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            In px.
        """
        at = normalised(places, self.shape)
        powers = np.ascontiguousarray(np.moveaxis(self.powers, 0, -1))
        return np.asarray(_evaluate(at.reshape(-1, 2), powers).reshape(at.shape))

    def to_corrected(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find where distorted pixels belong.

        Parameters
        ----------
        places : array_like, shape (..., 2)
            (row, column) in px of the frame as it was taken.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the corrected frame.
        """
        return np.asarray(places, dtype=float) + self.shift(places)

    def to_distorted(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find which distorted pixels belong at some places: `to_corrected` inverted.

        Parameters
        ----------
        places : array_like, shape (..., 2)
            (row, column) in px of the corrected frame, not far from it.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the frame as it was taken; exact to a millionth of a pixel.

        Raises
        ------
        ValueError
            If a place lies so far outside that nothing belongs there.
        """
        wanted = np.asarray(places, dtype=float)
        found = wanted - self.shift(wanted)
        for _ in range(INVERSION_STEPS):
            error = self.to_corrected(found) - wanted
            if not error.size or np.abs(error).max() < INVERSION_PX:
                return found
            found = found - np.linalg.solve(self._jacobian(found), error[..., None])[..., 0]
        raise ValueError(
            f"the correction of a frame of {self.shape} px puts nothing at some of these places; "
            "they lie too far outside the frame"
        )

    def to_distorted_anywhere(self, places: ArrayLike) -> NDArray[np.float64]:
        """Find which distorted pixels belong at any places, also far outside the frame.

        As `to_distorted`, but the shift goes on beyond a margin of the frame as it is there, so
        that nothing is refused, and what lies outside stays outside.

        Parameters
        ----------
        places : array_like, shape (..., 2)
            (row, column) in px of the corrected frame.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the frame as it was taken.
        """
        wanted = np.asarray(places, dtype=float)
        sides = np.asarray(self.shape)
        found = wanted
        for _ in range(INVERSION_STEPS):
            near = np.clip(found, -MARGIN * sides, (1 + MARGIN) * sides - 1)
            error = found + self.shift(near) - wanted
            if not error.size or np.abs(error).max() < INVERSION_PX:
                break
            slope = (self._jacobian(near) - np.eye(2)) * (near == found)[..., None, :]
            found = found - np.linalg.solve(np.eye(2) + slope, error[..., None])[..., 0]
        return found

    @property
    def powers(self) -> NDArray[np.float64]:
        """Coefficients of ``v^i · u^j`` in place of Legendre's, shape (2, degree + 1, degree + 1).

        For loops that evaluate a polynomial by themselves.
        """
        size = self.degree + 1
        expanded = np.zeros((2, size, size))
        for (i, j), pair in zip(terms(self.degree), np.transpose(self.coefficients), strict=True):
            product = np.outer(_powers_of(i, size), _powers_of(j, size))
            expanded += pair[:, None, None] * product
        return expanded

    @property
    def bends(self) -> tuple[float, float]:
        """The greatest second derivatives of the shift along rows and along columns, in 1/px.

        Over a length, a straight line departs from the shift by an eighth of that times length².
        """
        v, u = np.moveaxis(normalised(grid_places(self.shape), self.shape), -1, 0)
        greatest = []
        for axis, side in enumerate(self.shape, start=1):
            bent = np.polynomial.polynomial.polyder(self.powers, 2, axis=axis) / (side / 2) ** 2
            lines = (np.polynomial.polynomial.polyval2d(v, u, one) for one in bent)
            greatest.append(max(float(np.abs(line).max()) for line in lines))
        return greatest[0], greatest[1]

    @property
    def largest_shift(self) -> float:
        """The longest shift within the frame, in px."""
        return float(np.linalg.norm(self.shift(grid_places(self.shape)), axis=-1).max())

    def _jacobian(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Differentiate the corrected place by the distorted one, shape (..., 2, 2)."""
        v, u = np.moveaxis(normalised(places, self.shape), -1, 0)
        half = np.asarray(self.shape) / 2
        columns = []
        for axis in (0, 1):
            slope = np.polynomial.polynomial.polyder(self.powers, axis=axis + 1) / half[axis]
            columns.append(
                np.stack([np.polynomial.polynomial.polyval2d(v, u, one) for one in slope], -1)
            )
        return np.eye(2) + np.stack(columns, axis=-1)

    def _check_shifts(self) -> None:
        places = grid_places(self.shape, MARGIN)
        largest = self.largest_shift
        if largest > MAX_SHIFT * min(self.shape):
            raise ValueError(
                f"the model shifts pixels by up to {largest:.4g} px in frames of {self.shape} px; "
                f"at most {MAX_SHIFT:.0%} of the shorter side is believed"
            )
        if not (np.linalg.det(self._jacobian(places)) > 0).all():
            raise ValueError(
                f"the model folds frames of {self.shape} px over themselves; it has no inverse"
            )


@njit(nogil=True, cache=True)
def _evaluate(at, powers):  # type: ignore[no-untyped-def]
    """Evaluate two polynomials of (v, u), powers (i, j, which), by Horner's rule."""
    found = np.zeros_like(at)
    size = len(powers)
    for k in range(len(at)):
        v, u = at[k, 0], at[k, 1]
        for i in range(size - 1, -1, -1):
            row = column = 0.0
            for j in range(size - 1 - i, -1, -1):
                row = row * u + powers[i, j, 0]
                column = column * u + powers[i, j, 1]
            found[k, 0] = found[k, 0] * v + row
            found[k, 1] = found[k, 1] * v + column
    return found


def check_degree(degree: object) -> None:
    """Refuse what is no degree of a lens.

    Raises
    ------
    TypeError, ValueError
        If the degree is not a whole number from 2 to 9.
    """
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer):
        raise TypeError(f"degree is {degree!r}; it must be a whole number")
    if not MIN_DEGREE <= degree <= MAX_DEGREE:
        raise ValueError(
            f"degree is {degree}; it must lie between {MIN_DEGREE} and {MAX_DEGREE}: "
            "3, a cubic, is what lenses of a microscope need"
        )


def grid_places(
    shape: tuple[int, int], beyond: float = 0.0, count: int = GRID
) -> NDArray[np.float64]:
    """Give places on a grid over a frame, and a share of it beyond, shape (count, count, 2)."""
    lines = [np.linspace(-beyond * side, (1 + beyond) * side - 1, count) for side in shape]
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)


@lru_cache
def _powers_of(order: int, size: int) -> NDArray[np.float64]:
    """Write a Legendre polynomial as powers, padded to a length."""
    powers = leg2poly([0.0] * order + [1.0])
    return np.pad(powers, (0, size - len(powers)))


def _checked_shape(shape: Any) -> tuple[int, int]:
    sides = np.asarray(shape)
    whole = sides.shape == (2,) and sides.dtype.kind in "iu"
    if not whole or sides.min() < MIN_SIDE:
        raise ValueError(
            f"shape is {shape!r}; it must be (height, width) in whole px, {MIN_SIDE} or more"
        )
    return int(sides[0]), int(sides[1])
