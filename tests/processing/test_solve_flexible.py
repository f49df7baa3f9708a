"""Tiles that are turned, scaled and bent: their maps, the lens, and what of it is worth it."""

from __future__ import annotations

import numpy as np
import pytest

from processing.lens import LensModel
from processing.solve import Model, flexible, solve_maps
from tests.processing.lenses import some_lens
from tests.processing.test_solve import errors, montage

SHAPE = (1024, 1024)
MIDDLE = (np.array(SHAPE) - 1) / 2


def turned(
    rows, columns, *, seed=0, angle=0.002, scale=0.001, sd=0.02, patches=8, lens=None, error=30.0
):
    """Tiles with maps of their own, and the points that neighbours share, seen through a lens."""
    rng = np.random.default_rng(seed)
    nominal, true, pairs, _, _ = montage(rows, columns, seed=seed, error=error)
    maps = np.eye(2) + scale * rng.standard_normal((len(true), 2, 2))
    turn = angle * rng.standard_normal(len(true))
    maps[:, 0, 1] += turn
    maps[:, 1, 0] -= turn
    maps -= maps.mean(axis=0) - np.eye(2)  # what all have in common, nothing tells
    points = []
    for a, b in pairs:
        low = np.maximum(true[a], true[b]) + 5
        high = np.minimum(true[a], true[b]) + np.array(SHAPE) - 5
        places = rng.uniform(low, high, (patches, 2))
        seen = [np.linalg.solve(maps[t], (places - true[t] - MIDDLE).T).T + MIDDLE for t in (a, b)]
        if lens is not None:
            seen = [lens.to_distorted(one) for one in seen]
        table = np.column_stack([*seen, np.full(patches, sd), np.full(patches, 1 / patches)])
        table[:, :4] += sd / np.sqrt(2) * rng.standard_normal((patches, 4))
        points.append(table)
    return nominal, true, maps, pairs, points


def solved(nominal, pairs, points, freedom="auto"):
    """Solve from the points alone: an offset is the median of a pair's points."""
    offsets = [
        np.median(p[:, :2] - p[:, 2:4], axis=0) if len(p) else np.full(2, np.nan) for p in points
    ]
    known = np.isfinite(offsets).all(axis=1)
    sd = [np.hypot((p[:, :2] - p[:, 2:4]).std(axis=0).max(), 0.1) for p in points if len(p)]
    return solve_maps(
        nominal,
        np.asarray(pairs)[known],
        np.array(offsets)[known],
        [p for p, k in zip(points, known, strict=True) if k],
        SHAPE,
        sd=sd,
        freedom=freedom,
    )


def off(solution, true, maps, lens=None):
    """How far the four corners of each tile are from the truth, but for a common affine map."""
    corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) * (np.array(SHAPE) - 1.0)
    tiles = np.arange(len(true))[:, None]
    found = solution.maps.forward(tiles, corners).reshape(-1, 2)
    seen = corners if lens is None else lens.to_corrected(corners)
    wanted = np.einsum("nij,kj->nki", maps, seen - MIDDLE)
    wanted = (wanted + (true + MIDDLE)[:, None]).reshape(-1, 2)
    terms = np.column_stack([np.ones(len(found)), found - found.mean(axis=0)])
    common = np.linalg.lstsq(terms, wanted, rcond=None)[0]
    return np.hypot(*(terms @ common - wanted).T).reshape(-1, 4)


def test_small_turns_and_scales_are_recovered():
    nominal, true, maps, pairs, points = turned(8, 9)
    found = solved(nominal, pairs, points)
    assert found.model.flexibility
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.25
    assert np.median(found.disagreement) < 0.1
    # Translations alone are off by what the tiles are turned.
    assert found.translation.residual_median > 0.3
    matrices = found.maps.matrices
    turn = (matrices[:, 0, 1] - matrices[:, 1, 0]) / 2
    assert turn == pytest.approx((maps[:, 0, 1] - maps[:, 1, 0]) / 2, abs=3e-4)


def test_tiles_that_are_not_bent_stay_so():
    """No freedom that helps nothing is used: the maps are the translations, to the last bit."""
    nominal, true, _, pairs, points = turned(8, 8, angle=0, scale=0, sd=0.1)
    found = solved(nominal, pairs, points)
    assert found.model == Model()
    assert found.maps.lens is None
    assert (found.maps.matrices[:, :, :2] == np.eye(2)).all()
    assert (found.maps.matrices[:, :, 2] == found.translation.positions).all()
    assert errors(found.maps.matrices[:, :, 2], true).max() < 0.3


def test_tiles_do_not_shrink_to_bring_points_nearer():
    """All tiles smaller, and so nearer: what errors points have would be less in px."""
    nominal, true, _, pairs, points = turned(6, 6, angle=0, scale=0, sd=0.5, patches=60)
    found = solved(nominal, pairs, points, freedom="affine")
    assert found.model.flexibility
    assert found.maps.matrices[:, :, :2].mean(axis=0) == pytest.approx(np.eye(2), abs=1e-9)
    pitch = np.ptp(found.maps.matrices[:, :, 2], axis=0) / np.ptp(true, axis=0)
    assert pitch == pytest.approx(1, abs=2e-4)


def test_a_tile_without_matches_keeps_its_shape():
    nominal, _, _, pairs, points = turned(5, 5)
    alone = 12
    keep = ~(pairs == alone).any(axis=1)
    kept = [p for p, k in zip(points, keep, strict=True) if k]
    found = solved(nominal, pairs[keep], kept, freedom="affine")
    matrix = found.maps.matrices[alone]
    assert matrix[:, :2] == pytest.approx(np.eye(2), abs=1e-9)
    assert matrix[:, 2] == pytest.approx(found.translation.positions[alone], abs=1e-6)
    assert found.translation.placed_by[alone] == "stage"


def test_a_tile_on_one_match_is_hardly_bent_by_it():
    """Six points on a narrow strip: what they do not tell, the prior does."""
    nominal, _, maps, pairs, points = turned(1, 2)
    found = solved(nominal, pairs, points, freedom="affine")
    bent = np.abs(found.maps.matrices[:, :, :2] - np.eye(2)).max()
    assert bent < 3 * np.abs(maps - np.eye(2)).max()


def test_wrong_pairs_and_wrong_points_do_not_bend_tiles():
    nominal, true, maps, pairs, points = turned(8, 8, patches=12)
    rng = np.random.default_rng(3)
    wrong = rng.choice(len(pairs), 5, replace=False)
    for k in wrong:
        points[k][:, 2:4] += rng.uniform(100, 200, 2)
    for k in np.setdiff1d(np.arange(len(pairs)), wrong):
        points[k][0, 2:4] += (6.0, -9.0)  # one patch of twelve
    found = solved(nominal, pairs, points)
    assert sorted(found.translation.outliers) == sorted(wrong)
    # What was left out is told all the same.
    assert (found.disagreement[wrong] > 100).all()
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.4


def test_pairs_without_points_are_told_by_their_offsets():
    nominal, true, maps, pairs, points = turned(4, 4)
    offsets = np.array([np.median(p[:, :2] - p[:, 2:4], axis=0) for p in points])
    points[3] = np.empty((0, 6))
    found = solve_maps(nominal, pairs, offsets, points, SHAPE, freedom="affine")
    assert found.disagreement[3] == found.translation.residuals[3]
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.3


@pytest.mark.parametrize("freedom", ["auto", "affine+lens"])
def test_a_lens_that_all_tiles_share_is_found(freedom):
    """Tiles turned by 0.1° behind a lens of 6 px: neighbours agree to the noise of their points."""
    lens = some_lens(SHAPE, 6.0, seed=2)
    nominal, true, maps, pairs, points = turned(10, 11, lens=lens, sd=0.05, patches=12)
    found = solved(nominal, pairs, points, freedom=freedom)
    assert found.model.freedom == "affine+lens"
    assert np.percentile(found.disagreement, 95) < 0.15
    assert np.median(found.translation.residuals) > 0.5
    assert np.sqrt((off(found, true, maps, lens) ** 2).mean()) < 0.8
    held = [trial.held_out_px for trial in found.trials]
    assert held == sorted(held, reverse=True)
    assert held[-1] < 0.5 * held[0]


def test_a_lens_alone_bends_no_tile_by_itself():
    lens = some_lens(SHAPE, 6.0, seed=2)
    nominal, _, _, pairs, points = turned(9, 9, angle=0, scale=0, lens=lens, sd=0.05, patches=12)
    found = solved(nominal, pairs, points, freedom="lens")
    assert found.model.freedom == "lens"
    assert np.abs(found.maps.matrices[:, :, :2] - np.eye(2)).max() < 1e-5
    assert np.percentile(found.disagreement, 95) < 0.2


def test_what_no_point_tells_of_a_lens_is_smooth():
    """Neighbours share the rim of the frame only; in its middle, the lens does nothing wild."""
    rng = np.random.default_rng(1)
    nominal, _, _, pairs, points = turned(9, 10, sd=0.5, patches=10)
    for table in points:  # detail that no polynomial follows
        table[:, 2:4] += 0.8 * np.sin(table[:, :2] / 17) + 0.2 * rng.standard_normal((10, 2))
    found = solved(nominal, pairs, points, freedom="affine+lens")
    assert isinstance(found.maps.lens, LensModel)
    assert found.maps.lens.largest_shift < 4.0


def test_the_lens_of_a_part_holds_for_a_large_montage(monkeypatch):
    monkeypatch.setattr(flexible, "MAX_SAMPLE", 200)
    lens = some_lens(SHAPE, 6.0, seed=5)
    nominal, _, _, pairs, points = turned(17, 18, lens=lens, sd=0.05, patches=8)
    found = solved(nominal, pairs, points)
    assert len(nominal) > 200
    assert found.model.freedom == "affine+lens"
    assert np.percentile(found.disagreement, 95) < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": []}, "1 pairs and 0 sets"),
        ({"points": [np.full((1, 6), np.nan)]}, "points of pair 0"),
        ({"freedom": "any"}, "must be one of auto, translation"),
    ],
)
def test_what_cannot_be_solved_is_refused(change, message):
    arguments = {
        "nominal": [(0, 0), (0, 900)],
        "pairs": [(0, 1)],
        "offsets": [(0.0, 900.0)],
        "points": [np.array([[10, 950, 10, 50, 0.1, 1.0]])],
        "shape": SHAPE,
    }
    with pytest.raises(ValueError, match=message):
        solve_maps(**(arguments | change))
