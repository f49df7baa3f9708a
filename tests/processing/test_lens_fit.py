"""The fit of a lens to matches: against the truth, outliers, and matches that say too little."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.geometry import PairMatches
from processing.lens import LensFitError, LensLimits, fit_lens
from tests.processing.lenses import STAGE_ERROR, error, matches, positions, some_lens

REAL = (3840, 3840)


@settings(max_examples=30)
@given(
    sides=st.tuples(st.integers(512, 5376), st.integers(512, 5376)),
    largest=st.floats(1, 60),
    outliers=st.floats(0, 0.3),
    seed=st.integers(0, 10_000),
)
def test_any_lens_is_found_through_noise_and_outliers(sides, largest, outliers, seed):
    lens = some_lens(sides, min(largest, 0.015 * min(sides)), seed)
    pairs = matches(lens, positions(sides, seed=seed), outliers=outliers, seed=seed)
    fit = fit_lens(pairs, sides)
    assert fit.accepted, fit.reasons
    assert fit.residual_px_rms < 0.6
    assert error(fit.model, lens) < 0.15
    assert fit.inlier_share == pytest.approx(1 - outliers, abs=0.04)


def test_a_real_set_fits_where_translation_does_not():
    """As field notes tell of real tiles: 26 px with translation only, under 0.6 px with a cubic."""
    lens = some_lens(REAL, 60, seed=3)
    pairs = matches(lens, positions(REAL), per_pair=150, outliers=0.15)
    fit = fit_lens(pairs)
    assert fit.uncorrected_px_median > 8
    assert fit.residual_px_rms <= 0.6
    assert abs(fit.model.shape[0] - 3840) < 60  # taken from the range of the matches
    close = replace(fit.model, shape=REAL)
    assert error(close, lens) < 1.0


def test_without_noise_lens_and_places_are_exact():
    lens, where = some_lens((900, 700), 12), positions((900, 700))
    fit = fit_lens(matches(lens, where, noise=0.0), lens.shape)
    assert error(fit.model, lens) < 1e-4
    found = np.array([fit.positions[tile] for tile in where])
    truth = np.array(list(where.values()))
    np.testing.assert_allclose(found - found[0], truth - truth[0], atol=1e-3)
    assert fit.residual_px_rms < 1e-3
    assert len(fit.pairs) == 36
    assert fit.matches == sum(pair.matches for pair in fit.pairs)


def test_order_and_direction_of_pairs_do_not_matter():
    lens = some_lens((800, 800), 10)
    pairs = matches(lens, positions((800, 800)), outliers=0.1)
    turned = [PairMatches(m.b, m.a, m.q, m.p, m.weights) for m in reversed(pairs)]
    first, second = fit_lens(pairs, (800, 800)), fit_lens(turned, (800, 800))
    np.testing.assert_allclose(first.model.coefficients, second.model.coefficients, atol=1e-3)


def test_a_pair_that_is_wrong_as_a_whole_is_ignored_and_shown():
    lens = some_lens((800, 800), 10)
    pairs = matches(lens, positions((800, 800)))
    wrong = replace(pairs[4], q=pairs[4].q + np.array([90.0, -40.0]))
    fit = fit_lens([*pairs[:4], wrong, *pairs[5:]], (800, 800))
    assert error(fit.model, lens) < 0.15
    assert fit.pairs[4].inliers == 0
    assert np.isnan(fit.pairs[4].rms)


def test_matches_without_weight_are_not_used():
    lens = some_lens((800, 800), 10)
    pairs = matches(lens, positions((800, 800)))
    spoiled = []
    for pair in pairs:
        wrong = np.arange(len(pair.p)) % 2 == 0
        q = np.where(wrong[:, None], 400.0, pair.q)
        spoiled.append(replace(pair, q=q, weights=np.where(wrong, 0.0, 1.0)))
    fit = fit_lens(spoiled, (800, 800))
    assert fit.matches == sum(len(pair.p) // 2 for pair in pairs)
    assert fit.inlier_share > 0.99
    assert error(fit.model, lens) < 0.2


@given(scale=st.floats(0.8, 1.25), turn=st.floats(-20, 20))
@settings(max_examples=10)
def test_scale_and_turn_against_the_stage_are_told_and_judged(scale, turn):
    lens, where = some_lens((800, 800), 8), positions((800, 800))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    # Rows go down: a turn counter-clockwise as displayed.
    stage = {tile: tuple(at @ [[c, s], [-s, c]] / scale) for tile, at in where.items()}
    fit = fit_lens(matches(lens, where, noise=0.1), lens.shape, nominal=stage)
    assert fit.scale == pytest.approx(scale, rel=1e-3)
    assert fit.rotation == pytest.approx(-turn, abs=0.05)
    assert fit.accepted == (abs(fit.scale - 1) <= 0.1)
    assert error(fit.model, lens) < 0.05  # none of it leaks into the lens


def test_limits_are_kept_with_reasons():
    lens = some_lens((800, 800), 8)
    pairs = matches(lens, positions((800, 800)), noise=2.0, outliers=0.3)
    strict = LensLimits(most_mean=0.0, most_std=0.1, least_inliers=0.99)
    fit = fit_lens(pairs, lens.shape, limits=strict)
    assert not fit.accepted
    assert [reason.split(" ")[0] for reason in fit.reasons] == ["mean", "standard", "only"]
    assert fit_lens(pairs, lens.shape).accepted


def test_a_row_of_tiles_leaves_terms_open_and_they_are_named():
    """Tiles shifted across only cannot tell anything that depends on the row alone."""
    lens = some_lens((800, 800), 8)
    row = {f"t{n}": np.array([0.0, 300.0 * n]) for n in range(4)}
    with pytest.raises(LensFitError, match=r"v\^2·u\^0, v\^3·u\^0") as refused:
        fit_lens(matches(lens, row), lens.shape)
    assert "u^2" not in str(refused.value)


def test_two_groups_of_tiles_that_do_not_touch_share_one_lens():
    lens = some_lens((800, 800), 8)
    first = matches(lens, positions((800, 800)))
    other = matches(lens, {f"far-{k}": v for k, v in positions((800, 800), seed=5).items()}, seed=5)
    fit = fit_lens([*first, *other], lens.shape)
    assert len(fit.positions) == 18
    assert error(fit.model, lens) < 0.1


def test_too_few_matches_are_refused():
    pair = PairMatches("a", "b", np.zeros((5, 2)), np.ones((5, 2)), np.ones(5))
    with pytest.raises(LensFitError, match="there are 5 matches"):
        fit_lens([pair], (800, 800))
    with pytest.raises(LensFitError, match="there are 0 matches"):
        fit_lens([], (800, 800))


def test_matches_that_fit_no_lens_are_not_accepted():
    rng = np.random.default_rng(0)
    where = positions((800, 800))
    pairs = [
        PairMatches(m.a, m.b, m.p, rng.uniform(0, 799, m.q.shape), m.weights)
        for m in matches(some_lens((800, 800), 5), where)
    ]
    accepted = False
    with suppress(LensFitError):
        accepted = fit_lens(pairs, (800, 800)).accepted
    assert not accepted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((4, 2))}, "shapes"),
        ({"weights": np.full(5, np.nan)}, "not finite"),
        ({"weights": np.full(5, -1.0)}, "weight below 0"),
        ({"b": "a"}, "with itself"),
    ],
)
def test_bad_matches_are_refused(change, message):
    pair = PairMatches("a", "b", np.zeros((5, 2)), np.ones((5, 2)), np.ones(5))
    with pytest.raises(ValueError, match=message):
        replace(pair, **change)


def test_points_outside_any_frame_give_no_frame():
    lens = some_lens((800, 800), 8)
    pairs = matches(lens, positions((800, 800)))
    shifted = [replace(pair, p=pair.p - 50, q=pair.q - 50) for pair in pairs]
    with pytest.raises(LensFitError, match="outside any frame"):
        fit_lens(shifted)


def test_simulated_stages_are_as_wrong_as_real_ones():
    where = np.array(list(positions((2048, 2048)).values())).reshape(3, 3, 2)
    assert np.abs(np.diff(where[..., 0], axis=0) - 0.4 * 2048).max() > STAGE_ERROR / 2
