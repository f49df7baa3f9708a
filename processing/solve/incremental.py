"""Keep a montage solved while it is taken: each new match moves only the tiles around it.

What is far from it stays as it is, so an update takes as long in a montage of any size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.points import components, lengths
from processing.solve.bridges import on_loops
from processing.solve.consistent import pick_consistent
from processing.solve.drift import straighten
from processing.solve.least_squares import LeastSquares, misfits
from processing.solve.matches import Matches
from processing.solve.translation import LEAST_SD, Solution, solve

REACH = 6  # how many matches away from a change tiles are solved again
MOST_FREE = 500  # tiles that are solved again at once
SMALL = 30  # tiles of a set that is solved again as a whole
NEARBY = 8  # how many of the nearest tiles say how a new one moved
SETTLE_EVERY = 100  # updates
NEGLIGIBLE = 1e-3  # moves below this are not told, in px


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A montage as far as it was known at one time, for a worker to solve as a whole.

    Attributes
    ----------
    tiles : tuple of int
        The tiles, as they were named in `IncrementalSolver.add_tile`.
    takes, matches : ndarray of int
        What the solver knows tiles and matches by.
    nominal, pairs, offsets, sd
        Arguments of `solve`.
    """

    tiles: tuple[int, ...]
    takes: NDArray[np.intp]
    matches: NDArray[np.intp]
    nominal: NDArray[np.float64]
    pairs: NDArray[np.intp]
    offsets: NDArray[np.float64]
    sd: NDArray[np.float64]

    def solve(self) -> Solution:
        """Solve it; may be done in another process."""
        return solve(self.nominal, self.pairs, self.offsets, self.sd)


class IncrementalSolver:
    """Positions of the tiles of a montage that grows.

    Tiles near a change are solved anew, robustly, as `solve` does it: those on loops of matches
    that close form sets, and what lies farther away moves with its set or not at all. A wrong match
    that is alone is believed until loops speak against it. What only loops longer than the
    neighbourhood tell is found by solving a `snapshot` as a whole, now and then, on a worker:
    `adopt` takes that over while the montage has grown on.

    Examples
    --------
    >>> solver = IncrementalSolver()
    >>> solver.add_tile(0, (0, 0))
    >>> solver.add_tile(1, (0, 900))
    >>> solver.add_match(0, 1, 3.0, 905.0)
    >>> sorted(solver.update())
    [0, 1]
    >>> (a, b) = solver.positions().values()
    >>> round(b[0] - a[0], 3), round(b[1] - a[1], 3)
    (3.0, 905.0)
    """

    def __init__(self) -> None:
        # Tiles by the order in which they came (a take; one that was taken again is a new one), and
        # matches likewise. Arrays grow by doubling; what was removed stays as a gap.
        self._take: dict[int, int] = {}
        self._name: list[int] = []
        self._around: list[list[int]] = []  # matches of each take
        self._nominal, self._positions = np.zeros((64, 2)), np.zeros((64, 2))
        self._set = np.full(64, -1)
        self._sets = 0
        self._match: dict[tuple[int, int], int] = {}
        self._n_matches = 0
        self._ends, self._offsets = np.zeros((64, 2), dtype=np.intp), np.zeros((64, 2))
        self._sd, self._kept = np.ones(64), np.zeros(64, dtype=bool)
        self._changed: set[int] = set()
        self._updates = 0

    def __len__(self) -> int:
        return len(self._take)

    def add_tile(self, index: int, nominal: ArrayLike) -> None:
        """Add a tile; it lies where its nearest neighbours say until matches tell better.

        Parameters
        ----------
        index : int
            Names the tile.
        nominal : (float, float)
            Nominal (row, column) of its first pixel, in px.

        Raises
        ------
        ValueError
            If there is a tile of this name, or the place is not two finite numbers.
        """
        if index in self._take:
            raise ValueError(f"tile {index} is there already; remove it before its retake is added")
        place = np.asarray(nominal, dtype=np.float64)
        if place.shape != (2,) or not np.isfinite(place).all():
            raise ValueError(
                f"the nominal place of tile {index} is {place.tolist()}; it must be (row, column)"
            )
        take = len(self._name)
        for name in ("_nominal", "_positions", "_set"):
            self._reserve(name, take)
        self._nominal[take] = place
        self._positions[take] = place + self._usual_move(place)
        self._set[take] = self._new_sets(1)[0]
        self._take[index] = take
        self._name.append(index)
        self._around.append([])
        self._changed.add(take)

    def add_match(self, a: int, b: int, drow: float, dcol: float, sd: float = 1.0) -> None:
        """Add the measured offset between two tiles, or replace it.

        Parameters
        ----------
        a, b : int
            Names of the tiles.
        drow, dcol : float
            Position of b's first pixel minus that of a's, in px.
        sd : float
            Standard deviation of each, in px.

        Raises
        ------
        KeyError
            If a tile is not there.
        ValueError
            If a tile is matched with itself, or a number is not finite or `sd` negative.
        """
        if a == b or not np.isfinite([drow, dcol, sd]).all() or sd < 0:
            raise ValueError(
                f"the match of tiles {a} and {b} is ({drow}, {dcol}) ± {sd} px; "
                "it must be of two tiles, finite, its sd not negative"
            )
        one, two = self._take_of(a), self._take_of(b)
        pair = min(one, two), max(one, two)
        number = self._match.get(pair)
        if number is None:
            number = self._match[pair] = self._n_matches
            self._n_matches += 1
            for name in ("_ends", "_offsets", "_sd", "_kept"):
                self._reserve(name, number)
            self._around[one].append(number)
            self._around[two].append(number)
        self._ends[number], self._offsets[number] = (one, two), (drow, dcol)
        self._sd[number], self._kept[number] = max(sd, LEAST_SD), False
        self._changed.update(pair)

    def remove_tile(self, index: int) -> None:
        """Remove a tile and its matches, for instance because it is taken again.

        Raises
        ------
        KeyError
            If it is not there.
        """
        take = self._take_of(index)
        del self._take[index]
        for number in self._around[take]:
            one, two = self._ends[number].tolist()
            other = two if one == take else one
            self._around[other].remove(number)
            self._changed.add(other)
            del self._match[min(one, two), max(one, two)]
            self._kept[number] = False
        self._around[take] = []
        self._changed.discard(take)

    def update(self) -> dict[int, tuple[float, float]]:
        """Solve what has changed since the last time.

        Returns
        -------
        dict
            (row, column) in px of the tiles that are new or were moved, by their names.
        """
        before = self._positions[: len(self._name)].copy()
        new = self._changed
        if new:
            self._solve_around(new)
            self._changed = set()
            self._updates += 1
            if self._updates % SETTLE_EVERY == 0:
                self.settle()
        moved = lengths(self._positions[: len(self._name)] - before) > NEGLIGIBLE
        return self._told(sorted(new | set(np.flatnonzero(moved).tolist())))

    def positions(self) -> dict[int, tuple[float, float]]:
        """Give the (row, column) in px of all tiles, by their names."""
        self.update()
        return self._told(self._take.values())

    def settle(self) -> None:
        """Fit all positions at once by the matches that are kept.

        Takes away what little the solutions of neighbourhoods add up to. `update` does it every
        hundred times, which is its slowest kind: it takes 7 ms for 5 000 tiles.
        """
        numbers = np.flatnonzero(self._kept[: self._n_matches])
        # A match between sets may have been believed for want of a better one, far from here.
        sets = self._set[self._ends[numbers]]
        numbers = numbers[sets[:, 0] == sets[:, 1]]
        ends, n_tiles = self._ends[numbers], len(self._name)
        equations = LeastSquares(n_tiles, ends, 1 / self._sd[numbers] ** 2)
        self._positions[:n_tiles] = equations.solve(
            self._positions[:n_tiles], self._offsets[numbers]
        )

    @property
    def outliers(self) -> list[tuple[int, int]]:
        """The pairs of tiles whose matches are held for wrong."""
        self.update()
        return [
            (self._name[one], self._name[two])
            for one, two in self._ends[[n for n in self._match.values() if not self._kept[n]]]
        ]

    def snapshot(self) -> Snapshot:
        """Give all that is known, for a worker to solve."""
        takes = np.array(list(self._take.values()), dtype=np.intp)
        matches = np.array(list(self._match.values()), dtype=np.intp)
        number = np.zeros(len(self._name), dtype=np.intp)
        number[takes] = np.arange(len(takes))
        return Snapshot(
            tuple(self._take),
            takes,
            matches,
            self._nominal[takes],
            number[self._ends[matches]],
            self._offsets[matches],
            self._sd[matches],
        )

    def adopt(self, snapshot: Snapshot, solution: Solution) -> None:
        """Take over the solution of a snapshot; what came since is fitted to it by `update`.

        Parameters
        ----------
        snapshot : Snapshot
            Of this solver.
        solution : Solution
            Of that.
        """
        takes, matches = snapshot.takes, snapshot.matches
        known = np.zeros(len(self._name), dtype=bool)
        known[takes] = True
        # The largest set stays where it is as a whole, so that nothing on a screen jumps.
        shift = (self._positions[takes] - solution.positions)[solution.component == 0]
        self._positions[takes] = solution.positions + np.median(shift, axis=0)
        kept = np.ones(len(matches), dtype=bool)
        kept[list(solution.outliers)] = False
        self._kept[matches] = kept
        pairs = snapshot.pairs[kept]
        blocks = components(len(takes), pairs[on_loops(len(takes), pairs)])
        self._set[takes] = self._new_sets(len(takes))[blocks]
        since = [take for take in self._take.values() if not known[take]]
        self._changed.update(since)
        for take in since:
            for number in self._around[take]:
                self._changed.update(self._ends[number].tolist())

    def _solve_around(self, changed: Iterable[int]) -> None:
        """Solve the tiles near some; sets that reach farther move as a whole or stay."""
        free = self._neighbourhood(changed)
        numbers = np.array(sorted({n for take in free for n in self._around[take]}), dtype=np.intp)
        if not len(numbers):
            return
        ends = self._ends[numbers]
        # A node is a free tile or, beyond them, a whole set.
        node_of = np.full(len(self._name), -1)
        takes = np.array(free, dtype=np.intp)
        self._predict_loose(takes)
        node_of[takes] = np.arange(len(takes))
        outer = np.unique(self._set[ends[node_of[ends] < 0]])
        nodes = node_of[ends]
        beyond = nodes < 0
        nodes[beyond] = len(takes) + np.searchsorted(outer, self._set[ends[beyond]])
        gaps = misfits(ends, self._positions, self._offsets[numbers])
        straight = self._without_drift(takes, numbers, gaps)
        still = np.zeros((len(takes) + len(outer), 2))
        matches = Matches(nodes, straight, self._sd[numbers])
        picked = pick_consistent(
            matches, matches.short_loops(still), still, _as_they_are, thorough=False
        )
        kept, fit = picked.kept, picked.fit
        if straight is not gaps:
            fit = Matches(nodes, gaps, self._sd[numbers]).fit(kept, still)
        self._kept[numbers] = kept
        shifts = self._relative_to_sets(fit.positions, fit.equations.component, outer, takes)
        self._positions[takes] += shifts[: len(takes)]
        for number, shift in zip(outer, shifts[len(takes) :], strict=True):
            if shift.any():
                members = np.flatnonzero(self._set == number)
                self._positions[members[node_of[members] < 0]] += shift
        self._join_sets(nodes[kept], outer, takes)

    def _without_drift(
        self, takes: NDArray[np.intp], numbers: NDArray[np.intp], gaps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how far matches are from where their tiles would lie if nothing drifted.

        Positions bear what drift leaves open, spread over the montage: next to each other, tiles
        may be off by more than matches ever are. So the tiles around are put as their own matches
        have them, without the drift, and matches are judged there.

        Parameters
        ----------
        takes : ndarray of int
            The tiles that are solved again.
        numbers : ndarray of int, shape (m,)
            Their matches.
        gaps : ndarray of float64, shape (m, 2)
            How far these are from where the tiles lie, in px; returned if nothing drifts.
        """
        near = np.union1d(takes, self._ends[numbers])
        place = np.full(len(self._name), -1)
        place[near] = np.arange(len(near))
        beyond = np.setdiff1d(near, takes)
        around = {n for take in beyond.tolist() for n in self._around[take]}
        more = [n for n in around.difference(numbers.tolist()) if (place[self._ends[n]] >= 0).all()]
        numbers = np.append(numbers, np.array(more, dtype=np.intp))
        matches = Matches(place[self._ends[numbers]], self._offsets[numbers], self._sd[numbers])
        straight, _ = straighten(matches, self._nominal[near])
        if straight is matches:
            return gaps
        places = straight.fit(self._kept[numbers], self._positions[near]).positions
        return misfits(straight.ends, places, straight.offsets)[: len(gaps)]

    def _predict_loose(self, takes: NDArray[np.intp]) -> None:
        """Put tiles that no loop ties where the others say: what was believed of them is gone."""
        loose = np.bincount(self._set[: len(self._name)])[self._set[takes]] == 1
        if loose.any() and not loose.all():
            moves = (self._positions - self._nominal)[takes[~loose]]
            self._positions[takes[loose]] = self._nominal[takes[loose]] + np.median(moves, axis=0)
        else:
            self._positions[takes[loose]] = self._nominal[takes[loose]]

    def _relative_to_sets(
        self,
        shifts: NDArray[np.float64],
        component: NDArray[np.intp],
        outer: NDArray[np.intp],
        takes: NDArray[np.intp],
    ) -> NDArray[np.float64]:
        """Hold the largest set of those that were tied together; the others move to it."""
        size = np.bincount(self._set[: len(self._name)], minlength=self._sets)
        # What reaches beyond the neighbourhood comes before what is all within it.
        inner = np.unique(self._set[takes])
        shifts = shifts.copy()
        settled: set[int] = set()
        for number in [*_largest_first(outer, size), *_largest_first(inner, size)]:
            among = np.flatnonzero(self._set[takes] == number)
            k = np.searchsorted(outer, number)
            if k < len(outer) and outer[k] == number:
                among = np.array([len(takes) + k])
            tied = int(component[among[0]])
            if tied not in settled:
                settled.add(tied)
                shifts[component == tied] -= np.median(shifts[among], axis=0)
        return shifts

    def _join_sets(
        self, pairs: NDArray[np.intp], outer: NDArray[np.intp], takes: NDArray[np.intp]
    ) -> None:
        """Give sets that hang together by loops one number, that of the largest."""
        n_nodes = len(takes) + len(outer)
        blocks = components(n_nodes, pairs[on_loops(n_nodes, pairs)])
        size = np.bincount(self._set[: len(self._name)], minlength=self._sets)
        names = self._new_sets(int(blocks.max()) + 1)
        for k in np.argsort(size[outer], kind="stable"):
            names[blocks[len(takes) + k]] = outer[k]  # the largest is last, and stays
        self._set[takes] = names[blocks[: len(takes)]]
        for k, number in enumerate(outer):
            name = names[blocks[len(takes) + k]]
            if name != number:
                self._set[self._set == number] = name

    def _neighbourhood(self, changed: Iterable[int]) -> list[int]:
        """List the takes that are up to `REACH` matches away from some.

        Tiles of small sets do not count as steps: a loop over several of them may be long.
        """
        sets = self._set[: len(self._name)]
        loose = np.bincount(sets)[sets] < SMALL
        distance = dict.fromkeys(changed, 0)
        queue = deque(distance)
        done: set[int] = set()
        while queue and len(done) < MOST_FREE:
            take = queue.popleft()
            if take in done:
                continue
            done.add(take)
            for number in self._around[take]:
                for other in self._ends[number].tolist():
                    away = distance[take] + (not loose[other])
                    if away <= REACH and away < distance.get(other, REACH + 1):
                        distance[other] = away
                        (queue.append if away > distance[take] else queue.appendleft)(other)
        return sorted(done)

    def _usual_move(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give how far the nearest tiles are from their nominal places."""
        takes = np.array(list(self._take.values()), dtype=np.intp)
        if not len(takes):
            return np.zeros(2)
        away = lengths(self._nominal[takes] - place)
        if len(takes) > NEARBY:
            takes = takes[np.argpartition(away, NEARBY)[:NEARBY]]
        return np.asarray(np.median(self._positions[takes] - self._nominal[takes], axis=0))

    def _take_of(self, index: int) -> int:
        take = self._take.get(index)
        if take is None:
            raise KeyError(f"there is no tile {index}; {len(self._take)} tiles were added")
        return take

    def _new_sets(self, count: int) -> NDArray[np.intp]:
        self._sets += count
        return np.arange(self._sets - count, self._sets)

    def _told(self, takes: Iterable[int]) -> dict[int, tuple[float, float]]:
        present = [take for take in takes if self._take.get(self._name[take]) == take]
        places = self._positions[present].tolist()
        return {
            self._name[take]: (row, column)
            for take, (row, column) in zip(present, places, strict=True)
        }

    def _reserve(self, name: str, index: int) -> None:
        """Double an array if it ends before an index."""
        array = getattr(self, name)
        if index >= len(array):
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


def _largest_first(sets: NDArray[np.intp], size: NDArray[np.intp]) -> list[int]:
    return [int(number) for number in sets[np.argsort(-size[sets], kind="stable")]]


def _as_they_are(
    positions: NDArray[np.float64], _: NDArray[np.intp]
) -> tuple[NDArray[np.float64], float]:
    """Leave tiles that no loop ties where they are: where their neighbours predicted them."""
    return positions, np.inf
