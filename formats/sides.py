"""Decides on which side of a tile each matcher entry is, and which way a file's grid counts.

Versions of TilEM and TEMCA differ, and no file says which it is; what closes its loops tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from formats.loops_of_four import GridIndex, loop_sums

Key = TypeVar("Key")
# (rows, columns) from a tile to the neighbour on that side, where rows count downwards.
SIDES = {"left": (0, -1), "right": (0, 1), "top": (-1, 0), "bottom": (1, 0)}
# What entries call the side on which the neighbour lies. TEMCA's numbers are those of `em_stitch`
# (AllenInstitute), 0 an invalid entry and 1 the middle; TilEM's messages have names.
CONVENTIONS: Mapping[str, Mapping[str, str]] = {
    "TEMCA": {"2": "left", "3": "top", "4": "right", "5": "bottom"},
    "clockwise from the top": {"0": "top", "1": "right", "2": "bottom", "3": "left"},
}
NAMES = {name: name for name in SIDES}
WAYS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # rows and columns may count
ORDER = ("left", "top", "bottom", "right")  # in which sides get their signs
ENOUGH = 5  # loops, or entries, from which on they tell something
BEST_SHARE = 0.25  # of the loops, the best, that a reading is judged by: others hold wrong matches
CLEARLY = 0.7  # a reading has to be better than the usual one by this to be taken instead
MAX_STRAYS = 0.2  # share of the entries whose neighbour is not there, in a reading that is right


@dataclass(frozen=True, eq=False)
class Entries:
    """All matcher entries of a file, k of them.

    Attributes
    ----------
    tile : ndarray of int, shape (k,)
        Whose entry it is.
    code : ndarray of str, shape (k,)
        What the entry calls the side; empty if it does not tell one.
    told : ndarray of int, shape (k,)
        Index of the tile at the row and column that the entry names, else −1.
    d : ndarray of float64, shape (k, 2)
        (dY, dX), NaN if there is none.
    step : ndarray of float64, shape (k, 2)
        Median of p − q, (rows, columns) in px; NaN if there is no point.
    sd, quality : ndarray of float64, shape (k,)
    matched : ndarray of bool, shape (k,)
    points : tuple of ndarray of float64, shape (p, 4)
        [row, column] of q, and of p.
    side : ndarray of int, shape (k, 2)
        (rows, columns) to the neighbour if rows count downwards and columns to the right; 0 if
        that is not known.
    """

    tile: NDArray[np.intp]
    code: NDArray[np.str_]
    told: NDArray[np.intp]
    d: NDArray[np.float64]
    step: NDArray[np.float64]
    sd: NDArray[np.float64]
    quality: NDArray[np.float64]
    matched: NDArray[np.bool_]
    points: tuple[NDArray[np.float64], ...]
    side: NDArray[np.intp]

    @property
    def by_points(self) -> NDArray[np.bool_]:
        """Whose offset the points tell."""
        return np.asarray(self.matched & np.isfinite(self.step).all(axis=1))

    @property
    def by_d(self) -> NDArray[np.bool_]:
        """Whose offset dX and dY tell."""
        return np.asarray(self.matched & np.isfinite(self.d).all(axis=1))

    def pitch(self) -> NDArray[np.float64]:
        """Return the distance between rows and columns, in px, by the points; NaN if none tells."""
        pitch = np.full(2, np.nan)
        steps = np.abs(self.step[self.by_points])
        for axis in (0, 1):
            along = steps[:, axis] > steps[:, 1 - axis]
            if along.any():
                pitch[axis] = np.median(steps[along, axis])
        return pitch

    def on(self, name: str) -> NDArray[np.bool_]:
        """Return which are on a side."""
        return np.asarray((self.side == SIDES[name]).all(axis=1))

    def named_by(self, names: Mapping[str, str]) -> Entries:
        """Return the same with the sides that their codes have by some names."""
        side = np.zeros((len(self.code), 2), dtype=np.intp)
        for code, name in names.items():
            side[self.code == code] = SIDES[name]
        return replace(self, side=side)

    def neighbours(
        self, steps: tuple[int, int], cells: NDArray[np.intp], index: GridIndex
    ) -> NDArray[np.intp]:
        """Return the index of each entry's neighbour, −1 if it has none or it is not known."""
        there = index.find(cells[self.tile] + self.side * np.array(steps))
        there = np.where((self.side != 0).any(axis=1), there, -1)
        return np.where(self.told >= 0, self.told, there)


class Reading(NamedTuple):
    """How the sides of entries are to be read.

    Attributes
    ----------
    entries : Entries
        With their sides.
    steps : (int, int)
        1 if the grid's rows count downwards, and its columns to the right; else −1.
    flip : float
        1 if p is in the neighbour, −1 if it is in the tile itself, 0 if that is not known.
    signs : ndarray of float64, shape (k,)
        By which dX and dY of each entry have to be taken, to be of one sign on all sides.
    note : str
        What the sides were found to be; empty if they have names.
    """

    entries: Entries
    steps: tuple[int, int]
    flip: float
    signs: NDArray[np.float64]
    note: str


def find_sides(entries: Entries, cells: NDArray[np.intp], by_stage: NDArray[np.float64]) -> Reading:
    """Find on which side of its tile each entry is, and which way the grid counts.

    Round loops of four neighbours the offsets add up to nothing, whatever the stage did, if the
    neighbours are those that are meant. Where entries hold points, these tell the side by where
    they are in the two tiles, whatever the entry calls it. Rows and columns that an entry names
    are its neighbour's, or the tile's own, and then tell nothing.

    Parameters
    ----------
    entries : Entries
        Without sides.
    cells : ndarray of int, shape (n, 2)
    by_stage : ndarray of float64, shape (n, 2)
        Places by the stage, in px, NaN if not known.

    Returns
    -------
    Reading
    """
    entries = _without_own_places(entries)
    grid = _Grid(cells, GridIndex(cells), by_stage)
    codes = set(entries.code.tolist()) - {""}
    tables = {"": NAMES} if codes <= NAMES.keys() else CONVENTIONS
    tables = {name: one for name, one in tables.items() if codes & one.keys()} or dict(tables)
    read = _by_points(entries, tables, grid) or _by_codes(entries, tables, grid)
    entries, steps, flip, table = read
    note = f"{table}{': ' * bool(table)}{_told_sides(entries)}" * ("" not in tables)
    return Reading(entries, steps, flip, _signs(entries, steps, grid), note)


class _Grid(NamedTuple):
    """Tiles by their rows and columns, and where the stage has them."""

    cells: NDArray[np.intp]
    lookup: GridIndex
    by_stage: NDArray[np.float64]

    def misclosure(
        self,
        entries: Entries,
        steps: tuple[int, int],
        values: NDArray[np.float64],
    ) -> float:
        """Return how far the best loops of a reading are open, in px; infinite if there are few."""
        others = entries.neighbours(steps, self.cells, self.lookup)
        usable = entries.matched & np.isfinite(values).all(axis=1) & (others >= 0)
        sums = loop_sums(self.cells, entries.tile[usable], others[usable], values[usable])
        return float(np.quantile(sums, BEST_SHARE)) if len(sums) >= ENOUGH else np.inf


def _without_own_places(entries: Entries) -> Entries:
    """Forget the rows and columns that entries name, where these are the tile's own."""
    own = entries.told == entries.tile
    if own.sum() > (entries.told >= 0).sum() / 2:
        return replace(entries, told=np.full_like(entries.told, -1))
    return replace(entries, told=np.where(own, -1, entries.told))


_Found = tuple[Entries, tuple[int, int], float, str]


def _by_points(
    entries: Entries, tables: Mapping[str, Mapping[str, str]], grid: _Grid
) -> _Found | None:
    """Find sides by where points are in the two tiles; None if few entries hold any."""
    use = entries.by_points
    if use.sum() < max(ENOUGH, entries.by_d.sum() / 2):
        return None
    towards = np.zeros_like(entries.side)  # the neighbour, if p is in it
    steps = entries.step[use]
    axis = (np.abs(steps[:, 1]) > np.abs(steps[:, 0])).astype(np.intp)
    along = np.take_along_axis(steps, axis[:, None], axis=1)[:, 0]
    towards[np.flatnonzero(use), axis] = -np.sign(along).astype(np.intp)
    # The usual reading is the one by which codes call the sides what some table does.
    readings = {
        (flip, way): replace(entries, side=flip * towards) for flip, way in product((1, -1), WAYS)
    }
    usual = max((1, -1), key=lambda flip: _agreement(flip * towards[use], entries, use, tables))
    open_by = {
        key: grid.misclosure(read, key[1], key[0] * read.step)
        if _strays(read, key[1], grid) <= MAX_STRAYS
        else np.inf
        for key, read in readings.items()
    }
    flip, way = _best(open_by, (usual, WAYS[0]))
    read = readings[flip, way]
    # Of neighbours that are named, loops do not tell in which of the two p is.
    told = 0.0 if (read.told >= 0).any() else float(flip)
    return replace(read, side=_completed(read)), way, told, ""


def _agreement(
    sides: NDArray[np.intp],
    entries: Entries,
    use: NDArray[np.bool_],
    tables: Mapping[str, Mapping[str, str]],
) -> float:
    """Return which share of the entries a table calls so, the best of them."""
    return max(
        float((entries.named_by(table).side[use] == sides).all(axis=1).mean())
        for table in tables.values()
    )


def _strays(entries: Entries, steps: tuple[int, int], grid: _Grid) -> float:
    """Return the share of the entries with points whose neighbour is not there."""
    others = entries.neighbours(steps, grid.cells, grid.lookup)
    return float((others[entries.by_points] < 0).mean())


def _completed(entries: Entries) -> NDArray[np.intp]:
    """Return entries without points the side of most of those with points and the same code."""
    side = entries.side.copy()
    for code in set(entries.code.tolist()) - {""}:
        here = entries.code == code
        known = side[here & (side != 0).any(axis=1)]
        if len(known):
            values, count = np.unique(known, axis=0, return_counts=True)
            side[here & (side == 0).all(axis=1)] = values[count.argmax()]
    return side


def _by_codes(entries: Entries, tables: Mapping[str, Mapping[str, str]], grid: _Grid) -> _Found:
    """Find sides by what their codes are called in one of the tables, and by loops."""
    readings = {
        (table, way): _misclosure_by_d(entries.named_by(names), way, grid)
        for table, names in tables.items()
        for way in WAYS
    }
    table, way = _best(readings, (next(iter(tables)), WAYS[0]))
    return entries.named_by(tables[table]), way, 0.0, table


def _misclosure_by_d(entries: Entries, way: tuple[int, int], grid: _Grid) -> float:
    """Return how far loops are open where there is dX and dY alone, of either sign a side."""
    across = np.full(len(entries.tile), False)
    for pair in (("left", "right"), ("top", "bottom")):
        name = next((one for one in pair if (entries.on(one) & entries.by_d).any()), None)
        if name is not None:
            across |= entries.on(name)
    shown = np.where(across[:, None], entries.d, np.nan)
    vertical = (entries.side[:, 0] != 0)[:, None]
    return min(
        grid.misclosure(entries, way, one) for one in (shown, np.where(vertical, -shown, shown))
    )


def _signs(entries: Entries, steps: tuple[int, int], grid: _Grid) -> NDArray[np.float64]:
    """Find the sign of dX and dY on each side, by which loops with a side that is known close.

    In TileQC of the Allen Institute the tile is moved for neighbours at the left, the neighbour for
    those at the top. A sign common to all sides cancels round a loop.
    """
    signs = np.ones(len(entries.tile))
    if not (entries.by_d & ~entries.by_points).any():
        return signs
    known: list[str] = []
    for name in sorted(SIDES, key=ORDER.index):
        here = entries.on(name)
        if not (here & entries.by_d).any():
            continue
        partner = next((one for one in known if _is_across(one, name)), None)
        if partner is not None:
            shown = here | entries.on(partner)
            values = np.where(shown[:, None], entries.d * signs[:, None], np.nan)
            turned = np.where(here[:, None], -values, values)
            open_by = {
                1: grid.misclosure(entries, steps, values),
                -1: grid.misclosure(entries, steps, turned),
            }
            signs[here] = _best(open_by, 1)
        known.append(name)
    return signs


def _is_across(one: str, other: str) -> bool:
    """Whether one side is horizontal and the other vertical."""
    return abs(SIDES[one][0]) != abs(SIDES[other][0])


def _best(open_by: Mapping[Key, float], usual: Key) -> Key:
    """Return the reading by which loops close, if it is clearly better than the usual one."""
    best = min(open_by, key=lambda key: open_by[key])
    return best if open_by[best] < CLEARLY * open_by[usual] else usual


def _told_sides(entries: Entries) -> str:
    """Say which code is which side."""
    names = {side: name for name, side in SIDES.items()}
    told = {
        str(code): names[int(side[0]), int(side[1])]
        for code, side in zip(entries.code, entries.side, strict=True)
        if code and side.any()
    }
    return ", ".join(f"{code} {name}" for code, name in sorted(told.items()))
