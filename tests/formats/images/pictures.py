"""A small picture without any symmetry, and what has to be true of every image that is read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from formats.images import Image, open_image

WINDOW = np.s_[5:30, 11:47]


def picture(height: int = 37, width: int = 52, seed: int = 0, top: int = 255) -> NDArray[np.uint16]:
    """Make smooth noise of 0 to `top`, brighter to the lower right.

    A turned or mirrored one is never like it.
    """
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    smooth += np.linspace(0, 1, height)[:, None] + np.linspace(0, 0.5, width)
    smooth -= smooth.min()
    return np.rint(smooth / smooth.max() * top).astype(np.uint16)


def same(image: Image | Path, expected: NDArray[np.uint8 | np.uint16]) -> Image:
    """Read an image whole and in part, and compare both with what they should be; give it."""
    image = open_image(image) if isinstance(image, Path) else image
    pixels = image.read()
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(image.read(WINDOW), expected[WINDOW])
    assert pixels.dtype == image.dtype == expected.dtype
    assert pixels.shape == image.shape
    assert pixels.flags.c_contiguous
    return image
