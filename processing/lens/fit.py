"""Fit a lens model to places that overlapping tiles share, together with how the tiles lie.

Each match says that two pixels, one a tile, show one place. Corrected and put in place, they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from processing.geometry.pair_matches import PairMatches, Tile
from processing.lens.degrees import Trial, choose, held_out_points, try_degrees
from processing.lens.errors import LensFitError
from processing.lens.model import CUBIC, LensModel, check_degree
from processing.lens.tile_set import TileSet
from processing.points import lengths

Degree = int | Literal["auto"]

MIN_MATCHES = 20  # a fit of fewer points says nothing of its own error
MIN_TILES = 3  # to compare positions with the stage's
MAX_WORSE = 2.0  # times what the best degree leaves of points held out: no fit to use


@dataclass(frozen=True)
class LensLimits:
    """What a fit must keep to be accepted, as imaging groups use it.

    Attributes
    ----------
    most_mean : float
        Length of the mean residual, in px: a systematic error.
    most_std : float
        Standard deviation of the residuals, in px.
    most_scale_error : float
        How far the scale of the solved tile positions over the stage's may be from 1.
    least_inliers : float
        Share of the matches that must agree with the model.
    """

    most_mean: float = 0.2
    most_std: float = 2.0
    most_scale_error: float = 0.1
    least_inliers: float = 0.5


@dataclass(frozen=True)
class PairResidual:
    """How well the matches of one pair of tiles agree with the model.

    Attributes
    ----------
    a, b : str or int
    matches, inliers : int
    rms : float
        Of the inliers' residuals, in px; NaN if there is none.
    """

    a: Tile
    b: Tile
    matches: int
    inliers: int
    rms: float


@dataclass(frozen=True, eq=False)
class LensFit:
    """A lens model and how well the matches bear it out.

    A residual is the distance between the two places of a match, once corrected and put in place;
    unless said otherwise, of the inliers only.

    Attributes
    ----------
    model : LensModel
    positions : mapping of tile to (float, float)
        (row, column) of each tile's first pixel, in px, before it is bent about its middle; the
        first tile of each group of tiles that hang together is at (0, 0).
    bends : mapping of tile to ndarray of float64, shape (2, 2)
        What each tile's own map adds to the identity, from (row, column) to (row, column) after the
        lens; 0 if tiles were not bent, and on the mean over each group of tiles.
    trials : tuple of Trial
        By degree, what the fit leaves of pairs of tiles that are held out; none if there are too
        few pairs.
    held_out_px_rms : float
        What the same model leaves of points that are held out, a fifth at a time; NaN if that
        cannot be told.
    residual_px_rms, residual_px_median : float
    residual_px_mean : float
        Length of the mean of the residuals as vectors.
    residual_px_std : float
        Standard deviation of their coordinates.
    uncorrected_px_median : float
        What the best translations alone leave, of the same matches.
    pairs : tuple of PairResidual
    matches : int
        How many were used: those with a weight.
    inlier_share : float
    covered : float
        Share of the frame that tiles see together with others.
    places, others, residuals : ndarray of float64, shape (n, 2)
        Of every inlier its place in its first tile, that in its second one, and its residual, how
        far the first shows it beyond the second; (row, column) in px.
    scale : float or None
        Of the solved positions over the nominal ones; None if those are not known.
    rotation : float or None
        Likewise, in degrees.
    accepted : bool
    reasons : tuple of str
        Why it is not accepted.
    """

    model: LensModel
    positions: Mapping[Tile, tuple[float, float]]
    bends: Mapping[Tile, NDArray[np.float64]]
    trials: tuple[Trial, ...]
    held_out_px_rms: float
    residual_px_rms: float
    residual_px_median: float
    residual_px_mean: float
    residual_px_std: float
    uncorrected_px_median: float
    pairs: tuple[PairResidual, ...]
    matches: int
    inlier_share: float
    covered: float
    places: NDArray[np.float64] = field(repr=False)
    others: NDArray[np.float64] = field(repr=False)
    residuals: NDArray[np.float64] = field(repr=False)
    scale: float | None = None
    rotation: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the fit keeps all limits."""
        return not self.reasons

    @property
    def trial(self) -> Trial | None:
        """That of the degree used; None if there are too few pairs to hold any out."""
        return next((one for one in self.trials if one.degree == self.model.degree), None)

    @property
    def next_trial(self) -> Trial | None:
        """That of the next higher degree; None if the matches tell none."""
        return next((one for one in self.trials if one.degree == self.model.degree + 1), None)

    @property
    def best_trial(self) -> Trial | None:
        """That of the degree to choose; None if there are too few pairs to hold any out."""
        return choose(self.trials) if self.trials else None

    @property
    def bent(self) -> bool:
        """Whether tiles have maps of their own."""
        return self.trial is not None and self.trial.bent

    @property
    def bend_px_rms(self) -> float:
        """How far the tiles' own maps move the middles of their edges, in px along an axis."""
        half = np.asarray(self.model.shape) / 2
        return float(np.sqrt(np.mean([(bend * half) ** 2 for bend in self.bends.values()])))

    @property
    def turns(self) -> Mapping[Tile, tuple[float, float]]:
        """How each tile is scaled and turned: a factor, and degrees counter-clockwise as shown."""
        return {
            tile: (1 + float(np.trace(bend)) / 2, float(np.degrees(bend[1, 0] - bend[0, 1])) / 2)
            for tile, bend in self.bends.items()
        }


def fit_lens(
    pairs: Sequence[PairMatches],
    shape: tuple[int, int] | None = None,
    *,
    degree: Degree = "auto",
    nominal: Mapping[Tile, tuple[float, float]] | None = None,
    limits: LensLimits | None = None,
) -> LensFit:
    """Find the lens model, and how the tiles lie, with which all matches agree best.

    With the affine part fixed, the model enters linearly, and so do the tiles' places and bends:
    ``p + shift(p) + place(a) + bend(a, p) = q + shift(q) + place(b) + bend(b, q)``. That is solved
    by iteratively reweighted least squares; wrong matches are left out by Tukey's biweight.

    The degree, and whether tiles are bent at all, is what tells pairs of tiles best that are held
    out, a fifth at a time; of what is about as good, the least.

    A montage cannot tell where it lies as a whole, nor its scale, angle and shear: a lens that
    magnifies all of the frame by 1 % looks like a stage that moves 1 % less, and like tiles that
    are all 1 % smaller. So these parts are not in the model (`LensModel`), and tiles are not bent
    on the mean; the calibration of the pixel size and the angle is where they belong. If tiles are
    bent, neither are the quadratic terms told: tiles that are scaled by how far they lie to one
    side would look alike. Of such, a weak prior on the bends makes the least bends.

    Parameters
    ----------
    pairs : sequence of PairMatches
    shape : (int, int), optional
        (height, width) of the tiles, in px; from the range of the matches if it is left out.
    degree : int or "auto"
        Of the polynomial, 2 to 9; "auto": chosen.
    nominal : mapping of tile to (float, float), optional
        Where the stage says that tiles lie, (row, column) in px, to judge the scale by.
    limits : LensLimits, optional

    Returns
    -------
    LensFit

    Raises
    ------
    LensFitError
        If the matches are too few, cover too little of the frame, or do not determine all terms.
    TypeError, ValueError
        If it is no degree of a lens.

    References
    ----------
    V. Kaynig et al., J. Struct. Biol. 171, 163 (2010), for the model of overlapping tiles;
    P. W. Holland, R. E. Welsch, Comm. Statistics A6, 813 (1977), for the reweighting.
    """
    if degree != "auto":
        check_degree(degree)
    used = [_weighted(pair) for pair in pairs]
    used = [pair for pair in used if len(pair.weights)]
    total = sum(len(pair.weights) for pair in used)
    if total < MIN_MATCHES:
        raise LensFitError(
            f"there are {total} matches with a weight in {len(pairs)} pairs of tiles; "
            f"{MIN_MATCHES} is the least to fit a lens to, and hundreds are usual"
        )
    tiles = TileSet.of(used, shape)
    tiles.check_covered()
    given = None if degree == "auto" else degree
    look = tiles.look(given)
    degrees = tiles.determined(look, given)
    trials = try_degrees(look.frames, tiles.gaps, look.weights, degrees)
    trial = _chosen(trials, given)
    fitted = tiles.fit(look, trial.degree, trial.bent)
    left = tiles.left(fitted)
    good = left[fitted.agree]
    positions, bends = tiles.positions(fitted), tiles.bends(fitted) * trial.bent
    fit = LensFit(
        model=tiles.model(fitted, trial.degree),
        positions=dict(zip(tiles.tiles, map(tuple, positions.tolist()), strict=True)),
        bends=dict(zip(tiles.tiles, bends, strict=True)),
        trials=trials,
        held_out_px_rms=held_out_points(
            fitted.frames, tiles.gaps, fitted.weights, trial.degree, trial.bent
        ),
        residual_px_rms=_rms(good),
        residual_px_median=_median(good),
        residual_px_mean=float(np.linalg.norm(good.mean(axis=0))),
        residual_px_std=float(good.std()),
        uncorrected_px_median=_median(tiles.left_by_shifts(fitted)[fitted.agree]),
        pairs=_by_pair(used, left, fitted.agree),
        matches=total,
        inlier_share=float(fitted.agree.mean()),
        covered=tiles.covered,
        places=tiles.points.p[fitted.agree],
        others=tiles.points.q[fitted.agree],
        residuals=good,
    )
    if nominal:
        scale, rotation = _compare(fit.positions, nominal)
        fit = replace(fit, scale=scale, rotation=rotation)
    return replace(fit, reasons=_faults(fit, limits or LensLimits()))


def _weighted(pair: PairMatches) -> PairMatches:
    """Leave out the matches without a weight."""
    kept = pair.weights > 0
    return PairMatches(pair.a, pair.b, pair.p[kept], pair.q[kept], pair.weights[kept])


def _chosen(trials: tuple[Trial, ...], degree: int | None) -> Trial:
    """Return the trial of a given degree, or of the one to choose; a blank one if there is none."""
    if degree is None:
        return choose(trials) if trials else Trial.blank(CUBIC)
    return next((one for one in trials if one.degree == degree), Trial.blank(degree))


def _by_pair(
    pairs: Sequence[PairMatches], left: NDArray[np.float64], agree: NDArray[np.bool_]
) -> tuple[PairResidual, ...]:
    """Sum residuals up by pair."""
    found, start = [], 0
    for pair in pairs:
        mine = slice(start, start + len(pair.weights))
        good = left[mine][agree[mine]]
        rms = _rms(good) if len(good) else float("nan")
        found.append(PairResidual(pair.a, pair.b, len(pair.weights), len(good), rms))
        start = mine.stop
    return tuple(found)


def _compare(
    positions: Mapping[Tile, tuple[float, float]], nominal: Mapping[Tile, tuple[float, float]]
) -> tuple[float, float] | tuple[None, None]:
    """Give scale and rotation (degrees, counter-clockwise) of solved positions to nominal ones."""
    shared = [tile for tile in positions if tile in nominal]
    # As complex numbers, a scale and a rotation are one factor.
    (solved, expected) = (
        np.array([complex(where[tile][1], -where[tile][0]) for tile in shared])
        for where in (positions, nominal)
    )
    if len(shared) < MIN_TILES:
        return None, None
    expected = expected - expected.mean()
    factor = np.vdot(expected, solved) / np.vdot(expected, expected).real
    return float(abs(factor)), float(np.degrees(np.angle(factor)))


def _median(vectors: NDArray[np.float64]) -> float:
    return float(np.median(lengths(vectors)))


def _rms(vectors: NDArray[np.float64]) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))


def _faults(fit: LensFit, limits: LensLimits) -> tuple[str, ...]:
    """Say which limits a fit does not keep."""
    found = []
    if fit.residual_px_mean > limits.most_mean:
        found.append(f"mean residual {fit.residual_px_mean:.3g} px, limit {limits.most_mean:g}")
    if fit.residual_px_std > limits.most_std:
        found.append(f"standard deviation {fit.residual_px_std:.3g} px, limit {limits.most_std:g}")
    if fit.trial and fit.best_trial and fit.trial.exceeds(MAX_WORSE, fit.best_trial):
        found.append(
            f"degree {fit.trial.degree} leaves {fit.trial.held_out_px:.3g} px of pairs held out, "
            f"limit {MAX_WORSE:g} times the {fit.best_trial.held_out_px:.3g} px of degree "
            f"{fit.best_trial.degree}"
        )
    if fit.scale is not None and abs(fit.scale - 1) > limits.most_scale_error:
        found.append(f"scale {fit.scale:.4g}, limit 1 ± {limits.most_scale_error:g}")
    if fit.inlier_share < limits.least_inliers:
        found.append(
            f"only {fit.inlier_share:.0%} of the matches agree, limit {limits.least_inliers:.0%}"
        )
    return tuple(found)
