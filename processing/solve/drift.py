"""Offsets of tiles that are not congruent: magnification and rotation that drift over a montage.

Such offsets are right, and yet do not add up to nothing round a loop: taken for wrong, they tear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from processing.solve.closing import MIN_NOISE, USUAL_LIMIT, noise_scale
from processing.solve.least_squares import LeastSquares, misfits
from processing.solve.loops import Loops
from processing.solve.matches import Matches

MIN_LOOPS = 12  # that it takes to tell drift from noise
MAX_CELLS = 10  # of a grid, for each tile; it is made of 4 if a montage is not a rectangle
SIDES = 4  # matches of the loops that are looked at
# Tiles along rows and columns over which what is left open is averaged: the same everywhere, drift
# that is smooth, and the kind that changes from row to row, or from column to column, as it does
# where a montage's lines are taken one after the other with some time between.
ALONE, EVERYWHERE = 0.3, 1e6
SMOOTHINGS = (
    (EVERYWHERE, EVERYWHERE),
    (8.0, 8.0),
    (4.0, 4.0),
    (2.0, 2.0),
    (ALONE, EVERYWHERE),
    (EVERYWHERE, ALONE),
    (ALONE, 8.0),
    (8.0, ALONE),
)
WORTH_IT = 3.0  # mean squares less, summed over all loops, that make an average worth it
FAINT = 1e-3  # weight of what is the same everywhere, where no loop is near


def straighten(matches: Matches, nominal: NDArray[np.float64]) -> tuple[Matches, Loops]:
    """Take drift out of matches, if there is any: right ones then close loops up to noise.

    Parameters
    ----------
    matches : Matches
    nominal : ndarray of float64, shape (n, 2)
        Places of the tiles, in px.

    Returns
    -------
    matches : Matches
        The same, if there is none.
    loops : Loops
        The short ones of these, whether they close or not.
    """
    loops = matches.short_loops(nominal)
    limits = USUAL_LIMIT * np.maximum(noise_scale(loops, matches.sd) * matches.sd, MIN_NOISE)
    closed = loops.select(loops.gaps <= loops.root_sum(limits))
    drift = find_drift(closed, nominal, matches.ends)
    if drift is None:
        return matches, loops
    offsets = matches.offsets - drift.of_matches(nominal, matches.ends)
    straight = replace(matches, offsets=offsets)
    return straight, straight.short_loops(nominal)


@dataclass(frozen=True, eq=False)
class Drift:
    """What matches of tiles make more of round each loop of four, from one neighbour to the next.

    Attributes
    ----------
    corner, pitch : ndarray of float64, shape (2,)
        Middle of the first loop of four, and the distance of tiles, (rows, columns) in px.
    open : ndarray of float64, shape (rows, columns, 2)
        What each loop is open by, (rows, columns) in px.
    """

    corner: NDArray[np.float64]
    pitch: NDArray[np.float64]
    open: NDArray[np.float64]

    def of_matches(
        self, nominal: NDArray[np.float64], ends: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Find how far drift moves the offset of each match, and as little as it can.

        Round each loop these add up to what is open. Of all that do, they are the ones that
        least squares cannot take for a move of the tiles.

        Parameters
        ----------
        nominal : ndarray of float64, shape (n, 2)
            Places of the tiles, in px.
        ends : ndarray of int, shape (m, 2)

        Returns
        -------
        ndarray of float64, shape (m, 2)
            In px.
        """
        # Matches along a row are longer, or shifted, by what the loops above it are open by.
        above = np.concatenate([np.zeros((1, *self.open.shape[1:])), np.cumsum(self.open, axis=0)])
        middles = (nominal[ends].mean(axis=1) - self.corner) / self.pitch + (0.5, 0.0)
        along = (nominal[ends[:, 1], 1] - nominal[ends[:, 0], 1]) / self.pitch[1]
        moved = along[:, None] * np.column_stack(
            [
                map_coordinates(above[..., axis], middles.T, order=1, mode="nearest")
                for axis in (0, 1)
            ]
        )
        still = np.zeros_like(nominal)
        tiles = LeastSquares(len(nominal), ends, np.ones(len(ends))).solve(still, moved)
        return misfits(ends, tiles, moved)


def find_drift(loops: Loops, nominal: NDArray[np.float64], ends: NDArray[np.intp]) -> Drift | None:
    """Find what loops are open by in common, if they are: by loops that were left out.

    Parameters
    ----------
    loops : Loops
        Those that close, up to noise and drift.
    nominal : ndarray of float64, shape (n, 2)
        Places of the tiles, in px.
    ends : ndarray of int, shape (m, 2)
        Tiles of each match.

    Returns
    -------
    Drift or None
        None: what loops are open by tells nothing of what their neighbours are.
    """
    of_four = loops.select((loops.members >= 0).sum(axis=1) == SIDES)
    if len(of_four) < MIN_LOOPS:
        return None
    middles = nominal[ends[of_four.members]].mean(axis=(1, 2))
    pitch = _pitch(nominal, ends)
    corner = middles.min(axis=0)
    cells = np.round((middles - corner) / pitch).astype(np.intp)
    shape = tuple((cells.max(axis=0) + 1).tolist())
    if np.prod(shape) > MAX_CELLS * len(nominal):
        return None  # tiles do not lie in a grid
    places = np.ravel_multi_index(tuple(cells.T), shape)
    count, *sums = (
        np.bincount(places, values, np.prod(shape)).reshape(shape)
        for values in (None, *of_four.sums.T)
    )
    smooth = _smooth(count, np.stack(sums), of_four.sums.T, tuple(cells.T))
    return Drift(corner, pitch, np.moveaxis(smooth, 0, -1)) if smooth.any() else None


def _pitch(nominal: NDArray[np.float64], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the distance of neighbouring rows and columns, in px."""
    steps = np.abs(nominal[ends[:, 1]] - nominal[ends[:, 0]])
    down = steps[:, 0] > steps[:, 1]
    along = steps[down, 0], steps[~down, 1]
    return np.array([max(1.0, np.median(one)) if len(one) else 1.0 for one in along])


def _smooth(
    count: NDArray[np.float64],
    sums: NDArray[np.float64],
    values: NDArray[np.float64],
    cells: tuple[NDArray[np.intp], ...],
) -> NDArray[np.float64]:
    """Average what loops are open by over the neighbours that tell best of a loop left out.

    Parameters
    ----------
    count : ndarray of float64, shape (rows, columns)
        How many loops there are at each place.
    sums : ndarray of float64, shape (2, rows, columns)
        What they are open by together, along rows and columns, in px.
    values : ndarray of float64, shape (2, k)
        What each is open by, in px.
    cells : tuple of two ndarray of int, shape (k,)
        Its place.

    Returns
    -------
    ndarray of float64, shape (2, rows, columns)
        All 0 along an axis if no average tells more of it than nothing does.
    """
    usual = sums.sum(axis=(1, 2), keepdims=True) / count.sum()
    best, least = np.zeros_like(sums), (values**2).mean(axis=1)
    for scale in SMOOTHINGS:
        down, across = (_bell(side, width) for side, width in zip(count.shape, scale, strict=True))
        total, weight = down @ sums @ across, down @ count @ across
        others = weight[cells] - 1.0
        here = total[:, cells[0], cells[1]]
        told = (here - values) / np.maximum(others, 0.5)
        error = ((values - np.where(others > 0.5, told, 0.0)) ** 2).mean(axis=1)
        better = error < least * (1 - WORTH_IT / len(others))
        best[better] = ((total + FAINT * usual) / (weight + FAINT))[better]
        least[better] = error[better]
    return best


def _bell(side: int, width: float) -> NDArray[np.float64]:
    """Return the weights of each of some rows or columns for each other."""
    apart = np.subtract.outer(np.arange(side), np.arange(side))
    return np.asarray(np.exp(-0.5 * (apart / width) ** 2))
