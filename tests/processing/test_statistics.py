from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from processing.statistics import count_extremes, percentiles, quantiles, tile_statistics

frames = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=17),
)


@given(frames)
def test_figures_are_numpys(frame):
    found = tile_statistics(frame)
    assert (found.minimum, found.maximum) == (frame.min(), frame.max())
    assert found.mean == pytest.approx(frame.mean())
    assert found.std == pytest.approx(frame.std(), abs=1e-6)
    for value, percent in ((found.p01, 1), (found.p50, 50), (found.p99, 99)):
        assert value == np.percentile(frame, percent, method="inverted_cdf")
    assert found.histogram.sum() == frame.size == found.pixels
    edges = np.arange(257) * 2 ** (8 * frame.itemsize - 8)
    assert (found.histogram == np.histogram(frame, edges)[0]).all()
    assert found.zero == (frame == 0).sum()
    assert found.saturated == (frame == np.iinfo(frame.dtype).max).sum()


def test_saturation_follows_the_bits_of_the_camera():
    frame = np.array([[0, 4094, 4095, 5000]], np.uint16)
    found = tile_statistics(frame, bit_depth=12)
    assert found.saturated == 2
    assert found.saturated_fraction == 0.5
    assert found.zero_fraction == 0.25
    assert found.histogram[-1] == 3
    assert found.histogram.sum() == 4


@given(frames, st.integers(1, 255))
def test_extremes_are_counted(frame, top):
    assert count_extremes(frame, top) == ((frame >= top).sum(), (frame == 0).sum())


def test_extremes_of_a_row_longer_than_a_counter_counts():
    frame = np.zeros((2, 100_001), np.uint16)
    frame[1] = 65535
    assert count_extremes(frame, 65535) == (100_001, 100_001)


def test_a_view_counts_its_own_pixels_only():
    frame = np.arange(64, dtype=np.uint16).reshape(8, 8)
    found = tile_statistics(frame[::2, 1::2])
    assert found.pixels == 16
    assert (found.minimum, found.maximum) == (1, 55)


def test_percentiles_of_one_value():
    counts = np.zeros(256, np.int64)
    counts[7] = 5
    assert percentiles(counts, (0, 50, 100)) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("frame", "depth", "error", "message"),
    [
        (np.zeros((4, 4)), None, TypeError, "frame is float64"),
        (np.zeros((4, 4), np.int16), None, TypeError, "frame is int16"),
        (np.zeros(4, np.uint8), None, ValueError, "must be .height, width."),
        (np.zeros((0, 4), np.uint8), None, ValueError, "not empty"),
        (np.zeros((4, 4), np.uint8), 12, ValueError, "bit_depth is 12"),
        (np.zeros((4, 4), np.uint16), 4, ValueError, "between 8 and 16"),
    ],
)
def test_what_is_no_frame_is_refused(frame, depth, error, message):
    with pytest.raises(error, match=message):
        tile_statistics(frame, depth)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("count", [1, 2, 4097])
def test_quantiles_are_those_of_numpy(dtype, count):
    values = np.random.default_rng(count).integers(0, 5000, count).astype(dtype)
    shares = (0.0, 0.005, 0.5, 0.995, 1.0)
    np.testing.assert_allclose(quantiles(values, shares), np.quantile(values, shares), rtol=1e-6)
