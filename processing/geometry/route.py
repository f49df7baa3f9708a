"""The order in which to visit some places, with little travel.

For the tiles that are taken again, which lie scattered over a montage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SWEEPS = 20  # improvements die out after a few; a bound, so that the time is one, too
_LEAST_GAIN = 1e-9  # of the route's length; less is rounding


def short_route(places: ArrayLike, start: ArrayLike, end: ArrayLike | None = None) -> list[int]:
    """Order places so that visiting them, from a start to an end, costs little travel.

    Each next place is the nearest one; then stretches are turned round as long as that makes the
    way shorter (2-opt: G. A. Croes, Operations Research 6, 791, 1958): mostly the shortest way, or
    a few percent more.

    Parameters
    ----------
    places : array_like, shape (n, 2)
    start : array_like, shape (2,)
        Where the way begins.
    end : array_like, shape (2,), optional
        Where it leads to after the last place; if it is left out it ends there.

    Returns
    -------
    list of int
        Indices of all places, in order.
    """
    points = np.asarray(places, float).reshape(-1, 2)
    if len(points) < 2:
        return list(range(len(points)))
    order = _nearest_first(points, np.asarray(start, float))
    route = [np.asarray(start, float), *points[order]]
    if end is not None:
        route.append(np.asarray(end, float))
    return [order[stop - 1] for stop in _two_opt(np.array(route), free_end=end is None)]


def _nearest_first(points: NDArray[np.float64], here: NDArray[np.float64]) -> list[int]:
    left = np.ones(len(points), bool)
    order = []
    for _ in points:
        distances = np.where(left, np.hypot(*(points - here).T), np.inf)
        order.append(int(distances.argmin()))
        left[order[-1]] = False
        here = points[order[-1]]
    return order


def _two_opt(route: NDArray[np.float64], *, free_end: bool) -> Sequence[int]:
    """Give the order of the stops of a route whose first stop, and last if it is not free, stay."""
    n = len(route)
    order = np.arange(n)
    last = n if free_end else n - 1  # the stops 1 … last − 1 may change places
    for _ in range(_SWEEPS):
        improved = False
        for first in range(1, last - 1):
            way = route[order]
            ends = np.arange(first + 1, last)  # turn the stretch first … ends round
            after = np.minimum(ends + 1, n - 1)
            has_after = ends + 1 < n
            gain = (
                _distance(way[first - 1], way[first])
                + has_after * _distance(way[ends], way[after])
                - _distance(way[first - 1], way[ends])
                - has_after * _distance(way[first], way[after])
            )
            best = int(gain.argmax())
            if gain[best] > _LEAST_GAIN * np.abs(way).max():
                stretch = slice(first, ends[best] + 1)
                order[stretch] = order[stretch][::-1]
                improved = True
        if not improved:
            break
    return [int(stop) for stop in order[1:last]]


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]))
