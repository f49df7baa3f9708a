"""Decides what files of montages leave open: which way rows count, and what dX and dY are.

Versions of TilEM differ, and no file says which it is; what its numbers agree with tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Base = Literal["stage", "raster", "nothing"]
Bases = dict[Base, NDArray[np.float64]]
Key = TypeVar("Key")
# (rows, columns) from a tile to the neighbour on that side, where rows count downwards.
SIDES = {"left": (0, -1), "right": (0, 1), "top": (-1, 0), "bottom": (1, 0)}
ENOUGH = 5  # loops, or offsets, from which on they tell something
CLEARLY = 0.7  # a reading has to be better than the usual one by this to be taken instead
MAX_SLOPE_ERROR = 1 / 6  # of how far offsets follow the stage: a half is three times as much
WAYS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # rows and columns may count
ORDER = ("left", "top", "bottom", "right")  # in which sides get their signs
NOTHING = "as usual, for nothing in the file tells"


@dataclass(frozen=True)
class Offsets:
    """What dX and dY mean.

    Attributes
    ----------
    base : {"stage", "raster", "nothing"}
        They come on top of the distance by the stage positions, of that of the grid's rows and
        columns, or are the whole distance.
    swapped : bool
        Whether dX is along rows.
    rows, columns : {1, -1}
        Sign along rows and columns, for neighbours at the left: 1 if they move the tile itself, −1
        if the neighbour.
    """

    base: Base = "stage"
    swapped: bool = False
    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        across, down = ("dY", "dX") if self.swapped else ("dX", "dY")
        beyond = {
            "stage": "beyond the stage's",
            "raster": "beyond the grid's",
            "nothing": "the whole distance",
        }[self.base]
        return f"({_sign(self.columns)}{across}, {_sign(self.rows)}{down}) {beyond}"


@dataclass(frozen=True, eq=False)
class Entries:
    """All matcher entries of a file, k of them.

    Attributes
    ----------
    tile : ndarray of int, shape (k,)
        Whose entry it is.
    side : ndarray of int, shape (k, 2)
        (rows, columns) to the neighbour if rows count downwards and columns to the right.
    told : ndarray of int, shape (k,)
        The neighbour's index if the entry names it, else −1.
    d : ndarray of float64, shape (k, 2)
        (dY, dX), NaN if there is none.
    step : ndarray of float64, shape (k, 2)
        Place of the tile minus that of the neighbour, (rows, columns) in px, by its points; or NaN.
    sd, quality : ndarray of float64, shape (k,)
    matched : ndarray of bool, shape (k,)
    points : tuple of ndarray of float64, shape (p, 4)
        [row, column] in the tile, and in the neighbour.
    """

    tile: NDArray[np.intp]
    side: NDArray[np.intp]
    told: NDArray[np.intp]
    d: NDArray[np.float64]
    step: NDArray[np.float64]
    sd: NDArray[np.float64]
    quality: NDArray[np.float64]
    matched: NDArray[np.bool_]
    points: tuple[NDArray[np.float64], ...]

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[tuple[int, str, int, float, float, float, float, float, float, bool]],
        points: Iterable[NDArray[np.float64]],
    ) -> Entries:
        """Make it of rows: tile, side, told, dY, dX, step (two), sd, quality, matched."""
        tile, side, told, dy, dx, down, across, sd, quality, matched = (
            zip(*rows, strict=True) if rows else [()] * 10
        )
        return cls(
            np.array(tile, dtype=np.intp),
            np.array([SIDES[one] for one in side], dtype=np.intp).reshape(-1, 2),
            np.array(told, dtype=np.intp),
            np.column_stack([dy, dx]).astype(float).reshape(-1, 2),
            np.column_stack([down, across]).astype(float).reshape(-1, 2),
            np.array(sd, dtype=float),
            np.array(quality, dtype=float),
            np.array(matched, dtype=bool),
            tuple(points),
        )

    @property
    def by_points(self) -> NDArray[np.bool_]:
        """Whose offset the points tell."""
        return np.asarray(self.matched & np.isfinite(self.step).all(axis=1))

    @property
    def by_d(self) -> NDArray[np.bool_]:
        """Whose offset dX and dY tell."""
        return np.asarray(self.matched & np.isfinite(self.d).all(axis=1))

    def pitch(self) -> NDArray[np.float64]:
        """Give the distance between rows and columns, in px, by the points; NaN if none tells."""
        pitch = np.full(2, np.nan)
        for axis in (0, 1):
            along = self.by_points & (self.side[:, axis] != 0)
            if along.any():
                pitch[axis] = np.median(np.abs(self.step[along, axis]))
        return pitch

    def unmatched(
        self, steps: tuple[int, int], cells: NDArray[np.intp], pairs: NDArray[np.intp]
    ) -> int:
        """Count the pairs of neighbours of which the file tells, but no offset."""
        other = neighbours(self, steps, cells)
        told = {
            tuple(sorted((int(a), int(b)))) for a, b in zip(self.tile, other, strict=True) if b >= 0
        }
        return len(told - {tuple(pair) for pair in pairs.tolist()})


@dataclass(frozen=True, eq=False)
class Sense:
    """How a file is to be read.

    Attributes
    ----------
    steps : (int, int)
        1 if the grid's rows count downwards, and its columns to the right; else −1.
    mirror : (float, float)
        −1 where the image's axis runs against what the stage's angle says.
    nominal : ndarray of float64, shape (n, 2)
        Place of each tile, (row, column) in px.
    offsets : ndarray of float64, shape (k, 2)
        Of each entry: place of its tile minus that of its neighbour; NaN if it tells none.
    notes : dict of str to str
        What was taken, to be shown.
    """

    steps: tuple[int, int]
    mirror: tuple[float, float]
    nominal: NDArray[np.float64]
    offsets: NDArray[np.float64]
    notes: dict[str, str]


def decide(
    cells: NDArray[np.intp],
    by_stage: NDArray[np.float64],
    pitch: NDArray[np.float64],
    entries: Entries,
    offsets: Offsets | None = None,
) -> Sense:
    """Find how a file is to be read.

    Round loops of four neighbours the offsets add up to nothing, whatever the stage did, if the
    neighbours are those that are meant: that tells which way rows and columns count, and whether
    dX and dY change their sign from side to side (they do in TileQC of the Allen Institute: the
    tile is moved for neighbours at the left, the neighbour for those at the top). A sign common to
    all sides, and any places that they are counted from, cancel round a loop. Those are told by
    the entries that hold points, too, or else by how far dX and dY follow the stage where it
    strays from the grid.

    Parameters
    ----------
    cells : ndarray of int, shape (n, 2)
    by_stage : ndarray of float64, shape (n, 2)
        Places by the stage, in px, NaN if not known.
    pitch : ndarray of float64, shape (2,)
        Of rows and columns, in px; NaN if not known.
    entries : Entries
    offsets : Offsets, optional
        What dX and dY are, if it is known.

    Returns
    -------
    Sense
    """
    notes: dict[str, str] = {}
    steps, signs = _steps(entries, cells)
    d = entries.d * signs[:, None]
    if steps != (1, 1):
        up, left = "upwards" if steps[0] < 0 else "downwards", steps[1] < 0
        notes["grid"] = f"rows count {up}, columns to the {'left' if left else 'right'}, by loops"
    raster = cells * np.array(steps) * np.nan_to_num(_grid_pitch(cells, by_stage, pitch))
    mirror = _mirror(by_stage, raster)
    nominal = _completed(by_stage * mirror, raster, cells)
    if -1 in mirror:
        axes = [name for name, sign in zip(("y", "x"), mirror, strict=True) if sign < 0]
        notes["stage"] = f"its {' and '.join(axes)} run against the image's"

    other = neighbours(entries, steps, cells)
    has = other >= 0
    by_nominal, by_raster = (
        np.where(has[:, None], place[entries.tile] - place[other], np.nan)
        for place in (nominal, raster)
    )
    found = np.full_like(d, np.nan)
    use = entries.by_points & has
    if use.any():
        flip = _turned(entries.step[use], by_nominal[use])
        found[use] = flip * entries.step[use]
        notes["offsets"] = (
            f"points of {use.sum()} entries, p in the {'neighbour' if flip > 0 else 'tile itself'}"
        )
    rest = entries.by_d & has & ~use
    if rest.any():
        bases: Bases = {
            "stage": by_nominal,
            "raster": by_raster,
            "nothing": np.zeros_like(by_nominal),
        }
        told, why = (
            (offsets, "as asked for")
            if offsets is not None
            else _meaning(d, has & entries.by_d, found, bases, entries.side)
        )
        found[rest] = _applied(told, d, bases)[rest]
        changed = sorted(
            name
            for name, side in SIDES.items()
            if (signs[(entries.side == side).all(axis=1)] < 0).any()
        )
        turned = f", the other sign at the {' and '.join(changed)}" if changed else ""
        notes["dX, dY"] = f"{told}{turned}; {why}"
    return Sense(steps, mirror, nominal, found, notes)


def neighbours(
    entries: Entries, steps: tuple[int, int], cells: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Give the index of each entry's neighbour, −1 if it has none."""
    low = cells.min(axis=0) - 1
    lookup = np.full(cells.max(axis=0) - low + 2, -1, dtype=np.intp)
    lookup[tuple((cells - low).T)] = np.arange(len(cells))
    there = cells[entries.tile] + entries.side * np.array(steps)
    found = lookup[tuple((there - low).T)]
    return np.where(entries.told >= 0, entries.told, found)


# What loops tell: which way the grid counts, and the signs of the sides


def _steps(
    entries: Entries, cells: NDArray[np.intp]
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Find which way rows and columns count, and the sign of each entry's dX and dY."""
    present = [name for name in SIDES if (_on(entries, name) & entries.by_d).any()]
    signs = np.ones(len(entries.tile))
    if entries.by_points.sum() >= entries.by_d.sum() / 2:
        best = _best({way: _misclosure(entries, entries.step, cells, way) for way in WAYS}, (1, 1))
        usable = entries.by_d & ~entries.by_points
        if not usable.any():
            return best, signs
    else:
        best = _grid_by_d(entries, cells, present)
    # One side after another gets the sign by which its loops with a known one close.
    known: list[str] = []
    for name in sorted(present, key=ORDER.index):
        partner = next(
            (
                one
                for one in known
                if SIDES[one][0] * SIDES[name][0] == 0 and abs(SIDES[one][0]) != abs(SIDES[name][0])
            ),
            None,
        )
        if partner is not None:
            here = _on(entries, name)
            shown = here | _on(entries, partner)
            values = np.where(shown[:, None], entries.d * signs[:, None], np.nan)
            turned = np.where(here[:, None], -values, values)
            closed = {
                1: _misclosure(entries, values, cells, best),
                -1: _misclosure(entries, turned, cells, best),
            }
            signs[here] = _best(closed, 1)
        known.append(name)
    return best, signs


def _grid_by_d(entries: Entries, cells: NDArray[np.intp], present: list[str]) -> tuple[int, int]:
    """Find which way the grid counts where there is dX and dY alone, of either sign a side."""
    vertical = (entries.side[:, 0] != 0)[:, None]
    turned = np.where(vertical, -entries.d, entries.d)
    across = np.full(len(entries.tile), False)
    for pair in (("left", "right"), ("top", "bottom")):
        name = next((one for one in pair if one in present), None)
        if name is not None:
            across |= _on(entries, name)
    return _best(
        {
            way: min(
                _misclosure(entries, np.where(across[:, None], values, np.nan), cells, way)
                for values in (entries.d, turned)
            )
            for way in WAYS
        },
        (1, 1),
    )


def _best(open_by: dict[Key, float], usual: Key) -> Key:
    """Give the reading by which loops close, if it is clearly better than the usual one."""
    best = min(open_by, key=lambda key: open_by[key])
    return best if open_by[best] < CLEARLY * open_by[usual] else usual


def _on(entries: Entries, name: str) -> NDArray[np.bool_]:
    return np.asarray((entries.side == SIDES[name]).all(axis=1))


def _misclosure(
    entries: Entries,
    values: NDArray[np.float64],
    cells: NDArray[np.intp],
    steps: tuple[int, int],
) -> float:
    """Give how far loops of four neighbours are from closing, in px, median; infinite if few."""
    other = neighbours(entries, steps, cells)
    usable = entries.matched & np.isfinite(values).all(axis=1) & (other >= 0)
    # From each tile to the one in the next column, and in the next row, by (row, column).
    maps: list[dict[tuple[int, int], NDArray[np.float64]]] = [{}, {}]
    for one in np.flatnonzero(usable):
        a, b, value = int(entries.tile[one]), int(other[one]), -values[one]
        step = cells[b] - cells[a]
        if step.sum() < 0:
            a, value = b, -value
        if abs(step).sum() == 1:
            maps[int(step[0] != 0)].setdefault((int(cells[a][0]), int(cells[a][1])), value)
    across, down = maps
    sums = [
        step + down[row, column + 1] - across[row + 1, column] - down[row, column]
        for (row, column), step in across.items()
        if (row, column + 1) in down and (row + 1, column) in across and (row, column) in down
    ]
    return float(np.median(np.linalg.norm(sums, axis=1))) if len(sums) >= ENOUGH else np.inf


# Where tiles should lie


def _grid_pitch(
    cells: NDArray[np.intp], by_stage: NDArray[np.float64], pitch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Complete the pitch by what the stage tells, where the file does not."""
    known = np.isfinite(by_stage).all(axis=1)
    full = pitch.copy()
    for axis in np.flatnonzero(np.isnan(pitch)):
        if known.any() and np.ptp(cells[known, axis]):
            full[axis] = abs(np.polyfit(cells[known, axis], by_stage[known, axis], 1)[0])
    return full


def _mirror(by_stage: NDArray[np.float64], raster: NDArray[np.float64]) -> tuple[float, float]:
    """Give −1 for the axes along which the stage runs against the grid."""
    known = np.isfinite(by_stage).all(axis=1)
    if not known.any():
        return 1.0, 1.0
    centred = raster[known] - raster[known].mean(axis=0)
    down, across = (centred * by_stage[known]).sum(axis=0).tolist()
    return (-1.0 if down < 0 else 1.0), (-1.0 if across < 0 else 1.0)


def _completed(
    places: NDArray[np.float64], raster: NDArray[np.float64], cells: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Put the tiles whose stage position is not known where the others' say that they lie."""
    known = np.asarray(np.isfinite(places).all(axis=1))
    if known.all():
        return places
    full = np.array(np.where(known[:, None], places, raster))
    design = np.column_stack([cells, np.ones(len(cells))])
    if known.any():
        if np.linalg.matrix_rank(design[known]) == 3:
            fit = np.linalg.lstsq(design[known], places[known], rcond=None)[0]
            full[~known] = design[~known] @ fit
        else:
            full[~known] += np.median(places[known] - raster[known], axis=0)
    return full


# What dX and dY are


def _turned(steps: NDArray[np.float64], nominal: NDArray[np.float64]) -> float:
    """Give −1 if p is the place in the tile and q that in the neighbour."""
    apart = [np.median(np.linalg.norm(sign * steps - nominal, axis=1)) for sign in (1.0, -1.0)]
    return 1.0 if apart[0] <= apart[1] else -1.0


def _applied(told: Offsets, d: NDArray[np.float64], bases: Bases) -> NDArray[np.float64]:
    """Give place of the tile minus that of the neighbour, for each entry."""
    values = d[:, ::-1] if told.swapped else d
    return np.asarray(bases[told.base] + values * (told.rows, told.columns))


def _meaning(
    d: NDArray[np.float64],
    usable: NDArray[np.bool_],
    by_points: NDArray[np.float64],
    bases: Bases,
    side: NDArray[np.intp],
) -> tuple[Offsets, str]:
    """Find what dX and dY are, and say what told it."""
    both = usable & np.isfinite(by_points).all(axis=1)
    if both.sum() >= ENOUGH:
        best, apart = _nearest(d[both], by_points[both], _rows(bases, both), tuple(bases))
        return best, f"{apart:.1f} px from the points of {both.sum()} entries, median"
    d, bases, side = d[usable], _rows(bases, usable), side[usable]
    sizes = np.median(np.linalg.norm(d, axis=1)), np.median(np.linalg.norm(bases["stage"], axis=1))
    if sizes[0] > sizes[1] / 2:
        best, apart = _nearest(d, bases["stage"], bases, ("nothing",))
        return best, f"{apart:.0f} px from the stage, median"
    return _follows_stage(d, bases, side)


def _nearest(
    d: NDArray[np.float64], goal: NDArray[np.float64], bases: Bases, allowed: tuple[Base, ...]
) -> tuple[Offsets, float]:
    """Give the reading that comes nearest to known offsets, and how near, in px."""
    apart = {
        told: float(np.median(np.linalg.norm(_applied(told, d, bases) - goal, axis=1)))
        for base in allowed
        for told in _readings(base)
    }
    best = min(apart, key=lambda told: apart[told])
    return best, apart[best]


def _follows_stage(
    d: NDArray[np.float64], bases: Bases, side: NDArray[np.intp]
) -> tuple[Offsets, str]:
    """Tell from how far dX and dY follow the stage where it strays from the grid.

    What comes on top of the grid's distance holds the stage's deviation from it (slope ±1), what
    comes on top of the stage's does not (slope 0).
    """
    stray = bases["stage"] - bases["raster"]
    d = d.copy()
    for one in SIDES.values():  # a wrong angle or pixel size moves all neighbours of a side
        here = (side == one).all(axis=1)
        if here.any():
            stray[here] -= np.median(stray[here], axis=0)
            d[here] -= np.median(d[here], axis=0)
    power = (stray**2).sum(axis=0)
    if len(d) < ENOUGH or (power <= 0).any():
        return Offsets(), NOTHING
    slopes = stray.T @ d / power[:, None]  # [axis of the stage, dY or dX]
    error = float((np.sqrt((d**2).sum() / 2 / len(d)) / np.sqrt(power)).max())
    if error > MAX_SLOPE_ERROR:
        return Offsets(), NOTHING
    swapped = bool(np.abs(np.diag(slopes[:, ::-1])).sum() > np.abs(np.diag(slopes)).sum())
    down, across = np.diag(slopes[:, ::-1]) if swapped else np.diag(slopes)
    if min(abs(down), abs(across)) > 0.5:
        rows, columns = int(np.sign(down)), int(np.sign(across))
        why = f"they follow the stage by {down:.2f} and {across:.2f}"
        return Offsets("raster", swapped, rows, columns), why
    return Offsets(), "they do not follow the stage; signs as usual"


def _readings(base: Base) -> Iterable[Offsets]:
    for swapped, rows, columns in product((False, True), (1, -1), (1, -1)):
        yield Offsets(base, swapped, rows, columns)


def _rows(bases: Bases, chosen: NDArray[np.bool_]) -> Bases:
    return {name: values[chosen] for name, values in bases.items()}


def _sign(sign: int) -> str:
    return "−" if sign < 0 else ""
