"""Planes and surfaces of focus: exact, robust, and refused where the points say nothing."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.geometry import (
    FocusSurfaceError,
    FrameGeometry,
    Region,
    fit_focus_surface,
    measuring_tiles,
    plan_grid,
)

KINDS = ["plane", "surface"]
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 10_000)


@cache
def grid(width: float, height: float, angle: float = 7.0):
    region = Region.rectangle((300, -50), width, height, angle)
    return plan_grid(region, FrameGeometry(4.0, 3.0), (1000, 1000))


def places_of(tiles) -> np.ndarray:
    return np.array([(tile.x, tile.y) for tile in tiles])


def a_surface(kind: str, rng: np.random.Generator):
    """A section's focus: some µm, a slope of some percent, a bend of some µm over 100 µm."""
    c = rng.normal(size=6) * [3, 0.02, 0.02, 2e-4, 2e-4, 2e-4]
    c[3:] *= kind == "surface"

    def defocus(x, y):
        x, y = x - 300, y + 50
        return c[0] + c[1] * x + c[2] * y + c[3] * x**2 + c[4] * x * y + c[5] * y**2

    return defocus


@given(kinds, seeds, st.sampled_from([(20, 100), (60, 60), (90, 30)]))
def test_what_is_of_the_kind_is_found_exactly_between_and_beyond_the_points(kind, seed, size):
    rng = np.random.default_rng(seed)
    truth, tiles = a_surface(kind, rng), grid(*size)
    x, y = places_of(measuring_tiles(tiles, kind)).T
    weights = rng.uniform(0.4, 1, len(x))
    fit = fit_focus_surface(np.column_stack([x, y]), truth(x, y), weights, kind=kind)
    everywhere = places_of(tiles.tiles).T
    np.testing.assert_allclose(fit(*everywhere), truth(*everywhere), atol=1e-6)
    assert fit.rms < 1e-6
    assert fit.left_out == ()
    assert len(fit.coefficients) == {"plane": 3, "surface": 6}[kind]


@given(kinds, seeds)
def test_one_bad_point_is_left_out(kind, seed):
    rng = np.random.default_rng(seed)
    truth, tiles = a_surface(kind, rng), grid(60, 40)
    x, y = places_of(measuring_tiles(tiles, kind)).T
    measured = truth(x, y) + rng.normal(0, 0.1, len(x)).clip(-0.3, 0.3)
    bad = int(rng.integers(len(x)))
    measured[bad] += rng.choice([-1, 1]) * rng.uniform(6, 30)
    fit = fit_focus_surface(np.column_stack([x, y]), measured, kind=kind)
    assert fit.left_out == (bad,)
    assert abs(fit.residuals[bad]) > 4
    assert fit.rms < 0.3


@given(kinds, seeds)
def test_scatter_within_the_tolerance_leaves_no_point_out(kind, seed):
    rng = np.random.default_rng(seed)
    truth, tiles = a_surface(kind, rng), grid(60, 40)
    x, y = places_of(measuring_tiles(tiles, kind)).T
    measured = truth(x, y) + rng.uniform(-0.4, 0.4, len(x))
    fit = fit_focus_surface(np.column_stack([x, y]), measured, kind=kind)
    assert fit.left_out == ()
    assert fit.rms <= 0.4
    np.testing.assert_allclose(measured - fit(x, y), fit.residuals, atol=1e-9)


def test_a_bad_point_that_cannot_be_told_from_another_stays():
    """Of four corners and the middle: a corner that is off looks like the one opposite."""
    places = [(-1, -1), (1, -1), (1, 1), (-1, 1), (0, 0)]
    fit = fit_focus_surface(places, [5.0, 0, 0, 0, 0])
    assert fit.left_out == ()
    assert fit.rms > 1


def test_a_point_of_more_weight_counts_more():
    places = [(0, 0), (10, 0), (0, 10), (10, 10)]
    measured = [0.0, 0.0, 0.0, 0.8]
    alike = fit_focus_surface(places, measured)
    heavy = fit_focus_surface(places, measured, [1, 1, 1, 100])
    assert abs(heavy.residuals[3]) < abs(alike.residuals[3]) / 10


@pytest.mark.parametrize(
    ("places", "kind", "message"),
    [
        ([], "plane", "a plane needs 3 points or more at which focus is known; there are 0"),
        ([(0, 0), (1, 0)], "plane", "a plane needs 3 points or more"),
        ([(0, 0), (1, 0), (0, 1), (1, 1)], "surface", "a surface needs 6 points or more"),
        ([(i, 2 * i) for i in range(5)], "plane", "the 5 points .* lie on a line"),
        ([(3, 4)] * 5, "plane", "the 5 points .* lie on a line, or in one place"),
        (
            [(x, y) for x in range(4) for y in (0, 1)],
            "surface",
            "the 8 points .* determine no surface: spread them, or fit a plane",
        ),
        (
            [(np.cos(a), np.sin(a)) for a in range(7)],
            "surface",
            "the 7 points .* determine no surface",
        ),
    ],
)
def test_points_that_determine_nothing_are_refused(places, kind, message):
    with pytest.raises(FocusSurfaceError, match=message):
        fit_focus_surface(places, np.zeros(len(places)), kind=kind)


@pytest.mark.parametrize(
    ("places", "defocus", "weights", "message"),
    [
        (np.eye(3, 2), [1, 2], None, "places, defocus and weights are 3, 2 and 3; there must be"),
        (np.eye(3, 2), [1, 2, np.nan], None, "places and defocus must be finite"),
        (np.eye(3, 2), [1, 2, 3], [1, 1, 0], "weights positive"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(places, defocus, weights, message):
    with pytest.raises(ValueError, match=message):
        fit_focus_surface(places, defocus, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (30, 1), (6, 6), (1, 60), (20, 31)])
def test_measuring_tiles_are_some_of_the_grid_in_its_order(kind, width, height):
    tiles = grid(width, height)
    chosen = measuring_tiles(tiles, kind)
    assert len(chosen) == min(len(tiles.tiles), {"plane": 5, "surface": 9}[kind])
    indices = [tile.index for tile in chosen]
    assert indices == sorted(set(indices))
    assert all(tiles.tiles[tile.index] is tile for tile in chosen)


def test_measuring_tiles_reach_the_ends_of_a_region_and_skip_what_it_leaves_out():
    square = grid(100, 100, angle=3.0)
    last = square.rows - 1
    corners = {(0, 0), (0, last), (last, 0), (last, last)}
    assert corners <= {(t.row, t.column) for t in measuring_tiles(square, "surface")}
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    disc = plan_grid(
        Region(np.column_stack([30 * np.cos(turns), 30 * np.sin(turns)])),
        FrameGeometry(4.0),
        (1000, 1000),
    )
    chosen = measuring_tiles(disc, "surface")
    assert len(chosen) == 9
    fit_focus_surface(places_of(chosen), np.zeros(9), kind="surface")
