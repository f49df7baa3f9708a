"""Compiles all that solving needs, so that no montage waits for it."""

from __future__ import annotations

import numpy as np

from processing.geometry.lattice import grid_pairs
from processing.solve.flexible import solve_maps
from processing.solve.incremental import IncrementalSolver

SIDE = 6  # tiles of a square
TILE = 1000  # px
PITCH = 900.0  # px
POINTS = 4  # of a match


def warm_up() -> None:
    """Solve a small montage, whole and while it grows.

    What is compiled is kept on disk: this takes 20 s once, and a second after that.
    """
    rng = np.random.default_rng(0)
    pairs = grid_pairs(SIDE, SIDE)
    nominal = PITCH * np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1)
    offsets = nominal[pairs[:, 1]] - nominal[pairs[:, 0]]
    points = [_points(offset, rng) for offset in offsets]
    solve_maps(nominal, pairs, offsets, points, (TILE, TILE), freedom="affine+lens")
    # Some are wrong, so that loops of all lengths are looked for.
    offsets[::3] += rng.uniform(-200, 200, (len(offsets[::3]), 2))
    solver = IncrementalSolver()
    for tile, place in enumerate(nominal):
        solver.add_tile(tile, place)
    for (a, b), (down, across) in zip(pairs.tolist(), offsets.tolist(), strict=True):
        solver.add_match(a, b, down, across)
    solver.update()
    snapshot = solver.snapshot()
    solver.adopt(snapshot, snapshot.solve())
    solver.settle()


def _points(offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return places that two tiles share, [row_a, col_a, row_b, col_b, sd, weight]."""
    b = rng.uniform(0, TILE - offset, (POINTS, 2))
    return np.column_stack([b + offset, b, np.full(POINTS, 0.5), np.full(POINTS, 1 / POINTS)])
