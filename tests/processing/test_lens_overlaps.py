"""From frames to the lens: distorted tiles of one scene, matched patch by patch and fitted."""

from __future__ import annotations

import numpy as np
import pytest

from processing.lens import LensFitError
from processing.lens.overlaps import find_patches, match_straightened, measure_lens
from processing.matching import prepare
from tests.processing.lenses import barrel, error, positions, some_lens, tiles_through

SHAPE = (384, 384)


def nominal_of(places):
    """The stage's word: a regular grid, from which `positions` departs."""
    return {tile: (0.4 * SHAPE[0] * int(tile[5]), 0.4 * SHAPE[1] * int(tile[7])) for tile in places}


@pytest.mark.parametrize(
    ("lens", "snr"),
    [(barrel(SHAPE, 15), 5.0), (some_lens(SHAPE, 9, seed=4), 3.0)],
    ids=["barrel", "random"],
)
def test_a_strong_lens_is_measured_to_hundredths_of_a_pixel(lens, snr):
    places = positions(SHAPE)
    fit = measure_lens(tiles_through(lens, places, snr), nominal_of(places))
    assert fit.accepted, fit.reasons
    assert error(fit.model, lens) < 0.05
    assert fit.residual_px_rms < 0.1
    assert len(fit.pairs) > 24  # diagonal neighbours, and some of those two away, match, too
    found = np.array([fit.positions[tile] for tile in places])
    truth = np.array(list(places.values()))
    # Each place is true at the tile's middle, whatever the lens does at its first pixel.
    np.testing.assert_allclose(found - found[0], truth - truth[0], atol=0.5)
    assert fit.scale == pytest.approx(1, abs=0.06)


def test_the_first_look_alone_is_good_to_a_pixel_and_the_second_to_much_less():
    lens, places = barrel(SHAPE, 15), positions(SHAPE)
    tiles = tiles_through(lens, places)
    rough = find_patches({k: prepare(v) for k, v in tiles.items()}, nominal_of(places))
    fine = match_straightened(tiles, lens, {k: tuple(v) for k, v in places.items()})
    off = {}
    for name, pairs in (("rough", rough), ("fine", fine)):
        off[name] = np.concatenate(
            [
                lens.to_corrected(m.p) + places[m.a] - lens.to_corrected(m.q) - places[m.b]
                for m in pairs
            ]
        )
    rough_median, fine_median = (np.median(np.linalg.norm(one, axis=1)) for one in off.values())
    assert len(off["rough"]) > 200
    assert rough_median < 0.7
    assert fine_median < 0.1


def test_tiles_without_texture_make_no_lens():
    places = positions(SHAPE)
    noise = {
        tile: np.random.default_rng(n).normal(12000, 300, SHAPE).astype(np.uint16)
        for n, tile in enumerate(places)
    }
    with pytest.raises(LensFitError, match="matches with a weight"):
        measure_lens(noise, nominal_of(places))


def test_tiles_of_several_shapes_are_refused():
    tiles = {"a": np.zeros((64, 64), np.uint16), "b": np.zeros((64, 80), np.uint16)}
    with pytest.raises(LensFitError, match="of one shape"):
        measure_lens(tiles, {"a": (0, 0), "b": (0, 20)})
