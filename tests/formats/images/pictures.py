"""A small picture without any symmetry, so that a turned or mirrored one is never like it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(height: int = 37, width: int = 52, seed: int = 0, top: int = 255) -> NDArray[np.uint16]:
    """Make smooth noise of 0 to `top`, brighter to the lower right; all its rows differ."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    smooth += np.linspace(0, 1, height)[:, None] + np.linspace(0, 0.5, width)
    smooth -= smooth.min()
    return np.rint(smooth / smooth.max() * top).astype(np.uint16)
