"""Montages with known maps: what they show, and how solutions are judged by them."""

import numpy as np
import pytest

from benchmarks._montages import JUDGED, shifted, take_montage


@pytest.fixture(scope="module")
def montages():
    return {
        world: take_montage(world, rows=2, columns=2, side=256, overlap=0.4, seed=3)
        for world in ("kind", "real")
    }


@pytest.mark.parametrize("world", ["kind", "real"])
def test_neighbours_show_the_same_where_their_maps_say_so(montages, world):
    montage = montages[world]
    rows, columns = np.meshgrid(np.arange(60, 200, 3), np.arange(175, 235, 3), indexing="ij")
    here = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    there = np.round(montage.maps[1].stage_to_pixel(montage.maps[0].pixel_to_stage(here))).astype(
        int
    )
    inside = ((there >= 0) & (there < 256)).all(axis=1)
    assert inside.sum() > 500
    values = [
        tile[tuple(pixels[inside].T)].astype(float)
        for tile, pixels in ((montage.tiles[0], here), (montage.tiles[1], there))
    ]
    assert np.corrcoef(*values)[0, 1] > 0.6
    assert np.corrcoef(values[0], np.roll(values[1], 45))[0, 1] < 0.4


def test_the_truth_itself_has_no_error(montages):
    montage = montages["real"]
    nm_to_px = 1000 / montage.maps[0].geometry.pixel_size
    errors = montage.errors(
        lambda index, pixels: nm_to_px * montage.maps[index].pixel_to_stage(pixels)
    )
    assert errors.shape == (4, JUDGED**2)
    assert errors.max() < 1e-9


def test_shifts_alone_fit_the_kind_world_and_not_the_real_one(montages):
    left = {}
    for world, montage in montages.items():
        middle = np.full((1, 2), 127.5)
        to_pixels = np.linalg.inv(montage.maps[0].geometry.matrix).T
        corners = np.concatenate([each.pixel_to_stage(middle) for each in montage.maps])
        left[world] = montage.errors(shifted(corners @ to_pixels))
        off = montage.errors(shifted(montage.nominal))
        assert np.sqrt((off**2).mean()) > 3 * np.sqrt((left["kind"] ** 2).mean())
    assert left["kind"].max() < 0.4
    assert left["real"].max() > 1


def test_masks_are_of_the_corners_in_the_real_world_alone(montages):
    assert montages["kind"].masks.all()
    assert 0.99 < montages["real"].masks.mean() < 0.995
    assert not montages["real"].masks[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
