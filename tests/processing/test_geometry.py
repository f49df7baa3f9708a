from __future__ import annotations

import re
from itertools import pairwise
from math import cos, radians, sin

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from processing.geometry import FrameGeometry, ImageShift, Region, plan_grid

lengths = st.floats(-500, 500)
angles = st.floats(-360, 360)
geometries = st.builds(
    FrameGeometry,
    pixel_size=st.floats(0.1, 500),
    angle=angles,
    flip_columns=st.booleans(),
    flip_rows=st.booleans(),
)
shapes = st.tuples(st.integers(1, 6000), st.integers(1, 6000))


# --- frames


@given(geometries, shapes, st.tuples(lengths, lengths), st.tuples(lengths, lengths))
def test_pixels_and_stage_are_inverse(geometry, shape, centre, pixel):
    stage = geometry.pixel_to_stage(pixel, shape, centre)
    scale = geometry.pixel_size / 1000
    assert geometry.stage_to_pixel(stage, shape, centre) == pytest.approx(pixel, abs=1e-9 / scale)


@given(
    st.floats(0.1, 500), angles, shapes, st.tuples(lengths, lengths), st.tuples(lengths, lengths)
)
def test_the_map_is_the_designs_formula(pixel_size, angle, shape, centre, pixel):
    """stage = centre + R(angle) · pixel size · (column − (w − 1)/2, (h − 1)/2 − row)."""
    (height, width), (row, column) = shape, pixel
    c, s = cos(radians(angle)), sin(radians(angle))
    right = pixel_size / 1000 * (column - (width - 1) / 2)
    up = pixel_size / 1000 * ((height - 1) / 2 - row)
    expected = (centre[0] + c * right - s * up, centre[1] + s * right + c * up)
    found = FrameGeometry(pixel_size, angle).pixel_to_stage(pixel, shape, centre)
    assert found == pytest.approx(expected, abs=1e-6)


@given(geometries, st.lists(st.tuples(lengths, lengths), min_size=1, max_size=5))
def test_vectors_keep_their_length_and_may_be_many(geometry, vectors):
    stage = geometry.stage_vector(vectors)
    assert stage.shape == (len(vectors), 2)
    length = np.hypot(*np.transpose(vectors)) * geometry.pixel_size / 1000
    assert np.hypot(*stage.T) == pytest.approx(length)
    assert geometry.pixel_vector(stage) == pytest.approx(np.asarray(vectors), abs=1e-6)


@pytest.mark.parametrize(
    ("flips", "pixel", "stage"),
    [
        ({}, (0, 1), (1, 0)),
        ({}, (1, 0), (0, -1)),
        ({"flip_columns": True}, (0, 1), (-1, 0)),
        ({"flip_columns": True}, (1, 0), (0, -1)),
        ({"flip_rows": True}, (1, 0), (0, 1)),
        ({"angle": 90}, (0, 1), (0, 1)),
        ({"angle": 90}, (1, 0), (1, 0)),
    ],
)
def test_signs(flips, pixel, stage):
    geometry = FrameGeometry(pixel_size=1000.0, **flips)
    assert geometry.stage_vector(pixel) == pytest.approx(stage, abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 37.0])
def test_a_flip_turns_the_image_over_and_a_turn_does_not(angle):
    handedness = {
        flips: np.sign(np.linalg.det(FrameGeometry(4.0, angle, *flips).matrix))
        for flips in [(False, False), (True, False), (False, True), (True, True)]
    }
    assert handedness[False, False] == handedness[True, True] == -handedness[True, False]
    assert handedness[True, False] == handedness[False, True]


def test_the_middle_shows_the_centre():
    geometry = FrameGeometry(4.0, 20.0, flip_rows=True)
    assert geometry.pixel_to_stage((49.5, 99.5), (100, 200), (3, -4)) == pytest.approx((3, -4))
    assert geometry.size((500, 1000)) == pytest.approx((2.0, 4.0))
    assert FrameGeometry(**geometry.to_dict()) == geometry


@pytest.mark.parametrize("pixel_size", [0, -4.0, np.nan, np.inf])
def test_a_pixel_size_must_be_positive(pixel_size):
    with pytest.raises(ValueError, match=r"pixel_size is .*; it must be positive and finite"):
        FrameGeometry(pixel_size)


def test_an_angle_must_be_finite():
    with pytest.raises(ValueError, match="angle is nan"):
        FrameGeometry(4.0, np.nan)


# --- regions

rectangles = st.builds(
    Region.rectangle,
    centre=st.tuples(lengths, lengths),
    width=st.floats(1, 60),
    height=st.floats(1, 60),
    angle=angles,
)


@given(rectangles, st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_a_rectangle_has_its_area_and_overlaps_what_lies_in_it(region, across, up):
    first, second, _, fourth = (np.asarray(corner) for corner in region.vertices)
    along, side = second - first, fourth - first
    assert region.area == pytest.approx(np.hypot(*along) * np.hypot(*side))
    inside = first + (0.5 + 0.98 * across) * along + (0.5 + 0.98 * up) * side
    size = 0.005 * min(np.hypot(*along), np.hypot(*side))
    box = inside + size * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    assert region.overlaps(box)
    assert not region.overlaps(box + np.array([200, 0]))


def test_a_mapping_makes_either_kind():
    by_corners = Region.from_mapping({"vertices": [(0, 0), (4, 0), (4, 2), (0, 2)]})
    by_sides = Region.from_mapping({"centre": (2, 1), "width": 4, "height": 2, "angle": 0})
    assert by_corners.area == by_sides.area == pytest.approx(8)


@pytest.mark.parametrize(
    ("vertices", "message"),
    [
        ([(0, 0), (1, 1)], "three or more"),
        ([(0, 0, 0), (1, 1, 1), (2, 0, 0)], "three or more"),
        ([(0, 0), (1, np.nan), (2, 0)], "not finite"),
        ([(0, 0), (1, 1), (2, 2)], "no area"),
        ([(0, 0), (2, 2), (2, 0), (0, 3)], "edges that cross"),
    ],
)
def test_polygons_that_cannot_be_are_refused(vertices, message):
    with pytest.raises(ValueError, match=message):
        Region(vertices)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, -1), (np.nan, 1)])
def test_a_rectangle_needs_sides(width, height):
    with pytest.raises(ValueError, match="both must be positive"):
        Region.rectangle((0, 0), width, height)


@pytest.mark.parametrize("roi", [{}, {"vertices": [], "width": 3}, {"centre": (0, 0), "width": 3}])
def test_a_mapping_of_other_keys_is_refused(roi):
    with pytest.raises(ValueError, match=r"vertices|centre"):
        Region.from_mapping(roi)


# --- grids

SHAPE = (1000, 1500)


@st.composite
def grids(draw):
    geometry = draw(geometries.filter(lambda g: g.pixel_size < 20))
    unit = geometry.pixel_size  # a tile of 1000 px is as many µm as a pixel is nm
    width, height = unit * draw(st.floats(0.3, 5)), unit * draw(st.floats(0.3, 5))
    centre = draw(st.tuples(lengths, lengths))
    region = Region.rectangle(centre, width, height, draw(angles))
    overlap = draw(st.floats(0, 50))
    pattern = draw(st.sampled_from(["raster", "serpentine"]))
    return region, plan_grid(region, geometry, SHAPE, overlap=overlap, pattern=pattern), overlap


@st.composite
def grids_in_blocks(draw):
    """The same grid in blocks and as a raster, over a polygon that leaves places out."""
    geometry = draw(geometries.filter(lambda g: g.pixel_size < 20))
    size = geometry.pixel_size * draw(st.floats(0.5, 6))
    corners = draw(st.lists(st.floats(0.2, 1), min_size=3, max_size=7))
    turns = np.linspace(0, 2 * np.pi, len(corners), endpoint=False)
    outline = size * np.array(corners) * [np.cos(turns), np.sin(turns)]
    region = Region(tuple(map(tuple, outline.T + draw(st.tuples(lengths, lengths)))))
    block = draw(st.integers(1, 5))
    reach = ImageShift(most_shift=100.0)
    grid = plan_grid(region, geometry, SHAPE, pattern="blocks", block=block, image_shift=reach)
    return grid, plan_grid(region, geometry, SHAPE, pattern="raster")


@given(grids(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=5, max_size=5))
def test_a_grid_covers_its_region(case, places):
    region, grid, _ = case
    first, second, _, fourth = (np.asarray(corner) for corner in region.vertices)
    for across, up in places:
        point = first + across * (second - first) + up * (fourth - first)
        pixels = [grid.geometry.stage_to_pixel(point, SHAPE, (t.x, t.y)) for t in grid.tiles]
        slack = 1e-3
        assert any(
            (-0.5 - slack <= r <= SHAPE[0] - 0.5 + slack)
            and (-0.5 - slack <= c <= SHAPE[1] - 0.5 + slack)
            for r, c in pixels
        )


@given(grids())
def test_tiles_and_skipped_places_make_the_whole_grid(case):
    _, grid, _ = case
    places = [(t.row, t.column) for t in grid.tiles] + list(grid.skipped)
    assert sorted(places) == [(r, c) for r in range(grid.rows) for c in range(grid.columns)]
    assert [tile.index for tile in grid.tiles] == list(range(len(grid.tiles)))


@given(grids())
def test_neighbours_are_a_pitch_apart_and_overlap_enough(case):
    _, grid, overlap = case
    for a, b in grid.neighbours():
        step = (b.row - a.row, b.column - a.column)
        assert step in {(0, 1), (1, 0)}
        offset = grid.geometry.pixel_vector((b.x - a.x, b.y - a.y))
        assert offset == pytest.approx(np.multiply(step, grid.pitch), abs=1e-3)
    for side, shared in zip(SHAPE, grid.overlap_px, strict=True):
        assert shared == pytest.approx(side * overlap / 100)


@given(grids())
def test_the_fewest_tiles_are_taken(case):
    region, grid, _ = case
    corners = grid.geometry.pixel_vector(np.asarray(region.vertices))
    for extent, side, pitch, count in zip(
        np.ptp(corners, axis=0), SHAPE, grid.pitch, (grid.rows, grid.columns), strict=True
    ):
        assert side + (count - 1) * pitch >= extent - 1e-3
        assert count == 1 or side + (count - 2) * pitch < extent


def test_a_region_of_exactly_one_tile_takes_that_tile():
    geometry = FrameGeometry(pixel_size=4.0, angle=12.0)
    height, width = geometry.size((512, 512))
    region = Region.rectangle((3, -2), width, height, angle=12.0)
    grid = plan_grid(region, geometry, (512, 512))
    assert [(tile.row, tile.column) for tile in grid.tiles] == [(0, 0)]
    assert (grid.tiles[0].x, grid.tiles[0].y) == pytest.approx((3, -2))
    assert grid.skipped == ()


def test_serpentine_runs_back_and_raster_does_not():
    region = Region.rectangle((0, 0), 20, 9)
    orders = {}
    for pattern in ("serpentine", "raster"):
        grid = plan_grid(region, FrameGeometry(4.0), SHAPE, pattern=pattern)
        orders[pattern] = [(t.row, t.column) for t in grid.tiles]
    columns = max(c for _, c in orders["raster"])
    assert orders["raster"] == sorted(orders["raster"])
    assert orders["serpentine"][: columns + 2] == [
        *((0, c) for c in range(columns + 1)),
        (1, columns),
    ]
    assert sorted(orders["serpentine"]) == orders["raster"]


@given(grids_in_blocks())
def test_blocks_hold_every_tile_of_a_raster_once_at_the_same_place(case):
    grid, raster = case
    places = {(t.row, t.column): (t.x, t.y) for t in grid.tiles}
    assert len(places) == len(grid.tiles)
    assert places == {(t.row, t.column): (t.x, t.y) for t in raster.tiles}
    assert [tile.index for tile in grid.tiles] == list(range(len(grid.tiles)))
    assert grid.skipped == raster.skipped

    def pairs(one):
        return {((a.row, a.column), (b.row, b.column)) for a, b in one.neighbours()}

    assert pairs(grid) == pairs(raster)


@given(grids_in_blocks())
def test_the_tiles_of_a_block_share_one_stage_position_in_their_middle(case):
    grid, _ = case
    height, width = grid.geometry.size(np.multiply(grid.pitch, grid.block - 1))
    blocks = {}
    for tile in grid.tiles:
        blocks.setdefault((tile.row // grid.block, tile.column // grid.block), []).append(tile)
        assert (tile.stage_x + tile.shift_x, tile.stage_y + tile.shift_y) == pytest.approx(
            (tile.x, tile.y), abs=1e-6
        )
        assert np.hypot(tile.shift_x, tile.shift_y) <= np.hypot(height, width) / 2 + 1e-6
    for tiles in blocks.values():
        indices = [tile.index for tile in tiles]
        assert indices == list(range(indices[0], indices[-1] + 1)), "one block after the other"
        stage = np.array([(tile.stage_x, tile.stage_y) for tile in tiles])
        np.testing.assert_allclose(stage, stage[:1].repeat(len(tiles), axis=0), atol=1e-6)
        shifts = grid.geometry.pixel_vector([(tile.shift_x, tile.shift_y) for tile in tiles])
        np.testing.assert_allclose(shifts.min(axis=0), -shifts.max(axis=0), atol=1e-3)
    assert [tile for row in grid.passes() for tile in row] == list(grid.tiles)
    for row in grid.passes():
        assert len({tile.row // grid.block for tile in row}) == 1


@pytest.mark.parametrize("block", [2, 3, 4])
def test_whole_blocks_follow_each_other_without_a_jump(block: int):
    """Back in every second row of blocks; the image shift moves by single tiles only."""
    side = 4 + 3.6 * (3 * block - 1) - 0.1
    region, geometry = Region.rectangle((0, 0), side, side), FrameGeometry(4.0)
    reach = ImageShift(most_shift=20)
    grid = plan_grid(
        region, geometry, (1000, 1000), pattern="blocks", block=block, image_shift=reach
    )
    assert len(grid.tiles) == (3 * block) ** 2
    order = [(t.row // block, t.column // block) for t in grid.tiles[:: block**2]]
    assert order == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    for a, b in pairwise(grid.tiles):
        jump = np.hypot(b.shift_x - a.shift_x, b.shift_y - a.shift_y)
        assert jump <= 3.6 + 1e-9


def test_a_block_of_one_tile_needs_no_image_shift():
    region = Region.rectangle((0, 0), 20, 9)
    one = plan_grid(region, FrameGeometry(4.0), SHAPE, pattern="blocks", block=1)
    assert one.tiles == plan_grid(region, FrameGeometry(4.0), SHAPE).tiles


def test_corners_of_a_round_region_are_skipped():
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = Region(np.column_stack([30 * np.cos(turns), 30 * np.sin(turns)]))
    grid = plan_grid(circle, FrameGeometry(4.0), (1000, 1000), overlap=0)
    assert (0, 0) in grid.skipped
    assert (0, grid.columns - 1) in grid.skipped
    half = 2.0
    for tile in grid.tiles:
        nearest = np.hypot(max(abs(tile.x) - half, 0), max(abs(tile.y) - half, 0))
        assert nearest < 30


@given(st.floats(0, 5), st.floats(0, 50))
def test_the_larger_overlap_counts(least, percent):
    geometry = FrameGeometry(10.0)
    assume(least < 9)
    region = Region.rectangle((0, 0), 40, 40)
    grid = plan_grid(region, geometry, SHAPE, overlap=percent, min_overlap=least)
    for side, shared in zip(SHAPE, grid.overlap_px, strict=True):
        assert shared == pytest.approx(max(side * percent / 100, least * 100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": -1}, "overlap is -1 %; it must lie between 0 and 90"),
        ({"overlap": 95}, "overlap is 95 %; it must lie between 0 and 90"),
        ({"overlap": np.nan}, "overlap is nan %"),
        ({"min_overlap": -0.1}, "min_overlap is -0.1 µm"),
        ({"min_overlap": 3.9}, "min_overlap is 3.9 µm; it must lie between 0 and 3.6 µm"),
        (
            {"pattern": "spiral"},
            "pattern is 'spiral'; it must be one of raster, serpentine, blocks",
        ),
        ({"pattern": "blocks", "block": 0}, "block is 0; it must lie between 1 and 15"),
        (
            {"pattern": "blocks", "image_shift": ImageShift(most_shift=4)},
            "block is 3, and its corner tiles need an image shift of 4.5 µm; "
            "it may be 4 µm at most: block must be 2 or less here",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_grid(Region.rectangle((0, 0), 10, 10), FrameGeometry(4.0), SHAPE, **options)


def test_a_montage_without_end_is_refused():
    with pytest.raises(ValueError, match=r"at most 100000 are allowed"):
        plan_grid(Region.rectangle((0, 0), 1e4, 1e4), FrameGeometry(0.4), (2048, 2048))


# --- image shift


@given(angles, st.floats(0.1, 10), st.tuples(lengths, lengths))
def test_settings_and_shifts_are_inverse(rotation, scale, shift):
    image_shift = ImageShift(rotation, scale)
    setting = image_shift.setting(shift)
    assert np.hypot(*setting) * scale == pytest.approx(np.hypot(*shift))
    assert image_shift.shift(setting) == pytest.approx(shift, abs=1e-9)


def test_a_setting_is_turned_counter_clockwise_onto_the_stage():
    image_shift = ImageShift(rotation=90.0, scale=2.0)
    assert image_shift.shift((1.0, 0.0)) == pytest.approx((0.0, 2.0))
    assert image_shift.shift([(1, 0), (0, 1)]) == pytest.approx(np.array([(0, 2), (-2, 0)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": np.nan}, "rotation is nan; it must be a finite number of degrees"),
        ({"scale": 0.0}, "scale is 0.0; it must be positive and finite"),
        ({"most_shift": np.inf}, "most_shift is inf; it must be positive and finite"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageShift(**options)
