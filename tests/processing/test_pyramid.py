"""Pyramids and pictures against plain means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.pyramid import level_shapes, pyramid, reduce_to, scaled_shape

sides = st.integers(8, 90)


def noise(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@given(sides, sides)
def test_levels_are_rounded_means(height, width):
    image = noise((height, width), np.uint16)
    levels = [np.empty(shape, np.uint16) for shape in level_shapes(image.shape, 3)]
    pyramid(image, levels)
    above = image
    for level in levels:
        rows, columns = level.shape
        blocks = above[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).astype(int)
        np.testing.assert_array_equal(level, (blocks.sum(axis=(1, 3)) + 2) // 4)
        above = level


@given(sides, sides, st.floats(0.02, 1))
def test_pictures_are_means_of_what_they_cover(height, width, scale):
    image = noise((height, width), np.uint8)
    out = reduce_to(image, np.empty(scaled_shape(image.shape, scale), np.uint8))
    # Exact means: each pixel is repeated so often that it divides evenly among those it falls to.
    across = [_shares(*pair) for pair in zip(out.shape, image.shape, strict=True)]
    expected = across[0] @ image @ across[1].T
    assert np.abs(out - expected).max() <= 0.5 + 1e-3


def _shares(n_out, n_in):
    """The share of each of n_in pixels in each of n_out, as rows that sum to 1."""
    edges = np.arange(n_out + 1) * n_in / n_out
    low = np.maximum(edges[:-1, None], np.arange(n_in)[None])
    high = np.minimum(edges[1:, None], np.arange(n_in)[None] + 1)
    return np.clip(high - low, 0, None) * n_out / n_in


@pytest.mark.parametrize("scale", [0.1, 0.03, 0.25])
def test_pictures_agree_with_opencv_to_one_level(scale):
    image = cv2.GaussianBlur(noise((512, 384), np.uint8), (0, 0), 2)
    out = reduce_to(image, np.empty(scaled_shape(image.shape, scale), np.uint8))
    expected = cv2.resize(image, out.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_a_fine_pattern_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (200, 100))
    out = reduce_to(stripes, np.empty((20, 20), np.uint8))
    assert np.ptp(out) == 0
    assert out[0, 0] in {127, 128}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="cannot be reduced"):
        reduce_to(np.zeros((8, 8), np.uint8), np.zeros((9, 4), np.uint8))
    with pytest.raises(ValueError, match="half as high and wide"):
        pyramid(np.zeros((8, 8), np.uint16), [np.zeros((4, 3), np.uint16)])
    with pytest.raises(ValueError, match="not empty"):
        pyramid(np.zeros((1, 8), np.uint16), [np.zeros((0, 4), np.uint16)])
