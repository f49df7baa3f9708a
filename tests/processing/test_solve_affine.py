from __future__ import annotations

import numpy as np
import pytest

from processing.solve import solve_affine
from tests.processing.test_solve import errors, montage

SHAPE = (1024, 1024)


def turned(rows, columns, *, seed=0, angle=0.002, scale=0.001, sd=0.02, patches=8):
    """Tiles with maps of their own, and the points that neighbours share."""
    rng = np.random.default_rng(seed)
    nominal, true, pairs, _, _ = montage(rows, columns, seed=seed, error=30.0)
    maps = np.eye(2) + scale * rng.standard_normal((len(true), 2, 2))
    turn = angle * rng.standard_normal(len(true))
    maps[:, 0, 1] += turn
    maps[:, 1, 0] -= turn
    maps -= maps.mean(axis=0) - np.eye(2)  # what all have in common, nothing tells
    middle = (np.array(SHAPE) - 1) / 2
    points = []
    for a, b in pairs:
        low = np.maximum(true[a], true[b]) + 5
        high = np.minimum(true[a], true[b]) + np.array(SHAPE) - 5
        places = rng.uniform(low, high, (patches, 2))
        seen = [np.linalg.solve(maps[t], (places - true[t] - middle).T).T + middle for t in (a, b)]
        table = np.column_stack([*seen, np.full(patches, sd), np.full(patches, 1 / patches)])
        table[:, :4] += sd / np.sqrt(2) * rng.standard_normal((patches, 4))
        points.append(table)
    return nominal, true, maps, pairs, points


def off(solution, true, maps):
    """How far the four corners of each tile are from the truth, but for a common affine map."""
    middle = (np.array(SHAPE) - 1) / 2
    corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) * (np.array(SHAPE) - 1.0)
    found = np.einsum("nij,kj->nki", solution.matrices[:, :, :2], corners)
    found = (found + solution.matrices[:, None, :, 2]).reshape(-1, 2)
    wanted = np.einsum("nij,kj->nki", maps, corners - middle)
    wanted = (wanted + (true + middle)[:, None]).reshape(-1, 2)
    terms = np.column_stack([np.ones(len(found)), found - found.mean(axis=0)])
    common = np.linalg.lstsq(terms, wanted, rcond=None)[0]
    return np.hypot(*(terms @ common - wanted).T).reshape(-1, 4)


def test_small_turns_and_scales_are_recovered():
    nominal, true, maps, pairs, points = turned(8, 9)
    found = solve_affine(nominal, pairs, points, SHAPE)
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.25
    assert found.residual_median < 0.1
    # Translations alone are off by what the tiles are turned.
    assert found.translation.residual_median > 0.3
    turn = (found.matrices[:, 0, 1] - found.matrices[:, 1, 0]) / 2
    assert turn == pytest.approx((maps[:, 0, 1] - maps[:, 1, 0]) / 2, abs=3e-4)


def test_tiles_that_are_not_bent_stay_so():
    nominal, true, _, pairs, points = turned(6, 6, angle=0, scale=0, sd=0.1)
    found = solve_affine(nominal, pairs, points, SHAPE, flexibility=0.1)
    assert np.abs(found.matrices[:, :, :2] - np.eye(2)).max() < 2e-4
    assert errors(found.matrices[:, :, 2], true).max() < 0.3


def test_a_tile_without_matches_keeps_its_shape():
    nominal, _, _, pairs, points = turned(5, 5)
    alone = 12
    keep = ~(pairs == alone).any(axis=1)
    found = solve_affine(
        nominal, pairs[keep], [p for p, k in zip(points, keep, strict=True) if k], SHAPE
    )
    assert found.matrices[alone, :, :2] == pytest.approx(np.eye(2), abs=1e-9)
    assert found.matrices[alone, :, 2] == pytest.approx(found.translation.positions[alone])
    assert found.translation.placed_by[alone] == "stage"


def test_a_tile_on_one_match_is_hardly_bent_by_it():
    """Six points on a narrow strip: what they do not tell, the prior does."""
    nominal, _, maps, pairs, points = turned(1, 2)
    found = solve_affine(nominal, pairs, points, SHAPE)
    assert np.abs(found.matrices[:, :, :2] - np.eye(2)).max() < 3 * np.abs(maps - np.eye(2)).max()


def test_wrong_pairs_and_wrong_points_do_not_bend_tiles():
    nominal, true, maps, pairs, points = turned(8, 8, patches=12)
    rng = np.random.default_rng(3)
    wrong = rng.choice(len(pairs), 5, replace=False)
    for k in wrong:
        points[k][:, 2:4] += rng.uniform(100, 200, 2)
    for k in np.setdiff1d(np.arange(len(pairs)), wrong):
        points[k][0, 2:4] += (6.0, -9.0)  # one patch of twelve
    found = solve_affine(nominal, pairs, points, SHAPE)
    assert sorted(found.translation.outliers) == sorted(wrong)
    assert np.isnan(found.residuals[wrong]).all()
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.4


def test_pairs_without_points_are_passed_over():
    nominal, true, maps, pairs, points = turned(4, 4)
    points[3] = np.empty((0, 6))
    found = solve_affine(nominal, pairs, points, SHAPE)
    assert np.isnan(found.residuals[3])
    assert np.isfinite(np.delete(found.residuals, 3)).all()
    assert np.sqrt((off(found, true, maps) ** 2).mean()) < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": []}, "1 pairs and 0 sets"),
        ({"points": [np.full((1, 6), np.nan)]}, "points of pair 0"),
        ({"flexibility": 0.0}, "must be positive"),
    ],
)
def test_what_cannot_be_solved_is_refused(change, message):
    arguments = {
        "nominal": [(0, 0), (0, 900)],
        "pairs": [(0, 1)],
        "points": [np.array([[10, 950, 10, 50, 0.1, 1.0]])],
        "shape": SHAPE,
    }
    with pytest.raises(ValueError, match=message):
        solve_affine(**(arguments | change))
