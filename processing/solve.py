"""Solve a montage: the positions of all tiles that fit the matches between neighbours best.

Wrong matches are left out and missing ones are bridged, so no single pair spoils a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from scipy.special import comb

from processing.matching import Match

# A match is never trusted to be better than this, in px: tiles are distorted, so neighbours that
# were measured to 0.01 px still disagree by more round a loop of four.
LEAST_SD = 0.05
LEAST_SCALE = 0.3  # the least standard deviation that residuals are taken to have, in px
OUTLIER_SCALES = 4.0  # residuals beyond so many robust standard deviations are outliers
ROUNDS = 5  # how often matches may be left out or taken back at the end
MOST_BY_CHANCE = 1e-3  # how often an agreement that is believed may come about by chance
MOST_MEETING = 64  # matches of a set of tiles from which on ways over it are not looked at
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

    Weighted least squares over all matches if they fit; else over those that bear each other out:
    that close loops, or agree on where sets of tiles lie (in the spirit of pairwise consistency:
    J. G. Mangelson et al., IEEE Int. Conf. Robotics and Automation, 2018). Each set of tiles that
    hang together keeps the mean of its nominal positions; sets and single tiles apart from the
    largest are then moved as their neighbours in it were.

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
    kept = np.ones(len(targets), dtype=bool)
    if not len(targets):
        return start.copy(), kept
    weights = np.median(sigma) ** 2 / sigma**2
    positions = _least_squares(incidence, start, targets, weights)
    size = _sizes(incidence, positions, targets)
    if size.max() <= _outlier_limit(size):
        return positions, kept
    kept = _consistent(incidence, start, targets, weights, spread=float(size.max()) / 2)
    for _ in range(ROUNDS):
        positions = _least_squares(incidence, positions, targets, weights * kept)
        size = _sizes(incidence, positions, targets)
        fitting = size <= _outlier_limit(size[kept])
        if (fitting == kept).all():
            break
        kept = fitting
    return positions, kept


def _consistent(
    incidence: sp.csr_array,
    start: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    spread: float,
) -> NDArray[np.bool_]:
    """Pick the matches that bear each other out.

    Those that close loops tie tiles together to sets; then those that close loops of such sets, and
    so on as long as there are any. What is left ties a set by one match, the most likely one first.
    """
    ends = incidence.indices.reshape(-1, 2).astype(np.intp)
    picked = np.zeros(len(targets), dtype=bool)
    positions, labels = start, np.arange(len(start))
    limits: _Limits | None = None
    while True:
        between = np.flatnonzero(labels[ends[:, 0]] != labels[ends[:, 1]])
        gaps = (targets - incidence @ positions)[between]
        ways = _ways(labels[ends[between]], gaps)
        limits = limits or _limits_of(ways, spread)
        closing = between[_in_loops(ways, limits)]
        if not len(closing):
            break
        picked[closing] = True
        positions = _least_squares(incidence, start, targets, weights * picked)
        labels = _components(len(start), ends[picked])
    size = _sizes(incidence, _place_apart(positions, start, labels), targets)
    forest = DisjointSet(range(labels.max() + 1))
    for pair in between[np.argsort(size[between])]:
        picked[pair] = forest.merge(*labels[ends[pair]].tolist())
    return picked


@dataclass(frozen=True, eq=False)
class _Ways:
    """Ways from one set of tiles to another, over one match or two, sorted by where they lead.

    Each has its `ends` (from, to), the set `over` which it goes (a negative number of its own for
    one match), the sum of its `offsets`, and its two `matches` (one twice).
    """

    ends: NDArray[np.int64]
    over: NDArray[np.int64]
    offsets: NDArray[np.float64]
    matches: NDArray[np.int64]


@dataclass(frozen=True)
class _Limits:
    """How near offsets must come to each other to agree, in px, and how often they do by chance."""

    agree: float
    chance: float


def _ways(ends: NDArray[np.intp], offsets: NDArray[np.float64]) -> _Ways:
    """List all ways over one match and over two."""
    upwards = np.where(ends[:, 0] < ends[:, 1], 1.0, -1.0)[:, None]
    each = np.arange(len(ends))
    # By the set that a way goes over: both matches of each pair that meet there.
    meeting = np.argsort(ends.ravel(), kind="stable")
    first = np.searchsorted(ends.ravel()[meeting], np.arange(ends.max(initial=-1) + 2))
    through, over, sums, pairs = _pairs_of(first, meeting // 2, ends, offsets)
    through = np.concatenate([np.sort(ends, axis=1), through])
    over = np.concatenate([-1 - each, over])
    order = np.lexsort((over, through[:, 1], through[:, 0]))
    return _Ways(
        through[order],
        over[order],
        np.concatenate([upwards * offsets, sums])[order],
        np.concatenate([np.column_stack([each, each]), pairs])[order],
    )


def _limits_of(ways: _Ways, spread: float) -> _Limits:
    """Find what agreement means from the loops of the single tiles: most of them close."""
    loops = np.flatnonzero((ways.ends[1:] == ways.ends[:-1]).all(axis=1))
    gaps = np.hypot(*(ways.offsets[loops + 1] - ways.offsets[loops]).T)
    # Rayleigh's distribution has a fifth of its weight below two thirds of its scale.
    scale = float(np.percentile(gaps, 20)) / 0.67 if len(gaps) else 0.0
    agree = OUTLIER_SCALES * max(scale, LEAST_SCALE)
    return _Limits(agree, min((agree / spread) ** 2, 1.0))


def _in_loops(ways: _Ways, limits: _Limits) -> NDArray[np.int64]:
    """Find the matches on ways that agree where that is no chance."""
    votes, voters = _agreements(ways.ends, ways.over, ways.offsets, limits.agree)
    # Expected number of agreements of so many out of all, were all of them wrong.
    by_chance = comb(voters, votes) * limits.chance ** np.maximum(votes - 1, 0)
    sure = (votes >= 2) & (by_chance < MOST_BY_CHANCE)
    return np.unique(ways.matches[sure])


@njit(nogil=True, cache=True)
def _agreements(ends, over, offsets, limit):  # type: ignore[no-untyped-def]
    """For each way in the largest agreement of those between its ends, count who agrees, and all.

    Ways over one set share a match, so they have one vote together.
    """
    votes, voters = np.zeros(len(ends)), np.zeros(len(ends))
    first = 0
    while first < len(ends):
        last = first + 1
        while last < len(ends) and (ends[last] == ends[first]).all():
            last += 1
        best, most, total = first, 0, 0
        for i in range(first, last):
            total += i == first or over[i] != over[i - 1]
            count, latest = 0, last
            for j in range(first, last):
                gap = np.hypot(offsets[i, 0] - offsets[j, 0], offsets[i, 1] - offsets[j, 1])
                if gap <= limit and (latest == last or over[j] != over[latest]):
                    count, latest = count + 1, j
            if count > most:
                best, most = i, count
        for j in range(first, last):
            gap = np.hypot(offsets[best, 0] - offsets[j, 0], offsets[best, 1] - offsets[j, 1])
            if gap <= limit:
                votes[j], voters[j] = most, total
        first = last
    return votes, voters


@njit(nogil=True, cache=True)
def _pairs_of(first, matches, ends, offsets):  # type: ignore[no-untyped-def]
    """List the pairs of matches that meet in a tile; a set of many tiles is passed over.

    Nothing is lost by that: a loop through such a set goes over the sets next to it as well.
    """
    degrees = first[1:] - first[:-1]
    degrees = np.where(degrees > MOST_MEETING, 0, degrees)
    count = (degrees * (degrees - 1) // 2).sum()
    paths, over = np.empty((count, 2), np.int64), np.empty(count, np.int64)
    sums, members = np.empty((count, 2)), np.empty((count, 2), np.int64)
    n = 0
    for tile in range(len(degrees)):
        for i in range(first[tile], first[tile] + degrees[tile]):
            for j in range(i + 1, first[tile] + degrees[tile]):
                one, two = matches[i], matches[j]
                # To the tile by the one, and away from it by the other.
                here, sign_in = ends[one, 0], 1.0
                if here == tile:
                    here, sign_in = ends[one, 1], -1.0
                there, sign_out = ends[two, 1], 1.0
                if there == tile:
                    there, sign_out = ends[two, 0], -1.0
                if here == there:
                    continue
                forward = 1.0 if here < there else -1.0
                paths[n, 0], paths[n, 1], over[n] = min(here, there), max(here, there), tile
                members[n, 0], members[n, 1] = one, two
                for axis in range(2):
                    step = sign_in * offsets[one, axis] + sign_out * offsets[two, axis]
                    sums[n, axis] = forward * step
                n += 1
    return paths[:n], over[:n], sums[:n], members[:n]


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


def _outlier_limit(size: NDArray[np.float64]) -> float:
    """Give the residual beyond which a match is an outlier, in px."""
    # The median length of a two-dimensional normal vector is 1.18 of its standard deviation.
    return OUTLIER_SCALES * max(float(np.median(size)) / 1.18, LEAST_SCALE)


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
