"""The benchmark of stitching, quick and without peers: its own figures must make sense."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import stitching
from benchmarks.peers import Stitched
from simulation.specimen import NeuropilSection


@pytest.fixture(scope="module")
def section():
    section = NeuropilSection(seed=1, size_um=(100.0, 100.0))
    yield section
    section.close()


@pytest.mark.parametrize("case", stitching.CASES, ids=lambda case: case.name)
def test_every_case_is_stitched(case, section):
    case = stitching.Case(**{**vars(case), "tiles": 3, "goal": None})
    montage = stitching.make_montage(case, 384, section)
    ours, wrong = stitching.stitch(montage)
    gone = Stitched(None, said="not installed: no network")
    results = stitching.judge(case, montage, {"temline": ours, "ashlar": gone}, wrong)
    figures = {result.name.removeprefix(f"{case.name}: "): result for result in results}
    assert figures["RMS error"].value < (0.6 if case.distortion else 0.15)
    assert figures["placed within 1 px"].value == 100
    assert figures["CPU time a tile"].value > 0
    if not case.distortion:
        assert figures["wrong matches believed"].met
    # A peer that is not there is named, never made up.
    assert np.isnan(figures["RMS error, ASHLAR"].value)
    assert figures["RMS error, ASHLAR"].reference == "not installed: no network"


def test_wrong_positions_are_seen(section):
    """A benchmark that cannot fail tells nothing."""
    case = stitching.Case("plain", tiles=3)
    montage = stitching.make_montage(case, 384, section)
    assert np.allclose(stitching.errors(montage, montage.true + 5.0, affine=False), 0, atol=1e-9)
    moved = montage.true.copy()
    moved[4] += 30.0
    off = stitching.errors(montage, moved, affine=False)
    assert np.hypot(*off[4]) == pytest.approx(30 * np.sqrt(2), rel=0.01)
    assert np.abs(np.delete(off, 4, axis=0)).max() < 0.01
    assert np.sqrt(np.square(montage.nominal - montage.true).mean()) > 1


def test_a_pair_is_within_twice_the_noise_limit():
    scene = stitching.texture(1024, 3)
    error, relative = stitching.pair_errors(3.0, pairs=6, side=512)
    limit = stitching.noise_limit(scene, 3.0, 512 * 51)
    assert 0.3 * limit < error < 2 * limit
    assert 0.4 < relative < 1.8
    assert stitching.noise_limit(scene, 1.0, 512 * 51) > 2 * limit


def test_no_stranger_is_believed():
    assert stitching.false_matches(120) == (0, 120)
    assert stitching.false_matches(60, repeated=True) == (0, 60)


def test_marks_and_fringes_hide_no_match():
    right, wrong, error = stitching.repeated_matches(8, 512)
    assert right == 8
    assert wrong == 0
    assert error < 0.1
