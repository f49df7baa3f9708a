"""Tiles of a montage as images of one kind: numbers alike, masks with them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from formats.images import ImageFormatError
from formats.montage import ImageSource
from formats.readers import read_montage
from formats.tile_images import TileImages
from tests.formats.tiles import HEIGHT, WIDTH, Tiles

TILES = Tiles()


def write(folder, images):
    for (row, column), image in zip(TILES.cells, images, strict=True):
        tifffile.imwrite(folder / f"r{row}_c{column}.tif", image)
    return TileImages.of(read_montage([folder]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_stay_as_they_are(tmp_path, dtype):
    tiles = write(tmp_path, [image.astype(dtype) for image in TILES.images])
    assert tiles.levels is None
    for index, image in enumerate(TILES.images):
        found = tiles.read(index)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, image)


def test_other_numbers_become_uint16_all_alike(tmp_path):
    floats = [image.astype(np.float32) / 300 + 0.1 for image in TILES.images]
    floats[2][:] = floats[2] / 50  # by itself it would be stretched
    tiles = write(tmp_path, floats)
    found = np.array([tiles.read(index) for index in range(len(floats))], dtype=float)
    slope, rest = np.polyfit(np.ravel(floats), found.ravel(), 1)
    assert slope > 1000
    assert np.abs(found.ravel() - slope * np.ravel(floats) - rest).max() < 2


def test_masks_come_with_their_tiles(tmp_path):
    tiles = write(tmp_path, TILES.images)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:5] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    masks = (ImageSource(tmp_path / "mask.tif"), *[None] * (len(tiles.images) - 1))
    masked = TileImages(tiles.images, masks)
    first, second = masked.read_masked(0), masked.read_masked(1)
    assert not isinstance(second, np.ma.MaskedArray)
    np.testing.assert_array_equal(np.ma.getmaskarray(first), mask == 0)
    np.testing.assert_array_equal(np.ma.getdata(first), TILES.images[0])
    assert masked.read_mask(1) is None
    assert tiles.read_mask(0) is None


def test_a_tile_that_went_meanwhile_is_named(tmp_path):
    tiles = write(tmp_path, TILES.images)
    tiles.images[3].path.unlink()
    with pytest.raises(ImageFormatError, match=tiles.images[3].path.name):
        tiles.read(3)
