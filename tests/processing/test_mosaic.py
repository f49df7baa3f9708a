from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from processing.mosaic import (
    SEAMS,
    blocks,
    display_range,
    halve,
    mosaic_levels,
    plan_mosaic,
    render,
)

TILE = (40, 48)


def world(shape=(400, 400), seed=0):
    return np.random.default_rng(seed).integers(1, 65536, shape, dtype=np.uint16)


def grid(rows, columns, pitch=(33, 37), jitter=3, seed=0):
    places = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    shifts = np.random.default_rng(seed).integers(-jitter, jitter + 1, places.shape)
    return places * np.asarray(pitch) + shifts + 20


def tiles_of(image, places, shape=TILE):
    return [image[r : r + shape[0], c : c + shape[1]] for r, c in places]


def reader(tiles):
    return lambda index, window: None if tiles[index] is None else tiles[index][window]


def mosaic_of(tiles, layout, side=64, **options):
    """The whole mosaic, of small blocks, each in its turn."""
    whole = np.full(layout.shape, 7, np.uint16)
    for block in blocks(layout.shape, side):
        whole[block] = render(reader(tiles), layout, block, **options)
    return whole


@pytest.mark.parametrize("seam", SEAMS)
def test_tiles_of_one_image_give_the_image_back_exactly(seam):
    image, places = world(), grid(6, 7)
    tiles = tiles_of(image, places)
    layout = plan_mosaic(places, TILE)
    found = mosaic_of(tiles, layout, seam=seam)
    covered = np.zeros(layout.shape, bool)
    for r, c in layout.corners:
        covered[r : r + TILE[0], c : c + TILE[1]] = True
    top, left = places.min(axis=0)
    expected = image[top : top + layout.shape[0], left : left + layout.shape[1]]
    assert layout.origin == (top, left)
    assert (found[covered] == expected[covered]).all()
    assert (found[~covered] == 0).all()


def test_a_blend_is_weighted_by_the_distance_to_the_edge():
    tiles = [np.full((20, 20), 1000, np.uint16), np.full((20, 20), 2000, np.uint16)]
    layout = plan_mosaic([(0, 0), (0, 10)], (20, 20))
    found = mosaic_of(tiles, layout)
    row = found[10].astype(int)
    assert (row[:10] == 1000).all()
    assert (row[20:] == 2000).all()
    assert (np.diff(row[9:21]) > 0).all()
    # At column 12 the first tile's edge is 8 px away, the second's 3.
    assert row[12] == round((8 * 1000 + 3 * 2000) / 11)


def test_a_cut_takes_the_nearest_centre():
    tiles = [np.full((20, 20), 1000, np.uint16), np.full((20, 20), 2000, np.uint16)]
    layout = plan_mosaic([(0, 0), (0, 11)], (20, 20))
    found = mosaic_of(tiles, layout, seam="cut")
    assert set(np.unique(found)) == {1000, 2000}
    assert (found[:, :15] == 1000).all()
    assert (found[:, 16:] == 2000).all()


def test_positions_are_rounded_half_up():
    layout = plan_mosaic([(0.5, 0.0), (1.5, 10.49), (-0.2, 3.5)], TILE)
    assert (layout.corners == [(1, 0), (2, 10), (0, 4)]).all()
    assert layout.shape == (42, 58)


@pytest.mark.parametrize("seam", SEAMS)
@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.sampled_from([16, 32, 64]),
    jitter=st.integers(0, 15),
    missing=st.sets(st.integers(0, 11), max_size=3),
)
def test_blocks_are_the_whole_bit_by_bit(seam, seed, side, jitter, missing):
    random = np.random.default_rng(seed)
    tiles = [random.integers(0, 65536, TILE, dtype=np.uint16) for _ in range(12)]
    for index in missing:
        tiles[index] = None
    layout = plan_mosaic(grid(3, 4, jitter=jitter, seed=seed), TILE)
    whole = render(reader(tiles), layout, (slice(0, layout.shape[0]), slice(0, layout.shape[1])))
    assert (mosaic_of(tiles, layout, side) == whole).all()


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)), side=st.sampled_from([32, 64, 128])
)
def test_blocks_cover_each_pixel_once(shape, side):
    seen = np.zeros(shape, int)
    for rows, columns in blocks(shape, side):
        assert rows.start % side == columns.start % side == 0
        assert max(rows.stop - rows.start, columns.stop - columns.start) <= side
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_blocks_follow_each_other_side_by_side():
    for (rows, columns), (next_rows, next_columns) in pairwise(blocks((300, 500), 64)):
        apart = abs(rows.start - next_rows.start) + abs(columns.start - next_columns.start)
        assert apart == 64


def test_only_what_a_block_needs_of_a_tile_is_read():
    layout = plan_mosaic([(0, 0), (0, 30), (60, 0)], TILE)
    asked = {}

    def read(index, window):
        asked[index] = window
        return np.ones(TILE, np.uint16)[window]

    render(read, layout, (slice(10, 50), slice(0, 40)))
    assert asked == {
        0: (slice(10, 40), slice(0, 40)),
        1: (slice(10, 40), slice(0, 10)),
    }


def test_a_block_needs_the_tiles_that_touch_it_alone():
    image, places = world(), grid(5, 5)
    tiles, layout = tiles_of(image, places), plan_mosaic(places, TILE)
    block = slice(64, 128), slice(64, 128)
    near = layout.touching(block)
    assert 4 <= len(near) < 16
    found = render(reader([tiles[i] for i in near]), layout.only(near), block)
    assert (found == render(reader(tiles), layout, block)).all()


def test_a_missing_tile_leaves_a_hole():
    image, places = world(), grid(3, 3, jitter=0)
    tiles: list[np.ndarray | None] = list(tiles_of(image, places))
    tiles[4] = None
    layout = plan_mosaic(places, TILE)
    found = mosaic_of(tiles, layout)
    middle = layout.corners[4] + np.array([20, 24])
    assert found[tuple(middle)] == 0
    assert (found[0:33, 0:37] > 0).all()
    # Where only neighbours of the missing tile lie, they are as if it had never been there.
    top, left = layout.corners[4]
    assert found[top + 1, left + 1] == image[tuple(places[4] + 1)]


@pytest.mark.parametrize("seam", SEAMS)
def test_pixels_that_hold_nothing_take_no_part(seam):
    """What was not written of a tile reads as 0, which must not darken the seam."""
    left, right = np.full((20, 20), 1000, np.uint16), np.full((20, 20), 1000, np.uint16)
    left[:, 15:] = 0
    right[:3] = 0
    found = mosaic_of([left, right], plan_mosaic([(0, 0), (0, 10)], (20, 20)), seam=seam)
    assert (found[:, :15] == 1000).all()
    assert (found[3:] == 1000).all()
    assert (found[:3, 15:] == 0).all()


def test_bytes_are_blended_too():
    tiles = [np.full(TILE, 10, np.uint8), np.full(TILE, 10, np.uint8)]
    assert (mosaic_of(tiles, plan_mosaic([(0, 0), (0, 20)], TILE)) == 10).all()


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)))
def test_halving_is_the_rounded_mean(image):
    rows, columns = (side // 2 for side in image.shape)
    quads = image[: 2 * rows, : 2 * columns].astype(np.int64).reshape(rows, 2, columns, 2)
    assert (halve(image) == (quads.sum(axis=(1, 3)) + 2) // 4).all()


@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_levels_halve_until_small(rows, columns):
    shapes = mosaic_levels((rows, columns))
    assert shapes[0] == (rows, columns)
    for (r, c), half in pairwise(shapes):
        assert half == (max(1, r // 2), max(1, c // 2))
        assert max(r, c) > 512
    assert max(shapes[-1]) <= 512


def test_display_range_passes_over_holes():
    image = np.zeros((100, 100), np.uint16)
    image[:50] = np.linspace(1000, 2000, 5000).reshape(50, 100)
    black, white = display_range(image)
    assert 1000 <= black < 1010
    assert 1990 < white <= 2000
    assert display_range(np.zeros((4, 4), np.uint16)) == (0, 1)
    assert display_range(np.full((4, 4), 9, np.uint16)) == (9, 10)


def test_what_does_not_fit_is_refused():
    layout = plan_mosaic([(0, 0), (5, 5)], TILE)
    whole = slice(0, 45), slice(0, 53)
    with pytest.raises(ValueError, match="seam is 'feather'; it must be one of blend, cut"):
        render(reader([None, None]), layout, whole, seam="feather")
    small = [np.zeros((3, 3), np.uint16)] * 2
    with pytest.raises(ValueError, match=re.escape("of tile 0 came with shape (3, 3); tiles must")):
        render(reader(small), layout, whole)
    with pytest.raises(ValueError, match="not finite"):
        plan_mosaic([(0, np.nan)], TILE)
    with pytest.raises(ValueError, match="n at least 1"):
        plan_mosaic(np.empty((0, 2)), TILE)
