"""Solve a montage with the freedom that real tiles have: an affine map each, one lens for all.

Of that freedom no more is used than helps: matches that were held out tell what does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from processing.lens.model import MAX_DEGREE, LensModel
from processing.matching import Match
from processing.points import RIGID, Frames, Points, fit_points, lengths, terms
from processing.solve.least_squares import incident_rms
from processing.solve.maps import TileMaps
from processing.solve.model_choice import FREEDOMS, Freedom, Model, Trial, choose_model
from processing.solve.translation import Solution, solve

MAX_SAMPLE = 768  # tiles by which the model is chosen; their lens holds for all
# Flexibility in px, terms and stiffness of a first fit, by which wrong points are told.
FIRST = 1.0, len(terms(MAX_DEGREE)), 0.3
SQUARE = 8  # tiles along the sides of the parts that these are taken from


@dataclass(frozen=True, eq=False)
class MapSolution:
    """The maps of the tiles of a montage, and how well they fit all matches.

    Attributes
    ----------
    maps : TileMaps
        In the frame of the nominal positions.
    trials : tuple of Trial
        What was worth its freedom, each over the one before; the last one was used.
    disagreement : ndarray of float64, shape (m,)
        Median distance of the points of each match under the maps, in px: of all matches that were
        given, whether they were used or not. Of a match without points, its residual.
    tile_residuals : ndarray of float64, shape (n,)
        Root mean square of that over the matches of each tile that were kept, in px; NaN if none.
    translation : Solution
        By translations alone: which matches are wrong, and what hangs together.
    """

    maps: TileMaps
    trials: tuple[Trial, ...]
    disagreement: NDArray[np.float64]
    tile_residuals: NDArray[np.float64]
    translation: Solution

    @property
    def model(self) -> Model:
        """What was used."""
        return self.trials[-1].model


def solve_maps(
    nominal: ArrayLike,
    pairs: ArrayLike,
    offsets: ArrayLike,
    points: Sequence[ArrayLike],
    shape: tuple[int, int],
    *,
    sd: ArrayLike | None = None,
    freedom: Freedom = "auto",
) -> MapSolution:
    """Find the maps of tiles that lay what neighbours share on one place.

    First `solve`, by translations, which tells wrong matches from right ones. Then least squares
    over the points of the right ones, with Huber's weights: for a shift and an affine bend a tile,
    which a ridge holds where matches do not tell it, and for one smooth lens field. How flexible
    tiles are, and whether and how the lens bends, is chosen by matches that are held out, on a part
    of a large montage.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    pairs : array_like of int, shape (m, 2)
        Indices (a, b) of the tiles of each match.
    offsets : array_like, shape (m, 2)
        Measured position of b minus that of a, (rows, columns) in px.
    points : sequence of m array_like, shape (k, 6)
        ``[row_a, col_a, row_b, col_b, sd, weight]`` of places that both tiles show, as
        `Match.points`; k may differ, and be 0.
    shape : (int, int)
        (height, width) of the tiles, in px.
    sd : array_like, shape (m,), optional
        Standard deviation of each offset along each axis, in px.
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
        What tiles may do; "auto": what helps.

    Returns
    -------
    MapSolution

    Raises
    ------
    ValueError
        If there are not as many sets of points as pairs, one is not (k, 6) or not finite, `freedom`
        is unknown; and as `solve`.

    References
    ----------
    For tiles with a regularised affine: G. Mahalingam et al., eLife 11, e76534 (2022); for the
    lens: V. Kaynig et al., J. Struct. Biol. 171, 163 (2010).
    """
    if freedom not in FREEDOMS:
        raise ValueError(f"freedom is {freedom!r}; it must be one of {', '.join(FREEDOMS)}")
    translation = solve(nominal, pairs, offsets, sd)
    ends = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    if len(points) != len(ends):
        raise ValueError(f"there are {len(ends)} pairs and {len(points)} sets of points")
    table = Points.of(points)
    kept = np.ones(len(ends), dtype=bool)
    kept[list(translation.outliers)] = False
    montage = _Montage(ends, table.select(kept[table.pair]), translation.positions, shape)
    # Products of small matrices: on a busy machine, threads of theirs wait for each other longer
    # than one takes.
    with threadpool_limits(1):
        trials, lens = montage.choose(freedom)
        maps = TileMaps(shape, montage.matrices(trials[-1].model, lens), lens)
    disagreement = _disagreement(maps, ends, table)
    without = np.isnan(disagreement)
    disagreement[without] = translation.residuals[without]
    residuals = incident_rms(len(maps), ends[kept], disagreement[kept])
    return MapSolution(maps, trials, disagreement, residuals, translation)


def solve_maps_of_matches(
    nominal: ArrayLike,
    matches: Mapping[tuple[int, int], Match],
    shape: tuple[int, int],
    freedom: Freedom = "auto",
) -> MapSolution:
    """Solve a montage from the matches of its pairs of tiles: `solve_maps` by those that are good.

    Parameters
    ----------
    nominal : array_like, shape (n, 2)
        Nominal (row, column) of each tile's first pixel, in px.
    matches : mapping of (int, int) to Match
        By the indices (a, b) of the two tiles.
    shape : (int, int)
        (height, width) of the tiles, in px.
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}

    Returns
    -------
    MapSolution
        Its figures a match are of the good ones only, in the mapping's order.
    """
    good = {pair: match for pair, match in matches.items() if match.good}
    return solve_maps(
        nominal,
        np.array(list(good), dtype=np.intp).reshape(-1, 2),
        np.array([(match.drow, match.dcol) for match in good.values()]).reshape(-1, 2),
        [match.points for match in good.values()],
        shape,
        sd=np.array([match.sd for match in good.values()]),
        freedom=freedom,
    )


@dataclass(frozen=True, eq=False)
class _Montage:
    """The points of right matches, and where translations put the tiles.

    Attributes
    ----------
    ends : ndarray of int, shape (m, 2)
    points : Points
    positions : ndarray of float64, shape (n, 2)
        In px.
    shape : (int, int)
    """

    ends: NDArray[np.intp]
    points: Points
    positions: NDArray[np.float64]
    shape: tuple[int, int]

    @property
    def gaps(self) -> NDArray[np.float64]:
        """How far the first tile shows each point beyond the second, (k, 2) px."""
        a, b = self.ends[self.points.pair].T
        return np.asarray(self.positions[a] + self.points.p - self.positions[b] - self.points.q)

    def frames(self, degree: int) -> Frames:
        """Return the points as the equations see them."""
        return Frames(self.ends, self.points, self.shape, len(self.positions), degree)

    def choose(self, freedom: Freedom) -> tuple[tuple[Trial, ...], LensModel | None]:
        """Choose the model, and fit its lens, on a part if the montage is large."""
        if freedom == "translation" or not len(self.points):
            return (Trial(Model(), float("nan")),), None
        sample = self.sample()
        frames, gaps = sample.frames(MAX_DEGREE), sample.gaps
        _, weights = fit_points(frames, gaps, *FIRST)
        trials = choose_model(frames, gaps, weights, freedom)
        model = trials[-1].model
        if not model.degree:
            return trials, None
        flexibility, n_terms = model.flexibility or RIGID, len(terms(model.degree))
        bends, _ = fit_points(frames, gaps, flexibility, n_terms, model.stiffness, weights=weights)
        rows, columns = bends.lens.T.tolist()
        return trials, LensModel(self.shape, (tuple(rows), tuple(columns)), model.degree)

    def sample(self) -> _Montage:
        """Return a part, if there are many tiles: of squares from all over the montage."""
        if len(self.positions) <= MAX_SAMPLE:
            return self
        squares = (self.positions // (SQUARE * np.array(self.shape))).astype(np.intp)
        square = np.unique(squares, axis=0, return_inverse=True)[1].ravel()
        fullest_first = np.argsort(-np.bincount(square), kind="stable")
        full = np.sort(fullest_first[: -(-len(fullest_first) // 2)])
        count = min(MAX_SAMPLE // SQUARE**2, len(full))
        return self.part(np.isin(square, full[np.linspace(0, len(full) - 1, count).astype(int)]))

    def part(self, tiles: NDArray[np.bool_]) -> _Montage:
        """Return some of the tiles, with what is between them."""
        inside = np.all(tiles[self.ends], axis=1)
        points = self.points.select(inside[self.points.pair])
        numbered = replace(points, pair=(np.cumsum(inside) - 1)[points.pair])
        ends = (np.cumsum(tiles) - 1)[self.ends[inside]]
        return replace(self, ends=ends, points=numbered, positions=self.positions[tiles])

    def matrices(self, model: Model, lens: LensModel | None) -> NDArray[np.float64]:
        """Return the affine maps of all tiles, (n, 2, 3), for a lens that is known."""
        matrices = np.zeros((len(self.positions), 2, 3))
        matrices[:, :, :2], matrices[:, :, 2] = np.eye(2), self.positions
        if model == Model():
            return matrices
        straight = self if lens is None else self.through(lens)
        bends, _ = fit_points(straight.frames(0), straight.gaps, model.flexibility or RIGID)
        sides = np.asarray(self.shape)
        bent = np.swapaxes(bends.tiles[:, 1:], 1, 2) / (sides / 2)
        matrices[:, :, :2] += bent
        matrices[:, :, 2] += bends.tiles[:, 0] - bent @ ((sides - 1) / 2)
        return matrices

    def through(self, lens: LensModel) -> _Montage:
        """Return the same with the points where the lens, corrected, shows them."""
        p, q = lens.to_corrected(self.points.p), lens.to_corrected(self.points.q)
        return replace(self, points=replace(self.points, p=p, q=q))


def _disagreement(maps: TileMaps, ends: NDArray[np.intp], points: Points) -> NDArray[np.float64]:
    """Return the median distance of each pair's points, in px; NaN if it has none."""
    a, b = ends[points.pair].T
    apart = lengths(maps.forward(a, points.p) - maps.forward(b, points.q))
    return points.medians(apart[:, None], len(ends))[:, 0]
