"""The benchmark of stitching in both worlds: its own rows, and how it judges what peers answer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import _world_stitching as module
from benchmarks._montages import JUDGED, shifted, take_montage
from benchmarks.peers import Stitched


@pytest.fixture(scope="module")
def montage():
    return take_montage("kind", rows=2, columns=2, side=256, overlap=0.3, seed=3)


def test_temline_is_measured_in_memory_and_from_files():
    results = {
        result.name.partition(": ")[2]: result for result in module.measure_world(True, "kind")
    }
    assert len(results) == 4
    for name in ("temline", "temline stitch, from files to a mosaic"):
        error = results[f"RMS error, {name}"]
        assert error.met
        assert 0 < error.value < 0.3
        assert results[f"CPU time a tile, {name}"].value > 0


def test_peers_are_judged_by_places_or_positions_and_by_their_best_solution(montage):
    by_positions = module._error(montage, Stitched(montage.nominal))
    assert by_positions == module._rms(montage, shifted(montage.nominal))
    assert by_positions > 1
    pixels = module._judged(montage)
    assert pixels.shape == (JUDGED**2, 2)
    places = pixels + montage.nominal[:, None]
    assert module._error(montage, Stitched(None, places=places)) == pytest.approx(by_positions)
    nm_to_px = 1000 / montage.maps[0].geometry.pixel_size
    true = np.array([nm_to_px * each.pixel_to_stage(pixels) for each in montage.maps])
    both = Stitched(None, places=np.array([places, true]))
    assert module._error(montage, both) < 1e-6
    assert np.isnan(module._error(montage, Stitched(None, said="took more than 900 s")))
