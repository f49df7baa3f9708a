"""Least squares over points that tiles share: what is held, told, and passed over."""

from __future__ import annotations

import numpy as np
import pytest

from processing.points import RIGID, Equations, Frames, Points, by_model, fit_points, terms
from processing.points.reweighted import by_match

SHAPE = (400, 500)


def set_of(places, *, per_pair=30, noise=0.2, seed=0, ends=None):
    """The points of tiles at some places: all pairs, or those that are given."""
    rng = np.random.default_rng(seed)
    places = np.asarray(places, dtype=float)
    if ends is None:
        ends = [(a, b) for b in range(len(places)) for a in range(b)]
    p, q, pair = [], [], []
    for number, (a, b) in enumerate(ends):
        low = np.maximum(places[a], places[b])
        high = np.minimum(places[a], places[b]) + SHAPE
        at = rng.uniform(low, high, (per_pair, 2))
        p.append(at - places[a])
        q.append(at - places[b] + noise * rng.standard_normal(at.shape))
        pair += [number] * per_pair
    points = Points(np.array(pair), np.concatenate(p), np.concatenate(q), np.full(len(pair), 1.0))
    frames = Frames(np.array(ends), points, SHAPE, len(places), 3)
    return frames, points.p - points.q


SQUARE = [(0, 0), (0, 200), (160, 0), (160, 200)]


def test_what_all_tiles_of_an_island_do_alike_is_nothing():
    """However weak the prior on bends is: neither island shrinks, nor does a tile alone."""
    far = np.add(SQUARE, 5000)
    ends = [(a, b) for b in range(4) for a in range(b)]
    frames, gaps = set_of(
        [*SQUARE, *far, (9000, 9000)], noise=3.0, ends=[*ends, *np.add(ends, 4).tolist()]
    )
    bends = Equations(frames, gaps, np.ones(len(gaps))).solve(1000.0, 7)
    for island in (slice(0, 4), slice(4, 8), slice(8, 9)):
        assert bends.tiles[island].mean(axis=0) == pytest.approx(np.zeros((3, 2)), abs=1e-5)
    assert np.abs(bends.tiles[:8, 1:]).max() > 0.1


def test_what_is_left_of_a_lens_is_what_no_placing_of_tiles_explains():
    """Tiles side by side say nothing of what depends on the row alone."""
    frames, gaps = set_of([(0, 0), (0, 150), (0, 300)], noise=0.0)
    left = Equations(frames, gaps, np.ones(len(gaps))).lens_alone(RIGID, 7)
    values, vectors = np.linalg.eigh(left)
    assert (values[:2] < 1e-6).all()
    assert values[2] > 0.1
    of_rows = [number for number, (_, across) in enumerate(terms(3)) if not across]
    assert (vectors[of_rows, :2] ** 2).sum() == pytest.approx(2, abs=1e-6)
    assert np.isfinite(Equations(frames, gaps, np.ones(len(gaps))).lens_alone(5.0, 7)).all()


def test_bends_after_a_lens_take_points_where_the_lens_puts_them():
    frames, _ = set_of(SQUARE, noise=0.0)
    lens = np.zeros((7, 2))
    lens[2, 1] = 20.0  # columns, by the second Legendre polynomial of the column
    bent = frames.straightened(lens)
    v, u = (frames.arms[0][:, k] for k in (1, 2))
    assert bent.arms[0][:, 1] == pytest.approx(v)
    assert bent.arms[0][:, 2] == pytest.approx(u + 20 * (1.5 * u**2 - 0.5) / 250)
    assert frames.straightened(lens[:3]).arms[1] == pytest.approx(bent.arms[1])


@pytest.mark.parametrize(("weigh", "believed"), [(by_match, True), (by_model, False)])
def test_a_match_that_is_off_as_a_whole_is_wrong_only_if_the_model_is_right(weigh, believed):
    frames, gaps = set_of(SQUARE)
    off = frames.points.pair == 2
    gaps[off] += (40.0, -25.0)
    _, weights = fit_points(frames, gaps, RIGID)
    _, weights = fit_points(frames, gaps, RIGID, weights=weights, weigh=weigh)
    assert (weights[off] > 0).all() == believed
    assert (weights[~off] > 0).mean() > 0.95


@pytest.mark.parametrize("weigh", [by_match, by_model])
def test_single_points_that_are_off_are_wrong(weigh):
    frames, gaps = set_of(SQUARE)
    wrong = np.arange(len(gaps)) % 10 == 3
    gaps[wrong] += (60.0, 80.0)
    bends, weights = fit_points(frames, gaps, RIGID)
    bends, weights = fit_points(frames, gaps, RIGID, weights=weights, weigh=weigh)
    assert (weights[wrong] == 0).all()
    places = bends.tiles[:, 0] - bends.tiles[0, 0]
    assert places == pytest.approx(np.array(SQUARE, dtype=float), abs=0.2)
