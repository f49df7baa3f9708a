"""Places that two overlapping tiles share, as matching, files and lens fits exchange them.

Pixels of one tile against pixels of another; what is made of them stands elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tile = str | int


@dataclass(frozen=True, eq=False)
class PairMatches:
    """Places that two overlapping tiles share.

    Attributes
    ----------
    a, b : str or int
        The two tiles.
    p, q : ndarray of float64, shape (n, 2)
        (row, column) in a and in b, in px, as the frames were taken.
    weights : ndarray of float64, shape (n,)
        0 or more; 0 for a match that is known to be wrong.

    Raises
    ------
    ValueError
        If the shapes differ, a tile is matched with itself, or a number is not finite.
    """

    a: Tile
    b: Tile
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        p, q = np.asarray(self.p, dtype=float), np.asarray(self.q, dtype=float)
        weights = np.asarray(self.weights, dtype=float)
        if not (p.ndim == 2 and p.shape == q.shape == (len(weights), 2) and weights.ndim == 1):
            raise ValueError(
                f"matches of tiles {self.a} and {self.b}: p, q and weights have shapes {p.shape}, "
                f"{q.shape} and {weights.shape}; they must be (n, 2), (n, 2) and (n,)"
            )
        if not all(np.isfinite(values).all() for values in (p, q, weights)):
            raise ValueError(
                f"matches of tiles {self.a} and {self.b} hold a number that is not finite"
            )
        if (weights < 0).any():
            raise ValueError(f"matches of tiles {self.a} and {self.b} have a weight below 0")
        if self.a == self.b:
            raise ValueError(f"tile {self.a} is matched with itself")
        for name, value in (("p", p), ("q", q), ("weights", weights)):
            object.__setattr__(self, name, value)
