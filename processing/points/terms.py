"""Terms of a smooth field over a frame: Legendre polynomials of the place in it.

Without the constant and the linear ones: those are a shift and an affine map, which tiles have.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial.legendre import legder, leggauss, legvander
from numpy.typing import ArrayLike, NDArray

from processing.geometry import FrameGeometry


def terms(degree: int) -> tuple[tuple[int, int], ...]:
    """Return the degrees (along rows, along columns) of each term of a field.

    Those of a lower degree come first; below 2 there are none.

    Examples
    --------
    >>> terms(2)
    ((2, 0), (1, 1), (0, 2))
    """
    return tuple((total - j, j) for total in range(2, degree + 1) for j in range(total + 1))


def orders(degree: int) -> NDArray[np.intp]:
    """Return `terms` as an array, shape (t, 2)."""
    return np.array(terms(degree), dtype=np.intp).reshape(-1, 2)


def basis(places: ArrayLike, shape: tuple[int, int], degree: int) -> NDArray[np.float64]:
    """Evaluate the terms of a field at some places.

    Parameters
    ----------
    places : array_like, shape (..., 2)
        (row, column) in px.
    shape : (int, int)
        (height, width) of the frame, in px.
    degree : int

    Returns
    -------
    ndarray of float64, shape (..., t)
        One value a term, in the order of `terms`.
    """
    v, u = np.moveaxis(normalised(places, shape), -1, 0)
    rows, columns = orders(degree).T
    values = legvander(v, degree)[..., rows] * legvander(u, degree)[..., columns]
    return np.asarray(values.reshape(*v.shape, len(rows)))  # legvander makes one place a list


def normalised(places: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return places as (v, u): from the middle of the frame, over half its sides."""
    from_middle = np.asarray(places, dtype=float) - FrameGeometry.middle(shape)
    return np.asarray(from_middle / (np.asarray(shape) / 2))


def bending_energy(degree: int) -> NDArray[np.float64]:
    """Return the matrix of a field's bending energy over the frame, in 1 / (half a side)².

    That of a thin plate: the integral of the squares of all second derivatives (F. L. Bookstein,
    IEEE Trans. Pattern Analysis and Machine Intelligence 11, 567, 1989).

    Returns
    -------
    ndarray of float64, shape (t, t)
        In the order of `terms`.
    """
    places, weights = leggauss(degree + 1)
    products = []
    for derivative in range(3):
        values = np.zeros((len(places), degree + 1))
        for order in range(derivative, degree + 1):
            series = legder([0.0] * order + [1.0], derivative) if derivative else None
            one = legvander(places, order)
            values[:, order] = one[:, order] if series is None else one[:, : len(series)] @ series
        products.append((values * weights[:, None]).T @ values)
    down, across = (np.ix_(line, line) for line in orders(degree).T)
    flat, slope, curve = products
    return np.asarray(
        curve[down] * flat[across] + 2 * slope[down] * slope[across] + flat[down] * curve[across]
    )
