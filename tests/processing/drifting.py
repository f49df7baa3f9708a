"""Matches of a montage whose tiles are not congruent, as magnification that drifts makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from processing.geometry.lattice import grid_pairs
from processing.solve.least_squares import LeastSquares

PITCH = 3500.0  # px
STAGE_ERROR = 100.0  # px, evenly, along each axis
WRONG_BY = 255.0  # px, the same


@dataclass(frozen=True, eq=False)
class Drifting:
    """A square grid of tiles; round each loop of four, offsets add up to `per_loop` px.

    "steady": the pitch of columns grows from row to row. "rows": it grows or shrinks from each row
    to the next, by chance, as focus that is found anew for each row makes it.
    """

    nominal: NDArray[np.float64]
    pairs: NDArray[np.intp]
    offsets: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    noise: float

    @classmethod
    def draw(
        cls,
        side: int,
        per_loop: float,
        *,
        wrong: float = 0.0,
        noise: float = 0.3,
        kind: Literal["steady", "rows"] = "steady",
        seed: int = 0,
    ) -> Drifting:
        rng = np.random.default_rng(seed)
        nominal = PITCH * np.stack(np.divmod(np.arange(side**2), side), axis=1)
        true = nominal + rng.uniform(-STAGE_ERROR, STAGE_ERROR, nominal.shape)
        pairs = grid_pairs(side, side)
        offsets = true[pairs[:, 1]] - true[pairs[:, 0]]
        offsets += noise * rng.standard_normal(offsets.shape)
        row, along = pairs[:, 0] // side, pairs[:, 1] - pairs[:, 0] == 1
        signs = np.ones(side) if kind == "steady" else rng.choice([-1, 1], side)
        longer = per_loop * np.cumsum(signs)
        offsets[along, 1] += (longer - np.median(longer))[row[along]]
        lot = rng.random(len(pairs)) < wrong
        usual = nominal[pairs[:, 1]] - nominal[pairs[:, 0]]
        offsets[lot] = usual[lot] + rng.uniform(-WRONG_BY, WRONG_BY, (int(lot.sum()), 2))
        return cls(nominal, pairs, offsets, lot, noise)

    @property
    def sd(self) -> NDArray[np.float64]:
        return np.full(len(self.pairs), self.noise)

    def least_squares(self) -> NDArray[np.float64]:
        """Return the positions by plain least squares over the right matches, in px."""
        right = ~self.wrong
        equations = LeastSquares(len(self.nominal), self.pairs[right], np.ones(right.sum()))
        return equations.solve(self.nominal, self.offsets[right])
