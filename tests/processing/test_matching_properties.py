"""What must hold for any two tiles: symmetry, invariance, honesty, and no fear of a lens."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.matching import MatchTile, match, match_points, prepare, prepare_edges
from tests.processing.scenes import cut, expose, texture

SIDE, SCENE = 256, 1024  # of a tile; of the scene for tiles of twice that
NOMINAL = (0.0, 216.0)
offsets = st.tuples(st.floats(-25, 25), st.floats(200, 232))
seeds = st.integers(0, 10_000)


def pair(offset, seed=0, snr=5.0, side=SIDE):
    scene = texture(2 * side, 1)
    corner = np.random.default_rng(seed).uniform(0, 2 * side, 2)
    a = expose(cut(scene, tuple(corner), (side, side)), snr, seed=2 * seed)
    b = expose(cut(scene, tuple(corner + offset), (side, side)), snr, seed=2 * seed + 1)
    return a, b


def found(a, b, nominal=NOMINAL, max_offset=40.0):
    return match(prepare(a), prepare(b), nominal, max_offset)


# --- symmetries


@settings(max_examples=15)
@given(offset=offsets, seed=seeds)
def test_the_way_back_is_minus_the_way_there(offset, seed):
    a, b = pair(np.array(offset), seed)
    there, back = found(a, b), found(b, a, (-NOMINAL[0], -NOMINAL[1]))
    assert there.good
    assert back.good
    assert (back.drow, back.dcol) == pytest.approx((-there.drow, -there.dcol), abs=0.05)
    assert back.rotation == pytest.approx(-there.rotation, abs=0.1)


@settings(max_examples=15)
@given(offset=offsets, seed=seeds, gain=st.floats(0.5, 2.0), pedestal=st.floats(-4000, 4000))
def test_gain_and_offset_of_brightness_do_not_count(offset, seed, gain, pedestal):
    a, b = pair(np.array(offset), seed)
    changed = np.clip(b * gain + pedestal, 0, 65535).astype(np.uint16)
    plain, other = found(a, b), found(a, changed)
    assert plain.good
    assert other.good
    assert (other.drow, other.dcol) == pytest.approx((plain.drow, plain.dcol), abs=0.01)


@settings(max_examples=12)
@given(offset=offsets, seed=seeds)
def test_a_flip_flips_the_offset(offset, seed):
    a, b = pair(np.array(offset), seed)
    plain, flipped = found(a, b), found(a[::-1], b[::-1])
    assert plain.good
    assert flipped.good
    # A flipped tile begins at what was its last row.
    assert (flipped.drow, flipped.dcol) == pytest.approx((-plain.drow, plain.dcol), abs=0.05)


@settings(max_examples=12)
@given(offset=offsets, seed=seeds)
def test_a_transposed_pair_has_a_transposed_offset(offset, seed):
    a, b = pair(np.array(offset), seed)
    plain, turned = found(a, b), found(a.T, b.T, NOMINAL[::-1])
    assert plain.good
    assert turned.good
    assert (turned.dcol, turned.drow) == pytest.approx((plain.drow, plain.dcol), abs=0.05)
    assert turned.sd_row == pytest.approx(plain.sd_col, rel=0.5)


# --- honesty


@pytest.mark.parametrize("snr", [1.5, 5.0, 30.0])
def test_errors_over_their_sd_have_a_spread_near_one(snr):
    relative = []
    for seed in range(30):
        offset = np.array(NOMINAL) + np.random.default_rng(seed).uniform(-15, 15, 2)
        a, b = pair(offset, seed, snr)
        result = found(a, b)
        if result.good:
            relative += [
                (result.drow - offset[0]) / result.sd_row,
                (result.dcol - offset[1]) / result.sd_col,
            ]
    assert len(relative) >= 50
    assert 0.65 < np.sqrt(np.mean(np.square(relative))) < 1.5
    assert abs(np.mean(relative)) < 0.5
    assert np.abs(relative).max() < 5


def test_points_lie_where_the_patches_are_and_tell_their_errors():
    offset = np.array([6.25, 210.5])
    result = found(*pair(offset, 3))
    assert result.points.shape == (result.patches, 6)
    assert result.points.dtype == np.float32
    in_a, in_b, sd, weight = np.split(result.points, [2, 4, 5], axis=1)
    assert in_a.min() >= 0
    assert in_a.max() < SIDE
    assert in_b.min() >= 0
    assert in_b.max() < SIDE
    relative = (in_a - in_b - offset) / sd
    assert 0.4 < np.sqrt(np.square(relative).mean()) < 2
    assert weight.sum() == pytest.approx(1, rel=1e-4)


def test_a_match_that_is_not_good_has_no_points_and_no_error_to_rely_on():
    rng = np.random.default_rng(0)
    result = found(*(rng.poisson(9000, (SIDE, SIDE)).astype(np.uint16) for _ in range(2)))
    assert not result.good
    assert result.points.shape == (0, 6)
    assert np.isinf([result.sd, result.sd_row, result.sd_col]).all()


# --- a turn, and a lens


@pytest.mark.parametrize("angle", [-0.2, 0.1, 0.3])
@pytest.mark.parametrize("nominal", [(0, 440), (440, 0)])
def test_rotation_is_counter_clockwise_as_displayed(angle, nominal):
    side = 512
    a, b = pair(np.array(nominal, float), 5, snr=10, side=side)
    middle = tuple((side - 1) / 2 - np.array(nominal[::-1]) / 2)  # of the overlap, in b: (x, y)
    turn = cv2.getRotationMatrix2D(middle, angle, 1.0)  # positive is counter-clockwise
    b = cv2.warpAffine(b, turn, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    result = found(a, b, nominal)
    assert result.good
    assert result.rotation == pytest.approx(angle, abs=0.04)


def lens_shift(places, side, most):
    """How far a lens of cubic distortion moves what lies at places (row, column), in px."""
    unit = (places - (side - 1) / 2) / ((side - 1) / 2)
    return most / np.sqrt(2) * unit * np.square(unit).sum(axis=-1, keepdims=True) / 2


def through_lens(corner, side, most, seed):
    """A tile whose pixel p shows the scene at p + lens_shift(p)."""
    margin = int(abs(most)) + 4
    start = np.asarray(corner) - margin
    scene = cut(texture(SCENE, 1), tuple(start), (side + 2 * margin,) * 2).astype(np.float32)
    grid = np.stack(np.indices((side, side)), axis=-1).astype(float)
    at = (grid + lens_shift(grid, side, most) + margin).astype(np.float32)
    return expose(cv2.remap(scene, at[..., 1], at[..., 0], cv2.INTER_LANCZOS4), 5, seed=seed)


@pytest.mark.parametrize("most", [6.0, -12.0, 15.0])
@pytest.mark.parametrize("nominal", [(0, 440), (440, 0), (0, 205), (205, 205)])
def test_a_lens_bends_the_offset_and_is_followed(most, nominal):
    """Patches differ by up to 10 px; each must tell the truth of its own place."""
    side, offset = 512, np.add(nominal, (7.4, -5.3))
    tiles = [
        prepare(through_lens(corner, side, most, seed))
        for seed, corner in enumerate(((100, 60), (100 + offset[0], 60 + offset[1])))
    ]
    result = match(*tiles, nominal)
    assert result.good
    assert result.patches >= 5
    dense = match_points(*tiles, result)
    assert len(dense) >= result.patches
    for points in (result.points, dense):
        in_a, in_b = points[:, :2].astype(float), points[:, 2:4].astype(float)
        scene_a = in_a + lens_shift(in_a, side, most)
        scene_b = in_b + lens_shift(in_b, side, most) + offset
        assert np.sqrt(np.square(scene_a - scene_b).mean()) < 0.35
    # The spread of the patches tells that one offset is not all.
    straight = match(*(prepare(t) for t in pair(offset, 3, side=side)), nominal)
    assert result.sd > 3 * straight.sd


def test_points_lie_all_over_the_overlap():
    side, offset = 512, np.array([3.0, 205.0])
    tiles = [prepare(t) for t in pair(offset, 8, side=side)]
    points = match_points(*tiles, match(*tiles, (0, 205)))
    rows, columns = points[:, :2].T
    assert np.ptp(rows) > 0.8 * side
    assert np.ptp(columns) > 0.7 * (side - 205)
    assert np.abs(points[:, :2] - points[:, 2:4] - offset).max() < 1
    finer = match_points(*tiles, match(*tiles, (0, 205)), side=48)
    assert len(finer) > 1.3 * len(points)


def test_points_of_no_match_are_refused():
    rng = np.random.default_rng(0)
    a, b = (prepare(rng.poisson(9000, (SIDE, SIDE)).astype(np.uint16)) for _ in range(2))
    with pytest.raises(ValueError, match="the match is not good"):
        match_points(a, b, match(a, b, NOMINAL))
    tiles = [prepare(t) for t in pair(np.array(NOMINAL))]
    with pytest.raises(ValueError, match="side is 8 px; it must be 32 px or more"):
        match_points(*tiles, match(*tiles, NOMINAL), side=8)


# --- where little is to be seen


def test_a_third_of_resin_costs_no_truth():
    """The patches on resin know nothing, and say so."""
    for seed in range(6):
        offset = np.array([4.2, 446.7])
        a, b = pair(offset, seed, side=512)
        rng = np.random.default_rng(seed)
        top = int(rng.integers(40, 300))
        for tile, shift in ((a, 0), (b, round(offset[0]))):
            part = tile[top - shift : top - shift + 170]
            part[:] = rng.normal(14000, 240, part.shape)
        result = found(a, b, (0, 440))
        assert result.good
        assert np.hypot(result.drow - offset[0], result.dcol - offset[1]) < 6 * result.sd + 0.02
        assert np.hypot(result.drow - offset[0], result.dcol - offset[1]) < 0.15


def test_bent_or_straight_strangers_do_not_match():
    """The freedom to bend must not make a match of nothing: 480 pairs that share no place."""
    tiles = [prepare(expose(texture(SIDE, 40 + k, (1.0, 1.5)[k % 2]), 5, k)) for k in range(16)]
    believed = [
        match(a, b, nominal, 120).good
        for a in tiles
        for b in tiles
        if a is not b
        for nominal in ((0, 230), (230, 0))
    ]
    assert len(believed) == 480
    assert not any(believed)


# --- edges


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_edges_prepared_alone_match_as_the_whole_tile_does(dtype):
    offset = np.array([-11.5, 452.25])
    a, b = (
        (t // (256 if dtype == np.uint8 else 1)).astype(dtype) for t in pair(offset, 4, side=512)
    )
    width = 51.0 + 64
    edges_a = prepare_edges(a, {"right": width, "bottom": width})
    edges_b = prepare_edges(b, {"left": width})
    assert set(edges_a) == {"right", "bottom"}
    whole = match(prepare(a), prepare(b), (0, 461), 64)
    part = match(edges_a["right"], edges_b["left"], (0, 461), 64)
    assert whole.good
    assert (part.drow, part.dcol) == pytest.approx((whole.drow, whole.dcol), abs=1e-6)
    assert np.allclose(part.points, whole.points, atol=1e-3)
    for side, edge in edges_a.items():
        same = prepare(a).edge(side, width)
        assert isinstance(edge, MatchTile)
        assert (edge.top, edge.left, edge.shape) == (same.top, same.left, same.shape)
        assert (edge.fine == same.fine).all()
        assert edge.coarse.shape == same.coarse.shape


def test_no_edges_of_what_is_no_tile():
    with pytest.raises(TypeError, match="tile is float64"):
        prepare_edges(np.zeros((256, 256)), {"top": 40.0})


def test_a_view_into_a_larger_frame_is_a_tile_too():
    a, b = pair(np.array(NOMINAL), 2)
    framed = np.zeros((SIDE + 20, SIDE + 30), np.uint16)
    framed[10 : 10 + SIDE, 7 : 7 + SIDE] = a
    view = framed[10 : 10 + SIDE, 7 : 7 + SIDE]
    plain, other = found(a, b), found(view, b)
    assert (other.drow, other.dcol) == (plain.drow, plain.dcol)
