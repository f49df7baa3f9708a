"""Which tiles share an edge, by where they should lie.

Grids, bricks and scattered tiles alike; tiles that only meet at a corner share too little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

MIN_STEP, MAX_STEP = 0.05, 1.05  # tiles, along the axis on which they lie farther apart
MAX_ACROSS = 0.6  # of that, along the other one: half a tile where rows lie as bricks do
MAX_RATIO = 1.5  # of a step to the shortest in its direction; beyond it lies another tile between


def neighbours(places: ArrayLike, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Find the pairs of tiles that share an edge.

    Parameters
    ----------
    places : array_like, shape (n, 2)
        Where each tile should lie: (row, column) of its first pixel, in px; finite.
    shape : (int, int)
        (height, width) of a tile, in px.

    Returns
    -------
    ndarray of int, shape (m, 2)
        Indices (a, b), in rising order; b lies below or to the right of a.
    """
    scaled = np.asarray(places, dtype=float).reshape(-1, 2) / np.asarray(shape, dtype=float)
    pairs = cKDTree(scaled).query_pairs(MAX_STEP, p=np.inf, output_type="ndarray")
    pairs, axis, along = _oriented(scaled, pairs)
    # Tiles may overlap so far that the next but one shares something, too.
    shortest = np.full((2, 2, len(scaled)), np.inf)  # by end of the pair, axis and tile
    for end in (0, 1):
        np.minimum.at(shortest[end], (axis, pairs[:, end]), along)
    limits = np.maximum(shortest[0, axis, pairs[:, 0]], shortest[1, axis, pairs[:, 1]])
    near = pairs[along <= MAX_RATIO * limits]
    return near[np.lexsort((near[:, 1], near[:, 0]))]


def is_below(step: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether a neighbour lies below or above, and not beside, by how far it lies; in px."""
    down, across = np.moveaxis(np.abs(step) / np.asarray(shape, dtype=float), -1, 0)
    return np.asarray(down > across)


def _oriented(
    places: NDArray[np.float64], pairs: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the pairs that share an edge, the later tile last; its axis; and the step along it."""
    steps = places[pairs[:, 1]] - places[pairs[:, 0]]
    axis = np.abs(steps).argmax(axis=1)
    along = np.take_along_axis(steps, axis[:, None], axis=1)[:, 0]
    across = np.take_along_axis(steps, 1 - axis[:, None], axis=1)[:, 0]
    kept = (np.abs(along) >= MIN_STEP) & (np.abs(across) <= MAX_ACROSS * np.abs(along))
    turned = np.where((along < 0)[:, None], pairs[:, ::-1], pairs)
    return turned[kept].astype(np.intp), axis[kept], np.abs(along[kept])
