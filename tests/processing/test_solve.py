from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.extending import is_jitted

from processing.geometry.lattice import grid_pairs
from processing.matching import Match
from processing.solve import (
    IncrementalSolver,
    bridges,
    least_squares,
    loops,
    solve,
    solve_matches,
    warm_up,
    well_connected,
)

PITCH = 922.0


def montage(rows, columns, *, seed=0, error=100.0, sd=0.02, bad=0.0):
    """Nominal and true positions, the pairs of neighbours, their matches, and which are wrong."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1)
    nominal = PITCH * places.reshape(-1, 2).astype(float)
    true = nominal + rng.uniform(-error, error, nominal.shape)
    pairs = grid_pairs(rows, columns)
    offsets = true[pairs[:, 1]] - true[pairs[:, 0]] + sd * rng.standard_normal((len(pairs), 2))
    wrong = rng.random(len(pairs)) < bad
    usual = nominal[pairs[:, 1]] - nominal[pairs[:, 0]]
    offsets[wrong] = usual[wrong] + rng.uniform(-255, 255, (wrong.sum(), 2))
    return nominal, true, pairs, offsets, wrong


def errors(positions, true):
    """Distances from the truth, but for the place of the whole, which matches do not tell."""
    off = positions - true
    return np.hypot(*(off - np.median(off, axis=0)).T)


def test_exact_matches_give_exact_positions():
    nominal, true, pairs, offsets, _ = montage(7, 9, sd=0)
    found = solve(nominal, pairs, offsets)
    assert errors(found.positions, true).max() < 1e-3
    assert found.residuals.max() < 1e-3
    assert found.outliers == ()
    assert set(found.placed_by) == {"match"}
    assert (found.component == 0).all()
    assert found.residual_median < 1e-3


def test_noise_averages_out():
    nominal, true, pairs, offsets, _ = montage(10, 10, sd=0.5)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.5))
    assert np.sqrt((errors(found.positions, true) ** 2).mean()) < 0.7
    assert found.residual_median == pytest.approx(0.35, abs=0.15)


def test_the_nominal_positions_pull_on_nothing():
    """A stage 2 % too long: 900 px over the montage, of which nothing may be left."""
    nominal, _, pairs, _, _ = montage(50, 3)
    true = 1.02 * nominal
    found = solve(nominal, pairs, true[pairs[:, 1]] - true[pairs[:, 0]])
    assert errors(found.positions, true).max() < 0.05
    assert found.positions.mean(axis=0) == pytest.approx(nominal.mean(axis=0), abs=1e-3)


def test_better_matches_count_more():
    nominal = np.array([(0, 0), (0, 100), (0, 200)])
    pairs = [(0, 1), (1, 2), (0, 2)]
    offsets = [(0, 100), (0, 100), (0, 200.9)]
    found = solve(nominal, pairs, offsets, [0.1, 0.1, 1.0])
    assert found.positions[2, 1] - found.positions[0, 1] == pytest.approx(200, abs=0.05)


@pytest.mark.parametrize(("bad", "allowed"), [(0.02, 0.0), (0.1, 0.01), (0.25, 0.05)])
def test_wrong_matches_are_left_out(bad, allowed):
    """A tile with one right match of four cannot be told, so at 25 % some tiles stay wrong."""
    nominal, true, pairs, offsets, wrong = montage(30, 30, seed=3, bad=bad)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    away = errors(found.positions, true)
    assert (away > 0.5).mean() <= allowed
    assert np.median(away) < 0.1
    named = np.zeros(len(pairs), bool)
    named[list(found.outliers)] = True
    right_tiles = away < 0.5
    both_right = right_tiles[pairs].all(axis=1)
    assert (named == wrong)[both_right].all()
    assert found.residual_median < 0.05


@settings(max_examples=12, derandomize=True)  # one montage in a thousand hangs on very long loops
@given(
    st.integers(8, 25),
    st.integers(8, 25),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_well_connected_tiles_stay_when_a_quarter_is_missing_or_wrong(rows, columns, seed, missing):
    """Tiles are well connected if they hang together by right matches without any one of those."""
    nominal, _, pairs, offsets, wrong = montage(rows, columns, seed=seed, bad=0.25)
    keep = ~wrong | (np.random.default_rng(seed).random(len(pairs)) >= missing)
    pairs, offsets, wrong = pairs[keep], offsets[keep], wrong[keep]
    sd = np.full(len(pairs), 0.02)
    found = solve(nominal, pairs, offsets, sd)
    clean = solve(nominal, pairs[~wrong], offsets[~wrong], sd[~wrong])
    sure = well_connected(len(nominal), pairs[~wrong])
    assert errors(found.positions[sure], clean.positions[sure]).max() < 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_of_ten_thousand_tiles_no_well_connected_one_is_misplaced(seed):
    nominal, true, pairs, offsets, wrong = montage(100, 100, seed=seed, bad=0.25)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    sure = well_connected(len(nominal), pairs[~wrong])
    assert sure.mean() > 0.92
    assert errors(found.positions[sure], true[sure]).max() < 0.5
    # What the solution holds for well connected hangs on right matches but for a few.
    assert (found.well_connected & ~sure).sum() <= 0.002 * len(nominal)


@pytest.mark.parametrize(("rows", "columns", "seed"), [(20, 21, 1), (12, 23, 3), (22, 19, 5)])
def test_two_matches_that_agree_overrule_one_that_the_stage_chose(rows, columns, seed):
    """A part hangs together by single matches, so two that tie it to the rest were not seen."""
    nominal, true, pairs, offsets, wrong = montage(rows, columns, seed=seed, bad=0.25)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    sure = well_connected(len(nominal), pairs[~wrong])
    assert errors(found.positions[sure], true[sure]).max() < 0.5


@pytest.mark.parametrize(("rows", "columns", "seed"), [(16, 12, 0), (24, 10, 3)])
def test_what_only_very_long_loops_tell_is_not_held_for_well_connected(rows, columns, seed):
    """Two parts next to each other each hang on a wrong match, by which a loop would lead."""
    nominal, true, pairs, offsets, wrong = montage(rows, columns, seed=seed, bad=0.25)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    sure = well_connected(len(nominal), pairs[~wrong])
    away = errors(found.positions, true)
    assert away[sure & found.well_connected].max() < 0.5
    assert (sure & (away > 0.5)).sum() < 0.08 * len(nominal)


def test_a_long_chain_of_tiles_is_told_by_its_one_long_loop():
    """Ten tiles in a row, each on two right matches; all other matches of theirs are wrong."""
    nominal, true, pairs, offsets, _ = montage(12, 14, seed=8)
    chain = 14 * 5 + np.arange(2, 12)
    within = np.isin(pairs, chain)
    beside = within.any(axis=1) & (nominal[pairs[:, 0], 0] != nominal[pairs[:, 1], 0])
    rng = np.random.default_rng(0)
    offsets[beside] += rng.uniform(60, 250, (beside.sum(), 2)) * rng.choice(
        [-1, 1], (beside.sum(), 2)
    )
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    assert errors(found.positions, true).max() < 0.3
    assert found.outliers == tuple(np.flatnonzero(beside))
    assert found.well_connected.all()


def test_uncertainty_is_what_repeated_measurements_scatter_by():
    """Monte Carlo over 400 draws of the noise, about the mean of all tiles."""
    nominal, true, pairs, _, _ = montage(7, 9, error=20.0)
    rng = np.random.default_rng(0)
    sd = rng.choice([0.1, 0.3, 0.9], len(pairs))
    told = []
    off = []
    for _ in range(400):
        noise = sd[:, None] * rng.standard_normal((len(pairs), 2))
        found = solve(nominal, pairs, true[pairs[:, 1]] - true[pairs[:, 0]] + noise, sd)
        assert len(found.outliers) <= 1
        off.append(found.positions - true - (found.positions - true).mean(axis=0))
        told.append(found.sd)
    scatter = np.sqrt(np.mean(np.square(off), axis=0))
    assert np.mean(told, axis=0) == pytest.approx(scatter, rel=0.2)
    assert scatter.max() > 1.5 * scatter.min()


def test_uncertainty_does_not_need_to_be_told_the_noise():
    nominal, true, pairs, offsets, _ = montage(20, 20, sd=0.4)
    found = solve(nominal, pairs, offsets)
    known = solve(nominal, pairs, offsets, np.full(len(pairs), 0.4))
    assert found.sd == pytest.approx(known.sd, rel=1e-6)
    assert np.sqrt((errors(found.positions, true) ** 2).mean() / 2) == pytest.approx(
        np.sqrt((found.sd**2).mean()), rel=0.2
    )


def test_a_tile_placed_by_the_stage_is_as_unsure_as_the_stage():
    nominal, _, pairs, offsets, _ = montage(15, 15, error=30.0)
    keep = ~(pairs == 112).any(axis=1)
    found = solve(nominal, pairs[keep], offsets[keep], np.full(keep.sum(), 0.02))
    assert found.placed_by[112] == "stage"
    assert not found.well_connected[112]
    assert found.sd[112] == pytest.approx((30 / np.sqrt(3),) * 2, rel=0.4)  # an even spread of ±30
    assert np.delete(found.sd, 112, axis=0).max() < 0.1
    alone = solve([(0.0, 0.0), (0.0, 10.0)], [], [])
    assert np.isinf(alone.sd).any()


def test_a_clean_montage_loses_no_match_to_distortion():
    """Matches that disagree by pixels, as those of distorted tiles do, are not outliers."""
    nominal, true, pairs, offsets, _ = montage(12, 12, sd=5.0)
    found = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    assert len(found.outliers) <= 0.01 * len(pairs)
    assert np.sqrt((errors(found.positions, true) ** 2).mean()) < 7


def test_tiles_without_matches_move_as_their_neighbours():
    """The stage is off by a smooth field, of which the solved tiles tell the unmatched ones."""
    nominal, _, pairs, _, _ = montage(9, 9)
    rows, columns = nominal.T / PITCH
    field = 40 * np.column_stack([np.sin(columns / 4), np.cos(rows / 5)]) + 0.01 * nominal
    true = nominal + field
    alone = [10, 40, 80]
    pairs = pairs[~np.isin(pairs, alone).any(axis=1)]
    found = solve(nominal, pairs, true[pairs[:, 1]] - true[pairs[:, 0]])
    away = errors(found.positions, true)
    placed_by = np.array(found.placed_by)
    assert sorted(np.flatnonzero(placed_by == "stage")) == alone
    assert away[placed_by == "match"].max() < 0.05
    assert away[alone].max() < 12
    assert np.isnan(found.tile_residuals[alone]).all()
    unmoved = errors(np.where(np.isin(np.arange(81), alone)[:, None], nominal, true), true)
    assert away[alone].max() < 0.5 * unmoved[alone].max()


def test_a_stage_that_is_off_at_random_is_not_followed():
    nominal, true, pairs, offsets, _ = montage(9, 9, error=50)
    alone = [30, 40, 50]
    keep = ~np.isin(pairs, alone).any(axis=1)
    found = solve(nominal, pairs[keep], offsets[keep])
    shift = np.median(found.positions - true, axis=0)
    moved = np.hypot(*(found.positions - shift - nominal)[alone].T)
    assert moved.max() < 60


def test_an_island_keeps_its_inner_matches():
    nominal, true, pairs, offsets, _ = montage(6, 12)
    columns = np.arange(72) % 12
    keep = ~((columns[pairs] == 7).any(axis=1))  # a strip of resin
    found = solve(nominal, pairs[keep], offsets[keep])
    island = columns > 7
    assert found.component.max() == 1 + 6 - 0
    assert errors(found.positions[island], true[island]).max() < 0.2
    assert errors(found.positions[columns < 7], true[columns < 7]).max() < 0.2
    assert set(np.array(found.placed_by)[columns == 7]) == {"stage"}
    assert set(np.array(found.placed_by)[island]) == {"match"}
    centre = (found.positions - nominal)[island].mean(axis=0)
    assert np.abs(centre).max() < 60


def test_no_match_at_all_leaves_everything_nominal():
    nominal = np.array([(0.0, 0.0), (0.0, 10.0)])
    found = solve(nominal, np.empty((0, 2), int), np.empty((0, 2)))
    assert (found.positions == nominal).all()
    assert found.placed_by == ("stage", "stage")
    assert np.isnan(found.residual_median)


def test_one_tile_and_two_tiles():
    assert solve([(3.0, 4.0)], [], []).placed_by == ("stage",)
    found = solve([(0, 0), (0, 900)], [(0, 1)], [(5, 910)])
    assert found.positions == pytest.approx(np.array([(-2.5, -5), (2.5, 905)]), abs=1e-3)


def test_only_good_matches_count():
    good = Match(1.0, 101.0, 0.05, 0.9, True, "", 0.8, 6)
    bad = Match(40.0, 0.0, np.inf, 0.0, False, "no texture", 0.0, 0)
    found = solve_matches([(0, 0), (0, 100), (0, 200)], {(0, 1): good, (1, 2): bad})
    assert found.positions[1] - found.positions[0] == pytest.approx((1, 101), abs=1e-3)
    assert found.placed_by == ("match", "match", "stage")
    assert len(found.residuals) == 1


small = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(0, 1000))


@given(small, st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)))
def test_it_moves_with_the_nominal_positions(size, shift):
    nominal, _, pairs, offsets, _ = montage(*size[:2], seed=size[2], bad=0.05)
    here = solve(nominal, pairs, offsets)
    there = solve(nominal + shift, pairs, offsets)
    assert there.positions == pytest.approx(here.positions + shift, abs=1e-3)
    assert there.outliers == here.outliers


@given(small)
def test_the_order_of_tiles_and_matches_does_not_count(size):
    nominal, _, pairs, offsets, _ = montage(*size[:2], seed=size[2])
    rng = np.random.default_rng(size[2])
    tiles, edges = rng.permutation(len(nominal)), rng.permutation(len(pairs))
    back = np.argsort(tiles)
    first = solve(nominal, pairs, offsets)
    second = solve(nominal[tiles], back[pairs[edges]], offsets[edges])
    assert second.positions[back] == pytest.approx(first.positions, abs=1e-3)
    assert second.residuals == pytest.approx(first.residuals[edges], abs=1e-3)


@given(small)
def test_a_match_may_be_given_either_way_round(size):
    nominal, _, pairs, offsets, _ = montage(*size[:2], seed=size[2])
    forth = solve(nominal, pairs, offsets)
    back = solve(nominal, pairs[:, ::-1], -offsets)
    assert back.positions == pytest.approx(forth.positions, abs=1e-3)


@pytest.mark.parametrize("bad", [0.0, 0.25])
def test_ten_thousand_tiles_are_soon_solved(bad):
    nominal, _, pairs, offsets, _ = montage(100, 100, bad=bad)
    sd = np.full(len(pairs), 0.02)
    solve(nominal, pairs, offsets, sd)
    started = time.thread_time()
    solve(nominal, pairs, offsets, sd)
    assert time.thread_time() - started < 1.0  # 0.04 to 0.08 s on a quiet machine


def test_after_a_warm_up_nothing_is_compiled():
    """Whether matches are right or wrong, few or many, and however the arrays lie in memory."""
    warm_up()
    compiled = [
        f for m in (bridges, least_squares, loops) for f in vars(m).values() if is_jitted(f)
    ]
    before = [len(function.signatures) for function in compiled]
    assert sum(before) >= 10
    for bad in (0.0, 0.25):
        nominal, _, pairs, offsets, _ = montage(9, 9, bad=bad)
        pairs.flags.writeable = offsets.flags.writeable = False
        solve(nominal, pairs[:, ::-1], -offsets[::-1][::-1])
        solver = IncrementalSolver()
        for tile, place in enumerate(nominal):
            solver.add_tile(tile, place)
        for (a, b), (down, across) in zip(pairs.tolist(), offsets.tolist(), strict=True):
            solver.add_match(a, b, down, across)
        solver.update()
    solve([(0.0, 0.0)], [], [])
    assert [len(function.signatures) for function in compiled] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], [], []), r"nominal has shape \(3,\)"),
        ((np.empty((0, 2)), [], []), "n at least 1"),
        (([(0, 0), (0, np.inf)], [], []), "nominal holds a number that is not finite"),
        (([(0, 0), (0, 1)], [(0, 1)], [(np.nan, 1)]), "offsets holds"),
        (([(0, 0), (0, 1)], [(0, 1)], [(0, 1)], [np.inf]), "sd holds"),
        (([(0, 0), (0, 1)], [(0, 1)], [(0, 1)], [-1.0]), "must not be negative"),
        (([(0, 0), (0, 1)], [(0, 2)], [(0, 1)]), "between 0 and 1"),
        (([(0, 0), (0, 1)], [(1, 1)], [(0, 1)]), "names tile 1 with itself"),
        (([(0, 0), (0, 1)], [(0, 1)], [(0, 1), (0, 1)]), "1 pairs, 2 offsets"),
    ],
)
def test_what_cannot_be_solved_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(*arguments)
