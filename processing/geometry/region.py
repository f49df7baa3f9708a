"""The region of interest of a montage: a polygon on the stage.

A rectangle, turned or not, is a polygon with four corners; so there is one kind of region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOUCHING = 1e-9  # share of a tile below which it counts as touched only


@dataclass(frozen=True)
class Region:
    """A simple polygon on the stage.

    Parameters
    ----------
    vertices : sequence of (float, float)
        Stage (x, y) of the corners in µm, in order round the polygon, the first not repeated.

    Raises
    ------
    ValueError
        If there are fewer than three corners, a coordinate is not finite, the polygon has no
        area, or its edges cross.
    """

    vertices: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        points = np.asarray(self.vertices, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise ValueError(
                f"vertices has shape {points.shape}; a region needs three or more (x, y) in µm"
            )
        if not np.isfinite(points).all():
            raise ValueError(f"vertices holds a number that is not finite: {points.tolist()}")
        object.__setattr__(self, "vertices", tuple((float(x), float(y)) for x, y in points))
        if self.area == 0:
            raise ValueError(f"vertices enclose no area: {points.tolist()}")
        if _edges_cross(points):
            raise ValueError(
                f"vertices make edges that cross; list the corners in order: {points.tolist()}"
            )

    @classmethod
    def rectangle(
        cls, centre: Sequence[float], width: float, height: float, angle: float = 0.0
    ) -> Region:
        """Make a rectangle.

        Parameters
        ----------
        centre : (float, float)
            Stage (x, y) of its middle, in µm.
        width, height : float
            Its sides along x and y before it is turned, in µm. Must be positive.
        angle : float
            How far it is turned, in degrees, counter-clockwise.

        Raises
        ------
        ValueError
            If a side is not positive.
        """
        if not (width > 0 and height > 0):
            raise ValueError(f"width × height is {width} × {height} µm; both must be positive")
        c, s = cos(radians(angle)), sin(radians(angle))
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
        turned = corners @ np.array([(c, s), (-s, c)]) + np.asarray(centre, dtype=float)
        return cls(tuple(map(tuple, turned.tolist())))

    @classmethod
    def from_mapping(cls, roi: Mapping[str, Any]) -> Region:
        """Make a region from plain data: `vertices`, or `centre`, `width`, `height`, `angle`.

        Parameters
        ----------
        roi : mapping
            As a command, a configuration or a start document holds it; lengths in µm.

        Raises
        ------
        ValueError
            If the keys are neither of the two sets.

        Examples
        --------
        >>> Region.from_mapping({"centre": [0, 0], "width": 20, "height": 10}).area
        200.0
        """
        keys = set(roi)
        if keys == {"vertices"}:
            return cls(tuple(map(tuple, roi["vertices"])))
        if {"centre", "width", "height"} <= keys <= {"centre", "width", "height", "angle"}:
            return cls.rectangle(**roi)
        raise ValueError(
            f"roi has the keys {sorted(keys)}; give either vertices, "
            "or centre, width, height and, if it is turned, angle"
        )

    @property
    def area(self) -> float:
        """Area in µm²."""
        return _area(np.asarray(self.vertices))

    def to_dict(self) -> dict[str, list[list[float]]]:
        """Give the corners as plain data, as they stand in the `roi` of a start document."""
        return {"vertices": [list(v) for v in self.vertices]}

    def overlaps(self, polygon: ArrayLike) -> bool:
        """Tell whether a convex polygon shares any area with this region.

        Parameters
        ----------
        polygon : array_like, shape (n, 2)
            Corners (x, y) in µm, in order; the outline of a tile.
        """
        outline = np.asarray(polygon, dtype=float)
        shared = _clip(np.asarray(self.vertices), outline)
        # Polygons that only touch share an edge or a corner, of no area but for rounding.
        return len(shared) >= 3 and _area(np.asarray(shared)) > TOUCHING * _area(outline)


def _area(points: NDArray[np.float64]) -> float:
    """Area of a polygon, by the shoelace formula."""
    x, y = (points - points[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _clip(subject: NDArray[np.float64], clipper: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut a polygon with a convex one (Sutherland and Hodgman, Comm. ACM 17, 1974)."""
    x, y = clipper.T
    if np.dot(x, np.roll(y, -1)) < np.dot(y, np.roll(x, -1)):
        clipper = clipper[::-1]
    points = list(subject)
    for start, end in zip(clipper, np.roll(clipper, -1, axis=0), strict=True):
        points = _clip_by_line(points, start, end - start)
    return points


def _clip_by_line(
    points: list[NDArray[np.float64]], start: NDArray[np.float64], along: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Keep what lies left of a line, or on it."""

    def side(point: NDArray[np.float64]) -> float:
        offset = point - start
        return float(along[0] * offset[1] - along[1] * offset[0])

    kept = []
    for point, following in zip(points, points[1:] + points[:1], strict=True):
        here, there = side(point), side(following)
        if here >= 0:
            kept.append(point)
        if here * there < 0:
            kept.append(point + (following - point) * (here / (here - there)))
    return kept


def _edges_cross(points: NDArray[np.float64]) -> bool:
    """Tell whether two edges that are not neighbours cross."""
    n = len(points)
    edges = [(points[i], points[(i + 1) % n]) for i in range(n)]
    return any(
        _segments_cross(*edges[i], *edges[j])
        for i in range(n)
        for j in range(i + 2, n)
        if (j + 1) % n != i
    )


def _segments_cross(a, b, c, d) -> bool:  # type: ignore[no-untyped-def]
    def turn(p, q, r) -> float:  # type: ignore[no-untyped-def]
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return turn(a, b, c) != turn(a, b, d) and turn(c, d, a) != turn(c, d, b)
