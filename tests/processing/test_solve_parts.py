"""The parts of the solver against what is slow and plain."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from processing.geometry.lattice import grid_pairs
from processing.solve import solve
from processing.solve.bridges import on_loops, overruled
from processing.solve.least_squares import LeastSquares, components
from processing.solve.loops import Loops, find_loops, grow, join

graphs = st.integers(3, 7).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1]),
            min_size=1,
            max_size=11,
        ),
    )
)


def is_loop(ends):
    """Whether edges make one loop: each node twice, all together."""
    nodes, counts = np.unique(ends, return_counts=True)
    together = DisjointSet(nodes.tolist())
    for a, b in ends.tolist():
        together.merge(a, b)
    return (counts == 2).all() and together.n_subsets == 1


@settings(max_examples=60)
@given(graphs, st.integers(2, 6))
def test_all_loops_are_found_once(graph, longest):
    n_nodes, edges = graph
    ends = np.array(edges)
    places = np.random.default_rng(0).normal(size=(n_nodes, 2))
    exact = places[ends[:, 1]] - places[ends[:, 0]]
    found = find_loops(places, ends, exact, np.full(len(ends), 1e-6), longest)
    got = sorted(tuple(sorted(m[m >= 0].tolist())) for m in found.members)
    want = [
        chosen
        for length in range(2, longest + 1)
        for chosen in combinations(range(len(ends)), length)
        if is_loop(ends[list(chosen)])
    ]
    assert got == sorted(want)


@settings(max_examples=60)
@given(graphs)
def test_a_loop_closes_by_the_sum_of_its_offsets(graph):
    n_nodes, edges = graph
    ends = np.array(edges)
    places = np.random.default_rng(0).normal(size=(n_nodes, 2))
    offsets = np.random.default_rng(1).normal(size=(len(ends), 2))
    found = find_loops(places, ends, offsets, np.full(len(ends), np.inf), 5)
    for members, gap, loop_sum in zip(found.members, found.gaps, found.sums, strict=True):
        chosen = members[members >= 0].tolist()
        left = set(chosen[1:])
        here, total = ends[chosen[0], 1], offsets[chosen[0]].copy()
        corners = [places[ends[chosen[0], 0]], places[here]]
        while left:
            step = next(k for k in left if here in ends[k])
            forward = ends[step, 0] == here
            total += offsets[step] if forward else -offsets[step]
            here = ends[step, 1] if forward else ends[step, 0]
            corners.append(places[here])
            left.remove(step)
        assert np.hypot(*total) == pytest.approx(gap, abs=1e-9)
        down, across = np.transpose(corners)
        area = (down[:-1] * across[1:] - across[:-1] * down[1:]).sum()
        if abs(area) > 1e-9:  # a loop to and fro has no way round
            assert loop_sum == pytest.approx(total if area > 0 else -total, abs=1e-9)


@settings(max_examples=60)
@given(graphs)
def test_a_match_is_on_a_loop_if_nothing_falls_apart_without_it(graph):
    n_nodes, edges = graph
    ends = np.array(edges)
    parts = components(n_nodes, ends).max()
    without = [
        components(n_nodes, np.delete(ends, k, axis=0)).max() == parts for k in range(len(ends))
    ]
    assert on_loops(n_nodes, ends).tolist() == without


@settings(max_examples=40)
@given(graphs, st.integers(0, 1000))
def test_least_squares_is_what_the_dense_inverse_says(graph, seed):
    n_tiles, edges = graph
    ends = np.array(edges)
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 3.0, len(ends))
    targets, start = rng.normal(size=(len(ends), 2)), rng.normal(size=(n_tiles, 2))
    matrix = np.zeros((len(ends), n_tiles))
    matrix[np.arange(len(ends)), ends[:, 1]] += 1
    matrix[np.arange(len(ends)), ends[:, 0]] -= 1
    inverse = np.linalg.pinv(matrix.T * weights @ matrix, rcond=1e-10)
    equations = LeastSquares(n_tiles, ends, weights)
    wanted = start + inverse @ (matrix.T * weights) @ (targets - matrix @ start)
    assert equations.solve(start, targets) == pytest.approx(wanted, abs=1e-8)
    assert equations.variances() == pytest.approx(np.diag(inverse), abs=1e-8)


def test_a_few_matches_more_are_as_if_they_had_been_there():
    rng = np.random.default_rng(0)
    ends = np.array([(a, b) for a in range(6) for b in range(a)])
    weights, targets = rng.uniform(0.5, 2, len(ends)), rng.normal(size=(len(ends), 2))
    start = rng.normal(size=(6, 2))
    more = np.arange(len(ends)) % 4 == 1
    first = LeastSquares(6, ends[~more], weights[~more])
    found = first.solve_with(
        first.solve(start, targets[~more]), ends[more], weights[more], targets[more]
    )
    assert found == pytest.approx(LeastSquares(6, ends, weights).solve(start, targets), abs=1e-9)


def test_sets_grow_by_what_two_matches_agree_on():
    ends = np.array([(0, 1), (0, 1), (0, 1), (1, 2), (0, 2), (2, 3)])
    offsets = np.array([(5.0, 0), (5.1, 0), (90.0, 0), (0, 7.0), (5.0, 7.0), (1.0, 1)])
    taken, root, shift = grow(ends, offsets, np.full(6, 0.2), 4)
    assert taken.tolist() == [True, True, False, True, True, False]
    assert root[0] == root[1] == root[2] != root[3]
    assert shift[1] - shift[0] == pytest.approx((5.05, 0), abs=0.06)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_match_that_alone_ties_two_parts_is_overruled_by_two_that_agree(flipped):
    """Two triangles; one kept match ties them, two left out agree on another place, one does not.

    Nothing overrules a match within a triangle: it is on a loop.
    """
    ends = np.array(
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (5, 2), (1, 5)]
    )
    gaps = np.zeros((10, 2))
    gaps[7], gaps[8], gaps[9] = (40.0, -9.0), (-40.1, 9.0), (70.0, 3.0)
    if flipped:
        ends, gaps = ends[:, ::-1].copy(), -gaps
    kept = np.arange(10) < 7
    wrong, right = overruled(ends, gaps, np.full(10, 0.2), kept, np.zeros(10))
    assert np.flatnonzero(wrong).tolist() == [6]
    assert np.flatnonzero(right).tolist() == [7, 8]
    gaps[8] = 8.0
    wrong, right = overruled(ends, gaps, np.full(10, 0.2), kept, np.zeros(10))
    assert not wrong.any()
    assert not right.any()


def test_of_two_matches_in_a_row_the_more_doubtful_one_is_overruled():
    """Nodes 0 to 1 to 2 in a row by one match each; two others tie 0 to 2 otherwise."""
    ends = np.array([(0, 1), (1, 2), (0, 2), (2, 0)])
    gaps = np.array([(0.0, 0), (0.0, 0), (30.0, 0), (-30.0, 0)])
    for worse in (0, 1):
        doubts = np.where(np.arange(4) == worse, 9.0, 1.0)
        kept = np.arange(4) < 2
        wrong, right = overruled(ends, gaps, np.full(4, 0.2), kept, doubts)
        assert np.flatnonzero(wrong).tolist() == [worse]
        assert right.tolist() == [False, False, True, True]


def test_joining_leaves_out_what_contradicts_earlier_loops():
    ends = np.array([(0, 1), (1, 2), (0, 2), (0, 2), (0, 1)])
    offsets = np.array([(1.0, 0), (0, 1.0), (1.0, 1.0), (80.0, 0), (79.0, 0)])
    loops = np.array([(0, 1, 2), (3, 1, 4)])
    taken, root, shift = join(loops, ends, offsets, np.full(5, 0.1), 3)
    assert taken.tolist() == [True, True, True, False, False]
    assert shift - shift[0] == pytest.approx(np.array([(0, 0), (1, 0), (1, 1)]))
    assert (root == root[0]).all()


def test_loops_that_close_no_better_than_by_chance_are_not_sure():
    rng = np.random.default_rng(0)
    right, wrong = rng.rayleigh(0.1, 30), 300 * np.sqrt(rng.random(5000))
    sums = np.column_stack([np.concatenate([right, wrong]), np.zeros(5030)])
    loops = Loops(np.zeros((5030, 4), int), sums, 5030)
    sure = loops.surer_than_chance(300.0, 0.01)
    assert len(sure) >= 30
    assert sure.gaps.max() < 5.0
    only = Loops(np.zeros((5000, 4), int), sums[30:], 5000)
    assert len(only.surer_than_chance(300.0, 0.01)) == 0


def halves(turn):
    """Return 6 × 8 tiles, of whose seven seams the middle one is measured with a turn beyond it."""
    nominal = np.array([(row, column) for row in range(6) for column in range(8)]) * 900.0
    pairs = grid_pairs(6, 8)
    offsets = nominal[pairs[:, 1]] - nominal[pairs[:, 0]]
    offsets += np.random.default_rng(0).normal(0, 0.1, offsets.shape)
    seam = [k for k, (a, b) in enumerate(pairs.tolist()) if a % 8 == 3 and b == a + 1]
    offsets[seam, 0] += turn * np.arange(len(seam))
    return nominal, pairs, offsets, seam


def test_a_half_that_hangs_on_fewer_matches_than_were_thrown_out_is_outvoted():
    """The matches of the seam contradict each other: where the halves lie, one of them tells."""
    nominal, pairs, offsets, seam = halves(turn=60.0)
    found = solve(nominal, pairs, offsets)
    assert len(set(seam) & set(found.outliers)) > len(seam) / 2
    assert found.outvoted.sum() == 24
    assert len(set(found.component)) == 1


def test_no_tile_is_outvoted_where_all_matches_agree():
    nominal, pairs, offsets, _ = halves(turn=0.0)
    assert not solve(nominal, pairs, offsets).outvoted.any()
