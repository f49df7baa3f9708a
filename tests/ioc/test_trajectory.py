"""Trajectories: what is refused, and how long one takes."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioc.drivers.protocol import Axis
from ioc.trajectory import Results, Rules, Trajectory, check, time_left, travel_time

NAMES = ("x", "y", "focus", "shift_x", "shift_y", "exposure")
LIMITS = dict.fromkeys(NAMES, (-10.0, 10.0))


def make(n: int, **columns: list[float]) -> Trajectory:
    arrays = {name: np.zeros(n) for name in NAMES}
    return Trajectory(**{**arrays, **{name: np.array(v, float) for name, v in columns.items()}})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [nan, inf, -inf, 10.001, -10.001])
def test_a_number_that_is_not_allowed_is_named(name, value):
    values = [0.0, 1.0, value, 2.0, value]
    with pytest.raises(ValueError, match="must lie between") as error:
        check(make(5, **{name: values}), LIMITS)
    assert f"{name} of point 2 is {value:g}" in str(error.value)
    assert "between -10 and 10 (2 such points)" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_included(name):
    check(make(2, **{name: [-10.0, 10.0]}), LIMITS)


def test_results_begin_with_nothing():
    results = Results.empty(3)
    assert results.frame.tolist() == results.place.tolist() == [-1] * 3
    assert results.fault.tolist() == [0] * 3
    assert np.isnan([results.x, results.start, results.mean]).all()
    assert {results.frame.dtype, results.fault.dtype} == {np.dtype("int32")}
    assert results.order == []


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(0, 0), (100, 100 / 50 + 50 / 500), (-100, 100 / 50 + 50 / 500), (1, 2 * sqrt(1 / 500))],
)
def test_travel_time(distance, expected):
    assert travel_time(distance, 50, 500) == pytest.approx(expected)
    assert travel_time(distance, 50, inf) == pytest.approx(abs(distance) / 50)


places = st.floats(-100, 100) | st.integers(-2, 2).map(float)
shifts = st.sampled_from((0.0, 0.0, 0.5, -0.5))
points = st.tuples(places, places, shifts, shifts, st.floats(0.001, 2))
seconds = st.floats(0, 2)


@settings(deadline=None)
@given(
    points=st.lists(points, max_size=12),
    start=st.tuples(places, places),
    speeds=st.tuples(st.floats(1, 200), st.floats(1, 200)),
    acceleration=st.floats(10, 1e4) | st.just(inf),
    settle=seconds,
    shift_settle=seconds,
    readout=seconds,
)
def test_time_left_is_the_sum_of_what_each_point_takes(points, start, speeds, **times):
    rules, readout = (
        Rules(settle=times["settle"], shift_settle=times["shift_settle"]),
        times["readout"],
    )
    acceleration = times["acceleration"]
    x, y, shift_x, shift_y, exposure = np.array(points, float).reshape(-1, 5).T
    trajectory = make(len(points), x=x, y=y, shift_x=shift_x, shift_y=shift_y, exposure=exposure)
    axes = tuple(Axis(-100, 100, "um", 3, speed, speed, acceleration) for speed in speeds)
    expected = []
    at, shift = start, (0.0, 0.0)
    for i, point in enumerate(points):
        travel = max(
            travel_time(to - here, axis.speed, axis.acceleration)
            for here, to, axis in zip(at, point, axes, strict=False)
        )
        ready = travel + rules.settle if travel else rules.shift_settle * (point[2:4] != shift)
        expected.append((max(ready, readout) if i else ready) + point[4])
        at, shift = point[:2], point[2:4]
    if expected:
        expected[-1] += readout
    left = time_left(trajectory, start, axes, rules, readout)
    assert left.shape == (len(points) + 1,)
    assert left[-1] == 0
    for i in range(len(points)):
        assert left[i] == pytest.approx(sum(expected[i:]))
