"""The focus over a region from a few measured points: a plane, or a surface of second order.

A section lies tilted and bent; a few autofocuses tell how, and spare one at every tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.geometry.grid import Grid, GridTile

Kind = Literal["plane", "surface"]

TERMS: dict[Kind, int] = {"plane": 3, "surface": 6}
"""Terms of each kind: the fewest points that determine it."""

TOLERANCE = 1.0
"""How far a good point may lie off, in µm: an autofocus that succeeds is right to a part of it."""

# Where points are measured, in halves of the grid's height and width from its middle. In the
# corners and the middle the slope would be known best; but a bad one in a corner would look just
# like a bad one in the corner opposite. Of five in a pentagon, and of nine in a square, each shows.
_PENTAGON = ((-1.0, -0.6), (-1.0, 0.6), (0.3, 1.0), (1.0, 0.0), (0.3, -1.0))
_SQUARE = tuple((down, right) for down in (-1.0, 0.0, 1.0) for right in (-1.0, 0.0, 1.0))
_TARGETS = {"plane": _PENTAGON, "surface": _SQUARE}

_NARROW = 1e-3  # width over length of a set of points from where on it is a line
_WEAK = 0.02  # least over largest singular value from where on a term is not determined


class FocusSurfaceError(ValueError):
    """The points determine no surface."""


@dataclass(frozen=True)
class FocusSurface:
    """Defocus as a polynomial of the place on the stage.

    Attributes
    ----------
    kind : {"plane", "surface"}
    origin : (float, float)
        Stage (x, y) from where on places are counted, in µm.
    coefficients : tuple of float
        Of 1, x, y and, for a surface, x², xy, y²; in µm and powers of it.
    residuals : tuple of float
        Measured less fitted defocus of each point, those left out too, in µm.
    left_out : tuple of int
        Points that were not fitted, because they contradict all others.
    rms : float
        Of the residuals of those that were fitted, in µm.
    """

    kind: Kind
    origin: tuple[float, float]
    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    left_out: tuple[int, ...]
    rms: float

    def __call__(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the defocus at places, in µm.

        Parameters
        ----------
        x, y : array_like
            On the stage, in µm.

        Returns
        -------
        ndarray of float64
        """
        places = np.stack(np.broadcast_arrays(x, y), axis=-1) - self.origin
        return np.asarray(_terms(places, self.kind) @ self.coefficients)


def fit_focus_surface(
    places: ArrayLike,
    defocus: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    kind: Kind = "plane",
    tolerance: float = TOLERANCE,
) -> FocusSurface:
    """Fit a plane or a surface to measured defocus, by weighted least squares.

    A point is left out if all others agree within the tolerance once it is gone, it is off by more
    than that, and no other point could as well be the bad one. This takes two points more than the
    kind has terms.

    Parameters
    ----------
    places : array_like, shape (n, 2)
        Stage (x, y) of the points, in µm.
    defocus : array_like, shape (n,)
        In µm.
    weights : array_like, shape (n,), optional
        How much each point counts, positive; all alike, if they are left out.
    kind : {"plane", "surface"}
        Of first order, of three points or more, or of second, of six or more.
    tolerance : float
        How far a good point may lie off, in µm.

    Returns
    -------
    FocusSurface

    Raises
    ------
    FocusSurfaceError
        If the points are too few, or lie so that they determine no such surface, as on a line.
    ValueError
        If the arrays do not fit each other, or hold what is not finite.
    """
    points = np.asarray(places, dtype=float).reshape(-1, 2)
    measured = np.asarray(defocus, dtype=float)
    root = np.sqrt(np.ones(len(points)) if weights is None else np.asarray(weights, dtype=float))
    if not len(points) == len(measured) == len(root):
        raise ValueError(
            f"places, defocus and weights are {len(points)}, {len(measured)} and {len(root)}; "
            "there must be as many of each"
        )
    if not (np.isfinite(points).all() and np.isfinite(measured).all() and (root > 0).all()):
        raise ValueError("places and defocus must be finite, and weights positive")

    bad = _bad_point(points, measured, root, kind, tolerance)
    return _fit(points, measured, root, np.arange(len(points)) != bad, kind)


def measuring_tiles(grid: Grid, kind: Kind) -> list[GridTile]:
    """Choose the tiles of a grid at which focus is measured: five for a plane, nine for a surface.

    Parameters
    ----------
    grid : Grid
    kind : {"plane", "surface"}

    Returns
    -------
    list of GridTile
        Spread over the grid, in the order of taking: the tiles nearest to where the points would
        be best. Fewer if there are not as many tiles.
    """
    places = np.array([(tile.row, tile.column) for tile in grid.tiles], float).reshape(-1, 2)
    low, high = places.min(axis=0), places.max(axis=0)
    free = np.ones(len(places), bool)
    for target in _TARGETS[kind][: len(places)]:
        wanted = (low + high) / 2 + np.multiply(target, high - low) / 2
        distance = np.hypot(*((places - wanted) * grid.pitch).T)
        free[np.where(free, distance, np.inf).argmin()] = False
    return [tile for tile, is_free in zip(grid.tiles, free, strict=True) if not is_free]


def _bad_point(
    points: NDArray[np.float64],
    measured: NDArray[np.float64],
    root: NDArray[np.float64],
    kind: Kind,
    tolerance: float,
) -> int | None:
    """Find the one point that contradicts all others."""
    if len(points) < TERMS[kind] + 2:
        return None
    whole = _fit(points, measured, root, np.ones(len(points), bool), kind)
    suspects = []
    for index in range(len(points)):
        others = np.arange(len(points)) != index
        try:
            fit = _fit(points, measured, root, others, kind)
        except FocusSurfaceError:
            continue  # the others determine nothing without it
        off = np.abs(fit.residuals)
        # Where a fit ends it extrapolates without a point; noise alone puts that one far off, by as
        # much as the fit with it follows it. Their geometric mean has the scatter of a measurement.
        alone = np.sqrt(off[index] * abs(whole.residuals[index]))
        if alone > tolerance and off[others].max() <= tolerance:
            suspects.append((fit.rms, index))
    suspects.sort()
    if len(suspects) > 1 and suspects[1][0] < 2 * max(suspects[0][0], tolerance / 10):
        return None
    return suspects[0][1] if suspects else None


def _fit(
    points: NDArray[np.float64],
    measured: NDArray[np.float64],
    root: NDArray[np.float64],
    used: NDArray[np.bool_],
    kind: Kind,
) -> FocusSurface:
    chosen = points[used]
    _check_spread(chosen, kind)
    origin = chosen.mean(axis=0)
    scale = np.abs(chosen - origin).max()
    terms = _terms((points - origin) / scale, kind)
    weighted = terms[used] * root[used, None]
    solution = np.linalg.lstsq(weighted, measured[used] * root[used], rcond=None)[0]
    residuals = measured - terms @ solution
    powers = np.array([0, 1, 1, 2, 2, 2])[: TERMS[kind]]
    return FocusSurface(
        kind,
        (float(origin[0]), float(origin[1])),
        tuple((solution / scale**powers).tolist()),
        tuple(residuals.tolist()),
        tuple(np.flatnonzero(~used).tolist()),
        float(np.sqrt(np.mean(residuals[used] ** 2))),
    )


def _check_spread(points: NDArray[np.float64], kind: Kind) -> None:
    """Refuse points that are too few, on a line, or on a curve of the second order."""
    if len(points) < TERMS[kind]:
        raise FocusSurfaceError(
            f"a {kind} needs {TERMS[kind]} points or more at which focus is known; "
            f"there are {len(points)}"
        )
    centred = points - points.mean(axis=0)
    axes, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    if sizes[1] <= _NARROW * sizes[0]:
        raise FocusSurfaceError(
            f"the {len(points)} points at which focus is known lie on a line, or in one place: "
            f"they determine no {kind}"
        )
    # Along their own axes and in their own widths, the points of a narrow grid are as good as any.
    strength = np.linalg.svd(_terms(axes * np.sqrt(len(points)), kind), compute_uv=False)
    if strength[-1] < _WEAK * strength[0]:
        raise FocusSurfaceError(
            f"the {len(points)} points at which focus is known lie so that they determine no "
            f"{kind}: spread them, or fit a plane"
        )


def _terms(places: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """Give the terms of the polynomial at places (..., 2), shape (..., 3) or (..., 6)."""
    x, y = places[..., 0], places[..., 1]
    first = [np.ones_like(x), x, y]
    second = [x**2, x * y, y**2] if kind == "surface" else []
    return np.stack([*first, *second], axis=-1)
