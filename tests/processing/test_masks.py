"""Masks: areas without signal are found or given, and left out of everything that looks at a tile.

Whatever is measured of a tile with a mask must be what is measured of the rest of it.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from processing.chain import DEFAULT_STEPS, StepSettings, TileState, make_chain
from processing.flatfield import flat_field, make_references
from processing.focus import focus_score
from processing.geometry import FrameGeometry
from processing.lens import LensModel, lens_map
from processing.light import find_light
from processing.masks import GROWTH, blank, check_mask, find_mask, reduce_mask
from processing.matching import match, match_points, prepare, prepare_edges
from processing.mosaic import SEAMS, plan_mosaic, render
from processing.statistics import count_extremes, tile_statistics
from tests.processing.scenes import LEVEL, cut, expose, texture

SIDE = 512
UNIT_ROWS, UNIT_COLUMNS = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
RADIUS = np.hypot(UNIT_ROWS, UNIT_COLUMNS)
BOX = np.maximum(np.abs(UNIT_ROWS), np.abs(UNIT_COLUMNS))
HOLES = np.zeros((SIDE, SIDE), bool)
HOLES[100:160, 440:495] = HOLES[300:370, 20:75] = HOLES[440:495, 200:260] = True

MASKS = {
    "corners of an aperture": RADIUS > 1.15,
    # What a pincushion leaves when it is taken out: nothing in the corners, or along the sides.
    "corners of a lens": BOX * (1 + 0.08 * np.square([UNIT_ROWS, UNIT_COLUMNS]).min(axis=0)) > 1,
    "sides of a lens": BOX * (1 + 0.06 * (1 - np.square(UNIT_ROWS * UNIT_COLUMNS))) > 1,
    "holes": HOLES,
}
KINDS = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def tissue(seed=0, dtype=np.uint16, shape=(SIDE, SIDE)):
    frame = expose(cut(texture(1024, 4), (37.0 * seed, 91.0 * seed), shape), 5, seed=seed)
    return frame if dtype == np.uint16 else (frame / 100).astype(np.uint8)


def filled(frame, mask, value=0):
    return np.where(mask, frame.dtype.type(value), frame)


def turned(frame, angle, fill=0):
    """A tile that somebody turned, with what its corners are filled with."""
    middle = (frame.shape[1] - 1) / 2, (frame.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D(middle, angle, 1.0)
    size = frame.shape[1], frame.shape[0]
    return cv2.warpAffine(frame, turn, size, flags=cv2.INTER_CUBIC, borderValue=fill)


# --- found


@KINDS
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_a_filled_area_is_found_to_a_few_pixels(mask, dtype, fill):
    """Zero as most programs fill it, or the mean, as IMOD does."""
    frame = tissue(dtype=dtype)
    found = find_mask(filled(frame, mask, frame.mean() if fill == "mean" else 0))
    assert found is not None
    assert found[mask].mean() > 0.98  # but for slivers of the rim of a pixel or two
    reach = 2 * (GROWTH if dtype == np.uint16 else 8) + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8))
    assert found[grown == 0].mean() < 1e-3  # a pixel of the specimen may have the value, too


@pytest.mark.parametrize("angle", [1.5, -4.0, 12.0])
def test_the_corners_of_a_turned_tile(angle):
    frame = tissue()
    found = find_mask(turned(frame, angle))
    nothing = turned(np.full_like(frame, 1), angle) == 0
    assert found is not None
    assert found[nothing].mean() > 0.9
    assert found.mean() < nothing.mean() + 0.02


def test_a_rim_that_jpeg_blurred():
    frame = turned(tissue(dtype=np.uint8), 12.0)
    _, file = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 75])
    found = find_mask(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
    assert found is not None
    assert found[turned(np.full((SIDE, SIDE), 1, np.uint8), 12.0) == 0].mean() > 0.95


def smooth(level, spread, dtype=np.uint8):
    noise = cv2.GaussianBlur(np.random.default_rng(3).standard_normal((SIDE, SIDE)), (0, 0), 3)
    return (level + spread * noise / noise.std()).round().astype(dtype)


def with_resin(level, spread):
    frame = tissue(dtype=np.uint8)
    frame[:, :200] = smooth(level, spread)[:, :200]
    return frame


NO_MASKS = {
    "tissue": tissue(),
    "tissue in bytes": tissue(dtype=np.uint8),
    "tissue with true zeros": np.clip(tissue().astype(int) - 9600, 0, 65535).astype(np.uint16),
    "single electrons": np.random.default_rng(0).poisson(0.4, (SIDE, SIDE)).astype(np.uint8),
    "hardly any electrons": np.random.default_rng(0).poisson(0.1, (SIDE, SIDE)).astype(np.uint8),
    "resin in few levels": with_resin(200, 0.4),
    "resin in one level and a little": with_resin(200, 0.25),
    "a frame of nothing": np.zeros((SIDE, SIDE), np.uint16),
    "a saturated corner": filled(tissue(), RADIUS > 1.1, 65535),
    "a small stain": filled(tissue(), RADIUS < 0.02),
}


@pytest.mark.parametrize("frame", NO_MASKS.values(), ids=NO_MASKS.keys())
def test_what_is_no_mask(frame):
    assert find_mask(frame) is None


def test_a_view_is_looked_at_as_it_is():
    frame = filled(tissue(), MASKS["holes"])
    assert (find_mask(frame[::-1, ::2]) == find_mask(frame[::-1, ::2].copy())).all()


# --- given


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        (np.zeros((4, 4)), TypeError, "the mask is float64; it must be bool"),
        (np.zeros((4, 5), bool), ValueError, r"the mask is \(4, 5\) px and the image \(4, 4\)"),
        (np.ones((4, 4), bool), ValueError, "the mask covers the whole image"),
    ],
)
def test_a_mask_that_fits_no_image_is_refused(mask, kind, message):
    with pytest.raises(kind, match=message):
        check_mask(mask, (4, 4))


def test_every_door_looks_at_the_mask():
    frame, mask = tissue(), np.ones((SIDE, SIDE), bool)
    doors = (prepare, find_light, focus_score, lambda f, m: tile_statistics(f, mask=m))
    for door in (*doors, lambda f, m: TileState(f, FrameGeometry(4.0), mask=m)):
        with pytest.raises(ValueError, match="the mask covers the whole image"):
            door(frame, mask)


def test_a_mask_written_into_an_image_is_0_and_nothing_else_is():
    image = np.array([[0, 5], [7, 9]], np.uint16)
    assert (blank(image, np.array([[False, True], [False, False]])) == [[1, 0], [7, 9]]).all()


def test_a_reduced_mask_covers_whatever_it_touches():
    mask = np.zeros((9, 12), bool)
    mask[3, 5] = mask[8, 0] = True  # the last row makes no whole pixel
    assert reduce_mask(mask, 4).tolist() == [[False, True, False], [False, False, False]]


# --- statistics, light, focus


@KINDS
def test_statistics_are_those_of_the_rest(mask):
    frame = filled(tissue(), mask)
    frame[250:253, 250:253] = 0  # true ones
    found, rest = tile_statistics(frame, mask=mask), tile_statistics(frame[~mask][None])
    for name in ("minimum", "maximum", "mean", "std", "p01", "p50", "p99", "zero", "pixels"):
        assert getattr(found, name) == getattr(rest, name), name
    assert (found.histogram == rest.histogram).all()
    frame[mask] = 65535
    frame[300, 300] = 65535
    assert count_extremes(frame, 65535, mask) == (1, found.zero)


@KINDS
def test_a_mask_is_no_obstruction_and_no_edge_of_the_beam(mask):
    frame = filled(tissue(), mask)
    assert find_light(frame, mask) == find_light(tissue())
    assert find_light(frame, find_mask(frame)).obstructed == 0


def test_an_obstruction_beside_a_mask_is_told_as_its_share_of_the_rest():
    mask = MASKS["corners of an aperture"]
    frame = filled(tissue(), mask)
    frame[:, 100:160] = frame[:, 100:160] // 20
    found = find_light(filled(frame, mask), mask)
    assert found.obstructed == pytest.approx(
        (60 * SIDE - mask[:, 100:160].sum()) / (~mask).sum(), rel=0.1
    )
    assert found.beam_edge == 0


@KINDS
@pytest.mark.parametrize("value", [0, LEVEL])
def test_focus_is_that_of_the_rest(mask, value):
    whole, found = focus_score(tissue()), focus_score(filled(tissue(), mask, value), mask)
    assert found.score == pytest.approx(whole.score, abs=0.06)  # of fewer windows, or moved inward
    for side, score in found.sides.items():
        assert score == pytest.approx(whole.sides[side], abs=0.12), side
    # The edge of a mask is as sharp as can be; it is not what is to be measured.
    blurred = cv2.GaussianBlur(tissue(), (0, 0), 1.5)
    assert focus_score(filled(blurred, mask), mask).score < 0.1 * whole.score


def test_windows_of_nothing_have_no_texture():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[128:384, :256] = True
    whole, found = focus_score(tissue()), focus_score(filled(tissue(), mask), mask)
    assert found.share == 0.75
    assert found.sides["right"] == whole.sides["right"]
    assert found.sides["left"] != whole.sides["left"]


def test_windows_lie_where_the_specimen_shows():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:100] = mask[:, :128] = True
    frame = filled(tissue(), mask)
    assert focus_score(frame, mask) == focus_score(frame[100:, 128:])


# --- flat field


def test_references_know_where_no_light_comes():
    """The corners outside an aperture have a dark level and noise, and no response."""
    rng = np.random.default_rng(1)
    lit = RADIUS < 1.1
    dark = 200 + rng.normal(0, 3, (SIDE, SIDE))
    response = (1 + 0.02 * rng.standard_normal((SIDE, SIDE))) * (1 - 0.2 * RADIUS**2) * lit
    bright = rng.poisson(dark + 9000 * response)
    references = make_references(bright, dark)
    assert references.mask is not None
    assert references.mask[~lit].all()
    assert references.mask[lit].mean() < 0.02
    assert not references.bad[references.mask].any()
    scene = 5000 + 800 * texture(SIDE, 6)
    flat = flat_field(rng.poisson(dark + response * scene).astype(np.uint16), references)
    assert not flat[references.mask].any()
    seen = ~references.mask
    off = np.abs(flat[seen] / response[lit].mean() - scene[seen])
    assert np.percentile(off, 99.9) < 400
    turned_mask = references.flipped(True, False).mask
    assert turned_mask is not None
    assert (turned_mask == references.mask[::-1]).all()


def test_a_mask_is_left_out_of_references():
    rng = np.random.default_rng(2)
    mask = MASKS["corners of an aperture"]
    dark, response = np.full((SIDE, SIDE), 100.0), 1 + 0.02 * rng.standard_normal((SIDE, SIDE))
    # With the mask in it, its half of the light would count for the level, and a third were bad.
    half = np.where(mask, rng.uniform(0, 1, (SIDE, SIDE)), 1.0)
    references = make_references(dark + 9000 * response * half, dark, mask)
    plain = make_references(dark + 9000 * response, dark)
    assert references.gain[~mask] == pytest.approx(plain.gain[~mask], rel=2e-3)
    assert (references.gain[mask] == 0).all()
    assert not references.bad[mask].any()


# --- matching


def pair(offset, mask, fill=0, seed=0, snr=5):
    scene = texture(1024, 1)
    corner = np.array([137.0, 211.0]) + 50 * seed
    tiles = (cut(scene, tuple(place), (SIDE, SIDE)) for place in (corner, corner + offset))
    return [filled(expose(tile, snr, 2 * seed + n), mask, fill) for n, tile in enumerate(tiles)]


def error(found, offset):
    return float(np.hypot(found.drow - offset[0], found.dcol - offset[1]))


@KINDS
@pytest.mark.parametrize("fill", [0, int(LEVEL)])
@pytest.mark.parametrize("nominal", [(0, 440), (440, 0)])
def test_tiles_match_by_what_their_masks_leave(mask, fill, nominal):
    offset = np.add(nominal, (7.3, -9.6))
    found = match(*map(prepare, pair(offset, mask, fill)), nominal)
    assert found.good
    assert error(found, offset) < 0.1
    assert error(found, offset) < 5 * found.sd
    in_a, in_b = (np.round(found.points[:, at : at + 2]).astype(int) for at in (0, 2))
    assert not mask[tuple(in_a.T)].any()
    assert not mask[tuple(in_b.T)].any()


@KINDS
def test_a_mask_that_is_given_matches_as_one_that_is_found_does(mask):
    """Even if what lies there looks like signal, and is the same in every tile."""
    offset = np.array([5.4, 437.0])
    whole = [expose(texture(1024, 9)[:SIDE, :SIDE], 50, seed=3)] * 2
    tiles = [np.where(mask, w, t) for w, t in zip(whole, pair(offset, mask), strict=True)]
    found = match(*(prepare(tile, mask) for tile in tiles), (0, 440))
    assert found.good
    assert error(found, offset) < 0.1


def test_turned_tiles_match():
    """As a stitcher gets them that somebody turned before: the offset is turned as well."""
    angle, offset = 4.0, np.array([3.0, 420.0])
    tiles = [turned(tile, angle) for tile in pair(offset, np.zeros((SIDE, SIDE), bool))]
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    expected = cosine * offset[0] - sine * offset[1], sine * offset[0] + cosine * offset[1]
    found = match(*map(prepare, tiles), (0, 440), 64)
    assert found.good
    assert error(found, expected) < 0.15


@KINDS
def test_edges_with_masks_match_as_whole_tiles_do(mask):
    offset = np.array([-4.2, 444.5])
    tiles = pair(offset, mask, seed=2)
    whole = match(*map(prepare, tiles), (0, 440), 32)
    sides = ("right", "left")
    edges = [prepare_edges(t, {s: 104.0})[s] for t, s in zip(tiles, sides, strict=True)]
    cut_off = [prepare(tile).edge(side, 104.0) for tile, side in zip(tiles, sides, strict=True)]
    for part in (match(*edges, (0, 440), 32), match(*cut_off, (0, 440), 32)):
        assert part.good
        assert (part.drow, part.dcol) == pytest.approx((whole.drow, whole.dcol), abs=0.05)


def test_points_of_a_match_lie_clear_of_masks():
    mask, offset = MASKS["holes"], np.array([3.0, 205.0])
    tiles = [prepare(tile) for tile in pair(offset, mask)]
    points = match_points(*tiles, match(*tiles, (0, 205)))
    assert len(points) > 10
    assert not mask[tuple(np.round(points[:, :2]).astype(int).T)].any()
    assert np.abs(points[:, :2] - points[:, 2:4] - offset).max() < 1


@KINDS
def test_strangers_with_one_mask_do_not_match(mask):
    """Its edge lies at the same place in both, and shifted by any overlap looks alike."""
    tiles = [prepare(filled(expose(texture(SIDE, 40 + k), 5, k), mask)) for k in range(5)]
    pairs = [(a, b) for a in tiles for b in tiles if a is not b]
    for a, b in pairs:
        for nominal in ((0, 450), (450, 0)):
            assert not match(a, b, nominal, 120).good


# --- the chain


def chain(*names):
    return make_chain([StepSettings(name) for name in names])


@KINDS
def test_the_chain_finds_a_mask_and_leaves_it_out_of_all(mask):
    frame = filled(tissue(), mask)
    tile = TileState(frame, FrameGeometry(4.0), widths={"right": 80.0, "bottom": 80.0})
    make_chain(DEFAULT_STEPS)(tile)
    assert tile.figures["masked"] == pytest.approx(mask.mean(), abs=0.03)
    assert tile.figures["obstructed"] == tile.figures["beam_edge"] == tile.figures["dead"] == 0
    assert tile.figures["mean"] == pytest.approx(frame[~mask].mean(), rel=0.01)
    assert tile.figures["focus"] == pytest.approx(focus_score(tissue()).score, abs=0.06)
    assert tile.image.min() == 0
    assert frame.flags.writeable
    assert (frame == filled(tissue(), mask)).all()  # the raw frame stays
    assert any(edge.mask is not None for edge in tile.edges.values())


def test_what_references_know_to_be_dark_is_masked():
    frame, mask = tissue(), MASKS["corners of an aperture"]
    rng = np.random.default_rng(0)
    dark = np.full(frame.shape, 100.0)
    references = make_references(np.where(mask, 101.0, 9000.0), dark)
    raw = np.where(mask, rng.poisson(100, frame.shape), frame).astype(np.uint16)
    tile = TileState(raw, FrameGeometry(4.0, flip_rows=True), references)
    chain("flip", "flat_field", "mask", "statistics", "light")(tile)
    assert tile.figures["masked"] == pytest.approx(mask.mean(), abs=0.02)
    assert tile.figures["obstructed"] == tile.figures["dead"] == 0
    assert tile.figures["minimum"] > 0.5 * LEVEL
    assert not tile.image[mask[::-1]].any()


def test_a_mask_goes_through_the_lens_with_its_tile():
    frame, mask = tissue(), MASKS["holes"]
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, 9),) * 2, indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], 1)
    shifts = 15.0 * places * (places**2).sum(axis=1, keepdims=True) / 2**1.5
    middle = (SIDE - 1) / 2
    lens = lens_map(LensModel.from_shifts(middle + places * middle, shifts, (SIDE, SIDE)))
    tile = TileState(frame, FrameGeometry(4.0), lens=lens, mask=mask)
    chain("mask", "lens")(tile)
    moved = lens.correct(255 * mask.astype(np.uint8))
    assert tile.mask is not None
    assert tile.mask[moved == 255].all()
    assert not tile.mask[moved == 0].any()
    assert ((tile.image == 0) == tile.mask).all()


def test_a_tile_without_a_mask_is_left_as_it_is():
    frame = tissue()
    frame[0, :40] = frame[100, 100] = 0
    tile = TileState(frame, FrameGeometry(4.0))
    chain("mask", "statistics")(tile)
    assert tile.mask is None
    assert tile.figures["masked"] == 0
    assert tile.image is frame


# --- the mosaic


@pytest.mark.parametrize("seam", SEAMS)
def test_masked_pixels_take_no_part_in_a_mosaic(seam):
    """Given as a mask, whatever they hold; a true 0 counts where a mask tells what does not."""
    rng = np.random.default_rng(0)
    world = rng.integers(1, 1000, (60, 90), dtype=np.uint16)
    places = np.array([[0, 0], [0, 30]])
    tiles = [world[:, :60].copy(), world[:, 30:].copy()]
    masks = [np.zeros((60, 60), bool) for _ in tiles]
    masks[0][20:40, 40:] = True
    masks[1][:10, :] = True
    tiles[0][masks[0]] = 50_000
    tiles[1][masks[1]] = 50_000
    masked = [np.ma.array(t, mask=m) for t, m in zip(tiles, masks, strict=True)]
    layout = plan_mosaic(places, (60, 60))
    found = render(lambda i, window: masked[i][window], layout, np.s_[0:60, 0:90], seam=seam)
    expected = world.copy()
    expected[:10, 60:] = 0
    assert (found == expected).all()
    tiles[1][30:40, 20:] = 0
    masked = [np.ma.array(t, mask=m) for t, m in zip(tiles, masks, strict=True)]
    found = render(lambda i, window: masked[i][window], layout, np.s_[0:60, 0:90], seam=seam)
    assert found[30:40, 60:].max() <= 1
