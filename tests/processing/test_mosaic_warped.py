"""Mosaics of tiles that are turned or bent, beside what a slow and simple renderer makes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.lens.inverse import MAX_ERROR, inverse_grid
from processing.mosaic import (
    SEAMS,
    lay_out,
    mosaic_origin,
    plan_mosaic,
    plan_warped_mosaic,
    render,
)
from processing.solve import TileMaps
from tests.processing.lenses import some_lens
from tests.processing.test_mosaic import mosaic_of, reader

SHAPE = (160, 220)


def some_maps(rows=2, columns=3, *, bend=0.01, lens=0.5, seed=0, shape=SHAPE):
    random = np.random.default_rng(seed)
    count = rows * columns
    grid = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    matrices = np.zeros((count, 2, 3))
    matrices[:, :, :2] = np.eye(2) + bend * random.standard_normal((count, 2, 2))
    matrices[:, :, 2] = 0.8 * grid * shape + random.uniform(-5, 5, (count, 2))
    return TileMaps(shape, matrices, some_lens(shape, lens, seed) if lens else None)


def some_tiles(count, shape=SHAPE, seed=0):
    """Tiles of noise that is smooth, with some pixels that hold nothing."""
    random = np.random.default_rng(seed)
    tiles = []
    for _ in range(count):
        smooth = cv2.GaussianBlur(random.uniform(500, 60000, shape), (0, 0), 1.5)
        tile = np.clip(smooth, 1, 65535).astype(np.uint16)
        tile[random.random(shape) < 0.002] = 0
        tile[:10, :20] = 0
        tiles.append(tile)
    return tiles


def slowly(tiles, maps, layout, seam):
    """Each pixel on its own: where it lies in each tile by Newton's method, and what is there."""
    places = np.stack(np.indices(layout.shape), -1).astype(float)
    total, weight = np.zeros(layout.shape), np.zeros(layout.shape)
    nearest, cut = np.full(layout.shape, np.inf), np.zeros(layout.shape)
    middle = (np.array(maps.shape) - 1) / 2
    for index, tile in enumerate(tiles):
        if tile is None:
            continue
        at = maps.inverse(index, places + layout.origin)
        inside = ((at > -1e-3) & (at < np.array(maps.shape) - 1 + 1e-3)).all(axis=-1)
        at = np.clip(at, 0, np.array(maps.shape) - 1)
        first = np.minimum(np.floor(at).astype(int), np.array(maps.shape) - 2)
        f = at - first
        value, share = np.zeros(layout.shape), np.zeros(layout.shape)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = np.abs(1 - down - f[..., 0]) * np.abs(1 - right - f[..., 1])
            pixel = tile[first[..., 0] + down, first[..., 1] + right]
            value += part * pixel
            share += part * (pixel > 0)
        edge = np.minimum(at + 1, np.array(maps.shape) - at).min(axis=-1)
        there = inside & (share >= 0.5)
        total += np.where(there, edge * value, 0)
        weight += np.where(there, edge * share, 0)
        distance = ((at - middle) ** 2).sum(axis=-1)
        closer = there & (distance < nearest)
        nearest[closer] = distance[closer]
        cut[closer] = (value / np.maximum(share, 0.5))[closer]
    return cut if seam == "cut" else total / np.maximum(weight, 1e-9)


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("lens", [0.0, 0.5])
def test_it_is_what_a_simple_renderer_makes(seam, lens):
    maps = some_maps(lens=lens, seed=3)
    tiles = some_tiles(len(maps))
    layout = plan_warped_mosaic(maps)
    found = mosaic_of(tiles, layout, seam=seam).astype(float)
    expected = slowly(tiles, maps, layout, seam)
    # Where the place is right to some hundredths of a pixel, so is the value between its
    # neighbours; but at the very edges a pixel may be there or not, and seams may swap tiles.
    apart = np.abs(found - expected)
    slope = np.hypot(*np.gradient(expected))
    right = apart <= 0.51 + (2 * MAX_ERROR * slope if lens else 1e-3 * slope)
    assert right.mean() > 0.995


@given(
    seed=st.integers(0, 2**32 - 1),
    side=st.sampled_from([16, 32, 64]),
    lens=st.sampled_from([0.0, 1.5]),
    missing=st.sets(st.integers(0, 5), max_size=2),
)
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("seam", SEAMS)
def test_blocks_are_the_whole_bit_by_bit(seam, seed, side, lens, missing):
    maps = some_maps(seed=seed, lens=lens)
    tiles = some_tiles(len(maps), seed=seed)
    for index in missing:
        tiles[index] = None
    layout = plan_warped_mosaic(maps)
    whole = slice(0, layout.shape[0]), slice(0, layout.shape[1])
    at_once = render(reader(tiles), layout, whole, seam=seam)
    assert (mosaic_of(tiles, layout, side, seam=seam) == at_once).all()


@pytest.mark.parametrize("seam", SEAMS)
def test_tiles_that_lie_straight_come_out_as_they_are(seam):
    """Nothing is lost at edges, nor changed by an interpolation between whole pixels."""
    places = np.array([(0, 0), (3, 180), (130, -7), (135, 175)])
    tiles = some_tiles(4)
    straight = plan_mosaic(places, SHAPE)
    warped = plan_warped_mosaic(TileMaps.shifts(places, SHAPE))
    assert warped.shape == straight.shape
    assert warped.origin == straight.origin
    found = mosaic_of(tiles, warped, seam=seam)
    assert (found == mosaic_of(tiles, straight, seam=seam)).all()


def test_a_pixel_that_holds_nothing_spreads_to_none_of_its_neighbours():
    tile = np.full(SHAPE, 1000, np.uint16)
    tile[40, 50] = 0
    maps = TileMaps.shifts([(0.3, 0.4)], SHAPE)
    layout = plan_warped_mosaic(maps)
    found = render(reader([tile]), layout, (slice(0, layout.shape[0]), slice(0, layout.shape[1])))
    # Of the four pixels it takes part in it is over half of none but one.
    assert set(np.unique(found)) <= {0, 1000}
    assert (found == 0).sum() <= 1


def test_only_what_a_block_needs_of_a_tile_is_read():
    maps = some_maps(lens=1.0)
    tiles = some_tiles(len(maps))
    layout = plan_warped_mosaic(maps)
    asked = {}

    def read(index, window):
        asked[index] = window
        return tiles[index][window]

    block = slice(20, 40), slice(30, 60)
    render(read, layout, block)
    for index, (rows, columns) in asked.items():
        corners = np.array([(20, 30), (20, 59), (39, 30), (39, 59)]) + layout.origin
        at = maps.inverse(index, corners)
        assert rows.start >= at[:, 0].min() - 3
        assert rows.stop <= max(0, at[:, 0].max()) + 4
        assert columns.start >= at[:, 1].min() - 60  # places are traced from node to node
        assert columns.stop <= max(0, at[:, 1].max()) + 60


@given(seed=st.integers(0, 1000), degree=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_the_inverse_on_a_grid_is_the_inverse(seed, degree):
    shape = (1500, 2000)
    lens = some_lens(shape, 10.0, seed, degree)
    grid = inverse_grid(lens)
    random = np.random.default_rng(seed)
    taken = random.uniform(0, np.array(shape) - 1, (300, 2))
    corrected = lens.to_corrected(taken)
    place = (corrected - grid.first) / grid.spacing
    node = np.floor(place).astype(int)
    f = place - node
    assert (node >= 0).all()
    assert (node < np.array(grid.shifts.shape[:2]) - 1).all()
    shift = sum(
        (np.abs(1 - i - f[:, 0]) * np.abs(1 - j - f[:, 1]))[:, None]
        * grid.shifts[node[:, 0] + i, node[:, 1] + j]
        for i in (0, 1)
        for j in (0, 1)
    )
    assert np.abs(corrected + shift - taken).max() < MAX_ERROR


def test_a_lens_of_another_frame_and_maps_of_nothing_are_refused():
    with pytest.raises(ValueError, match="maps of no tile; a mosaic needs one at least"):
        plan_warped_mosaic(TileMaps(SHAPE, np.empty((0, 2, 3))))


@pytest.mark.parametrize("bend", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(5))
def test_the_first_pixel_is_known_without_all_boxes(bend, seed):
    random = np.random.default_rng(seed)
    places = np.stack(np.divmod(np.arange(12), 4), axis=1) * 0.9 * np.array(SHAPE)
    matrices = TileMaps.shifts(places + random.uniform(-9, 9, places.shape), SHAPE).matrices
    matrices[:, :, :2] += random.normal(0, bend, (12, 2, 2))
    maps = TileMaps(SHAPE, matrices)
    layout = lay_out(maps)
    assert (layout.maps is not None) == (bend > 0)
    assert tuple(mosaic_origin(maps)) == layout.origin
