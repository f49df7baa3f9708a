"""Decides which tiles of a montage are matched when, and keeps their edges until then.

An edge is let go as soon as it is matched, so what is kept is one row of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from callbacks.jobs import Priority, RunJobs
from callbacks.montage_tiles import Take, TileGrid
from callbacks.tile_jobs import ProcessedTile, ProcessorSettings, match_tiles, read_edges
from processing.matching import Match, MatchTile, Side

logger = logging.getLogger(__name__)

Matched = Callable[[Take, Take, tuple[float, float], Match | None, Exception | None], None]


class TileMatcher:
    """The takes of a montage that count, and the matches between them.

    Parameters
    ----------
    grid : TileGrid
    jobs : RunJobs
    settings : ProcessorSettings
    matched : callable
        Told of each match, also of one with a take that was replaced meanwhile: both takes, that of
        the lower index first, their nominal offset, and the match or the error.

    Attributes
    ----------
    takes : dict of int to Take
        The last of each tile, by its index.
    matches : dict of (int, int) to Match
        Between these, by their indices, the lower one first.
    """

    def __init__(
        self, grid: TileGrid, jobs: RunJobs, settings: ProcessorSettings, matched: Matched
    ) -> None:
        self._grid, self._jobs, self._settings, self._tell = grid, jobs, settings, matched
        self.takes: dict[int, Take] = {}
        self.matches: dict[tuple[int, int], Match] = {}
        self._matching: set[tuple[Take, Take]] = set()
        self._ready: set[int] = set()  # tiles whose last take is processed and can be matched

    def add(self, take: Take) -> None:
        """Take in a take; it replaces an earlier one of its tile."""
        if take.index in self.takes:
            self.takes[take.index].edges.clear()
            self._ready.discard(take.index)
            for side_and_index in self._grid.neighbours(take):
                self.matches.pop(_ordered(take.index, side_and_index[1]), None)
        self.takes[take.index] = take

    def is_current(self, take: Take) -> bool:
        """Tell whether a take has not been replaced."""
        return self.takes.get(take.index) is take

    def match(self, take: Take, result: ProcessedTile) -> None:
        """Match a take that is processed with its neighbours, as far as they are."""
        if self.is_current(take):
            take.edges = dict(result.edges)
            self._ready.add(take.index)
            self._match_neighbours(take)

    def clear(self) -> None:
        """Let all edges go that are left."""
        for take in self.takes.values():
            take.edges.clear()

    def _match_neighbours(self, take: Take) -> None:
        for side, index, its_side in self._grid.neighbours(take):
            if index not in self._ready or self._is_matched(take, self.takes[index]):
                continue
            other = self.takes[index]
            if side in take.edges and its_side in other.edges:
                self._match(take, side, other, its_side)
            elif its_side not in other.edges and other.task is not None and take.edges:
                # It was let go when it was matched with an earlier take of this tile.
                self._jobs.submit(
                    partial(self._have_edges, other), read_edges, other.task, self._settings
                )

    def _is_matched(self, take: Take, other: Take) -> bool:
        """Tell whether two takes are matched or about to be."""
        first, second = _pair(take, other)
        return (first, second) in self._matching or (first.index, second.index) in self.matches

    def _have_edges(
        self, take: Take, edges: dict[Side, MatchTile] | None, error: Exception | None
    ) -> None:
        """Go on with edges that were read again."""
        if edges is None:
            logger.warning("tile %d could not be read again: %s", take.index, error)
        elif self.is_current(take):
            for side, index, _ in self._grid.neighbours(take):
                other = self.takes.get(index)
                if other is None or not self._is_matched(take, other):
                    take.edges[side] = edges[side]
            self._match_neighbours(take)

    def _match(self, take: Take, side: Side, other: Take, its_side: Side) -> None:
        mine, its = take.edges.pop(side), other.edges.pop(its_side)
        first, second = _pair(take, other)
        edges = (mine, its) if first is take else (its, mine)
        nominal = self._grid.offset(first, second)
        self._matching.add((first, second))
        self._jobs.submit(
            partial(self._matched, first, second, nominal),
            match_tiles,
            *edges,
            nominal,
            self._settings,
            priority=Priority.URGENT,
        )

    def _matched(
        self,
        a: Take,
        b: Take,
        nominal: tuple[float, float],
        match: Match | None,
        error: Exception | None,
    ) -> None:
        self._matching.discard((a, b))
        if match is None:
            logger.warning("tiles %d and %d could not be matched: %s", a.index, b.index, error)
        elif self.is_current(a) and self.is_current(b):
            self.matches[a.index, b.index] = match
        self._tell(a, b, nominal, match, error)


def _pair(take: Take, other: Take) -> tuple[Take, Take]:
    """Put two takes in the order of their indices."""
    return (take, other) if take.index < other.index else (other, take)


def _ordered(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
