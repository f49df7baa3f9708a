"""Turns colours to grey, and leaves grey that is stored as colour exactly as it is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from formats.images.levels import as_unsigned

LUMA = 0.299, 0.587, 0.114
"""Weights of red, green and blue in grey: ITU-R BT.601, as Pillow, OpenCV and ImageJ have it."""


def colour_to_grey(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn colours to grey.

    Parameters
    ----------
    pixels : ndarray, shape (height, width, 1 to 4)
        Grey; grey and alpha; red, green and blue; or these and alpha. Pixels that are wholly
        transparent become 0, unless all of them are: some programs leave alpha empty.

    Returns
    -------
    ndarray, shape (height, width)
        Of the same dtype. Grey that is stored as colour stays exact.
    """
    if pixels.dtype == bool:
        pixels = as_unsigned(pixels)
    channels = pixels.shape[2]
    alpha = pixels[..., -1] if channels in (2, 4) else None
    if channels < 3:
        grey = pixels[..., 0]
    elif pixels.dtype in (np.uint8, np.uint16):
        # OpenCV's weights are whole numbers whose sum is exact.
        colours = np.ascontiguousarray(pixels[..., :3], pixels.dtype.newbyteorder("="))
        grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY).reshape(pixels.shape[:2])
    else:
        red, green, blue = (pixels[..., k].astype(np.float64) for k in range(3))
        # So written, a grey stays what it is.
        mixed = green + LUMA[0] * (red - green) + LUMA[2] * (blue - green)
        grey = np.rint(mixed).astype(pixels.dtype) if pixels.dtype.kind in "iu" else mixed
    if alpha is None or not alpha.any():
        return grey
    return np.where(alpha != 0, grey, grey.dtype.type(0))
