"""Solve a montage for one affine map a tile: tiles may be turned, scaled and sheared a little.

Where matches do not tell how, a tile keeps its shape: a prior holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import splu

from processing.solve.least_squares import lengths
from processing.solve.translation import LEAST_SD, Solution, solve

FLEXIBILITY = 2.0  # px that a tile's edge is expected to be bent by, if nobody says
HUBER = 1.345  # P. J. Huber's constant: 95 % as efficient as least squares for normal errors
STEPS = 5  # of the weights of points
HELD = 1e-6  # weight of the translation solution, of a median point's: fixes the origin only
POINT_COLUMNS = 6  # row_a, col_a, row_b, col_b, sd, weight


@dataclass(frozen=True, eq=False)
class AffineSolution:
    """Affine maps of the tiles of a montage.

    Attributes
    ----------
    matrices : ndarray of float64, shape (n, 2, 3)
        Of each tile: pixel (row, column) p lies at ``matrix[:, :2] @ p + matrix[:, 2]``, in px, in
        the frame of the nominal positions.
    residuals : ndarray of float64, shape (m,)
        Root mean square distance that is left between the points of each pair, in px, weighted;
        NaN if it has none or was left out.
    translation : Solution
        The solution by translations from which it started; names the outliers.
    """

    matrices: NDArray[np.float64]
    residuals: NDArray[np.float64]
    translation: Solution

    @property
    def residual_median(self) -> float:
        """Median of `residuals`, in px; NaN if there is none."""
        known = self.residuals[np.isfinite(self.residuals)]
        return float(np.median(known)) if len(known) else float("nan")


def solve_affine(
    nominal: ArrayLike,
    pairs: ArrayLike,
    points: Sequence[ArrayLike],
    shape: tuple[int, int],
    *,
    flexibility: float = FLEXIBILITY,
) -> AffineSolution:
    """Find the affine maps of tiles that lay the same structure of neighbours on one place.

    First `solve`, by translations, which leaves wrong pairs out; then least squares over all points
    of the others with Huber's weights. The sum of squares of what the maps bend the tiles is added:
    matches cannot tell a map that is common to all tiles, so that is none; and a tile without
    matches keeps its shape.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    pairs : array_like of int, shape (m, 2)
        Indices (a, b) of the tiles of each match.
    points : sequence of m array_like, shape (k, 6)
        ``[row_a, col_a, row_b, col_b, sd, weight]`` of places that both tiles show, as
        `Match.points`; k may differ, and be 0.
    shape : (int, int)
        (height, width) of the tiles, in px.
    flexibility : float
        Standard deviation that the affine part is expected to have at a tile's edges, in px.

    Returns
    -------
    AffineSolution

    Raises
    ------
    ValueError
        If there are not as many sets of points as pairs, one is not (k, 6) or not finite, or
        `flexibility` is not positive; and as `solve`.
    """
    start = np.asarray(nominal, dtype=np.float64)
    ends = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    tables = _checked(points, len(ends))
    if not flexibility > 0:
        raise ValueError(f"flexibility is {flexibility} px; it must be positive")
    owner = np.repeat(np.arange(len(ends)), [len(table) for table in tables])
    stacked = np.concatenate([np.empty((0, POINT_COLUMNS)), *tables])
    translation, solved = _translate(start, ends, owner, stacked)
    used = np.isin(owner, solved)
    owner, stacked = owner[used], stacked[used]
    tiles = ends[owner]

    half = (np.asarray(shape, dtype=float) - 1) / 2
    arms = (stacked[:, :4].reshape(-1, 2, 2) - half) / half  # −1 to 1 across a tile
    places = stacked[:, :4].reshape(-1, 2, 2) + translation.positions[tiles]
    design = _design(tiles, arms, len(start))
    weights = 1 / np.maximum(stacked[:, 4], LEAST_SD) ** 2
    moves = _fit(design, places[:, 0] - places[:, 1], weights, flexibility)

    matrices = np.zeros((len(start), 2, 3))
    # Each tile's unknowns: its shift, and how far its edges go along rows and columns.
    bent = np.swapaxes(moves[:, 1:], 1, 2) / half
    matrices[:, :, :2] = np.eye(2) + bent
    matrices[:, :, 2] = translation.positions + moves[:, 0] - bent @ half
    return AffineSolution(
        matrices, _residuals(matrices, tiles, stacked, owner, len(ends)), translation
    )


def _checked(points: Sequence[ArrayLike], n_pairs: int) -> list[NDArray[np.float64]]:
    """Turn points into arrays, or say what is wrong with them."""
    tables = [np.asarray(table, dtype=np.float64).reshape(-1, POINT_COLUMNS) for table in points]
    if len(tables) != n_pairs:
        raise ValueError(f"there are {n_pairs} pairs and {len(tables)} sets of points")
    for number, table in enumerate(tables):
        if not np.isfinite(table).all():
            raise ValueError(f"the points of pair {number} hold a number that is not finite")
    return tables


def _translate(
    start: NDArray[np.float64],
    ends: NDArray[np.intp],
    owner: NDArray[np.intp],
    points: NDArray[np.float64],
) -> tuple[Solution, NDArray[np.intp]]:
    """Solve by translations, from the median of each pair's points; name the pairs kept."""
    steps = points[:, :2] - points[:, 2:4]
    known = np.unique(owner)
    first = np.searchsorted(owner, [known, known + 1])
    offsets = np.array([np.median(steps[a:b], axis=0) for a, b in first.T]).reshape(-1, 2)
    # Turned tiles have points that differ by more than they are unsure.
    spread = [np.hypot(steps[a:b].std(axis=0).max(), np.median(points[a:b, 4])) for a, b in first.T]
    found = solve(start, ends[known], offsets, np.array(spread))
    return found, np.delete(known, found.outliers)


def _design(tiles: NDArray[np.intp], arms: NDArray[np.float64], n_tiles: int) -> sp.csr_array:
    """Make the matrix of how far unknowns move b's point off a's, along one axis.

    Parameters
    ----------
    tiles : ndarray of int, shape (k, 2)
    arms : ndarray of float64, shape (k, 2, 2)
        Point, tile a or b, place along rows and columns.
    n_tiles : int

    Returns
    -------
    csr_array, shape (k, 3 n)
    """
    terms = np.concatenate([np.ones((*arms.shape[:2], 1)), arms], axis=2)
    terms[:, 0] *= -1
    columns = 3 * tiles[:, :, None] + np.arange(3)
    return sp.csr_array(
        (terms.ravel(), columns.ravel(), np.arange(0, 6 * len(tiles) + 1, 6)),
        shape=(len(tiles), 3 * n_tiles),
    )


def _fit(
    design: sp.csr_array,
    gaps: NDArray[np.float64],
    weights: NDArray[np.float64],
    flexibility: float,
) -> NDArray[np.float64]:
    """Find the unknowns (n, 3, 2) that close the gaps between the points best."""
    n_tiles = design.shape[1] // 3
    prior = np.full((n_tiles, 3), 1 / flexibility**2)
    prior[:, 0] = HELD * (np.median(weights) if len(weights) else 1.0)
    robust = np.ones(len(gaps))
    moves = np.zeros((3 * n_tiles, 2))
    for _ in range(STEPS):
        left = gaps - design @ moves
        size = lengths(left) * np.sqrt(weights)
        if moves.any():
            # The median length of a two-dimensional normal vector is 1.18 of its deviation.
            limit = HUBER * max(float(np.median(size)) / 1.18, 1e-12)
            robust = limit / np.maximum(size, limit)
        weighted = design.T @ sp.diags_array(weights * robust)
        normal = (weighted @ design + sp.diags_array(prior.ravel())).tocsc()
        moves = splu(
            normal,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        ).solve(weighted @ gaps)
    return np.asarray(moves.reshape(n_tiles, 3, 2))


def _residuals(
    matrices: NDArray[np.float64],
    tiles: NDArray[np.intp],
    points: NDArray[np.float64],
    owner: NDArray[np.intp],
    n_pairs: int,
) -> NDArray[np.float64]:
    """Give the root mean square distance between the points of each pair, weighted, in px."""
    places = [
        np.einsum("kij,kj->ki", matrices[tiles[:, end], :, :2], points[:, 2 * end : 2 * end + 2])
        + matrices[tiles[:, end], :, 2]
        for end in (0, 1)
    ]
    weights = np.maximum(points[:, 5], 1e-12)
    squares = np.bincount(owner, weights * lengths(places[1] - places[0]) ** 2, n_pairs)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(squares / np.bincount(owner, weights, n_pairs)))
