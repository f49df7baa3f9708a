"""Choose what freedom tiles have: by how well matches are told that were held out.

More freedom always fits better what it is fitted to; only what it was not fitted to can judge it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from processing.points import RIGID, Equations, Frames, lengths, terms

Freedom = Literal["auto", "translation", "affine", "lens", "affine+lens"]
FREEDOMS: tuple[Freedom, ...] = ("auto", "translation", "affine", "lens", "affine+lens")

FLEXIBILITIES = 0.3, 1.0, 3.0  # px at a tile's edge
DEGREES = 3, 5, 7, 9
STIFFNESSES = 3.0, 0.3, 0.03  # 1/px², of the lens
HELD_OUT = 5  # one match of so many, at once
ENOUGH = 60  # matches held out, in one turn after another
MIN_HELD_OUT = 7  # that it takes to choose by: of fewer no outcome is as rare as this
MAX_CHANCE = 0.01  # that matches that were held out are told better by chance
WORTH_IT = 0.98  # of the error, that more freedom must bring it down to
MAX_ERROR = 4.0  # times what translations leave of half of them: more counts as so much


@dataclass(frozen=True)
class Model:
    """What tiles may do.

    Attributes
    ----------
    flexibility : float
        Standard deviation that a tile's own affine bend is expected to have at its edges, in px;
        0: tiles are moved only.
    degree : int
        Of the lens that all share; 0: none.
    stiffness : float
        Weight of the lens's bending energy, in 1/px².
    """

    flexibility: float = 0.0
    degree: int = 0
    stiffness: float = 0.0

    def __str__(self) -> str:
        parts = ["an affine map a tile"] * bool(self.flexibility)
        parts += [f"a lens of degree {self.degree}"] * bool(self.degree)
        return " and ".join(parts) or "translations"

    @property
    def freedom(self) -> Freedom:
        """What it is called."""
        if self.degree:
            return "affine+lens" if self.flexibility else "lens"
        return "affine" if self.flexibility else "translation"


@dataclass(frozen=True)
class Trial:
    """How well a model tells matches that it was not fitted to.

    Attributes
    ----------
    model : Model
    held_out_px : float
        Root mean square, over the matches held out, of the median distance of their points, in px;
        what is far beyond that of most counts as the limit. NaN if there were too few.
    """

    model: Model
    held_out_px: float


def choose_model(
    frames: Frames, gaps: NDArray[np.float64], weights: NDArray[np.float64], freedom: Freedom
) -> tuple[Trial, ...]:
    """Choose a model by matches that are held out.

    Parameters
    ----------
    frames : Frames
        With a lens of the highest degree that may be chosen.
    gaps : ndarray of float64, shape (k, 2)
        How far the first tile shows each point beyond the second, in px.
    weights : ndarray of float64, shape (k,)
        1 / variance of each point, in 1/px².
    freedom : {"auto", "affine", "lens", "affine+lens"}
        What may be chosen; "auto": anything that is worth it.

    Returns
    -------
    tuple of Trial
        Those that were worth it, each over the one before; the last one is chosen.
    """
    judge = _Judge(frames, gaps, weights)
    chosen = [judge.try_best([Model()])]
    for group in _groups():
        allowed = [model for model in group if freedom in ("auto", model.freedom)]
        if allowed:
            best = judge.try_best(allowed)
            forced = freedom not in ("auto", chosen[-1].trial.model.freedom)
            if forced or best.is_better(chosen[-1]):
                chosen.append(best)
    return tuple(one.trial for one in chosen)


def _groups() -> Iterator[list[Model]]:
    """Yield models, from stiff to flexible; of one group the best is taken."""
    yield [Model(flexibility) for flexibility in FLEXIBILITIES]
    for degree in DEGREES:
        yield [
            Model(flexibility, degree, stiffness)
            for flexibility in (0.0, *FLEXIBILITIES)
            for stiffness in STIFFNESSES
        ]


@dataclass(frozen=True, eq=False)
class _Tried:
    """A trial, and the error of each match that was held out, in px."""

    trial: Trial
    errors: NDArray[np.float64]

    def is_better(self, other: _Tried) -> bool:
        """Whether it is better than another, not by chance.

        By Wilcoxon's signed ranks: at a montage's rim the stiffer model may err by many times what
        it does elsewhere, and no mean is sure then.
        """
        if not self.trial.held_out_px < WORTH_IT * other.trial.held_out_px:
            return False
        return _chance(other.errors - self.errors) < MAX_CHANCE


def _chance(gains: NDArray[np.float64]) -> float:
    """Return the chance that gains, which lie about 0 alike to both sides, rank so high.

    By the normal distribution: F. Wilcoxon, Biometrics Bulletin 1, 80 (1945). scipy.stats has it,
    too, and takes a third of a second to import.
    """
    count = len(gains)
    ranks = np.argsort(np.argsort(np.abs(gains))) + 1
    mean, variance = count * (count + 1) / 4, count * (count + 1) * (2 * count + 1) / 24
    return float(ndtr((mean - ranks[gains > 0].sum()) / np.sqrt(variance)))


class _Judge:
    """Fits models to most matches, and judges them by the others; by turns, if there are few."""

    def __init__(
        self, frames: Frames, gaps: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        self._turns = [_Turn.of(frames, gaps, weights, held) for held in _turns(frames)]
        self._limit = np.inf
        errors = self._try(Model()).errors
        if len(errors):
            self._limit = MAX_ERROR * float(np.median(errors))

    def try_best(self, models: list[Model]) -> _Tried:
        """Return the stiffest of some models, stiff ones first, that is as good as the best."""
        tried = [self._try(model) for model in models]
        least = min(one.trial.held_out_px for one in tried)
        return next((one for one in tried if one.trial.held_out_px * WORTH_IT <= least), tried[0])

    def _try(self, model: Model) -> _Tried:
        found = [turn.errors(model) for turn in self._turns]
        errors = np.minimum(np.concatenate([np.empty(0), *found]), self._limit)
        enough = len(errors) >= MIN_HELD_OUT
        rms = float(np.sqrt((errors**2).mean())) if enough else float("nan")
        return _Tried(Trial(model, rms), errors)


@dataclass(frozen=True, eq=False)
class _Turn:
    """The equations without some matches, and these."""

    equations: Equations
    frames: Frames
    gaps: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        frames: Frames,
        gaps: NDArray[np.float64],
        weights: NDArray[np.float64],
        held: NDArray[np.bool_],
    ) -> _Turn:
        """Hold some matches out."""
        within = held[frames.points.pair]
        equations = Equations(frames, gaps, np.where(within, 0.0, weights))
        return cls(equations, frames.select(within), gaps[within])

    def errors(self, model: Model) -> NDArray[np.float64]:
        """Return the median distance of the points of each match held out, in px."""
        n_terms = len(terms(model.degree)) if model.degree else 0
        bends = self.equations.solve(model.flexibility or RIGID, n_terms, model.stiffness)
        sizes = lengths(self.frames.left(self.gaps, bends))
        medians = self.frames.points.medians(sizes[:, None], len(self.frames.ends))[:, 0]
        return np.asarray(medians[np.isfinite(medians)])


def _turns(frames: Frames) -> Iterator[NDArray[np.bool_]]:
    """Yield which pairs to hold out, turn by turn, each once, until there are enough.

    Such that three others lead round each: what is told of a pair by a long way only says more of
    the way than of the pair. No tile loses two of its pairs at once.
    """
    around: dict[int, set[int]] = {}
    for a, b in frames.ends.tolist():
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)
    left = np.random.default_rng(0).permutation(len(frames.ends)).tolist()
    count = 0
    while count < ENOUGH:
        chosen = _independent(left, frames.ends, around)
        if not chosen:
            return
        count += len(chosen)
        left = [number for number in left if number not in set(chosen)]
        held = np.zeros(len(frames.ends), dtype=bool)
        held[chosen] = True
        yield held


def _independent(
    numbers: list[int], ends: NDArray[np.intp], around: Mapping[int, set[int]]
) -> list[int]:
    """Choose pairs with short ways round them, such that none of these touch."""
    chosen: list[int] = []
    taken: set[int] = set()
    for number in numbers:
        a, b = ends[number].tolist()
        way = None if {a, b} & taken else _way_round(a, b, around)
        if way is not None:
            chosen.append(number)
            taken |= {a, b, *way}
            if len(chosen) >= max(1, len(ends) // HELD_OUT):
                break
    return chosen


def _way_round(a: int, b: int, around: Mapping[int, set[int]]) -> tuple[int, int] | None:
    """Return two tiles over which three pairs lead from one tile to another; None if none do."""
    for first in around[a] - {b}:
        for second in (around[first] & around[b]) - {a}:
            return first, second
    return None
