"""Choose the degree of a lens, and whether tiles are bent: by pairs of tiles that are held out.

Points of one pair err alike: their overlap stretches as one, and so does what is seen there of the
specimen. Points that are held out among them would be told by their neighbours' errors, and praise
a degree that follows those; whole pairs are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.points import RIGID, Equations, Frames, components, terms

FLEXIBILITY = 0.3  # px at a tile's edge that its own bend is expected to have: points overrule it
STIFFNESS = 1e-6  # 1/px²; what points do not tell at all stays near 0
HELD_OUT = 5  # one pair of so many at a time, each once
MIN_HELD_OUT = 20  # points that it takes to choose by
WORTH_IT = 0.98  # of the error, that more freedom must bring it down to
MIN_ERROR = 0.02  # px that it must take away, too: matching errs by as much, smoothly


@dataclass(frozen=True)
class Trial:
    """How well a lens of a degree tells pairs of tiles that it was not fitted to.

    Attributes
    ----------
    degree : int
    shifts_px : float
        Root mean square distance of the points held out, in px, if tiles differ by a shift only.
    affines_px : float
        If each has an affine map of its own.
    """

    degree: int
    shifts_px: float
    affines_px: float

    @classmethod
    def blank(cls, degree: int) -> Trial:
        """Make that of a degree of which nothing is known."""
        return cls(degree, float("nan"), float("nan"))

    @property
    def best_px(self) -> float:
        """The lesser of both."""
        return min(self.shifts_px, self.affines_px)

    @property
    def bent(self) -> bool:
        """Whether maps of their own bring enough for tiles to have them."""
        return _is_more(self.shifts_px, 1 / WORTH_IT, self.affines_px)

    @property
    def held_out_px(self) -> float:
        """The error with those maps if tiles have them, or else without."""
        return self.affines_px if self.bent else self.shifts_px

    def exceeds(self, times: float, other: Trial) -> bool:
        """Whether the error is over so many times another's."""
        return _is_more(self.held_out_px, times, other.held_out_px)


def _is_more(error: float, times: float, other: float) -> bool:
    """Whether an error is over so many times another, and more than is worth a thought."""
    return error > max(times * other, float(np.hypot(other, MIN_ERROR)))


def try_degrees(
    frames: Frames,
    gaps: NDArray[np.float64],
    weights: NDArray[np.float64],
    degrees: Sequence[int],
) -> tuple[Trial, ...]:
    """Fit lenses of some degrees to four fifths of the pairs, and judge them by the others.

    Parameters
    ----------
    frames : Frames
        With a lens of the highest degree.
    gaps : ndarray of float64, shape (k, 2)
        How far the first tile shows each point beyond the second, in px.
    weights : ndarray of float64, shape (k,)
        1 / variance of each point, in 1/px²; 0 of wrong ones, by which none is judged.
    degrees : sequence of int

    Returns
    -------
    tuple of Trial
        Of each degree; none if too few pairs hang together without others.
    """
    models = [(flexibility, degree) for flexibility in (RIGID, FLEXIBILITY) for degree in degrees]
    lot = _lot_of_pairs(frames.ends)
    errors = _held_out(frames, gaps, weights, lot[frames.points.pair], models)
    if errors is None:
        return ()
    shifts, affines = errors.reshape(2, -1).tolist()
    return tuple(map(Trial, degrees, shifts, affines))


def held_out_points(
    frames: Frames,
    gaps: NDArray[np.float64],
    weights: NDArray[np.float64],
    degree: int,
    bent: bool,
) -> float:
    """Return what a lens leaves of points that are held out, a fifth at a time, in px RMS.

    Parameters
    ----------
    frames, gaps, weights
        As `try_degrees` takes them.
    degree : int
    bent : bool
        Whether tiles have affine maps of their own.
    """
    lot = np.random.default_rng(0).permutation(len(gaps)) % HELD_OUT
    errors = _held_out(frames, gaps, weights, lot, [(FLEXIBILITY if bent else RIGID, degree)])
    return float("nan") if errors is None else float(errors[0])


def choose(trials: Sequence[Trial]) -> Trial:
    """Return the lowest degree that is about as good as the best."""
    best = min(trials, key=lambda trial: trial.best_px)
    return next(trial for trial in trials if not trial.exceeds(1 / WORTH_IT, best))


def _lot_of_pairs(ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Draw which fifth each pair is of; both ways of matching two tiles tell of one overlap."""
    overlap = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)[1].ravel()
    count = int(overlap.max(initial=0)) + 1
    lot = np.random.default_rng(0).permutation(count) % min(HELD_OUT, count)
    return np.asarray(lot[overlap])


def _held_out(
    frames: Frames,
    gaps: NDArray[np.float64],
    weights: NDArray[np.float64],
    lot: NDArray[np.intp],
    models: Sequence[tuple[float, int]],
) -> NDArray[np.float64] | None:
    """Return what models, (flexibility, degree), leave of each fifth when fitted to the others.

    Points between tiles that hang together by them only tell nothing. None: hardly any other does.
    """
    squares, count = np.zeros(len(models)), 0
    for fifth in range(HELD_OUT):
        kept = np.where(lot == fifth, 0.0, weights)
        used = np.bincount(frames.points.pair, kept, len(frames.ends)) > 0
        label = components(frames.n_tiles, frames.ends[used])
        told = label[frames.ends[:, 0]] == label[frames.ends[:, 1]]
        judged = (lot == fifth) & (weights > 0) & told[frames.points.pair]
        part, part_gaps = frames.select(judged), gaps[judged]
        count += len(part_gaps)
        equations = Equations(frames, gaps, kept)
        for number, (flexibility, degree) in enumerate(models):
            bends = equations.solve(flexibility, len(terms(degree)), STIFFNESS)
            squares[number] += (part.left(part_gaps, bends) ** 2).sum()
    return np.sqrt(squares / count) if count >= MIN_HELD_OUT else None
