"""Tiles that are not congruent: loops of right matches stay open, and nothing may tear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.solve import IncrementalSolver, solve, well_connected
from processing.solve.bridges import on_loops
from processing.solve.drift import find_drift, straighten
from processing.solve.matches import Matches
from tests.processing.drifting import Drifting

KINDS = ["steady", "rows"]


def off(positions, wanted):
    """How far positions are from others, but for the place of the whole, in px."""
    apart = positions - wanted
    return np.hypot(*(apart - np.median(apart, axis=0)).T)


def told(case, solution):
    """How many right matches on loops were left out, and wrong ones kept between sure tiles."""
    right = np.flatnonzero(~case.wrong)
    count = len(case.nominal)
    useful = right[on_loops(count, case.pairs[right])]
    sure = well_connected(count, case.pairs[right])
    out = np.zeros(len(case.pairs), bool)
    out[list(solution.outliers)] = True
    inner = sure[case.pairs].all(axis=1)
    return int(out[useful].sum()), int((~out & case.wrong & inner).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_loop", [0.07, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("side", [20, 40, 60])
def test_drift_tears_nothing(side, per_loop, kind):
    """Whatever loops leave open, all right matches stay, and the solution is least squares'."""
    case = Drifting.draw(side, per_loop, kind=kind)
    found = solve(case.nominal, case.pairs, case.offsets, case.sd)
    assert len(found.outliers) <= 1  # of 7 080 matches, by chance
    assert off(found.positions, case.least_squares()).max() < 2.5 * per_loop
    assert found.closing.mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(
    side=st.integers(6, 24),
    per_loop=st.floats(0.0, 1.0),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
)
def test_without_a_wrong_match_it_is_plain_least_squares(side, per_loop, kind, seed):
    case = Drifting.draw(side, per_loop, kind=kind, seed=seed)
    found = solve(case.nominal, case.pairs, case.offsets, case.sd)
    assert len(found.outliers) <= 1
    assert np.median(off(found.positions, case.least_squares())) < 0.2


@pytest.mark.parametrize(("side", "draws"), [(20, 10), (40, 3)])
def test_wrong_matches_are_told_as_well_as_without_drift(side, draws):
    """Some are told by chance only, with drift or without, so draws are summed up."""
    totals = {
        (kind, per_loop): np.sum(
            [
                told(case, solve(case.nominal, case.pairs, case.offsets, case.sd))
                for case in (
                    Drifting.draw(side, per_loop, wrong=0.25, kind=kind, seed=seed)
                    for seed in range(draws)
                )
            ],
            axis=0,
        )
        for kind in KINDS
        for per_loop in (0.0, 0.1, 0.5, 1.0)
    }
    right = 0.75 * 2 * side * (side - 1) * draws
    for (kind, _), (lost, kept) in totals.items():
        still_lost, still_kept = totals[kind, 0.0]
        assert lost <= still_lost + 0.005 * right
        assert kept <= still_kept + 0.002 * right


def test_drift_is_what_loops_have_in_common():
    """What is open in common is found whatever way the grid's axes run, and noise is not."""
    for flip in (np.array([1, 1]), np.array([-1, 1]), np.array([1, -1])):
        case = Drifting.draw(15, 0.6, noise=0.1)
        nominal, offsets = case.nominal * flip, case.offsets * flip
        matches = Matches(case.pairs, offsets, case.sd)
        straight, loops = straighten(matches, nominal)
        assert straight is not matches
        before = matches.short_loops(nominal)
        assert np.abs(before.sums.mean(axis=0)).max() == pytest.approx(0.6, abs=0.05)
        assert np.abs(loops.sums.mean(axis=0)).max() < 0.02
    still = Drifting.draw(15, 0.0)
    loops = Matches(still.pairs, still.offsets, still.sd).short_loops(still.nominal)
    few = loops.select(np.arange(8))
    assert find_drift(few, still.nominal, still.pairs) is None


def test_matches_that_are_off_now_and_then_are_not_wrong():
    """A patch that slipped: some right matches are off by up to ten times the noise."""
    case = Drifting.draw(20, 0.0, noise=0.3, seed=4)
    rng = np.random.default_rng(4)
    some = rng.choice(len(case.pairs), 60, replace=False)
    case.offsets[some] += rng.uniform(-1.0, 1.0, (60, 2)) * np.linspace(0.5, 4.0, 60)[:, None]
    found = solve(case.nominal, case.pairs, case.offsets, case.sd)
    assert len(found.outliers) <= 2
    assert off(found.positions, case.least_squares()).max() < 1.0


@pytest.mark.parametrize(("per_loop", "wrong"), [(0.5, 0.0), (1.0, 0.0), (0.5, 0.1)])
def test_a_growing_montage_that_drifts_does_not_tear(per_loop, wrong):
    side = 16
    case = Drifting.draw(side, per_loop, wrong=wrong, seed=2)
    order = np.arange(side**2).reshape(side, side)
    order[1::2] = order[1::2, ::-1].copy()
    rank = np.argsort(order.ravel())
    when = rank[case.pairs].max(axis=1)
    solver = IncrementalSolver()
    for step, tile in enumerate(order.ravel().tolist()):
        solver.add_tile(tile, case.nominal[tile])
        for k in np.flatnonzero(when == step):
            solver.add_match(*case.pairs[k].tolist(), *case.offsets[k].tolist(), case.noise)
        solver.update()
    solver.settle()
    places = solver.positions()
    positions = np.array([places[tile] for tile in range(side**2)])
    sure = well_connected(side**2, case.pairs[~case.wrong])
    assert off(positions[sure], case.least_squares()[sure]).max() < 0.5
    assert len(solver.outliers) <= case.wrong.sum() + 1
