"""Evaluates the transforms of render's tile specs, whose data strings are those of mpicbg.

Those of a montage; what warps a section to its neighbours is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # shape (n, 2): x and y in px
Transform = Callable[[Points], Points]
MAX_DEGREE = 12  # of polynomials
CONSTANT_TERM = 100.0  # of NonLinearCoordinateTransform
MAX_PLACE = 1e9  # px


class TransformError(ValueError):
    """A transform is not known, or its data string is not of its form; the message says which."""


def make_transform(class_name: str, data: str) -> Transform:
    """Make a transform of its class and data string.

    Parameters
    ----------
    class_name : str
        As Java has it; the package does not count.
    data : str
        Numbers, with any space between them.

    Returns
    -------
    callable
        Takes places (x, y) in px, shape (n, 2), and gives where they lie.

    Raises
    ------
    TransformError
        If the class is none of a montage's, or the data string is not of its form.
    """
    name = class_name.rpartition(".")[2]
    if name not in MAKERS:
        raise TransformError(
            f"transform {class_name} cannot be evaluated; expected one of {', '.join(MAKERS)}"
        )
    try:
        numbers = [float(part) for part in data.split()]
    except ValueError as error:
        raise TransformError(f"{name}: {error}; expected numbers") from error
    if not np.isfinite(numbers).all():
        raise TransformError(f"{name} holds a number that is not finite")
    return MAKERS[name](numbers)


def fit_affine(transform: Transform, shape: tuple[int, int], steps: int) -> tuple[Points, float]:
    """Fit an affine map to a transform, over a grid of places in a tile.

    Parameters
    ----------
    transform : callable
    shape : (int, int)
        (height, width) of the tile, in px.
    steps : int
        Places along each side.

    Returns
    -------
    map : ndarray of float64, shape (2, 3)
        From (row, column) to (row, column), as `formats.montage.Montage.maps`.
    misfit : float
        How far the transform departs from it at most, in px.

    Raises
    ------
    TransformError
        If the transform leaves the numbers that there are.
    """
    height, width = shape
    y, x = np.meshgrid(
        np.linspace(0, height - 1, steps), np.linspace(0, width - 1, steps), indexing="ij"
    )
    xy = np.column_stack([x.ravel(), y.ravel()])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        moved = transform(xy)
    if not (np.abs(moved) < MAX_PLACE).all():
        raise TransformError("the transforms lead beyond all places")
    design = np.column_stack([xy[:, ::-1], np.ones(len(xy))])
    solution = np.linalg.lstsq(design, moved[:, ::-1], rcond=None)[0]
    misfit = np.linalg.norm(moved[:, ::-1] - design @ solution, axis=1).max()
    return np.asarray(solution.T), float(misfit)


def lens_polynomial(lens: NDArray[np.float64], shape: tuple[int, int]) -> str:
    """Return the data string of a PolynomialTransform2D that bends tiles as a lens does.

    Parameters
    ----------
    lens : ndarray of float64, shape (2, degree + 1, degree + 1)
        As `formats.montage.PlacedMontage.lens`.
    shape : (int, int)
        (height, width) of a tile, in px.
    """
    degree = lens.shape[1] - 1
    down, across = (_in_pixels(degree, side) for side in shape)
    # Powers of y and of x: what the powers of v and u that each term has are made of.
    rows, columns = (down @ np.asarray(one) @ across.T for one in lens)
    rows[1, 0] += 1.0
    columns[0, 1] += 1.0
    powers = [(n - k, k) for n in range(degree + 1) for k in range(n + 1)]
    numbers = [one[y, x] for one in (columns, rows) for x, y in powers]
    return " ".join(f"{value:.17g}" for value in numbers)


def _in_pixels(degree: int, side: int) -> NDArray[np.float64]:
    """Return the matrix from powers of (p − (side − 1) / 2) / (side / 2) to powers of p."""
    scaled = np.polynomial.Polynomial([(1 - side) / side, 2 / side])
    matrix = np.zeros((degree + 1, degree + 1))
    for power in range(degree + 1):
        matrix[: power + 1, power] = (scaled**power).coef
    return matrix


def in_turn(transforms: Sequence[Transform]) -> Transform:
    """Return what applies transforms one after another."""

    def apply(xy: Points) -> Points:
        for transform in transforms:
            xy = transform(xy)
        return xy

    return apply


def _require(name: str, numbers: Sequence[float], count: int, form: str) -> None:
    if len(numbers) != count:
        raise TransformError(f"{name} holds {len(numbers)} numbers; expected {count}: {form}")


def _affine(numbers: Sequence[float]) -> Transform:
    _require("AffineModel2D", numbers, 6, "m00 m10 m01 m11 m02 m12")
    matrix, shift = np.reshape(numbers[:4], (2, 2)), np.asarray(numbers[4:])
    return lambda xy: xy @ matrix + shift


def _translation(numbers: Sequence[float]) -> Transform:
    _require("TranslationModel2D", numbers, 2, "tx ty")
    return _affine([1, 0, 0, 1, *numbers])


def _rigid(numbers: Sequence[float]) -> Transform:
    _require("RigidModel2D", numbers, 3, "theta tx ty")
    theta, *shift = numbers
    return _similarity([math.cos(theta), math.sin(theta), *shift])


def _similarity(numbers: Sequence[float]) -> Transform:
    """Scale times cosine and sine, and shift: as Java reads it, though `renderapi` does not."""
    _require("SimilarityModel2D", numbers, 4, "s·cos(theta) s·sin(theta) tx ty")
    c, s, *shift = numbers
    return _affine([c, s, -s, c, *shift])


def _polynomial(numbers: Sequence[float]) -> Transform:
    """Powers of x falling and of y rising within a degree; all of x's numbers, then all of y's."""
    terms = len(numbers) // 2
    degree = next(n for n in range(MAX_DEGREE + 2) if (n + 1) * (n + 2) // 2 >= terms)
    if (degree + 1) * (degree + 2) != len(numbers) or degree > MAX_DEGREE:
        raise TransformError(
            f"PolynomialTransform2D holds {len(numbers)} numbers; expected (n + 1) · (n + 2) for "
            f"a degree n of up to {MAX_DEGREE}"
        )
    powers = [(n - k, k) for n in range(degree + 1) for k in range(n + 1)]
    factors = np.reshape(numbers, (2, terms)).T
    return lambda xy: _terms(xy, powers) @ factors


def _non_linear(numbers: Sequence[float]) -> Transform:
    """Dimension, length, factors of x and y by turns, means, deviations; width and height."""
    name = "NonLinearCoordinateTransform"
    if len(numbers) < 2 or not 0 < numbers[0] <= MAX_DEGREE or numbers[0] % 1:
        raise TransformError(f"{name} must begin with a degree of 1 to {MAX_DEGREE}")
    degree, length = int(numbers[0]), int(numbers[1])
    powers = [(n - k, k) for n in range(1, degree + 1) for k in range(n + 1)]
    if length != len(powers) + 1:
        raise TransformError(
            f"{name} of degree {degree} holds {length} terms; expected {len(powers) + 1}"
        )
    _require(name, numbers, 4 + 4 * length, "degree, length, terms, width and height")
    factors = np.reshape(numbers[2 : 2 + 2 * length], (length, 2))
    mean = np.asarray(numbers[2 + 2 * length : 2 + 3 * length])
    deviation = np.asarray(numbers[2 + 3 * length : 2 + 4 * length])

    def apply(xy: Points) -> Points:
        scaled = (_terms(xy, powers) - mean[:-1]) / deviation[:-1]
        return scaled @ factors[:-1] + CONSTANT_TERM * factors[-1]

    return apply


def _terms(xy: Points, powers: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    x, y = xy.T
    return np.column_stack([x**i * y**j for i, j in powers])


MAKERS: dict[str, Callable[[Sequence[float]], Transform]] = {
    "AffineModel2D": _affine,
    "TranslationModel2D": _translation,
    "RigidModel2D": _rigid,
    "SimilarityModel2D": _similarity,
    "PolynomialTransform2D": _polynomial,
    "NonLinearCoordinateTransform": _non_linear,
    "NonLinearTransform": _non_linear,
    "nonLinearTransform": _non_linear,
}
