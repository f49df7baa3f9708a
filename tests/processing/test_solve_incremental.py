from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.solve import IncrementalSolver, solve, well_connected
from tests.processing.test_solve import errors, montage

LIMIT = 0.5  # px that no well-connected tile may be off


def serpentine(rows, columns):
    order = np.arange(rows * columns).reshape(rows, columns)
    order[1::2] = order[1::2, ::-1].copy()
    return order.ravel().tolist()


def grow(nominal, pairs, offsets, order, sd=0.02):
    """Give a solver after each of the tiles, whose matches come with the later one of a pair."""
    rank = np.argsort(order)
    come = [[] for _ in order]
    for k, pair in enumerate(pairs):
        come[rank[pair].max()].append(k)
    solver = IncrementalSolver()
    for when, tile in enumerate(order):
        solver.add_tile(tile, nominal[tile])
        for k in come[when]:
            solver.add_match(*pairs[k].tolist(), *offsets[k], sd)
        solver.update()
        yield solver


def at(solver, n_tiles):
    places = np.full((n_tiles, 2), np.nan)
    for index, place in solver.positions().items():
        places[index] = place
    return places


def test_it_grows_to_what_solve_says():
    nominal, true, pairs, offsets, _ = montage(12, 15, seed=2)
    *_, solver = grow(nominal, pairs, offsets, serpentine(12, 15))
    solver.settle()
    found = at(solver, len(nominal))
    whole = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    assert errors(found, whole.positions).max() < 1e-3
    assert errors(found, true).max() < 0.15
    assert solver.outliers == []


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.05]))
def test_the_order_of_adding_does_not_count(seed, bad):
    nominal, _, pairs, offsets, _ = montage(6, 7, seed=seed, bad=bad)
    order = np.random.default_rng(seed).permutation(len(nominal)).tolist()
    *_, solver = grow(nominal, pairs, offsets, order)
    solver.settle()
    whole = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    sure = whole.well_connected
    assert errors(at(solver, len(nominal))[sure], whole.positions[sure]).max() < 0.05


@pytest.mark.parametrize(("side", "missing"), [(20, 0.0), (20, 1.0), (45, 0.5)])
def test_a_growing_montage_stays_right_with_a_quarter_of_its_matches_bad(side, missing):
    """After every tenth row, all tiles that right matches tie well are in their places.

    A worker solves the whole at their end, and its solution comes when five tiles more are in.
    """
    nominal, true, pairs, offsets, wrong = montage(side, side, seed=5, bad=0.25)
    keep = ~wrong | (np.random.default_rng(1).random(len(pairs)) >= missing)
    pairs, offsets, wrong = pairs[keep], offsets[keep], wrong[keep]
    order = serpentine(side, side)
    for count, solver in enumerate(grow(nominal, pairs, offsets, order), start=1):
        if count % (10 * side) == 0:
            snapshot = solver.snapshot()
            solution = snapshot.solve()
        if (count > side and count % (10 * side) == 5) or count == side**2:
            solver.adopt(snapshot, solution)
            taken = np.isin(np.arange(side**2), order[:count])
            right = taken[pairs].all(axis=1) & ~wrong
            sure = well_connected(side**2, pairs[right])
            assert sure.sum() > 0.7 * count
            assert errors(at(solver, side**2)[sure], true[sure]).max() < LIMIT


def test_a_wrong_match_is_believed_until_loops_speak_against_it():
    nominal, true, pairs, offsets, _ = montage(2, 3, error=20.0, sd=0.01)
    solver = IncrementalSolver()
    for tile in (0, 1, 2):
        solver.add_tile(tile, nominal[tile])
    of = {tuple(pair): offset for pair, offset in zip(pairs.tolist(), offsets, strict=True)}
    solver.add_match(0, 1, *of[0, 1], 0.02)
    solver.add_match(1, 2, *(of[1, 2] + (150, -80)), 0.02)
    assert solver.outliers == []
    place = solver.positions()
    assert place[2][0] - place[1][0] == pytest.approx(of[1, 2][0] + 150, abs=0.01)
    for tile, partners in ((3, (0,)), (4, (3, 1)), (5, (4, 2))):
        solver.add_tile(tile, nominal[tile])
        for partner in partners:
            pair = min(tile, partner), max(tile, partner)
            solver.add_match(*pair, *of[pair], 0.02)
        solver.update()
    # One loop is open now, and the tile hangs on it: the stage decides.
    assert solver.outliers == [(1, 2)]
    assert errors(at(solver, 6), true).max() < 0.1


def test_two_islands_become_one_when_matches_tie_them():
    nominal, true, pairs, offsets, _ = montage(6, 13, seed=4)
    columns = np.arange(78) % 13
    later = (columns[pairs] == 6).any(axis=1)
    solver = IncrementalSolver()
    for tile in range(78):
        solver.add_tile(tile, nominal[tile])
    for k in np.flatnonzero(~later):
        solver.add_match(*pairs[k].tolist(), *offsets[k], 0.02)
    left, right = columns < 6, columns > 6
    apart = at(solver, 78)
    assert errors(apart[left], true[left]).max() < 0.15
    assert errors(apart[right], true[right]).max() < 0.15
    for k in np.flatnonzero(later):
        solver.add_match(*pairs[k].tolist(), *offsets[k], 0.02)
        solver.update()
    assert errors(at(solver, 78), true).max() < 0.2


def test_a_tile_that_is_taken_again_is_matched_anew():
    nominal, true, pairs, offsets, _ = montage(5, 5, seed=1)
    *_, solver = grow(nominal, pairs, offsets, serpentine(5, 5))
    solver.remove_tile(12)
    assert len(solver) == 24
    assert 12 not in solver.positions()
    moved = true.copy()
    moved[12] += (60.0, -35.0)
    solver.add_tile(12, nominal[12])
    for a, b in pairs[(pairs == 12).any(axis=1)].tolist():
        solver.add_match(a, b, *(moved[b] - moved[a]), 0.02)
    assert 12 in solver.update()
    assert errors(at(solver, 25), moved).max() < 0.15


def test_a_new_match_of_a_pair_replaces_the_old_one():
    solver = IncrementalSolver()
    solver.add_tile(0, (0, 0))
    solver.add_tile(1, (0, 900))
    solver.add_match(0, 1, 40.0, 880.0)
    solver.update()
    solver.add_match(1, 0, -3.0, -905.0)
    place = solver.positions()
    assert np.subtract(place[1], place[0]) == pytest.approx((3.0, 905.0))


def test_an_update_tells_which_tiles_moved():
    nominal, _, pairs, offsets, _ = montage(30, 4, seed=3)
    told = []
    *_, solver = (told.append(None) or s for s in grow(nominal, pairs, offsets, range(120)))
    assert solver.update() == {}
    solver.add_match(0, 1, *(offsets[0] + 0.1), 0.02)
    moved = solver.update()
    assert {0, 1} <= set(moved)
    assert 119 not in moved
    assert moved[0] == solver.positions()[0]


def test_what_a_worker_solved_is_taken_over_while_the_montage_grows():
    nominal, true, pairs, offsets, _ = montage(8, 10, seed=6, bad=0.1)
    order = serpentine(8, 10)
    solvers = grow(nominal, pairs, offsets, order)
    for _ in range(60):
        solver = next(solvers)
    snapshot = solver.snapshot()
    solution = snapshot.solve()
    for _ in range(20):
        solver = next(solvers)
    middle = solver.positions()[order[0]]
    solver.adopt(snapshot, solution)
    found = at(solver, 80)
    whole = solve(nominal, pairs, offsets, np.full(len(pairs), 0.02))
    sure = whole.well_connected
    assert errors(found[sure], true[sure]).max() < LIMIT
    assert found[order[0]] == pytest.approx(middle, abs=0.2)  # nothing jumps


def test_tiles_removed_since_a_snapshot_stay_removed():
    nominal, _, pairs, offsets, _ = montage(4, 4)
    *_, solver = grow(nominal, pairs, offsets, range(16))
    snapshot = solver.snapshot()
    solver.remove_tile(5)
    solver.adopt(snapshot, snapshot.solve())
    assert sorted(solver.positions()) == [k for k in range(16) if k != 5]
    assert all(5 not in pair for pair in solver.outliers)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda s: s.add_tile(0, (1, 1)), ValueError, "tile 0 is there already"),
        (lambda s: s.add_tile(9, (1, np.nan)), ValueError, "nominal place of tile 9"),
        (lambda s: s.add_tile(9, 3.0), ValueError, "nominal place of tile 9"),
        (lambda s: s.add_match(0, 7, 1, 1), KeyError, "no tile 7; 2 tiles"),
        (lambda s: s.add_match(0, 0, 1, 1), ValueError, "must be of two tiles"),
        (lambda s: s.add_match(0, 1, np.inf, 1), ValueError, "finite"),
        (lambda s: s.add_match(0, 1, 1, 1, -1.0), ValueError, "not negative"),
        (lambda s: s.remove_tile(5), KeyError, "no tile 5"),
    ],
)
def test_what_makes_no_sense_is_refused(action, error, message):
    solver = IncrementalSolver()
    solver.add_tile(0, (0, 0))
    solver.add_tile(1, (0, 900))
    with pytest.raises(error, match=message):
        action(solver)
