"""The order of scattered places: whole, short, and quick for many."""

from __future__ import annotations

import time
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.geometry import short_route

coordinates = st.floats(-100, 100)
places = st.tuples(coordinates, coordinates)


def length(route) -> float:
    return sum(float(np.hypot(b[0] - a[0], b[1] - a[1])) for a, b in pairwise(route))


def way(points, order, start, end) -> float:
    return length([start, *(points[i] for i in order), *([] if end is None else [end])])


@given(st.lists(places, max_size=12), places, st.none() | places)
def test_each_place_is_visited_once_and_no_turn_would_shorten_the_way(points, start, end):
    order = short_route(points, start, end)
    assert sorted(order) == list(range(len(points)))
    found = way(points, order, start, end)
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            turned = [*order[:i], *reversed(order[i : j + 1]), *order[j + 1 :]]
            assert way(points, turned, start, end) >= found - 1e-5


@pytest.mark.parametrize("ends", ["free", "fixed"])
def test_it_is_nearly_the_shortest_way(ends: str):
    rng = np.random.default_rng(3)
    excess = []
    for _ in range(40):
        points, (start, end) = rng.uniform(0, 100, (6, 2)), rng.uniform(0, 100, (2, 2))
        end = None if ends == "free" else end
        best = min(way(points, order, start, end) for order in permutations(range(6)))
        excess.append(way(points, short_route(points, start, end), start, end) / best - 1)
    assert min(excess) >= -1e-9
    assert np.mean(excess) < 0.03
    assert np.median(excess) < 0.001, "mostly it is the shortest"


def test_failed_tiles_of_a_row_are_taken_on_the_way_back():
    row = [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]
    assert short_route(row, start=(5, 0)) == [4, 3, 2, 1, 0]
    there_and_back = short_route(row, start=(5, 0), end=(5, 1))
    assert way(row, there_and_back, (5, 0), (5, 1)) == pytest.approx(5 + np.hypot(5, 1))


def test_no_place_and_one_place():
    assert short_route([], (0, 0)) == []
    assert short_route([(3, 4)], (0, 0), (1, 1)) == [0]


def test_a_row_of_failed_tiles_is_ordered_in_little_time():
    points = np.random.default_rng(1).uniform(0, 100, (30, 2))
    spent = []
    for _ in range(5):
        begun = time.thread_time()
        short_route(points, (0, 0), (0, 100))
        spent.append(time.thread_time() - begun)
    assert min(spent) < 0.02, "the RunEngine waits for it"
