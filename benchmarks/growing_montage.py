"""How quickly and how rightly montages are solved, whole and while they grow.

Simulated matches of a grid of tiles, σ = 0.02 px, some of them wrong by up to 255 px or missing. In
the kind world tiles are congruent, and no tile may be displaced. In the real one they are not, so
no shifts fit all matches: a solution is to be as good, up to an affine map, as plain least squares
that is told which matches are right. Times are of the thread's own work; a tile is well connected
if it would hang together with the rest by right matches without any one of those.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import spsolve

from benchmarks._maps import KnownMaps, along_edges
from benchmarks._report import Result, best, run_in_worlds
from processing.geometry.lattice import grid_pairs
from processing.solve import IncrementalSolver, Solution, solve, warm_up, well_connected
from simulation import MicroscopeSettings, VirtualMicroscope, World

TILE = 1024  # px
PITCH = 922.0  # px
STAGE_ERROR = 100.0  # px, evenly, along each axis
WRONG_BY = 255.0  # px, the same
SD = 0.02  # px
POINTS = 5  # places along an edge, whose mean a match is in the real world
WHOLE_MS, UPDATE_MS, DISPLACED_PX, NOT_WORSE = 100.0, 20.0, 0.5, 1.1


@dataclass(frozen=True, eq=False)
class Case:
    """A square grid of tiles and the matches of its neighbours; which are wrong."""

    side: int
    nominal: NDArray[np.float64]
    true: NDArray[np.float64]
    pairs: NDArray[np.intp]
    offsets: NDArray[np.float64]
    sds: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    world: World

    @classmethod
    def draw(
        cls, world: World, side: int, wrong: float, missing: float = 0.0, seed: int = 0
    ) -> Case:
        """Draw a case; shares of the matches are wrong or missing."""
        rng = np.random.default_rng(seed)
        nominal = PITCH * np.stack(np.divmod(np.arange(side**2), side), axis=1)
        true = nominal + rng.uniform(-STAGE_ERROR, STAGE_ERROR, nominal.shape)
        pairs = grid_pairs(side, side)
        lot = rng.random(len(pairs))
        pairs, lot = pairs[lot >= missing], lot[lot >= missing] - missing
        steps = [places[pairs[:, 1]] - places[pairs[:, 0]] for places in (nominal, true)]
        bad = lot < wrong
        seen, sds = steps[1], np.full(len(pairs), SD)
        if world == "real":
            seen, bent = real_offsets(true, pairs, seed)
            sds = np.hypot(sds, bent)
        offsets = seen + SD * rng.standard_normal(seen.shape)
        offsets[bad] = steps[0][bad] + rng.uniform(-WRONG_BY, WRONG_BY, (int(bad.sum()), 2))
        return cls(side, nominal, true, pairs, offsets, sds, bad, world)

    def solve(self) -> Solution:
        """Solve it as a whole."""
        return solve(self.nominal, self.pairs, self.offsets, self.sds)

    def displaced(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far well-connected tiles are from the truth, but for the place of the whole.

        In the real world, but for an affine map of the whole, which no montage can tell.
        """
        sure = well_connected(len(self.nominal), self.pairs[~self.wrong])
        off = (positions - self.true)[sure]
        if self.world == "real":
            terms = np.column_stack([np.ones(len(off)), self.true[sure]])
            off = off - terms @ np.linalg.lstsq(terms, off, rcond=None)[0]
        return np.asarray(np.hypot(*(off - np.median(off, axis=0)).T))


def real_offsets(
    true: NDArray[np.float64], pairs: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the offsets of neighbours that are no longer congruent, as matching would find them.

    Returns
    -------
    offsets : ndarray of float64, shape (n, 2)
        Means of what points along each edge tell, in px.
    sd : ndarray of float64, shape (n,)
        By how much those means err, from how far the points disagree.
    """
    settings = MicroscopeSettings.real().updated({"seed": seed, "camera": {"sensor": [TILE, TILE]}})
    microscope = VirtualMicroscope(settings)
    microscope.column.set("defocus", settings.optics.focus_offset)
    geometry = microscope.column.true_geometry(microscope.column.state())
    maps = KnownMaps.of(microscope, geometry.stage_vector(true - true.mean(axis=0)))
    a, b = pairs.T
    places = along_edges(true[b] - true[a], TILE, POINTS)
    told = places - maps.partners(a, b, places)
    return told.mean(axis=1), np.sqrt(told.var(axis=1).mean(axis=1) / POINTS)


def least_squares(case: Case, matches: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Place all tiles by plain least squares of some of the matches."""
    ends = case.pairs[matches]
    incidence = sp.csr_array(
        (np.tile([-1.0, 1.0], len(ends)), ends.ravel(), np.arange(0, 2 * len(ends) + 1, 2)),
        shape=(len(ends), len(case.nominal)),
    )
    held = sp.diags_array(np.full(len(case.nominal), 1e-9))
    normal, force = (incidence.T @ incidence + held).tocsc(), incidence.T @ case.offsets[matches]
    return np.asarray(spsolve(normal, force))


def plain(case: Case) -> float:
    """Measure plain least squares of all matches, in ms: no robustness, no sd."""
    return best(lambda: least_squares(case, np.ones(len(case.pairs), bool)), 3)


def farthest(case: Case, name: str, away: float, beside: tuple[str, float | None]) -> Result:
    """Tell how far the farthest well-connected tile is."""
    label = f"{name}: farthest well-connected tile"
    if case.world == "kind":
        return Result(label, away, "px", *beside, goal=DISPLACED_PX)
    told = float(case.displaced(least_squares(case, ~case.wrong)).max())
    reference = "plain least squares of the right matches"
    return Result(label, away, "px", reference, told, goal=NOT_WORSE, goal_is_ratio=True)


def grow(case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take a montage in serpentine order, each tile with its matches to those taken before.

    Returns
    -------
    times : ndarray of float64, shape (n,)
        Of each tile with its matches and the update, in ms.
    positions : ndarray of float64, shape (n, 2)
        In the end.
    """
    order = np.arange(case.side**2).reshape(case.side, case.side)
    order[1::2] = order[1::2, ::-1].copy()
    rank = np.argsort(order.ravel())
    come: list[list[int]] = [[] for _ in rank]
    for k, (a, b) in enumerate(case.pairs):
        come[max(rank[a], rank[b])].append(k)
    solver, times = IncrementalSolver(), []
    gc.collect()
    gc.freeze()  # what this benchmark keeps is not the solver's to look through
    for when, tile in enumerate(order.ravel().tolist()):
        start = time.thread_time()
        solver.add_tile(tile, case.nominal[tile])
        for k in come[when]:
            a, b = case.pairs[k].tolist()
            down, across = case.offsets[k].tolist()
            solver.add_match(a, b, down, across, float(case.sds[k]))
        solver.update()
        times.append(1e3 * (time.thread_time() - start))
    places = solver.positions()
    return np.array(times), np.array([places[tile] for tile in range(len(rank))])


def measure(quick: bool, world: World) -> Iterator[Result]:
    """Measure whole montages, then growing ones."""
    warm_up()
    side = 40 if quick else 100
    for wrong in (0.0, 0.02, 0.25):
        case = Case.draw(world, side, wrong)
        name = f"{side**2} tiles, {wrong:.0%} of the matches wrong"
        value = best(case.solve, 3 if quick else 7)
        yield Result(f"{name}: solved", value, "ms", "scipy spsolve", plain(case), WHOLE_MS)
        away = case.displaced(case.solve().positions)
        yield farthest(case, name, float(away.max()), ("", None))
        if wrong and world == "kind":
            nominal = case.displaced(case.nominal)
            lost = float((away > DISPLACED_PX).mean())
            stage = float((nominal > DISPLACED_PX).mean())
            yield Result(f"{name}: displaced", 100 * lost, "%", "stage", 100 * stage, 0.0)
    side = 20 if quick else 70
    cases = {
        "clean": Case.draw(world, side, 0.0),
        "25 % of the matches wrong": Case.draw(world, side, 0.25),
        "12.5 % wrong, 12.5 % missing": Case.draw(world, side, 0.125, 0.125),
    }
    for name, case in cases.items():
        whole = best(case.solve, 3)
        # The same updates twice: what takes long only once is not the solver's, but the machine's.
        first, positions = grow(case)
        times = first if quick else np.minimum(first, grow(case)[0])
        for label, value in zip(
            ("median", "95 %", "99.9 %", "longest"),
            np.percentile(times, [50, 95, 99.9, 100]),
            strict=True,
        ):
            yield Result(
                f"growing to {side**2} tiles, {name}: a tile, {label}",
                float(value),
                "ms",
                "solving the whole anew",
                whole,
                UPDATE_MS,
            )
        whole_away = float(case.displaced(case.solve().positions).max())
        away = float(case.displaced(positions).max())
        growing = f"growing to {side**2} tiles, {name}"
        yield farthest(case, growing, away, ("solved as a whole", whole_away))


if __name__ == "__main__":
    run_in_worlds("growing_montage", "How quickly and how rightly montages are solved.", measure)
