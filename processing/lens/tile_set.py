"""The points that a set of overlapping tiles share, and the fit of a lens and the tiles to them.

In the form of the equations that montages are solved by, too; see `processing.points`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from processing.geometry.pair_matches import PairMatches, Tile
from processing.lens.coverage import covered_share, determined_degree, open_terms
from processing.lens.degrees import FLEXIBILITY, STIFFNESS
from processing.lens.errors import LensFitError
from processing.lens.model import CUBIC, MAX_DEGREE, MIN_DEGREE, LensModel
from processing.points import (
    RIGID,
    Bends,
    Equations,
    Frames,
    Points,
    by_model,
    components,
    fit_points,
    terms,
)

MIN_COVERED = 0.6  # of the frame: 3 × 3 tiles cover as much at 20 % overlap, a montage a third
POINTS_A_TERM = 10  # that it takes at least to try a degree
POINT_SD = 0.05  # px, of a point of weight 1, until the fit tells
ROUNDS = 3  # of bending tiles after the lens, from one fit to the next
OUTSIDE = 0.01  # of a side: how far a match may lie outside, as rounding and extrapolation do
MAX_OUTSIDE = 0.05  # the share of them, being wrong, that is passed over


@dataclass(frozen=True, eq=False)
class Look:
    """A robust fit, and the points as the equations see them with about its lens.

    Attributes
    ----------
    frames : Frames
    bends : Bends
    weights : ndarray of float64, shape (k,)
        1 / variance of each point, in 1/px²; 0 of wrong ones.
    """

    frames: Frames
    bends: Bends
    weights: NDArray[np.float64]

    @property
    def agree(self) -> NDArray[np.bool_]:
        """Which points agree with the fit."""
        return self.weights > 0


@dataclass(frozen=True, eq=False)
class TileSet:
    """Tiles, and the points that pairs of them share.

    Attributes
    ----------
    shape : (int, int)
        (height, width) of the tiles, in px.
    tiles : tuple of str or int
    ends : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles of each pair.
    points : Points
    """

    shape: tuple[int, int]
    tiles: tuple[Tile, ...]
    ends: NDArray[np.intp]
    points: Points

    @classmethod
    def of(cls, pairs: Sequence[PairMatches], shape: tuple[int, int] | None) -> TileSet:
        """Make it of matches that have a weight.

        Raises
        ------
        LensFitError
            If places lie outside the frames, or any frame if the shape is left out.
        """
        tiles = tuple(dict.fromkeys(tile for pair in pairs for tile in (pair.a, pair.b)))
        index = {tile: number for number, tile in enumerate(tiles)}
        ends = np.array([(index[pair.a], index[pair.b]) for pair in pairs], dtype=np.intp)
        weights = np.concatenate([pair.weights for pair in pairs])
        points = Points(
            np.repeat(np.arange(len(pairs)), [len(pair.weights) for pair in pairs]),
            np.concatenate([pair.p for pair in pairs]),
            np.concatenate([pair.q for pair in pairs]),
            POINT_SD / np.sqrt(weights),
        )
        places = np.concatenate([points.p, points.q])
        if shape is None:
            shape = _guess_shape(places)
        else:
            _check_inside(places, shape)
        return cls(shape, tiles, ends, points)

    @property
    def gaps(self) -> NDArray[np.float64]:
        """How far the first tile of each point shows it beyond the second, (k, 2) px."""
        return np.asarray(self.points.p - self.points.q)

    @cached_property
    def covered(self) -> float:
        """Share of the frame that tiles see together with others."""
        offsets = self.points.medians(self.gaps, len(self.ends))
        return covered_share(offsets, self.shape, len(self.tiles))

    def check_covered(self) -> None:
        """Refuse overlaps that show too little of the frame, such as its rim only."""
        if self.covered < MIN_COVERED:
            raise LensFitError(
                f"matched tiles overlap in {self.covered:.0%} of the frame, and it takes "
                f"{MIN_COVERED:.0%} to tell a lens; a montage's overlaps are too narrow: take 3 × "
                "3 tiles at 60 %"
            )

    def look(self, degree: int | None) -> Look:
        """Fit the most flexible model that there are points for, by which wrong ones are told.

        Parameters
        ----------
        degree : int or None
            That the lens must have at least.
        """
        enough = [
            one
            for one in range(MIN_DEGREE, MAX_DEGREE + 1)
            if POINTS_A_TERM * len(terms(one)) <= len(self.points)
        ]
        highest = max([*enough, degree or CUBIC])
        frames, n_terms = self._frames(highest), len(terms(highest))
        bends, weights = fit_points(frames, self.gaps, FLEXIBILITY, n_terms, STIFFNESS)
        return self._settle(Look(frames, bends, weights), highest, FLEXIBILITY)

    def determined(self, look: Look, degree: int | None) -> list[int]:
        """Return the degrees that the points of a look determine.

        Parameters
        ----------
        look : Look
        degree : int or None
            One that they must determine; None: a cubic at least.

        Raises
        ------
        LensFitError
            If they do not; the message names the terms that they leave open.
        """
        equations = Equations(look.frames, self.gaps, look.weights)
        total = float(look.weights.sum())
        highest = determined_degree(equations, total, look.frames.degree)
        if highest < (degree or CUBIC):
            names = ", ".join(open_terms(equations, total, degree or CUBIC))
            raise LensFitError(
                f"the matches do not determine the terms {names} of the lens (v down, u across): "
                "take tiles that overlap along both axes, 3 × 3 at 60 %"
                + (", or fit a lower degree" if degree else "")
            )
        return list(range(MIN_DEGREE, highest + 1))

    def fit(self, look: Look, degree: int, bent: bool) -> Look:
        """Fit a lens of a degree and the tiles, from a look at the set.

        Parameters
        ----------
        look : Look
        degree : int
        bent : bool
            Whether tiles have affine maps of their own.
        """
        return self._settle(look, degree, FLEXIBILITY if bent else RIGID)

    def model(self, look: Look, degree: int) -> LensModel:
        """Return the lens of a fit.

        Raises
        ------
        LensFitError
            If no lens is like that.
        """
        rows, columns = look.bends.lens.T.tolist()
        try:
            return LensModel(self.shape, (tuple(rows), tuple(columns)), degree)
        except ValueError as error:
            raise LensFitError(f"these matches fit no lens: {error}") from error

    def left(self, look: Look) -> NDArray[np.float64]:
        """Return what a fit leaves of the gaps, (k, 2) px."""
        return look.frames.left(self.gaps, look.bends)

    def left_by_shifts(self, look: Look) -> NDArray[np.float64]:
        """Return what is left without a lens, tiles being shifted as fits the same points best."""
        equations = Equations(look.frames, self.gaps, look.weights)
        return look.frames.left(self.gaps, equations.solve(RIGID))

    def positions(self, look: Look) -> NDArray[np.float64]:
        """Return where tiles lie, the first of each group that hangs together at 0, (n, 2) px."""
        places = look.bends.tiles[:, 0]
        used = np.bincount(self.points.pair, look.weights, len(self.ends)) > 0
        island = components(len(self.tiles), self.ends[used])
        first = np.unique(island, return_index=True)[1]
        return np.asarray(places - places[first][island])

    def bends(self, look: Look) -> NDArray[np.float64]:
        """Return what the tiles' own maps add to the identity, (n, 2, 2)."""
        half = np.asarray(self.shape) / 2
        return np.swapaxes(look.bends.tiles[:, 1:], 1, 2) / half

    def _frames(self, degree: int) -> Frames:
        return Frames(self.ends, self.points, self.shape, len(self.tiles), degree)

    def _settle(self, look: Look, degree: int, flexibility: float) -> Look:
        """Fit until the lens that tiles are bent after is the one that comes out."""
        for _ in range(ROUNDS):
            frames = look.frames.straightened(look.bends.lens)
            bends, weights = fit_points(
                frames,
                self.gaps,
                flexibility,
                len(terms(degree)),
                STIFFNESS,
                weights=look.weights,
                weigh=by_model,
            )
            look = replace(look, frames=frames, bends=bends, weights=weights)
        return look


def _check_inside(places: NDArray[np.float64], shape: tuple[int, int]) -> None:
    """Refuse places that lie outside the frames they are said to be of."""
    sides = np.asarray(shape)
    outside = ((places < -OUTSIDE * sides) | (places > (1 + OUTSIDE) * sides)).any(axis=1)
    if outside.mean() > MAX_OUTSIDE:
        raise LensFitError(
            f"{outside.mean():.0%} of the matches lie outside frames of {shape[0]} × {shape[1]} "
            f"px, up to (row, column) {places.max(axis=0).round(1).tolist()}: give the size of the "
            "tiles that were matched, (height, width)"
        )


def _guess_shape(places: NDArray[np.float64]) -> tuple[int, int]:
    """Take the frame for just so large that matches come as near to all of its sides."""
    outside = (places < -OUTSIDE * places.max(axis=0)).any(axis=1)
    if outside.mean() > MAX_OUTSIDE:
        raise LensFitError(
            f"{outside.mean():.0%} of the matches lie outside any frame, one at (row, column) "
            f"{places.min(axis=0).round(1).tolist()}: places must be in px from a tile's first one"
        )
    inside = places[~outside]
    least, most = inside.min(axis=0), inside.max(axis=0)
    height, width = np.ceil(most + np.maximum(least, 0) + 1).astype(int).tolist()
    return height, width
