"""How much of the frame overlaps cover, and which terms of a lens their points tell.

A montage's narrow overlaps show the frame's rim only: whatever fits there says nothing of the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processing.lens.model import MIN_DEGREE
from processing.points import RIGID, Equations, terms
from processing.points.terms import orders

CELLS = 64  # along each side, to measure areas by
OFTEN = 1 / 3  # of the tiles, in which a place must lie in an overlap for it to be covered
# Mean square that terms must leave, over their own, however tiles are placed: where less is left,
# errors of the points are seven times as large in the field.
MIN_LEFT = 0.02
OPEN = 0.1  # share of a term in what is not determined, from which on it is named


def covered_share(offsets: NDArray[np.float64], shape: tuple[int, int], n_tiles: int) -> float:
    """Return which share of the frame tiles see together with others.

    Not of the union of all overlaps: where stages err, that of a large montage is wide.

    Parameters
    ----------
    offsets : ndarray of float64, shape (m, 2)
        Position of the second tile of each pair minus that of the first, (rows, columns) in px.
    shape : (int, int)
        (height, width) of the tiles, in px.
    n_tiles : int

    Returns
    -------
    float
        Area, from 0 to 1, that lies in an overlap in a third of the tiles or more.
    """
    seen = np.zeros((CELLS, CELLS), dtype=int)
    shifts = (CELLS * offsets / shape).round().astype(int)
    for down, right in np.concatenate([shifts, -shifts]):
        seen[_overlap(down), _overlap(right)] += 1
    return float((seen >= OFTEN * n_tiles).mean())


def _overlap(shift: int) -> slice:
    """Return which cells along a side another tile shows, too."""
    return slice(max(shift, 0), max(CELLS + min(shift, 0), 0))


def determined_degree(equations: Equations, total: float, highest: int) -> int:
    """Return the highest degree, up to one, whose terms the points determine; 0 if none is.

    Parameters
    ----------
    equations : Equations
    total : float
        Of the weights in them, in 1/px².
    highest : int
    """
    downwards = range(highest, MIN_DEGREE - 1, -1)
    return next((one for one in downwards if not len(_open(equations, total, one)[0])), 0)


def open_terms(equations: Equations, total: float, degree: int) -> list[str]:
    """Return the names of the terms that the points leave open, such as v^2·u^0."""
    _, vectors = _open(equations, total, degree)
    shares = np.abs(vectors).max(axis=1, initial=0.0)
    return [
        f"v^{i}·u^{j}" for (i, j), share in zip(terms(degree), shares, strict=True) if share > OPEN
    ]


def _open(
    equations: Equations, total: float, degree: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the points leave open: how much they tell of it, and its shares of the terms."""
    left = equations.lens_alone(RIGID, len(terms(degree))) / total
    # The mean square of a product of Legendre polynomials over the frame.
    size = 1 / np.sqrt((2 * orders(degree) + 1).prod(axis=1))
    values, vectors = np.linalg.eigh(left / np.multiply.outer(size, size))
    return values[values < MIN_LEFT], vectors[:, values < MIN_LEFT]
