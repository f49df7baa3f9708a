"""Tell right matches from wrong ones: right ones close loops, wrong ones do so by chance only.

Matches on short loops that close tie tiles to sets; matches between sets, again on loops, tie
those together; and so on. What no loop tells, the stage must.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.points import components
from processing.solve.apart import PlaceApart
from processing.solve.bridges import overruled
from processing.solve.closing import MIN_NOISE, USUAL_LIMIT, closing_limit, noise_scale
from processing.solve.judge import Judge, differ
from processing.solve.least_squares import misfits
from processing.solve.loops import Loops, between_many, contract, drop_inner, find_loops, grow, join
from processing.solve.matches import Fit, Matches

LEAST_SCALE = 0.15  # the least standard deviation that right matches are taken to have, in px
LONGEST = 4, 6, 10  # matches of the loops of sets of tiles that are looked for, in turn
VERY_LONG = 12, 16  # and in the end, once, if that is asked for
MOST_BY_CHANCE = 0.01  # loops that may close by chance, relative to those found
MAX_CORRECTED = 5  # how often ties by the stage are


@dataclass(frozen=True, eq=False)
class Picked:
    """The matches that bear each other out.

    Attributes
    ----------
    kept : ndarray of bool, shape (m,)
        Whether each does.
    fit : Fit
        By those kept.
    closing : ndarray of bool, shape (m,)
        Whether each is on a short loop that closes.
    """

    kept: NDArray[np.bool_]
    fit: Fit
    closing: NDArray[np.bool_]


def pick_consistent(
    matches: Matches,
    loops: Loops,
    start: NDArray[np.float64],
    place_apart: PlaceApart,
    *,
    thorough: bool = True,
) -> Picked:
    """Pick the matches that bear each other out, and solve by them.

    Parameters
    ----------
    matches : Matches
        Without drift: see `straighten`.
    loops : Loops
        The short ones of them, whether they close or not.
    start : ndarray of float64, shape (n, 2)
        Nominal positions, in px.
    place_apart : callable
        Tells where sets of tiles apart from the largest should be; see `PlaceApart`.
    thorough : bool
        Whether to look for very long loops in the end.

    Returns
    -------
    Picked
    """
    noise = np.maximum(noise_scale(loops, matches.sd) * matches.sd, MIN_NOISE)
    scales = closing_limit(loops, noise)
    usual, limits = scales * noise, scales * np.maximum(noise, LEAST_SCALE)
    closed = loops.gaps <= loops.root_sum(limits)
    judge = Judge(matches, start, limits, loops.select(closed), loops.select(~closed))
    if closed.all():  # nothing speaks against matches on no loop either
        picked = np.ones(len(matches), dtype=bool)
    else:
        picked = loops.select(loops.gaps <= loops.root_sum(usual)).votes(len(matches)) > 0
    closing = judge.closed.votes(len(matches)) > 0
    picked, fit = judge.without_outliers(picked)
    if picked.all():
        return Picked(picked, fit, closing)
    # Gaps spread evenly over a disc have half their number within 0.7 of its radius.
    spread = float(np.median(loops.gaps[~closed])) / 0.7 if not closed.all() else np.inf
    sets = _Sets(matches, picked, fit, limits)
    _tie_sets(sets, usual, spread)
    _tie_sets(sets, limits, spread)
    if thorough and any(sets.tie_by_loops(longest, usual, spread) for longest in VERY_LONG):
        _tie_sets(sets, limits, spread)
    ties = _StageTies(matches, sets.picked, *place_apart(*sets.placed()), limits)
    ties.tie()
    ties.correct()
    picked, fit = judge.close_slits(*judge.without_outliers(ties.picked, take_back=True))
    return Picked(picked, fit, closing)


def _tie_sets(sets: _Sets, limits: NDArray[np.float64], spread: float) -> None:
    """Tie sets by ever longer loops: fewer of the short ones close by chance."""
    sets.grow(limits)
    k = 0
    while k < len(LONGEST):
        k = 0 if sets.tie_by_loops(LONGEST[k], limits, spread) else k + 1


class _Sets:
    """Sets of tiles that hang together, and the matches between them that may tie them further.

    Parameters
    ----------
    matches : Matches
    picked : ndarray of bool, shape (m,)
        The matches that make the sets.
    fit : Fit
        By those.
    limits : ndarray of float64, shape (m,)
        How far off each match may be, in px.
    """

    def __init__(
        self,
        matches: Matches,
        picked: NDArray[np.bool_],
        fit: Fit,
        limits: NDArray[np.float64],
    ) -> None:
        self.picked = picked.copy()
        self._matches, self._fit = matches, fit
        first = fit.equations.component
        self._count = int(first.max()) + 1
        self._now = np.arange(self._count)  # what has become of each set that there was first
        self._moves = np.zeros((self._count, 2))
        self._index = np.arange(len(matches))
        self._ends, self._limits = first[matches.ends], limits.copy()
        self._gaps = misfits(matches.ends, fit.positions, matches.offsets)
        self._drop_inner()

    def grow(self, limits: NDArray[np.float64]) -> None:
        """Tie sets that two or more matches agree on, each to be off by so much, in px."""
        self._tie(*grow(self._ends, self._gaps, limits[self._index], self._count))

    def tie_by_loops(self, longest: int, limits: NDArray[np.float64], spread: float) -> bool:
        """Tie sets by loops of up to so many matches; tell whether there were any.

        Wrong loops are open by up to `spread`, in px.
        """
        within = limits[self._index]
        some = np.flatnonzero(between_many(self._ends, self._count))
        nowhere = np.zeros((self._count, 2))  # sets have no one place
        loops = find_loops(
            nowhere, self._ends[some], self._gaps[some], within[some], longest
        ).of_matches(some)
        sure = loops.surer_than_chance(spread, MOST_BY_CHANCE).surest_first(within)
        if not len(sure):
            return False
        self._tie(*join(sure.members, self._ends, self._gaps, within, self._count))
        self.grow(limits)
        return True

    def placed(self) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Give the positions of the tiles, and the number of the set of each, the largest 0."""
        positions = self._fit.positions + self._moves[self._fit.equations.component]
        return positions, components(len(positions), self._matches.ends[self.picked])

    def _tie(
        self, taken: NDArray[np.bool_], root: NDArray[np.int64], shift: NDArray[np.float64]
    ) -> None:
        self.picked[self._index[taken]] = True
        self._moves += shift[self._now]
        number, self._count = contract(self._ends, self._gaps, root, shift)
        self._now = number[self._now]
        self._drop_inner()

    def _drop_inner(self) -> None:
        """Pick the matches within a set that fit; those within a set tie nothing any more."""
        count = drop_inner(self._index, self._ends, self._gaps, self._limits, self.picked)
        self._index, self._ends = self._index[:count], self._ends[:count]
        self._gaps, self._limits = self._gaps[:count], self._limits[:count]


class _StageTies:
    """Ties sets by what the stage tells, until two matches that agree tell otherwise.

    Parameters
    ----------
    matches : Matches
    picked : ndarray of bool, shape (m,)
        The matches that make the sets.
    positions : ndarray of float64, shape (n, 2)
        With sets apart from the largest where the stage says, in px.
    stage_sd : float
        How far off that is, in px.
    limits : ndarray of float64, shape (m,)
        How far off each match may be, in px.
    """

    def __init__(
        self,
        matches: Matches,
        picked: NDArray[np.bool_],
        positions: NDArray[np.float64],
        stage_sd: float,
        limits: NDArray[np.float64],
    ) -> None:
        self.picked = picked.copy()
        self._matches, self._positions, self._limits = matches, positions, limits
        self._doubts = matches.sizes(positions)
        self._farthest = limits + USUAL_LIMIT * stage_sd

    def tie(self) -> None:
        """Pick from the matches that no loop bears out those nearest to what the stage tells.

        One that is farther from that than the stage is ever off is not picked.
        """
        likely = np.flatnonzero(~self.picked & (self._doubts <= self._farthest))
        self._join(likely[np.argsort(self._doubts[likely], kind="stable")])

    def correct(self) -> None:
        """Take back those that two matches overrule: sets tied to each other have more of them."""
        for _ in range(MAX_CORRECTED):
            gaps = misfits(self._matches.ends, self._positions, self._matches.offsets)
            wrong, right = overruled(
                self._matches.ends, gaps, self._limits, self.picked, self._doubts
            )
            if not wrong.any():
                return
            self.picked &= ~wrong
            self._join(np.flatnonzero(right))

    def _join(self, which: NDArray[np.intp]) -> None:
        """Tie sets by matches, one after the other."""
        labels = components(len(self._positions), self._matches.ends[self.picked])
        apart = which[differ(labels[self._matches.ends[which]])]
        ends = self._matches.ends[apart]
        taken, _, shift = join(
            np.arange(len(apart))[:, None],
            labels[ends],
            misfits(ends, self._positions, self._matches.offsets[apart]),
            self._limits[apart],
            int(labels.max()) + 1,
        )
        self.picked[apart[taken]] = True
        self._positions = self._positions + shift[labels]
