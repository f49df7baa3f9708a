"""Decides what files of montages leave open: where tiles should lie, and what dX and dY are.

Versions of TilEM differ, and no file says which it is; what its numbers agree with tells. What
fits nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from formats.errors import FormatError
from formats.loops_of_four import GridIndex, loop_sums
from formats.sides import CONVENTIONS, ENOUGH, SIDES, Entries, find_sides

Base = Literal["stage", "raster", "nothing"]
Bases = dict[Base, NDArray[np.float64]]
MAX_SLOPE_ERROR = 1 / 6  # of how far offsets follow the stage: a half is three times as much
MANY = 20  # loops, from which on some of them must close
CLOSED = 20.0  # px, to which a loop of right matches closes
MIN_CLOSED = 0.05  # share of the loops; by chance, one of some hundred does
NOTHING = "as in files of TEMCA that hold points, for nothing in this one tells"
DOUBT = (
    "nothing in the file tells what dX and dY mean: look at one seam, and confirm with --offsets "
    '"{signs}", or try others'
)


class ConventionError(FormatError):
    """The matches of a file fit no convention that is known; the message says what was tried."""


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

    @property
    def signs(self) -> str:
        """How one says it: ``-x,-y raster``."""
        across, down = ("y", "x") if self.swapped else ("x", "y")
        base = "" if self.base == "stage" else f" {self.base}"
        signs = ("-" if sign < 0 else "" for sign in (self.columns, self.rows))
        return f"{next(signs)}{across},{next(signs)}{down}{base}"

    def __str__(self) -> str:
        across, down = ("dY", "dX") if self.swapped else ("dX", "dY")
        beyond = {
            "stage": "beyond the stage's",
            "raster": "beyond the grid's",
            "nothing": "the whole distance",
        }[self.base]
        return f"({_sign(self.columns)}{across}, {_sign(self.rows)}{down}) {beyond}"


# In a real file of 4 969 tiles, the distance to the left neighbour is the grid's less (dX, dY).
TEMCA = Offsets("raster", rows=-1, columns=-1)


@dataclass(frozen=True, eq=False)
class Sense:
    """How a file is to be read.

    Attributes
    ----------
    others : ndarray of int, shape (k,)
        Index of each entry's neighbour, −1 if it has none.
    flip : float
        1 if p is in the neighbour, −1 if it is in the tile itself.
    mirror : (float, float)
        −1 where the image's axis runs against what the stage's angle says.
    nominal : ndarray of float64, shape (n, 2)
        Place of each tile, (row, column) in px.
    offsets : ndarray of float64, shape (k, 2)
        Of each entry: place of its tile minus that of its neighbour; NaN if it tells none.
    notes : dict of str to str
        What was taken, to be shown.
    doubts : tuple of str
        What was taken though nothing tells it.
    """

    others: NDArray[np.intp]
    flip: float
    mirror: tuple[float, float]
    nominal: NDArray[np.float64]
    offsets: NDArray[np.float64]
    notes: dict[str, str]
    doubts: tuple[str, ...] = ()


def decide(
    cells: NDArray[np.intp],
    by_stage: NDArray[np.float64],
    pitch: NDArray[np.float64],
    entries: Entries,
    offsets: Offsets | None = None,
) -> Sense:
    """Find how a file is to be read.

    Which tile is which one's neighbour, loops tell (`find_sides`). A sign of dX and dY that is
    common to all sides, and any places that they are counted from, cancel round a loop: those are
    told by the entries that hold points, too, or else by how far dX and dY follow the stage where
    it strays from the grid.

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

    Raises
    ------
    ConventionError
        If the loops do not close, read in any way that is known.
    """
    notes: dict[str, str] = {}
    doubts: tuple[str, ...] = ()
    entries, steps, flip, signs, told_sides = find_sides(entries, cells, by_stage)
    d = entries.d * signs[:, None]
    if told_sides:
        notes["sides"] = told_sides
    if steps != (1, 1):
        up, left = "upwards" if steps[0] < 0 else "downwards", steps[1] < 0
        notes["grid"] = f"rows count {up}, columns to the {'left' if left else 'right'}, by loops"
    raster = cells * np.array(steps) * np.nan_to_num(_grid_pitch(cells, by_stage, pitch))
    mirror = _mirror(by_stage, raster)
    nominal = _completed(by_stage * mirror, raster, cells)
    if -1 in mirror:
        axes = [name for name, sign in zip(("y", "x"), mirror, strict=True) if sign < 0]
        notes["stage"] = f"its {' and '.join(axes)} run against the image's"

    others = entries.neighbours(steps, cells, GridIndex(cells))
    has = others >= 0
    by_nominal, by_raster = (
        np.where(has[:, None], place[entries.tile] - place[others], np.nan)
        for place in (nominal, raster)
    )
    found = np.full_like(d, np.nan)
    use = entries.by_points & has
    if use.any():
        flip = flip or _turned(entries.step[use], by_nominal[use])
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
        changed = sorted(name for name in SIDES if (signs[entries.on(name)] < 0).any())
        turned = f", the other sign at the {' and '.join(changed)}" if changed else ""
        notes["dX, dY"] = f"{told}{turned}; {why}"
        if NOTHING in why:
            doubts = (DOUBT.format(signs=told.signs),)
    _require_closing(cells, entries.tile, others, found)
    return Sense(others, flip or 1.0, mirror, nominal, found, notes, doubts)


def _require_closing(
    cells: NDArray[np.intp],
    tiles: NDArray[np.intp],
    others: NDArray[np.intp],
    offsets: NDArray[np.float64],
) -> None:
    """Refuse offsets whose loops do not close: solved so, a montage would be torn."""
    known = (others >= 0) & np.isfinite(offsets).all(axis=1)
    sums = loop_sums(cells, tiles[known], others[known], offsets[known])
    closed = int(np.count_nonzero(sums < CLOSED))
    if len(sums) < MANY or closed >= MIN_CLOSED * len(sums):
        return
    tried = "; ".join(
        f"{name}: {', '.join(f'{code} {side}' for code, side in codes.items())}"
        for name, codes in CONVENTIONS.items()
    )
    raise ConventionError(
        f"its matches fit no known convention: {closed} of {len(sums)} loops of four neighbours "
        f"close to {CLOSED:g} px. Sides were read by their points, or as {tried}; rows and "
        "columns as counting either way. If you know what dX and dY are, say it with --offsets"
    )


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
        return TEMCA, NOTHING
    slopes = stray.T @ d / power[:, None]  # [axis of the stage, dY or dX]
    error = float((np.sqrt((d**2).sum() / 2 / len(d)) / np.sqrt(power)).max())
    if error > MAX_SLOPE_ERROR:
        return TEMCA, NOTHING
    swapped = bool(np.abs(np.diag(slopes[:, ::-1])).sum() > np.abs(np.diag(slopes)).sum())
    down, across = np.diag(slopes[:, ::-1]) if swapped else np.diag(slopes)
    if min(abs(down), abs(across)) > 0.5:
        rows, columns = int(np.sign(down)), int(np.sign(across))
        why = f"they follow the stage by {down:.2f} and {across:.2f}"
        return Offsets("raster", swapped, rows, columns), why
    return replace(TEMCA, base="stage"), f"they do not follow the stage; signs {NOTHING}"


def _readings(base: Base) -> Iterable[Offsets]:
    for swapped, rows, columns in product((False, True), (1, -1), (1, -1)):
        yield Offsets(base, swapped, rows, columns)


def _rows(bases: Bases, chosen: NDArray[np.bool_]) -> Bases:
    return {name: values[chosen] for name, values in bases.items()}


def _sign(sign: int) -> str:
    return "−" if sign < 0 else ""
