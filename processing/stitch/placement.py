"""How tiles really lie: by matching a few neighbours in a wide search, before all are matched.

What is planned may be wrong in a common way: an overlap that nobody tells, rows that run upwards or
are columns, a pixel size that is off. And it tells how far the stage strays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.matching import Match, MatchTile, match, prepare
from processing.stitch.matching import Pair, ReadTile, processors, split_mask, worker_threads
from processing.stitch.neighbours import is_below, neighbours

BATCH = 8  # pairs of one direction that are tried at a time
MIN_GOOD, MAX_TRIED = 6, 40  # matches that are enough, and pairs that are tried, of one direction
MIN_NEAR = 0.25  # share of the pairs tried that match where planned, if the plan is right
MIN_AGREEING = 0.6  # share of the matches that one map from planned to found steps has to explain
NEAR = 0.25  # of the tile's shorter side, by which a plan that is right may be off
# A search at any side of a tile, as a share of the side: its middle, and how far from there. Of the
# overlaps of 2 to 80 % that are looked for, less is usual, but not of lens series.
ANYWHERE, REACH_ANYWHERE = 0.6, 0.4
SAME = 0.1  # of the tile's shorter side, up to which two steps are one
STRAYS, MARGIN = 3.0, 16.0  # times the greatest stray that was seen, and px, that are searched
MIN_CHANGE = 8.0  # px by which found steps differ from planned ones before the plan is changed


class PlacementError(ValueError):
    """Nothing tells where tiles lie; the message says what was tried."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where tiles lie, and how surely.

    Attributes
    ----------
    nominal : ndarray of float64, shape (n, 2)
        (row, column) of each tile's first pixel, in px.
    cells : ndarray of int, shape (n, 2)
        (row, column) in the grid, rows downwards and columns to the right.
    pairs : ndarray of int, shape (m, 2)
        The neighbours, as `neighbours` gives them.
    reach : float
        How far a neighbour may lie from nominal, along each axis, in px.
    matrix : ndarray of float64, shape (2, 2)
        What took planned places to these: planned px, or grid steps of one tile, to px.
    tried, matched : int
        Pairs.
    """

    nominal: NDArray[np.float64]
    cells: NDArray[np.intp]
    pairs: NDArray[np.intp]
    reach: float
    matrix: NDArray[np.float64]
    tried: int
    matched: int

    @property
    def swapped(self) -> bool:
        """Whether planned rows are columns."""
        return bool((np.abs(_axes(self.matrix)) == [[0, 1], [1, 0]]).all())

    @property
    def reversed(self) -> tuple[bool, bool]:
        """Whether planned rows, and planned columns, run against the pixels."""
        down, right = _axes(self.matrix).sum(axis=0) < 0
        return bool(down), bool(right)

    @property
    def scale(self) -> float:
        """How long steps are over planned ones."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix))))

    @property
    def turn(self) -> float:
        """By how much steps are turned beyond right angles, counter-clockwise, in degrees."""
        left = self.matrix @ np.linalg.inv(_axes(self.matrix))
        return math.degrees(math.atan2(left[1, 0] - left[0, 1], left[0, 0] + left[1, 1]))

    def overlaps(self, shape: tuple[int, int]) -> tuple[float, float]:
        """Return the median overlap of neighbours below and beside each other, in %; NaN if none.

        Parameters
        ----------
        shape : (int, int)
            (height, width) of a tile, in px.
        """
        steps = self.nominal[self.pairs[:, 1]] - self.nominal[self.pairs[:, 0]]
        below = is_below(steps, shape)
        shares = [
            1 - np.abs(steps[chosen, axis]) / shape[axis]
            for axis, chosen in enumerate((below, ~below))
        ]
        down, across = (100 * float(np.median(one)) if len(one) else math.nan for one in shares)
        return down, across


def find_placement(
    read: ReadTile,
    cells: ArrayLike,
    shape: tuple[int, int],
    nominal: ArrayLike | None = None,
    *,
    reach: float | None = None,
    workers: int | None = None,
) -> Placement:
    """Find how the tiles of a montage lie, by some pairs of neighbours.

    These are matched near where they should be. If hardly any match, or nothing tells where they
    should be, they are looked for on all four sides; and if these matches agree on one map from
    planned steps to found ones, it is taken.

    Parameters
    ----------
    read : callable
        See `ReadTile`. Called on several threads at once.
    cells : array_like of int, shape (n, 2)
        (row, column) of each tile in the grid.
    shape : (int, int)
        (height, width) of a tile, in px.
    nominal : array_like, shape (n, 2), optional
        Where each tile should lie: (row, column) of its first pixel, in px. If it is left out, or
        holds NaN, the cells alone tell it.
    reach : float, optional
        How far a neighbour may lie from nominal, along each axis, in px; by default as far as those
        that were matched let expect.
    workers : int, optional
        Threads; by default one for each processor.

    Returns
    -------
    Placement

    Raises
    ------
    PlacementError
        If nothing tells where tiles lie: no nominal places, and too few pairs that match.
    """
    grid = np.asarray(cells, dtype=np.intp).reshape(-1, 2)
    places = None if nominal is None else np.asarray(nominal, dtype=float).reshape(-1, 2)
    if places is not None and not np.isfinite(places).all():
        places = None
    by_cells = grid * np.asarray(shape, dtype=float)
    planned = by_cells if places is None else places
    trial = _Trial(read, planned, shape, max(NEAR * min(shape), reach or 0.0))
    sample = _sample(planned, by_cells, shape)
    if not any(sample):
        return _as_planned(planned, grid, shape, _Found.none(), reach or 0.0)
    near, anywhere = _Found.none(), _Found.none()
    with worker_threads(workers or processors()) as pool:
        if places is not None:
            by_direction = [_try(pool, pairs, trial.near) for pairs in sample]
            near = _Found.joined(by_direction)
            if all(one.share >= MIN_NEAR for one in by_direction if one.tried):
                return _placed(planned, grid, shape, near, reach)
        anywhere = _Found.joined([_try(pool, pairs, trial.anywhere) for pairs in sample])
    if anywhere.good > near.good and anywhere.map(planned, shape) is not None:
        return _placed(planned, grid, shape, anywhere, reach)
    if places is None:
        raise PlacementError(
            f"of {anywhere.tried} pairs of neighbours that were looked at, {anywhere.good} match, "
            "and not alike, so the overlap cannot be found: give it, or positions"
        )
    if near.good:
        return _placed(planned, grid, shape, near, reach)
    return _as_planned(planned, grid, shape, near, trial.reach)


@dataclass(frozen=True, eq=False)
class _Found:
    """The pairs that were tried, and where those lie that match.

    Attributes
    ----------
    tried : int
    pairs : ndarray of int, shape (k, 2)
    steps : ndarray of float64, shape (k, 2)
        Position of the second tile minus that of the first, in px.
    """

    tried: int
    pairs: NDArray[np.intp]
    steps: NDArray[np.float64]

    @classmethod
    def none(cls) -> _Found:
        """Return what is found where nothing was tried."""
        return cls(0, np.empty((0, 2), np.intp), np.empty((0, 2)))

    @classmethod
    def joined(cls, parts: Sequence[_Found]) -> _Found:
        """Return what is found in several parts of a sample."""
        pairs, steps = ([getattr(one, name) for one in parts] for name in ("pairs", "steps"))
        return cls(sum(one.tried for one in parts), np.concatenate(pairs), np.concatenate(steps))

    @property
    def good(self) -> int:
        """How many pairs match."""
        return len(self.pairs)

    @property
    def share(self) -> float:
        """Share of the pairs that match."""
        return self.good / self.tried if self.tried else 0.0

    def map(
        self, planned: NDArray[np.float64], shape: tuple[int, int]
    ) -> NDArray[np.float64] | None:
        """Return the matrix from planned steps to found ones; None if they agree on none.

        It takes the median step of each direction; a direction that no match tells is taken to
        stand upright on the other, as long in tiles.
        """
        if not self.good:
            return None
        ends = planned[self.pairs]
        steps = ends[:, 1] - ends[:, 0]
        below = is_below(steps, shape)
        told = [np.median(steps[chosen], axis=0) for chosen in (below, ~below) if chosen.any()]
        seen = [np.median(self.steps[chosen], axis=0) for chosen in (below, ~below) if chosen.any()]
        if len(told) == 1:
            told.append(_upright(told[0], shape))
            seen.append(_upright(seen[0], shape))
        if np.linalg.matrix_rank(told) < 2:
            return None  # what is planned lies on a line
        matrix = np.array(seen).T @ np.linalg.inv(np.array(told).T)
        off = np.abs(self.steps - steps @ matrix.T).max(axis=1)
        agreeing = np.mean(off <= SAME * min(shape))
        return matrix if agreeing >= MIN_AGREEING else None


def _upright(step: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the step that stands upright on another, in tiles, turned as rows are on columns."""
    down, right = step / shape
    return np.array([-right, down]) * shape


@dataclass(frozen=True)
class _Trial:
    """Matches single pairs of whole tiles in a wide search."""

    read: ReadTile
    planned: NDArray[np.float64]
    shape: tuple[int, int]
    reach: float

    def near(self, pair: Pair) -> Match | None:
        """Match a pair near where it is planned; None if it does not match."""
        a, b = self._prepared(pair)
        down, right = self.planned[pair[1]] - self.planned[pair[0]]
        found = match(a, b, (float(down), float(right)), self.reach)
        return found if found.good else None

    def anywhere(self, pair: Pair) -> Match | None:
        """Match a pair at whatever side; None if it matches at none."""
        a, b = self._prepared(pair)
        height, width = self.shape
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            middle = ANYWHERE * down * height, ANYWHERE * right * width
            found = match(a, b, middle, REACH_ANYWHERE * (height if down else width))
            if found.good:
                return found
        return None

    def _prepared(self, pair: Pair) -> tuple[MatchTile, MatchTile]:
        first, second = (prepare(*split_mask(self.read(tile))) for tile in pair)
        return first, second


def _sample(
    planned: NDArray[np.float64], by_cells: NDArray[np.float64], shape: tuple[int, int]
) -> list[list[Pair]]:
    """Return pairs below and beside each other, each in an order that is spread out.

    A direction in which no neighbours are planned may have some by the grid: plans are wrong.
    """
    sample: list[list[Pair]] = [[], []]
    lot = np.random.default_rng(0)
    for places in (planned, by_cells):
        pairs = neighbours(places, shape)
        below = is_below(planned[pairs[:, 1]] - planned[pairs[:, 0]], shape)
        for direction, chosen in zip(sample, (below, ~below), strict=True):
            if not direction:
                direction += [(a, b) for a, b in lot.permutation(pairs[chosen]).tolist()]
    return [direction[:MAX_TRIED] for direction in sample]


def _try(
    pool: ThreadPoolExecutor, sample: Sequence[Pair], try_pair: Callable[[Pair], Match | None]
) -> _Found:
    """Match pairs, some at a time, until enough are good."""
    tried = 0
    good: dict[Pair, Match] = {}
    while tried < len(sample) and len(good) < MIN_GOOD:
        batch = sample[tried : tried + BATCH]
        found = zip(batch, pool.map(try_pair, batch), strict=True)
        good |= {pair: match for pair, match in found if match is not None}
        tried += len(batch)
    pairs = np.array(list(good), dtype=np.intp).reshape(-1, 2)
    steps = np.array([(match.drow, match.dcol) for match in good.values()]).reshape(-1, 2)
    return _Found(tried, pairs, steps)


def _as_planned(
    planned: NDArray[np.float64],
    cells: NDArray[np.intp],
    shape: tuple[int, int],
    found: _Found,
    reach: float,
) -> Placement:
    pairs = neighbours(planned, shape)
    return Placement(planned, cells, pairs, reach, np.eye(2), found.tried, found.good)


def _placed(
    planned: NDArray[np.float64],
    cells: NDArray[np.intp],
    shape: tuple[int, int],
    found: _Found,
    reach: float | None,
) -> Placement:
    """Return the placement that matches tell; the planned one if it is as good."""
    steps = planned[found.pairs[:, 1]] - planned[found.pairs[:, 0]]
    matrix = found.map(planned, shape)
    by_plan = float(np.median(np.linalg.norm(found.steps - steps, axis=1)))
    if matrix is not None:
        by_map = float(np.median(np.linalg.norm(found.steps - steps @ matrix.T, axis=1)))
        if by_plan < max(MIN_CHANGE, 2 * by_map):
            matrix = None
    if matrix is None:
        matrix = np.eye(2)
    strays = np.abs(found.steps - steps @ matrix.T).max(axis=1)
    usual = strays[strays <= max(SAME * min(shape), float(np.median(strays)))]
    expected = NEAR * min(shape)
    if found.good >= MIN_GOOD:
        expected = min(STRAYS * float(usual.max()) + MARGIN, expected)
    nominal = planned @ matrix.T
    turned = cells @ _axes(matrix).T
    return Placement(
        nominal,
        turned - turned.min(axis=0),
        neighbours(nominal, shape),
        expected if reach is None else reach,
        matrix,
        found.tried,
        found.good,
    )


def _axes(matrix: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the turn by right angles, with mirroring, that is nearest to a matrix."""
    is_direct = abs(matrix[0, 0]) + abs(matrix[1, 1]) >= abs(matrix[0, 1]) + abs(matrix[1, 0])
    kept = np.eye(2, dtype=bool) if is_direct else ~np.eye(2, dtype=bool)
    return np.where(kept, np.sign(matrix), 0).astype(np.intp)
