"""Equalisation against two other implementations, and what it must do to any image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.exposure import equalize_adapthist

from processing.equalise import equalise, grey_levels


def texture(shape, seed=0, contrast=20.0, noise=5.0):
    random = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(random.standard_normal(shape), (0, 0), 6)
    slope = np.linspace(0, 60, shape[1])
    image = 90 + slope + contrast * blobs / blobs.std() + noise * random.standard_normal(shape)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip", [1.0, 2.0, 8.0])
@pytest.mark.parametrize(("shape", "grid"), [((512, 512), 16), ((256, 512), 8), ((320, 192), 4)])
def test_it_agrees_with_opencv_to_one_level(shape, grid, clip, seed):
    image = texture(shape, seed)
    found = equalise(image, clip, grid).astype(int)
    expected = cv2.createCLAHE(clip, (grid, grid)).apply(image)
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_it_agrees_with_scikit_image_in_what_is_seen():
    """It shares the excess out in another way, and pads: the picture is one, the levels are not.

    Its `clip_limit` is a share of a region's pixels: 2 / 256 is twice the mean bin.
    """
    image = texture((512, 512))
    found = equalise(image, clip=2.0, grid=16).astype(float)
    expected = equalize_adapthist(image, kernel_size=32, clip_limit=2 / 256, nbins=256) * 255
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    assert np.abs(found - expected).mean() < 12


def test_contrast_is_raised_where_it_is_low_and_limited():
    image = texture((512, 512), contrast=3.0, noise=0.5)
    image[:, :256] = image[:, :256] // 2
    low, high = equalise(image, clip=2.0), equalise(image, clip=4.0)
    parts = np.s_[32:-32, 32:224], np.s_[32:-32, 288:-32]
    for part in parts:
        before, after, more = (float(one[part].std()) for one in (image, low, high))
        assert 1.3 * before < after < 2.5 * before
        assert after < more < 5 * before


@given(
    st.tuples(st.integers(16, 70), st.integers(16, 70)),
    st.integers(1, 16),
    st.floats(0.5, 40),
    st.integers(0, 10),
)
def test_any_shape_and_grid_keeps_the_order_of_levels_within_a_place(shape, grid, clip, seed):
    """Every table rises, so next to each other a brighter pixel never becomes much darker."""
    image = texture(shape, seed)
    out = equalise(image, clip, grid)
    assert out.shape == shape
    if grid == 1:
        order = np.argsort(image, axis=None, kind="stable")
        assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()


def test_an_even_image_stays_even():
    out = equalise(np.full((256, 256), 77, np.uint8))
    assert np.ptp(out) == 0


def test_it_works_in_place():
    image = texture((256, 256))
    expected = equalise(image)
    assert equalise(image, out=image) is image
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("image", "options", "error", "says"),
    [
        (np.zeros((64, 64), np.uint16), {}, TypeError, "see grey_levels"),
        (np.zeros((8, 64), np.uint8), {}, ValueError, "16 px at least"),
        (np.zeros(64, np.uint8), {}, ValueError, "must be .height, width."),
        (np.zeros((64, 64), np.uint8), {"clip": 0.0}, ValueError, "both must be positive"),
        (np.zeros((64, 64), np.uint8), {"grid": 0}, ValueError, "both must be positive"),
    ],
)
def test_what_cannot_be_equalised_is_refused(image, options, error, says):
    with pytest.raises(error, match=says):
        equalise(image, **options)


def test_grey_levels_are_rounded_and_clipped():
    image = np.array([[0, 100, 101, 202, 355, 400, 65535]], np.uint16)
    np.testing.assert_array_equal(grey_levels(image, 100, 355), [[0, 0, 1, 102, 255, 255, 255]])
    with pytest.raises(ValueError, match="white must be above black"):
        grey_levels(image, 5, 5)
