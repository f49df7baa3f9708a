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
from tests.processing.lenses import (
    STAGE_ERROR,
    error,
    matches,
    positions,
    put,
    some_bends,
    some_lens,
)

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


@settings(max_examples=15)
@given(
    largest=st.floats(10, 60),
    turn=st.floats(2e-4, 2e-3),
    outliers=st.floats(0, 0.3),
    degree=st.integers(3, 6),
    seed=st.integers(0, 10_000),
)
def test_tiles_that_are_turned_and_scaled_do_not_spoil_the_lens(
    largest, turn, outliers, degree, seed
):
    """As real ones are: with shifts only, half a mrad leaves 1 px at the edges of a tile."""
    lens, where = some_lens(REAL, largest, seed, degree), positions(REAL, seed=seed)
    bends = some_bends(where, turn, turn / 2, seed)
    pairs = matches(lens, where, bends=bends, per_pair=100, outliers=outliers, seed=seed)
    fit = fit_lens(pairs, REAL)
    assert fit.accepted, fit.reasons
    assert fit.bent
    assert fit.residual_px_rms < 0.6
    assert error(fit.model, lens) < 0.3
    for tile, (scale, rotation) in fit.turns.items():
        assert scale - 1 == pytest.approx(bends[tile][0, 0], abs=2e-4)
        assert np.radians(rotation) == pytest.approx(bends[tile][1, 0], abs=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_that_are_bent_much_leave_the_lens_as_exact(seed):
    """A lens of 60 px and a bend of 10 do not commute: passed over, that would cost 0.1 px."""
    lens, where = some_lens(REAL, 60, seed, 4), positions(REAL, seed=seed)
    bends = some_bends(where, 5e-3, 3e-3, seed)
    fit = fit_lens(matches(lens, where, bends=bends, per_pair=200, noise=0.2, seed=seed), REAL)
    assert error(fit.model, lens) < 0.03
    assert fit.residual_px_rms < 0.2


def test_a_fit_says_all_that_it_takes_to_put_a_pixel_in_place():
    lens, where = some_lens(REAL, 40, seed=1, degree=4), positions(REAL)
    pairs = matches(lens, where, bends=some_bends(where, 2e-3), outliers=0.1)
    fit = fit_lens(pairs, REAL)
    apart = np.concatenate(
        [
            put(fit.model, fit.positions[m.a], fit.bends[m.a], m.p)
            - put(fit.model, fit.positions[m.b], fit.bends[m.b], m.q)
            for m in pairs
        ]
    )
    inliers = np.sort(np.linalg.norm(apart, axis=1))[: len(fit.residuals)]
    assert np.sqrt((inliers**2).mean()) == pytest.approx(fit.residual_px_rms, rel=1e-6)
    assert np.mean(list(fit.bends.values()), axis=0) == pytest.approx(np.zeros((2, 2)), abs=1e-12)


def test_tiles_that_differ_by_shifts_only_stay_as_they_are():
    lens = some_lens(REAL, 60, seed=3)
    fit = fit_lens(matches(lens, positions(REAL), per_pair=100, outliers=0.15), REAL)
    assert not fit.bent
    assert fit.bend_px_rms == 0
    assert set(fit.turns) == set(fit.positions)


@pytest.mark.parametrize("seed", range(3))
def test_errors_that_points_of_a_pair_have_in_common_are_no_part_of_the_lens(seed):
    """Four tiles and good matches: held out one by one, points would ask for a degree of 6 to 9."""
    lens = some_lens(REAL, 40, seed=2)
    pairs = matches(
        lens, positions(REAL, 2, 2), per_pair=150, noise=0.1, stretch=0.4, outliers=0.05, seed=seed
    )
    fit = fit_lens(pairs, REAL)
    assert fit.model.degree <= 4
    assert error(fit.model, lens) < 0.15


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_the_degree_is_that_of_the_lens(degree):
    lens, where = some_lens(REAL, 40, seed=2, degree=degree), positions(REAL)
    pairs = matches(
        lens, where, bends=some_bends(where), per_pair=150, stretch=0.4, outliers=0.05, seed=degree
    )
    fit = fit_lens(pairs, REAL)
    assert fit.accepted, fit.reasons
    assert fit.model.degree == degree
    assert [trial.degree for trial in fit.trials] == list(range(2, 10))
    assert fit.next_trial.degree == degree + 1
    # What was not fitted to is told nearly as well as what was.
    assert fit.residual_px_rms < fit.held_out_px_rms < 1.1 * fit.residual_px_rms


def test_a_degree_that_leaves_twice_what_a_better_one_does_is_not_accepted():
    """Within the limit of the residuals, and far from what the matches tell."""
    lens, where = some_lens(REAL, 15, seed=4, degree=4), positions(REAL)
    pairs = matches(lens, where, bends=some_bends(where), per_pair=100)
    fit = fit_lens(pairs, REAL, degree=3)
    assert fit.residual_px_std < LensLimits().most_std
    (reason,) = fit.reasons
    assert reason.startswith(f"degree 3 leaves {fit.trial.held_out_px:.3g} px of pairs held out")
    assert "of degree 4" in reason
    assert fit_lens(pairs, REAL, degree=4).accepted
    assert fit_lens(pairs, REAL, degree=6).accepted  # more than it takes is no fault


@pytest.mark.parametrize("overlap", [0.07, 0.13])
def test_the_matches_of_a_montage_are_no_lens(overlap):
    """Its overlaps show the rim of the frame: whatever fits there says nothing of the middle."""
    lens = some_lens(REAL, 20)
    pairs = matches(lens, positions(REAL, 6, 6, overlap), per_pair=80)
    assert len(pairs) > 50
    with pytest.raises(LensFitError, match=r"overlap in \d\d% of the frame, and it takes 60%"):
        fit_lens(pairs, REAL)


def test_too_few_pairs_to_hold_any_out_are_fitted_by_a_cubic():
    lens = some_lens((800, 800), 8)
    corner = {tile: at for tile, at in positions((800, 800), 2, 2).items() if tile != "tile-1-1"}
    pairs = [pair for pair in matches(lens, corner, per_pair=200) if "tile-0-0" in (pair.a, pair.b)]
    fit = fit_lens(pairs, (800, 800))
    assert (fit.trials, fit.trial, fit.next_trial) == ((), None, None)
    assert fit.model.degree == 3
    assert not fit.bent
    assert error(fit.model, lens) < 0.3


def test_matches_of_both_directions_count_as_one_overlap():
    """Held out one by one, each would be told by the other, with the errors that both have."""
    lens, where = some_lens((800, 800), 10), positions((800, 800), seed=3)
    pairs = matches(lens, where, per_pair=40, stretch=0.4)
    turned = [PairMatches(m.b, m.a, m.q, m.p, m.weights) for m in pairs]
    once, twice = (fit_lens(some, (800, 800)).trials for some in (pairs, [*pairs, *turned]))
    assert [trial.shifts_px for trial in twice] == pytest.approx(
        [trial.shifts_px for trial in once], rel=0.02
    )


def test_places_outside_the_frames_they_are_said_to_be_of_are_refused():
    lens = some_lens((800, 600), 8)
    pairs = matches(lens, positions((800, 600)))
    with pytest.raises(LensFitError, match=r"outside frames of 600 × 800 px, up to"):
        fit_lens(pairs, (600, 800))


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
