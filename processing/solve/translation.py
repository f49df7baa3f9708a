"""Solve a montage for one translation a tile.

The robust choice of matches stands in `consistent`; here are the arguments and the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.matching import Match
from processing.points import components
from processing.solve.apart import StagePrediction
from processing.solve.bridges import on_loops
from processing.solve.consistent import pick_consistent
from processing.solve.drift import straighten
from processing.solve.least_squares import incident_rms, misfits
from processing.solve.matches import Fit, Matches

# A match is never trusted to be better than this, in px: tiles are distorted, so neighbours that
# were measured to 0.01 px still disagree by more round a loop of four.
LEAST_SD = 0.05
LEAST_REDUNDANT = 10  # matches beyond those needed from which on residuals tell the matches' sd
MATCHED, STAGE = "match", "stage"


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the tiles of a montage lie, and how well that fits the matches.

    Attributes
    ----------
    positions : ndarray of float64, shape (n, 2)
        (row, column) of each tile's first pixel, in px, in the frame of the nominal positions.
    sd : ndarray of float64, shape (n, 2)
        Standard deviation of `positions` in px: about the mean of the largest set of tiles; what
        hangs on no match to that is as unsure as the stage besides. Infinite if that is not known.
    placed_by : tuple of {"match", "stage"}, length n
        "match" if a match that was kept ties the tile to another; else its place is its nominal one
        moved as its solved neighbours moved.
    component : ndarray of int, shape (n,)
        Tiles of one number hang together by matches that were kept. Number 0 is the largest; the
        others are islands.
    well_connected : ndarray of bool, shape (n,)
        Whether the tile is of the largest set that would still hang together without any one of
        its matches: each of those is on a loop that closes, so a wrong one would have been found.
    outvoted : ndarray of bool, shape (n,)
        Whether the tile is of a part that hangs on fewer matches than were left out between it and
        the larger part that it hangs on: the seam may be torn there.
    residuals : ndarray of float64, shape (m,)
        How far each pair lies from its match, in px.
    outliers : tuple of int
        Indices of the matches that were found wrong and left out.
    closing : ndarray of bool, shape (m,)
        Whether each match is on a short loop that closes: up to noise, and to what tiles that are
        not congruent leave open.
    tile_residuals : ndarray of float64, shape (n,)
        Root mean square residual of the matches of each tile that were kept, in px; NaN if none.
    """

    positions: NDArray[np.float64]
    sd: NDArray[np.float64]
    placed_by: tuple[str, ...]
    component: NDArray[np.intp]
    well_connected: NDArray[np.bool_]
    outvoted: NDArray[np.bool_]
    residuals: NDArray[np.float64]
    outliers: tuple[int, ...]
    closing: NDArray[np.bool_]
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

    Weighted least squares over the matches that bear each other out: that are on loops round which
    the offsets add up to nothing (in the spirit of pairwise consistency: J. G. Mangelson et al.,
    IEEE Int. Conf. Robotics and Automation, 2018). A match on no such loop is kept if it is the
    likeliest to tie its tile to others by what the stage tells. Each set of tiles that hang
    together keeps the mean of its nominal positions; sets and single tiles apart from the largest
    are then moved as their neighbours in it were.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    pairs : array_like of int, shape (m, 2)
        Indices (a, b) of the tiles of each match.
    offsets : array_like, shape (m, 2)
        Measured position of b minus that of a, (rows, columns) in px.
    sd : array_like, shape (m,), optional
        Standard deviation of each offset along each axis, in px. How large they are in truth is
        found from the matches themselves where loops tell it.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If shapes do not fit, an index is out of range, a pair names one tile twice, or a number is
        not finite or an sd negative.
    """
    start, matches = check(nominal, pairs, offsets, sd)

    def place_apart(
        positions: NDArray[np.float64], component: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], float]:
        stage = StagePrediction(start, positions, component)
        return stage.placed(), stage.sd

    straight, loops = straighten(matches, start)
    picked = pick_consistent(straight, loops, start, place_apart)
    kept, fit = picked.kept, picked.fit
    if straight is not matches:
        fit = matches.fit(kept, start)
    component = fit.equations.component
    positions, stage_sd = place_apart(fit.positions, component)

    residuals = matches.sizes(positions)
    ends = matches.ends[kept]
    tile_residuals = incident_rms(len(start), ends, residuals[kept])
    part = _parts(len(start), ends)
    return Solution(
        positions=positions,
        sd=_uncertainty(matches, kept, fit, stage_sd),
        placed_by=tuple(np.where(np.isnan(tile_residuals), STAGE, MATCHED).tolist()),
        component=component,
        well_connected=_largest(part),
        outvoted=_outvoted(part, matches.ends, kept),
        residuals=residuals,
        outliers=tuple(np.flatnonzero(~kept).tolist()),
        closing=picked.closing,
        tile_residuals=tile_residuals,
    )


def well_connected(n_tiles: int, pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Find the largest set of tiles that hang together without relying on any one match.

    Parameters
    ----------
    n_tiles : int
    pairs : ndarray of int, shape (m, 2)
        Indices of the tiles of each match.

    Returns
    -------
    ndarray of bool, shape (n_tiles,)
        All false if no two tiles do.
    """
    return _largest(_parts(n_tiles, pairs))


def _parts(n_tiles: int, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the number of each tile's part; the larger the part, the lower.

    Parts hang together without relying on any one match; single tiles are parts, too.
    """
    return components(n_tiles, pairs[on_loops(n_tiles, pairs)])


def _largest(part: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether each tile is of the largest part, of two and more."""
    first = part == 0
    return np.asarray(first & (first.sum() > 1))


def _outvoted(
    part: NDArray[np.intp], ends: NDArray[np.intp], kept: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether each tile's part hangs on fewer matches than were left out where it does."""
    sides = np.sort(part[ends], axis=1)
    seams, seam = np.unique(sides, axis=0, return_inverse=True)
    votes = np.bincount(seam.ravel(), np.where(kept, 1, -1), len(seams))
    return np.isin(part, seams[votes < 0, 1])


def check(
    nominal: ArrayLike, pairs: ArrayLike, offsets: ArrayLike, sd: ArrayLike | None
) -> tuple[NDArray[np.float64], Matches]:
    """Turn the arguments of `solve` into arrays, or say what is wrong with them."""
    start = np.asarray(nominal, dtype=np.float64)
    if start.ndim != 2 or start.shape[1] != 2 or not len(start):
        raise ValueError(f"nominal has shape {start.shape}; it must be (n, 2), n at least 1")
    # Copies, since for a view or an array that may not be written all would be compiled anew.
    ends = np.array(pairs, dtype=np.intp, order="C").reshape(-1, 2)
    targets = np.array(offsets, dtype=np.float64, order="C").reshape(-1, 2)
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
    return start, Matches(ends, targets, np.maximum(sigma, LEAST_SD))


def _uncertainty(
    matches: Matches, kept: NDArray[np.bool_], fit: Fit, stage_sd: float
) -> NDArray[np.float64]:
    """Give the standard deviation of each tile's place, (n, 2) px."""
    component = fit.equations.component
    inner = fit.equations.variances()
    apart = np.where(component == 0, 0.0, stage_sd**2) if len(component) > 1 else np.zeros(1)
    left = misfits(matches.ends, fit.positions, matches.offsets)[kept]
    redundant = len(left) - (len(component) - 1 - component.max())
    factor = np.ones(2)
    if redundant >= LEAST_REDUNDANT:
        factor = ((left / matches.sd[kept, None]) ** 2).sum(axis=0) / redundant
    return np.asarray(np.sqrt(inner[:, None] * factor + apart[:, None]))
