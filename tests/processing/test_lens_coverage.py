"""How much of the frame overlaps cover: of sets for a lens, and of montages."""

from __future__ import annotations

import numpy as np
import pytest

from processing.lens.coverage import covered_share

SHAPE = (400, 500)


@pytest.mark.parametrize(
    ("overlap", "covered"), [(0.6, 1.0), (0.5, 1.0), (0.3, 0.84), (0.13, 0.45), (0.07, 0.26)]
)
def test_overlaps_cover_of_the_frame_what_they_reach_into(overlap, covered):
    pitch = (1 - overlap) * np.array(SHAPE)
    ends = [
        ((r, c), (r + i, c + j)) for r in range(8) for c in range(8) for i, j in ((0, 1), (1, 0))
    ]
    offsets = np.array([np.subtract(b, a) * pitch for a, b in ends if max(b) < 8])
    assert covered_share(offsets, SHAPE, 64) == pytest.approx(covered, abs=0.03)


def test_a_few_wide_overlaps_of_a_large_montage_cover_nothing():
    """A stage that errs makes some; the lens would be told by them alone."""
    narrow, wide = np.tile((372.0, 0.0), (60, 1)), np.tile((100.0, 0.0), (6, 1))
    assert covered_share(np.concatenate([narrow, wide]), SHAPE, 64) < 0.2
