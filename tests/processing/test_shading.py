"""Uneven light from tiles: found where it is, not invented where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from processing.flatfield import flat_field
from processing.shading import GRID, block_levels, estimate_shading
from tests.processing.scenes import cut, expose, texture

SHAPE = (192, 256)


def light(strength, shape=SHAPE):
    """Uneven light as of a beam that is off the middle, with a mean of 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    field = 1 - strength * ((x - 0.4) ** 2 + (y + 0.2) ** 2)
    return field / field.mean()


def tiles(count, strength, seed=0):
    scene, rng = texture(1024, 3, falloff=1.0), np.random.default_rng(seed)
    return [
        (expose(cut(scene, tuple(rng.integers(0, 1024, 2)), SHAPE), 5, seed=number))
        * light(strength)
        for number in range(count)
    ]


def shading(frames, masks=None):
    masks = [None] * len(frames) if masks is None else masks
    return estimate_shading(
        [block_levels(one.astype(np.uint16), mask) for one, mask in zip(frames, masks, strict=True)]
    )


def test_uneven_light_is_found_and_taken_off():
    frames = tiles(40, 0.3)
    found = shading(frames)
    assert found.is_worth_it
    assert found.tiles == 40
    assert found.unevenness == pytest.approx(light(0.3).std(), rel=0.15)
    references = found.references(SHAPE)
    even = references.gain * light(0.3)
    assert (even / even.mean()).std() < 0.25 * light(0.3).std()
    corrected = flat_field(frames[0].astype(np.uint16), references)
    assert corrected.mean() == pytest.approx(frames[0].mean(), rel=0.05)


@pytest.mark.parametrize("count", [12, 40])
def test_even_light_stays_as_it_is(count):
    assert not shading(tiles(count, 0.0)).is_worth_it


def test_too_few_tiles_tell_nothing():
    assert shading(tiles(11, 0.3)) is None
    dark = [np.zeros(SHAPE)] * 5
    assert shading([*tiles(11, 0.3), *dark]) is None


def test_light_that_changes_on_the_way_is_not_believed():
    assert not shading([*tiles(20, 0.3), *[one[:, ::-1] for one in tiles(20, 0.3)]]).is_worth_it


def test_a_feature_that_few_tiles_have_is_no_light():
    frames = tiles(40, 0.0)
    for one in frames[:10]:
        one[:96] *= 0.5
    assert not shading(frames).is_worth_it


def test_masked_places_do_not_count():
    mask = np.zeros(SHAPE, bool)
    mask[:, :40] = True
    frames = tiles(40, 0.3)
    for one in frames:
        one[mask] = 1
    levels = block_levels(frames[0].astype(np.uint16), mask)
    assert np.isnan(levels[:, :4]).all()
    assert np.isfinite(levels[:, 6:]).all()
    assert levels.shape == (GRID, GRID)
    found = shading(frames, [mask] * 40)
    assert found.is_worth_it
    even = (found.references(SHAPE).gain * light(0.3))[~mask]
    assert (even / even.mean()).std() < 0.3 * light(0.3).std()
