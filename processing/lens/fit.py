"""Fit a lens model to places that overlapping tiles share, together with where the tiles lie.

Each match says that two pixels, one a tile, show one place. Corrected and put in place, they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack
from scipy.sparse.csgraph import connected_components

from processing.geometry.pair_matches import PairMatches, Tile
from processing.lens.model import CUBIC, LensModel, basis, terms

LEAST_MATCHES = 20  # a fit of fewer points says nothing of its own error
LEAST_TILES = 3  # to compare positions with the stage's
MAX_STEPS = 50  # of each of the two stages of the fit
SETTLED = 1e-4  # the relative step of the errors' scale that ends a stage
LEAST_SCALE = 0.02  # px; below it, errors are rounding
BIWEIGHT = 4.685  # J. W. Tukey's constant: 95 % as efficient as least squares for normal errors
RIDGE = 1e-12  # of the mean diagonal: what is not determined stays near 0 until it is refused
LEAST_EIGENVALUE = 2e-3  # mean square that terms must leave: tiles some % of a side apart do
OUTSIDE = 0.01  # of a side: how far a match may lie outside, as rounding and extrapolation do
MOST_OUTSIDE = 0.05  # the share of them, being wrong, that is passed over
OPEN = 0.1  # share of a term in what is not determined, from which on it is named


class LensFitError(ValueError):
    """Matches do not determine a lens model; the message says what they lack."""


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
        (row, column) of each tile's first pixel, in px; the first tile of each group of tiles that
        hang together is at (0, 0).
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
    scale : float or None
        Of the solved positions over the nominal ones; None if those are not known.
    rotation : float or None
        Likewise, in degrees.
    places, residuals : ndarray of float64, shape (n, 2)
        Of every inlier in its first tile, and its residual, (row, column) in px.
    accepted : bool
    reasons : tuple of str
        Why it is not accepted.
    """

    model: LensModel
    positions: Mapping[Tile, tuple[float, float]]
    residual_px_rms: float
    residual_px_median: float
    residual_px_mean: float
    residual_px_std: float
    uncorrected_px_median: float
    pairs: tuple[PairResidual, ...]
    matches: int
    inlier_share: float
    scale: float | None
    rotation: float | None
    places: NDArray[np.float64] = field(repr=False)
    residuals: NDArray[np.float64] = field(repr=False)
    reasons: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the fit keeps all limits."""
        return not self.reasons


def fit_lens(
    pairs: Sequence[PairMatches],
    shape: tuple[int, int] | None = None,
    *,
    degree: int = CUBIC,
    nominal: Mapping[Tile, tuple[float, float]] | None = None,
    limits: LensLimits | None = None,
) -> LensFit:
    """Find the lens model, and the places of the tiles, with which all matches agree best.

    With the affine part fixed, the model enters linearly, and so do the tiles' places:
    ``p + shift(p) + place(a) = q + shift(q) + place(b)``. That is solved by iteratively reweighted
    least squares, first for the least sum of distances, which gross outliers cannot rule, then by
    Tukey's biweight, which ignores them.

    Tiles are taken to differ by a shift of the stage only. Then a montage cannot tell where it
    lies as a whole, nor its scale, angle and shear: a lens that magnifies all of the frame by 1 %
    looks like a stage that moves 1 % less. These parts are not in the model (`LensModel`); the
    calibration of the pixel size and the angle is where they belong. All other terms are
    determined by tiles that overlap along both axes.

    Parameters
    ----------
    pairs : sequence of PairMatches
    shape : (int, int), optional
        (height, width) of the tiles, in px; from the range of the matches if it is left out.
    degree : int
        Of the polynomial.
    nominal : mapping of tile to (float, float), optional
        Where the stage says that tiles lie, (row, column) in px, to judge the scale by.
    limits : LensLimits, optional

    Returns
    -------
    LensFit

    Raises
    ------
    LensFitError
        If the matches are too few, or do not determine all terms.

    References
    ----------
    V. Kaynig et al., J. Struct. Biol. 171, 163 (2010), for the model of overlapping tiles;
    P. W. Holland, R. E. Welsch, Comm. Statistics A6, 813 (1977), for the reweighting.
    """
    terms(degree)
    used = [_weighted(pair) for pair in pairs]
    used = [pair for pair in used if len(pair.weights)]
    total = sum(len(pair.weights) for pair in used)
    if total < LEAST_MATCHES:
        raise LensFitError(
            f"there are {total} matches with a weight in {len(pairs)} pairs of tiles; "
            f"{LEAST_MATCHES} is the least to fit a lens to, and hundreds are usual"
        )
    shape = shape or _guess_shape(used)
    system = _System(used, shape, degree)
    alone, solved = system.solve(lens=False), system.solve()
    rows, columns = solved.coefficients.T.tolist()
    try:
        model = LensModel(shape, (tuple(rows), tuple(columns)), degree)
    except ValueError as error:
        raise LensFitError(f"these matches fit no lens: {error}") from error
    positions = dict(zip(system.tiles, map(tuple, solved.positions.tolist()), strict=True))
    scale, rotation = _compare(positions, nominal) if nominal else (None, None)
    good = solved.residuals[solved.inliers]
    fit = LensFit(
        model=model,
        positions=positions,
        residual_px_rms=_rms(good),
        residual_px_median=float(np.median(np.linalg.norm(good, axis=1))),
        residual_px_mean=float(np.linalg.norm(good.mean(axis=0))),
        residual_px_std=float(good.std()),
        uncorrected_px_median=float(
            np.median(np.linalg.norm(alone.residuals[solved.inliers], axis=1))
        ),
        pairs=system.by_pair(solved.residuals, solved.inliers),
        matches=total,
        inlier_share=float(solved.inliers.mean()),
        scale=scale,
        rotation=rotation,
        places=system.p[solved.inliers],
        residuals=good,
    )
    return replace(fit, reasons=_faults(fit, limits or LensLimits()))


@dataclass(frozen=True, eq=False)
class _Solved:
    """What a robust fit gives: coefficients (terms, 2), positions and residuals (…, 2) in px."""

    coefficients: NDArray[np.float64]
    positions: NDArray[np.float64]
    residuals: NDArray[np.float64]
    inliers: NDArray[np.bool_]


class _System:
    """The linear equations of all matches; rows and columns share one matrix."""

    def __init__(self, pairs: Sequence[PairMatches], shape: tuple[int, int], degree: int) -> None:
        self.pairs = pairs
        self.tiles = list(dict.fromkeys(tile for pair in pairs for tile in (pair.a, pair.b)))
        index = {tile: number for number, tile in enumerate(self.tiles)}
        sizes = [len(pair.weights) for pair in pairs]
        a = np.repeat([index[pair.a] for pair in pairs], sizes)
        b = np.repeat([index[pair.b] for pair in pairs], sizes)
        self.p = np.concatenate([pair.p for pair in pairs])
        q = np.concatenate([pair.q for pair in pairs])
        self._pair = np.repeat(np.arange(len(pairs)), sizes)
        self._weights = np.concatenate([pair.weights for pair in pairs])
        self._wanted = q - self.p
        self._lens = basis(self.p, shape, degree) - basis(q, shape, degree)
        self._degree = degree
        count, rows = len(self.tiles), np.arange(len(a))
        # The first tile of each island stays where it is.
        _, island = connected_components(coo_array((rows + 1, (a, b)), shape=(count, count)), False)
        self._free = np.setdiff1d(np.arange(count), np.unique(island, return_index=True)[1])
        ends = np.concatenate([rows, rows]), np.concatenate([a, b])
        signs = np.repeat([1.0, -1.0], len(rows))
        self._tiles = coo_array((signs, ends), shape=(len(rows), count)).tocsc()[:, self._free]

    def solve(self, lens: bool = True) -> _Solved:
        """Solve for the tiles' places and, unless told otherwise, the lens."""
        design = self._tiles.tocsr()
        if lens:
            design = hstack([csr_array(self._lens), design]).tocsr()
        solution, weights = _robust(design, self._wanted, self._weights)
        if lens:
            self._check_determined(weights)
        n_terms = design.shape[1] - len(self._free)
        positions = np.zeros((len(self.tiles), 2))
        positions[self._free] = solution[n_terms:]
        residuals = design @ solution - self._wanted
        return _Solved(solution[:n_terms], positions, residuals, weights > 0)

    def _check_determined(self, weights: NDArray[np.float64]) -> None:
        """Refuse matches that leave a term of the lens open, and name it."""
        weights = weights / weights.sum()
        weighted = self._tiles.multiply(weights[:, None]).tocsr()
        # What of the terms no placing of the tiles could explain as well.
        explained = np.linalg.lstsq(
            (self._tiles.T @ weighted).toarray(), weighted.T @ self._lens, rcond=None
        )[0]
        left = self._lens - self._tiles @ explained
        values, vectors = np.linalg.eigh(left.T @ (weights[:, None] * left))
        shares = np.abs(vectors[:, values < LEAST_EIGENVALUE]).max(axis=1, initial=0.0)
        open_terms = [
            term for term, share in zip(terms(self._degree), shares, strict=True) if share > OPEN
        ]
        if open_terms:
            names = ", ".join(f"v^{i}·u^{j}" for i, j in open_terms)
            raise LensFitError(
                f"the matches do not determine the terms {names} of the lens (v down, u across): "
                "take tiles that overlap along both axes, 3 × 3 at 60 %, or fit a lower degree"
            )

    def by_pair(
        self, residuals: NDArray[np.float64], inliers: NDArray[np.bool_]
    ) -> tuple[PairResidual, ...]:
        """Sum residuals up by pair."""
        found = []
        for number, pair in enumerate(self.pairs):
            mine = self._pair == number
            good = residuals[mine & inliers]
            rms = _rms(good) if len(good) else float("nan")
            found.append(PairResidual(pair.a, pair.b, int(mine.sum()), len(good), rms))
        return tuple(found)


def _robust(
    design: csr_array, wanted: NDArray[np.float64], given: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve ``design @ x = wanted`` against outliers; give the rows' weights, too."""
    weights, diagonal = given, np.diag_indices(design.shape[1])
    for weigh in (_for_least_distances, _biweight):
        previous = np.inf
        for _ in range(MAX_STEPS):
            weighted = design.multiply(weights[:, None]).tocsr()
            normal = (design.T @ weighted).toarray()
            normal[diagonal] += RIDGE * normal[diagonal].mean()
            solution = np.linalg.solve(normal, weighted.T @ wanted)
            distances = np.linalg.norm(design @ solution - wanted, axis=1)
            # Vectors of two normal errors with σ = 1 have a median length of √(2 ln 2).
            scale = max(float(np.median(distances)) / sqrt(2 * log(2)), LEAST_SCALE)
            weights = given * weigh(distances, scale)
            if abs(previous - scale) < SETTLED * scale:
                break
            previous = scale
    return solution, weights


def _for_least_distances(distances: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Weights whose least squares is the least sum of distances, squares near 0 excepted."""
    return 1 / np.maximum(distances, scale / 2)


def _biweight(distances: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Tukey's weights: 0 from some standard deviations on."""
    return np.maximum(1 - (distances / (BIWEIGHT * scale)) ** 2, 0) ** 2


def _weighted(pair: PairMatches) -> PairMatches:
    """Leave out the matches without a weight."""
    kept = pair.weights > 0
    return PairMatches(pair.a, pair.b, pair.p[kept], pair.q[kept], pair.weights[kept])


def _guess_shape(pairs: Sequence[PairMatches]) -> tuple[int, int]:
    """Take the frame for just so large that matches come as near to all of its sides."""
    places = np.concatenate([places for pair in pairs for places in (pair.p, pair.q)])
    outside = (places < -OUTSIDE * places.max(axis=0)).any(axis=1)
    if outside.mean() > MOST_OUTSIDE:
        raise LensFitError(
            f"{outside.mean():.0%} of the matches lie outside any frame, one at (row, column) "
            f"{places.min(axis=0).round(1).tolist()}: places must be in px from a tile's first one"
        )
    inside = places[~outside]
    least, most = inside.min(axis=0), inside.max(axis=0)
    height, width = np.ceil(most + np.maximum(least, 0) + 1).astype(int).tolist()
    return height, width


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
    if len(shared) < LEAST_TILES:
        return None, None
    expected = expected - expected.mean()
    factor = np.vdot(expected, solved) / np.vdot(expected, expected).real
    return float(abs(factor)), float(np.degrees(np.angle(factor)))


def _rms(vectors: NDArray[np.float64]) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))


def _faults(fit: LensFit, limits: LensLimits) -> tuple[str, ...]:
    """Say which limits a fit does not keep."""
    found = []
    if fit.residual_px_mean > limits.most_mean:
        found.append(f"mean residual {fit.residual_px_mean:.3g} px, limit {limits.most_mean:g}")
    if fit.residual_px_std > limits.most_std:
        found.append(f"standard deviation {fit.residual_px_std:.3g} px, limit {limits.most_std:g}")
    if fit.scale is not None and abs(fit.scale - 1) > limits.most_scale_error:
        found.append(f"scale {fit.scale:.4g}, limit 1 ± {limits.most_scale_error:g}")
    if fit.inlier_share < limits.least_inliers:
        found.append(
            f"only {fit.inlier_share:.0%} of the matches agree, limit {limits.least_inliers:.0%}"
        )
    return tuple(found)
