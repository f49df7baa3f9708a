"""Solve a montage: the positions of all tiles that fit the matches between neighbours best.

Wrong matches lose their weight and missing ones are bridged, so no single pair spoils a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from processing.matching import Match

# A match is never trusted to be better than this, in px: tiles are distorted, so neighbours that
# were measured to 0.01 px still disagree by more round a loop of four.
LEAST_SD = 0.05
LEAST_SCALE = 0.3  # the least residual at which a match starts to lose weight, in px
OUTLIER_SCALES = 4.0  # residuals beyond so many robust standard deviations are outliers
ANNEALING = 4.0  # by how much the scale falls from one round of weights to the next
FINAL_ROUNDS = 2  # rounds of weights at the final scale
AGREE_SWEEPS = 10  # the most rounds over all tiles in which single ones are moved
GAUGE = 1e-7  # pull of the starting positions, of a median match's weight: only fixes the origin
LEAST_FOR_AFFINE = 6  # solved tiles that it takes to predict how others moved
NEARBY = 8  # how many of the nearest solved tiles say how a tile next to them moved
MATCHED, STAGE = "match", "stage"


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the tiles of a montage lie, and how well that fits the matches.

    Attributes
    ----------
    positions : ndarray of float64, shape (n, 2)
        (row, column) of each tile's first pixel, in px, in the frame of the nominal positions.
    placed_by : tuple of {"match", "stage"}, length n
        "match" if a match that was kept ties the tile to another; else its place is its nominal one
        moved as its solved neighbours moved.
    component : ndarray of int, shape (n,)
        Tiles of one number hang together by matches that were kept. Number 0 is the largest.
    residuals : ndarray of float64, shape (m,)
        How far each pair lies from its match, in px.
    outliers : tuple of int
        Indices of the matches that were found wrong and left out.
    tile_residuals : ndarray of float64, shape (n,)
        Root mean square residual of the matches of each tile that were kept, in px; NaN if none.
    """

    positions: NDArray[np.float64]
    placed_by: tuple[str, ...]
    component: NDArray[np.intp]
    residuals: NDArray[np.float64]
    outliers: tuple[int, ...]
    tile_residuals: NDArray[np.float64]

    @property
    def residual_median(self) -> float:
        """Median residual of the matches that were kept, in px; NaN if there is none."""
        kept = np.delete(self.residuals, self.outliers)
        return float(np.median(kept)) if len(kept) else float("nan")


def solve_matches(nominal: ArrayLike, matches: Mapping[tuple[int, int], Match]) -> Solution:
    """Solve a montage from the matches of its pairs of tiles; those that are not good are left out.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    matches : mapping of (int, int) to Match
        By the indices (a, b) of the two tiles.

    Returns
    -------
    Solution
        Its `residuals` and `outliers` count the good matches only, in the mapping's order.
    """
    good = {pair: match for pair, match in matches.items() if match.good}
    return solve(
        nominal,
        np.array(list(good), dtype=np.intp).reshape(-1, 2),
        np.array([(match.drow, match.dcol) for match in good.values()]).reshape(-1, 2),
        np.array([match.sd for match in good.values()]),
    )


def solve(
    nominal: ArrayLike, pairs: ArrayLike, offsets: ArrayLike, sd: ArrayLike | None = None
) -> Solution:
    """Find the positions of tiles from the measured offsets between pairs of them.

    Weighted least squares over all pairs, made robust by weights (Geman and McClure's) whose scale
    falls from that of the worst residual to that of good matches: graduated non-convexity (Yang et
    al., IEEE Robotics and Automation Letters 5, 2020). Each set of tiles that hang together keeps
    the mean of its nominal positions; sets and single tiles apart from the largest are then moved
    as their neighbours in it were.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    pairs : array_like of int, shape (m, 2)
        Indices (a, b) of the tiles of each match.
    offsets : array_like, shape (m, 2)
        Measured position of b minus that of a, (rows, columns) in px.
    sd : array_like, shape (m,), optional
        Standard deviation of each offset, in px.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If shapes do not fit, an index is out of range, a pair names one tile twice, or a number is
        not finite or an sd negative.
    """
    start, ends, targets, sigma = _checked(nominal, pairs, offsets, sd)
    n_tiles, n_pairs = len(start), len(ends)
    incidence = sp.csr_array(
        (
            np.tile([-1.0, 1.0], n_pairs),
            ends.ravel(),
            np.arange(0, 2 * n_pairs + 1, 2),
        ),
        shape=(n_pairs, n_tiles),
    )
    positions, kept = _fit(incidence, start, targets, sigma)
    component = _components(n_tiles, ends[kept])
    positions = _place_apart(positions, start, component)

    residuals = np.hypot(*(incidence @ positions - targets).T)
    squares = np.zeros(n_tiles)
    degree = np.zeros(n_tiles)
    for end in (0, 1):
        np.add.at(squares, ends[kept, end], residuals[kept] ** 2)
        np.add.at(degree, ends[kept, end], 1)
    with np.errstate(invalid="ignore"):
        tile_residuals = np.sqrt(squares / degree)
    return Solution(
        positions=positions,
        placed_by=tuple(MATCHED if d else STAGE for d in degree),
        component=component,
        residuals=residuals,
        outliers=tuple(np.flatnonzero(~kept).tolist()),
        tile_residuals=tile_residuals,
    )


def _checked(
    nominal: ArrayLike, pairs: ArrayLike, offsets: ArrayLike, sd: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Turn the arguments of `solve` into arrays, or say what is wrong with them."""
    start = np.asarray(nominal, dtype=np.float64)
    if start.ndim != 2 or start.shape[1] != 2 or not len(start):
        raise ValueError(f"nominal has shape {start.shape}; it must be (n, 2), n at least 1")
    ends = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    targets = np.asarray(offsets, dtype=np.float64).reshape(-1, 2)
    sigma = np.ones(len(ends)) if sd is None else np.asarray(sd, dtype=np.float64).reshape(-1)
    if not len(ends) == len(targets) == len(sigma):
        raise ValueError(
            f"there are {len(ends)} pairs, {len(targets)} offsets and {len(sigma)} sd; "
            "they must be as many"
        )
    for name, values in (("nominal", start), ("offsets", targets), ("sd", sigma)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds a number that is not finite")
    if (sigma < 0).any():
        raise ValueError(f"sd holds {sigma.min()}; it must not be negative")
    if ((ends < 0) | (ends >= len(start))).any():
        raise ValueError(
            f"pairs holds indices from {ends.min()} to {ends.max()}; "
            f"they must lie between 0 and {len(start) - 1}"
        )
    if (ends[:, 0] == ends[:, 1]).any():
        raise ValueError(f"pairs names tile {ends[ends[:, 0] == ends[:, 1]][0, 0]} with itself")
    return start, ends, targets, np.maximum(sigma, LEAST_SD)


def _fit(
    incidence: sp.csr_array,
    start: NDArray[np.float64],
    targets: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Give robust positions, and which of the matches were kept."""
    if not len(targets):
        return start.copy(), np.ones(0, dtype=bool)
    weights = np.median(sigma) ** 2 / sigma**2
    positions = _least_squares(incidence, start, targets, weights)
    size = _sizes(incidence, positions, targets)
    goal = _outlier_limit(size, np.ones_like(size))
    scale = float(size.max())
    if scale <= goal:
        return positions, np.ones(len(size), dtype=bool)
    rounds_left = FINAL_ROUNDS
    while rounds_left:
        scale = max(scale / ANNEALING, goal)
        robust = (scale**2 / (scale**2 + size**2)) ** 2
        positions = _least_squares(incidence, positions, targets, weights * robust)
        size = _sizes(incidence, positions, targets)
        # By the weights of this round, since wrong matches still outweigh the plain median.
        goal = _outlier_limit(size, robust)
        rounds_left -= goal > 0.8 * scale
    positions = _agree(incidence, start, positions, targets, goal)
    kept = _sizes(incidence, positions, targets) <= goal
    return _least_squares(incidence, positions, targets, weights * kept), kept


def _least_squares(
    incidence: sp.csr_array,
    start: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve for positions, each set of tiles that hang together keeping the mean of its start."""
    weighted = incidence.T @ sp.diags_array(weights)
    gauge = GAUGE * sp.eye_array(len(start))
    normal = (weighted @ incidence + gauge).tocsc()
    # The matrix is symmetric and positive definite, so its own diagonal is a safe pivot.
    factors = splu(
        normal,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return start + factors.solve(weighted @ (targets - incidence @ start))


def _sizes(
    incidence: sp.csr_array, positions: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.hypot(*(incidence @ positions - targets).T))


def _agree(
    incidence: sp.csr_array,
    start: NDArray[np.float64],
    positions: NDArray[np.float64],
    targets: NDArray[np.float64],
    limit: float,
) -> NDArray[np.float64]:
    """Move single tiles to where most of their matches agree (iterated conditional modes).

    Annealing leaves a few tiles between one wrong match and another where two right ones agree.
    """
    by_tile = incidence.T.tocsr()
    graph = (by_tile.indptr, by_tile.indices, incidence.indices.reshape(-1, 2))
    moved = positions.copy()
    for _ in range(AGREE_SWEEPS):
        if not _sweep(graph, start, targets, limit, moved):
            break
    return moved


@njit(nogil=True, cache=True)
def _sweep(graph, start, targets, limit, positions):  # type: ignore[no-untyped-def]
    """Move each tile once, and count those that moved by more than the limit."""
    indptr, indices, ends = graph
    moves = 0
    for tile in range(len(positions)):
        first, last = indptr[tile], indptr[tile + 1]
        n = last - first
        if n < 2:
            continue
        places = np.empty((n, 2))
        drift = np.zeros(2)  # how neighbours lie from where they started: breaks a tie
        for k in range(n):
            pair = indices[first + k]
            sign = 1.0 if ends[pair, 1] == tile else -1.0
            other = ends[pair, 0] if ends[pair, 1] == tile else ends[pair, 1]
            for axis in range(2):
                places[k, axis] = positions[other, axis] + sign * targets[pair, axis]
                drift[axis] += (positions[other, axis] - start[other, axis]) / n
        best, best_score = -1, 0.0
        for k in range(-1, n):
            at = positions[tile] if k < 0 else places[k]
            votes = 0.0
            for other in range(n):
                gap = np.hypot(places[other, 0] - at[0], places[other, 1] - at[1])
                votes += gap <= limit
            away = np.hypot(at[0] - start[tile, 0] - drift[0], at[1] - start[tile, 1] - drift[1])
            score = votes + 0.5 / (1.0 + away / limit)
            if score > best_score:
                best, best_score = k, score
        if best < 0:
            continue
        mean, count = np.zeros(2), 0
        for k in range(n):
            gap = np.hypot(places[k, 0] - places[best, 0], places[k, 1] - places[best, 1])
            if gap <= limit:
                mean += places[k]
                count += 1
        mean /= count
        if np.hypot(mean[0] - positions[tile, 0], mean[1] - positions[tile, 1]) > limit:
            moves += 1
        positions[tile] = mean
    return moves


def _outlier_limit(size: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Give the residual beyond which a match is an outlier, in px."""
    order = np.argsort(size)
    cumulative = np.cumsum(weights[order])
    median = float(size[order[np.searchsorted(cumulative, cumulative[-1] / 2)]])
    # The median length of a two-dimensional normal vector is 1.18 of its standard deviation.
    return OUTLIER_SCALES * max(median / 1.18, LEAST_SCALE)


def _components(n_tiles: int, ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give each tile the number of the set that it hangs together with, the largest being 0."""
    graph = sp.coo_array((np.ones(len(ends)), ends.T), shape=(n_tiles, n_tiles))
    count, labels = connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    rank = np.empty(count, dtype=np.intp)
    rank[order] = np.arange(count)
    return rank[labels]


def _place_apart(
    positions: NDArray[np.float64], nominal: NDArray[np.float64], component: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Move the sets apart from the largest as its tiles moved: on the whole, and next to them.

    How much the nearest tiles tell beyond the affine part is measured on the solved tiles
    themselves, each predicted from its own neighbours: a stage's error may be smooth or not.
    """
    solved = component == 0
    if solved.all() or solved.sum() < LEAST_FOR_AFFINE:
        return positions
    places, moves = nominal[solved], positions[solved] - nominal[solved]
    affine = _affine(places, moves)
    rest = moves - affine(places)
    tree = cKDTree(places)
    own = _nearby_mean(tree, rest, places, skip=1)
    trust = float(np.clip((own * rest).sum() / max((own * own).sum(), 1e-12), 0, 1))
    apart = np.flatnonzero(~solved)
    predicted = affine(nominal[apart]) + trust * _nearby_mean(tree, rest, nominal[apart], skip=0)
    placed = positions.copy()
    labels = component[apart]
    for axis in (0, 1):
        total = np.bincount(labels, weights=predicted[:, axis])
        placed[apart, axis] += (total / np.maximum(np.bincount(labels), 1))[labels]
    return placed


def _affine(
    places: NDArray[np.float64], moves: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Fit moves by an affine function of the place, with Huber's weights."""
    middle, size = places.mean(axis=0), max(float(places.std()), 1.0)

    def terms(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.ones(len(at)), (at - middle) / size])

    matrix = terms(places)
    root = np.ones(len(places))
    for _ in range(5):
        fitted, *_ = np.linalg.lstsq(matrix * root[:, None], moves * root[:, None], rcond=1e-9)
        size_left = np.hypot(*(moves - matrix @ fitted).T)
        limit = max(1.5 * float(np.median(size_left)), 1e-9)
        root = np.sqrt(limit / np.maximum(size_left, limit))
    return lambda at: terms(at) @ fitted


def _nearby_mean(
    tree: cKDTree, values: NDArray[np.float64], at: NDArray[np.float64], skip: int
) -> NDArray[np.float64]:
    """Average the nearest places' values by inverse squared distance, leaving `skip` out."""
    count = min(NEARBY + skip, tree.n)
    distances, indices = tree.query(at, k=np.arange(1 + skip, count + 1))
    weights = 1 / np.maximum(distances, 1.0) ** 2
    return np.asarray(
        (weights[..., None] * values[indices]).sum(axis=1) / weights.sum(axis=1)[:, None]
    )
