from __future__ import annotations

import re
from itertools import pairwise

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from processing import mosaic
from processing.mosaic import (
    SEAMS,
    display_range,
    halve,
    level_shapes,
    plan_mosaic,
    write_mosaic,
)

TILE = (40, 48)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 px, so that a small mosaic has many."""
    monkeypatch.setattr(mosaic, "BLOCK", 64)


def world(shape=(400, 400), seed=0):
    return np.random.default_rng(seed).integers(1, 65536, shape, dtype=np.uint16)


def grid(rows, columns, pitch=(33, 37), jitter=3, seed=0):
    places = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    shifts = np.random.default_rng(seed).integers(-jitter, jitter + 1, places.shape)
    return places * np.asarray(pitch) + shifts + 20


def tiles_of(image, places, shape=TILE):
    return [image[r : r + shape[0], c : c + shape[1]] for r, c in places]


def render(read, layout, levels=1, **options):
    arrays = [np.full(shape, 7, np.uint16) for shape in level_shapes(layout.shape, 1)[:levels]]
    write_mosaic(read, layout, arrays, **options)
    return arrays


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.usefixtures("small_blocks")
def test_tiles_of_one_image_give_the_image_back_exactly(seam):
    image, places = world(), grid(6, 7)
    tiles = tiles_of(image, places)
    layout = plan_mosaic(places, TILE)
    (found,) = render(tiles.__getitem__, layout, seam=seam)
    covered = np.zeros(layout.shape, bool)
    for r, c in layout.corners:
        covered[r : r + TILE[0], c : c + TILE[1]] = True
    top, left = places.min(axis=0)
    expected = image[top : top + layout.shape[0], left : left + layout.shape[1]]
    assert layout.origin == (top, left)
    assert (found[covered] == expected[covered]).all()
    assert (found[~covered] == 0).all()


@pytest.mark.usefixtures("small_blocks")
def test_a_blend_is_weighted_by_the_distance_to_the_edge():
    tiles = [np.full((20, 20), 1000, np.uint16), np.full((20, 20), 2000, np.uint16)]
    layout = plan_mosaic([(0, 0), (0, 10)], (20, 20))
    (found,) = render(tiles.__getitem__, layout)
    row = found[10].astype(int)
    assert (row[:10] == 1000).all()
    assert (row[20:] == 2000).all()
    assert (np.diff(row[9:21]) > 0).all()
    # At column 12 the first tile's edge is 8 px away, the second's 3.
    assert row[12] == round((8 * 1000 + 3 * 2000) / 11)


@pytest.mark.usefixtures("small_blocks")
def test_a_cut_takes_the_nearest_centre():
    tiles = [np.full((20, 20), 1000, np.uint16), np.full((20, 20), 2000, np.uint16)]
    layout = plan_mosaic([(0, 0), (0, 11)], (20, 20))
    (found,) = render(tiles.__getitem__, layout, seam="cut")
    assert set(np.unique(found)) == {1000, 2000}
    assert (found[:, :15] == 1000).all()
    assert (found[:, 16:] == 2000).all()


def test_positions_are_rounded_half_up():
    layout = plan_mosaic([(0.5, 0.0), (1.5, 10.49), (-0.2, 3.5)], TILE)
    assert (layout.corners == [(1, 0), (2, 10), (0, 4)]).all()
    assert layout.shape == (42, 58)


@pytest.mark.usefixtures("small_blocks")
def test_levels_are_means_of_the_level_before():
    image, places = world(), grid(5, 6)
    layout = plan_mosaic(places, TILE)
    levels = render(tiles_of(image, places).__getitem__, layout, levels=4)
    assert [level.shape for level in levels] == list(level_shapes(layout.shape, 1)[:4])
    for fine, coarse in pairwise(levels):
        assert (coarse == halve(fine)).all()


@pytest.mark.usefixtures("small_blocks")
def test_few_tiles_are_held_and_each_is_read_about_twice():
    image, places = world((900, 900)), grid(20, 20)
    tiles = tiles_of(image, places)
    calls, alive = [], []

    class Tile(np.ndarray):
        def __del__(self):
            alive.remove(id(self))

    def read(index):
        calls.append(index)
        tile = tiles[index].copy().view(Tile)
        alive.append(id(tile))
        most.append(len(alive))
        return tile

    most: list[int] = []
    render(read, plan_mosaic(places, TILE), tiles_held=10)
    assert max(most) <= 11
    assert len(calls) <= 3.2 * len(tiles)


@pytest.mark.usefixtures("small_blocks")
def test_files_can_be_written_to(tmp_path):
    image, places = world(), grid(4, 4)
    tiles, layout = tiles_of(image, places), plan_mosaic(places, TILE)
    (expected,) = render(tiles.__getitem__, layout)
    with h5py.File(tmp_path / "mosaic.h5", "w") as file:
        level = file.create_dataset("0", layout.shape, np.uint16, chunks=(32, 32))
        write_mosaic(tiles.__getitem__, layout, [level])
        assert (level[:] == expected).all()
    array = zarr.create_array(
        tmp_path / "mosaic.zarr", shape=layout.shape, chunks=(32, 32), dtype=np.uint16
    )
    write_mosaic(tiles.__getitem__, layout, [array])
    assert (array[:] == expected).all()


@pytest.mark.usefixtures("small_blocks")
def test_a_missing_tile_leaves_a_hole_and_progress_is_told():
    image, places = world(), grid(3, 3, jitter=0)
    tiles: list[np.ndarray | None] = list(tiles_of(image, places))
    tiles[4] = None
    layout = plan_mosaic(places, TILE)
    told: list[tuple[int, int]] = []
    (found,) = render(tiles.__getitem__, layout, progress=lambda *step: told.append(step))
    middle = layout.corners[4] + np.array([20, 24])
    assert found[tuple(middle)] == 0
    assert (found[0:33, 0:37] > 0).all()
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len(told) == 4


def test_bytes_are_blended_too():
    tiles = [np.full(TILE, 10, np.uint8), np.full(TILE, 10, np.uint8)]
    (found,) = render(tiles.__getitem__, plan_mosaic([(0, 0), (0, 20)], TILE))
    assert (found == 10).all()


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_halving_is_the_rounded_mean(image):
    rows, columns = image.shape
    padded = np.pad(image.astype(np.int64), ((0, rows % 2), (0, columns % 2)), mode="edge")
    total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    assert (halve(image) == (total + 2) // 4).all()


@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_level_shapes_halve_until_small(rows, columns):
    shapes = level_shapes((rows, columns))
    assert shapes[0] == (rows, columns)
    for (r, c), half in pairwise(shapes):
        assert half == (-(-r // 2), -(-c // 2))
        assert max(r, c) > 512
    assert max(shapes[-1]) <= 512 or len(shapes) == 12


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
    level = np.zeros(layout.shape, np.uint16)

    def read(index):
        return np.zeros(TILE, np.uint16)

    with pytest.raises(ValueError, match="seam is 'feather'; it must be one of blend, cut"):
        write_mosaic(read, layout, [level], seam="feather")
    with pytest.raises(ValueError, match=re.escape("level 0 has shape (45, 52)")):
        write_mosaic(read, layout, [level[:, :-1]])
    with pytest.raises(ValueError, match="there are 0 levels"):
        write_mosaic(read, layout, [])
    with pytest.raises(ValueError, match=re.escape("tile 0 has shape (3, 3); it must be (40, 48)")):
        write_mosaic(lambda index: np.zeros((3, 3), np.uint16), layout, [level])
    with pytest.raises(ValueError, match="not finite"):
        plan_mosaic([(0, np.nan)], TILE)
    with pytest.raises(ValueError, match="n at least 1"):
        plan_mosaic(np.empty((0, 2)), TILE)
