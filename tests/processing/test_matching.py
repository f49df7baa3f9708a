from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import scipy.fft

from processing.matching import MatchTile, match, prepare
from processing.solve import solve_matches
from tests.processing.scenes import CONTRAST, LEVEL, cut, expose, texture

SIDE = 512
SCENE = 1024


def pair(offset, snr=5.0, seed=0, side=SIDE, scene=None):
    """Two tiles of one scene; the second lies at `offset` (rows, columns) from the first."""
    scene = texture(SCENE, 1) if scene is None else scene
    corner = np.array([137, 211])
    a = cut(scene, tuple(corner), (side, side))
    b = cut(scene, tuple(corner + offset), (side, side))
    return expose(a, snr, seed=2 * seed), expose(b, snr, seed=2 * seed + 1)


def found(offset, nominal, *, max_offset=255.0, **how):
    a, b = pair(np.asarray(offset, dtype=float), **how)
    return match(prepare(a), prepare(b), nominal, max_offset)


def error(result, offset):
    return float(np.hypot(result.drow - offset[0], result.dcol - offset[1]))


def noise_limit(snr, rows, columns, side=SCENE):
    """The least standard deviation of a shift between two noisy copies of the scene, in px.

    Carter's bound for the delay between two noisy copies of one random signal (G. C. Carter, Proc.
    IEEE 75, 1987), along the columns; the scene is isotropic.
    """
    power = np.abs(scipy.fft.fft2(texture(SCENE, 1))) ** 2 / SCENE**2
    down, across = scipy.fft.fftfreq(side)[:, None], scipy.fft.fftfreq(side)[None]
    ring = (np.hypot(down, across) * side / 2).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    signal, noise = mean[ring].reshape(power.shape), snr**-2
    known = (2 * np.pi * across) ** 2 * signal**2 / (noise**2 + 2 * signal * noise)
    return (known.sum() * rows * columns / side**2) ** -0.5


# --- where it is right


@pytest.mark.parametrize(
    "offset",
    [(3.3, 460.0), (-20.6, 471.25), (455.5, 8.75), (470.1, -13.4), (0.0, 440.0), (461.5, 0.5)],
)
def test_an_offset_is_found_to_a_fraction_of_a_pixel(offset):
    nominal = (0, 461) if offset[1] > offset[0] else (461, 0)
    result = found(offset, nominal, snr=10)
    assert result.good
    assert result.reason == ""
    assert error(result, offset) < 0.06
    assert error(result, offset) < 5 * result.sd + 0.01
    assert result.quality > 0.5
    assert result.patches >= 3


@pytest.mark.parametrize("snr", [10.0, 3.0])
def test_the_error_is_near_the_limit_that_noise_sets_and_sd_tells_it(snr):
    errors, sds, limits = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        offset = np.array([0, 420]) + rng.uniform(-12, 12, 2)
        result = found(offset, (0, 420), snr=snr, seed=seed)
        assert result.good
        errors += [result.drow - offset[0], result.dcol - offset[1]]
        sds.append(result.sd)
        limits.append(noise_limit(snr, SIDE - abs(offset[0]), SIDE - abs(offset[1])))
    rms, limit = np.sqrt(np.mean(np.square(errors))), np.sqrt(np.mean(np.square(limits)))
    assert rms < 2.0 * limit + 0.003
    assert abs(np.mean(errors)) < rms
    assert 0.4 * rms < np.median(sds) < 2.5 * rms


@pytest.mark.parametrize(
    "deviation", [(255, 0), (-255, 0), (0, -255), (200, -180), (-120, -254), (150, 30)]
)
def test_offsets_up_to_255_px_from_nominal(deviation):
    offset = np.array([0.0, 430.0]) + deviation
    result = found(offset, (0, 430))
    assert result.good, result
    assert error(result, offset) < 0.1


def test_a_tile_off_its_place_down_the_column():
    offset = (430.0 - 231.4, 187.2)
    result = found(offset, (430, 0))
    assert result.good
    assert error(result, offset) < 0.1


def test_a_thin_overlap():
    offset = (12.0, 470.5)
    result = found(offset, (0, 440), snr=10)
    assert result.good
    assert error(result, offset) < 0.1


def test_large_tiles_are_reduced_and_still_exact():
    scene = texture(2048, 4)
    offset = np.array([-61.3, 1000.6])
    result = found(offset, (0, 922), side=1100, scene=scene)
    assert result.good
    assert error(result, offset) < 0.05


def test_small_tiles():
    offset = np.array([5.5, 100.25])
    result = found(offset, (0, 96), side=128, max_offset=32, snr=10)
    assert result.good
    assert error(result, offset) < 0.15


def test_tiles_need_not_be_square():
    scene = texture(SCENE, 1)
    a, b = (expose(cut(scene, (0, c), (256, 512)), 8, seed=int(c)) for c in (0, 460))
    result = match(prepare(a), prepare(b), (0, 440))
    assert result.good
    assert error(result, (0, 460)) < 0.05


def test_bytes_match_too():
    a, b = pair(np.array([4.0, 450.0]))
    result = match(*(prepare((t / 100).astype(np.uint8)) for t in (a, b)), (0, 461))
    assert result.good
    assert error(result, (4, 450)) < 0.1


@pytest.mark.parametrize("angle", [0.1, -0.25])
def test_a_small_turn_is_borne(angle):
    """The middle of the overlap tells the offset; patches along it lie to either side."""
    a, b = pair(np.array([0.0, 430.0]), snr=10)
    middle = (40.5, 255.5)  # of the overlap, in b: (x, y)
    turn = cv2.getRotationMatrix2D(middle, angle, 1.0)
    b = cv2.warpAffine(b, turn, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    result = match(prepare(a), prepare(b), (0, 461))
    assert result.good
    assert error(result, (0, 430)) < 0.3


def test_brightness_contrast_and_shading_do_not_count():
    a, b = pair(np.array([7.5, 450.5]), snr=10)
    rows, columns = np.indices(b.shape) / SIDE
    b = (1.2 * b + 800 * columns**2 - 600 * rows).astype(np.uint16)
    result = match(prepare(a), prepare(b), (0, 461))
    assert result.good
    assert error(result, (7.5, 450.5)) < 0.1


# --- what a camera leaves


def spoilt(frame, seed=7, spread=0.02):
    """The frame with what a flat field may leave: a gain pattern, hot pixels, stripes."""
    rng = np.random.default_rng(seed)
    gain = 1 + spread * rng.standard_normal(frame.shape)
    stripes = 60 * rng.standard_normal((frame.shape[0], 1))
    hot = 40000 * (rng.random(frame.shape) < 2e-4)
    return np.clip(frame * gain + stripes + hot, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("offset", [(3.4, 450.3), (0.6, 445.5), (448.4, -0.4)])
def test_a_fixed_pattern_pulls_no_match(offset):
    nominal = (0, 461) if offset[1] > offset[0] else (461, 0)
    a, b = pair(np.asarray(offset), snr=5)
    result = match(prepare(spoilt(a)), prepare(spoilt(b)), nominal)
    assert result.good
    assert error(result, offset) < 0.12


def test_a_fixed_pattern_is_not_taken_for_the_specimen():
    """At a large overlap no shift at all is within reach, where the camera's pattern agrees."""
    a, b = pair(np.array([6.5, 148.5]), snr=2)
    result = match(prepare(spoilt(a, spread=0.1)), prepare(spoilt(b, spread=0.1)), (0, 160))
    assert result.good
    assert error(result, (6.5, 148.5)) < 0.2
    empty = (np.full((SIDE, SIDE), LEVEL, np.uint16),) * 2
    rng = np.random.default_rng(1)
    resin = [prepare(spoilt(rng.poisson(e).astype(np.uint16), spread=0.1)) for e in empty]
    assert not match(*resin, (0, 160)).good


# --- where there is nothing to be right about


def resin(seed, slope=0.0):
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    return rng.poisson(LEVEL + slope * (rows + columns)).astype(np.uint16)


@pytest.mark.parametrize("slope", [0.0, 2000.0])
def test_empty_resin_has_no_match(slope):
    for seed in range(6):
        result = match(*(prepare(resin(2 * seed + k, slope)) for k in (0, 1)), (0, 461))
        assert not result.good
        assert result.reason == "no texture"
        assert result.quality == 0
        assert np.isinf(result.sd)


def test_a_blank_frame_has_no_match():
    blank = prepare(np.zeros((SIDE, SIDE), np.uint16))
    tissue = prepare(pair(np.zeros(2))[0])
    assert match(blank, blank, (0, 461)).reason == "no texture"
    assert not match(blank, tissue, (0, 461)).good


def test_tiles_of_other_places_have_no_match():
    """The rate of wrong matches that are believed: 48 pairs that share nothing."""
    reasons = []
    tiles = [
        prepare(expose(cut(texture(SCENE, 20 + k // 3), (0, 300 * (k % 3)), (256, 256)), 5, seed=k))
        for k in range(6)
    ]
    for i, a in enumerate(tiles):
        for j, b in enumerate(tiles):
            if i // 3 != j // 3:
                for nominal in ((0, 230), (230, 0)):
                    result = match(a, b, nominal, 120)
                    reasons.append(result.reason)
                    assert not result.good, result
    assert set(reasons) <= {"low correlation", "ambiguous"}
    assert len(reasons) == 36


def test_one_textured_tile_beside_resin_has_no_match():
    tissue = prepare(pair(np.zeros(2))[0])
    for nominal in ((0, 461), (461, 0)):
        result = match(tissue, prepare(resin(3)), nominal)
        assert not result.good


def test_a_repeated_pattern_is_ambiguous():
    rows, columns = np.indices((SIDE, 2 * SIDE))
    lattice = np.cos(2 * np.pi * columns / 48) + np.cos(2 * np.pi * rows / 48)
    a, b = (expose(lattice[:, c : c + SIDE], 20, seed=c) for c in (0, 460))
    result = match(prepare(a), prepare(b), (0, 461))
    assert not result.good
    assert result.reason == "ambiguous"
    near = match(prepare(a), prepare(b), (0, 461), max_offset=12)
    assert not near.good or error(near, (0, 460)) < 0.5


def test_lines_that_run_along_the_shift_are_ambiguous():
    """Knife marks tell the offset across them and not along them."""
    profile = np.random.default_rng(5).standard_normal(SIDE)
    lines = np.repeat(cv2.GaussianBlur(profile[:, None], (1, 0), 0, sigmaY=3), 2 * SIDE, axis=1)
    lines = lines / lines.std()
    a, b = (expose(lines[:, c : c + SIDE], 20, seed=c) for c in (0, 430))
    assert not match(prepare(a), prepare(b), (0, 461)).good


def test_an_offset_beyond_the_greatest_is_out_of_range():
    result = found((0.0, 424.0), (0, 461), max_offset=32)
    assert not result.good
    assert result.reason == "out of range"
    assert error(result, (0, 424)) < 0.5


def test_tiles_that_cannot_overlap_are_out_of_range():
    result = found((0.0, 460.0), (0, 2000), max_offset=100)
    assert result.reason == "out of range"


def test_what_the_reach_holds_is_all_that_counts():
    """A smaller reach about a better guess finds the same."""
    far = found((31.5, 425.5), (0, 461))
    near = found((31.5, 425.5), (30, 427), max_offset=8)
    assert far.good
    assert near.good
    assert (far.drow, far.dcol) == pytest.approx((near.drow, near.dcol), abs=0.01)


# --- tiles


@pytest.mark.parametrize(
    ("sides", "nominal"), [(("right", "left"), (0, 461)), (("bottom", "top"), (461, 0))]
)
def test_edges_match_as_whole_tiles_do(sides, nominal):
    offset = np.add(nominal, (-20.25, 12.5))
    tiles = [prepare(t) for t in pair(offset)]
    edges = [tile.edge(side, 51 + 64) for tile, side in zip(tiles, sides, strict=True)]
    whole, part = match(*tiles, nominal, 64), match(*edges, nominal, 64)
    assert whole.good
    assert part.good
    assert (part.drow, part.dcol) == pytest.approx((whole.drow, whole.dcol), abs=1e-6)
    assert sum(e.nbytes for e in edges) < 0.4 * sum(t.nbytes for t in tiles)
    assert all(edge.fine.base is None for edge in edges)


def test_a_prepared_tile_is_small_and_travels():
    tile = np.random.default_rng(0).integers(0, 65535, (1024, 1024), dtype=np.uint16)
    prepared = prepare(tile)
    assert prepared.nbytes < 0.7 * tile.nbytes
    back = pickle.loads(pickle.dumps(prepared))
    assert isinstance(back, MatchTile)
    assert (back.fine == prepared.fine).all()
    assert back.shape == (1024, 1024)


def test_matches_either_way_round_agree():
    offset = np.array([9.25, 447.5])
    a, b = (prepare(t) for t in pair(offset))
    forth, back = match(a, b, (0, 461)), match(b, a, (0, -461))
    assert (back.drow, back.dcol) == pytest.approx((-forth.drow, -forth.dcol), abs=0.03)


def test_a_montage_is_solved_to_a_few_hundredths_of_a_pixel():
    """SNR 3, 3 × 3 tiles at 15 %, nominal positions wrong by up to 40 px."""
    rng = np.random.default_rng(8)
    scene = texture(1536, 11)
    pitch, side = 435, 512
    places = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(-1, 2)
    nominal = pitch * places + 100.0
    true = nominal + rng.uniform(-40, 40, nominal.shape)
    tiles = [
        prepare(expose(cut(scene, tuple(t), (side, side)), 3, seed=i)) for i, t in enumerate(true)
    ]
    pairs = [(i, i + 1) for i in range(9) if i % 3 < 2] + [(i, i + 3) for i in range(6)]
    matches = {(a, b): match(tiles[a], tiles[b], tuple(nominal[b] - nominal[a])) for a, b in pairs}
    assert all(m.good for m in matches.values())
    solution = solve_matches(nominal, matches)
    off = solution.positions - true
    assert np.sqrt(np.square(off - off.mean(axis=0)).mean()) < 0.05


# --- what is refused


@pytest.mark.parametrize(
    ("tile", "kind", "message"),
    [
        (np.zeros((256, 256)), TypeError, "tile is float64; it must be uint8 or uint16"),
        (np.zeros((256, 63), np.uint16), ValueError, r"tile has shape \(256, 63\)"),
        (np.zeros((2, 256, 256), np.uint16), ValueError, "64 × 64 px or more"),
    ],
)
def test_what_is_no_tile_is_refused(tile, kind, message):
    with pytest.raises(kind, match=message):
        prepare(tile)


def test_arguments_that_make_no_sense_are_refused():
    a = prepare(resin(0))
    b = prepare(resin(0)[:256])
    with pytest.raises(ValueError, match="must be of one shape"):
        match(a, b, (0, 0))
    for nominal, reach in (((np.nan, 0), 10), ((0, 0), -1), ((0, 0), np.inf)):
        with pytest.raises(ValueError, match="must be finite"):
            match(a, a, nominal, reach)


def test_contrast_is_what_the_scenes_say():
    """The tests' own ground: the mean and the contrast of a tile."""
    frame = expose(texture(SCENE, 1), 1e6)
    assert frame.mean() == pytest.approx(LEVEL, rel=1e-3)
    assert frame.std() == pytest.approx(CONTRAST, rel=1e-2)
