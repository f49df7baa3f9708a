"""A micrograph as the specimen: mirrored beyond its edge, and made unique at every place.

Lets a user run the whole stack on a picture of their own tissue.
"""

from __future__ import annotations

import threading
from math import isfinite

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulation.specimen.base import NM_PER_UM, OPAQUE_TO_EMPTY, PyramidSpecimen, cubic_resample
from simulation.specimen.noise import NoiseField

AUTO_SPAN_UM = 24.0
MICROGRAPH_PIXEL_SIZE = 4.0
PERCENTILE_SAMPLE = 1e6
"""About so many pixels of a large image are enough for its percentiles."""
BORDER = 3
"""Mirrored pixels round the stored image, for the interpolation at its edge."""
DARKEST, BRIGHTEST = 0.15, 0.90
"""Transmission that the 0.5 and 99.5 percentiles of the image are mapped to."""


class ImageSpecimen(PyramidSpecimen):
    """A specimen made of one image.

    The image lies with its middle at (0, 0), its first row at the top, and is mirrored at its edges
    without end. A mirrored image repeats, and a small one spread over a montage would match
    itself in wrong places. Two things make every place unique:

    - A weak random stain (slow, 3 %) and a weak random grain (finer than a pixel of the image,
      6 %) multiply the transmission. They are the same at every visit, and the picture still looks
      right.
    - By default (`pixel_size` "auto") an image that would cover less than 24 µm is enlarged to
      that: at 4 nm a pixel this is about three tiles of 2048 px, so the pattern repeats after six.
      Give the true pixel size to have it true to scale.

    Parameters
    ----------
    image : array_like, shape (height, width) or (height, width, 3 or 4)
        Any real dtype; bright is empty. Colour (RGB or RGBA) is turned to grey.
    pixel_size : float or "auto"
        Size of an image pixel at the specimen, in nm; "auto" is the larger of 4 nm and what makes
        the shorter side of the image 24 µm.
    seed : int
        Of the stain and the grain.
    stain, grain : float
        Strength of each, as the standard deviation relative to the transmission.
    **pyramid
        See `PyramidSpecimen`.

    Raises
    ------
    ValueError
        If the image is not one two-dimensional picture, is empty, constant or not finite, or the
        pixel size is not positive.
    """

    def __init__(
        self,
        image: ArrayLike,
        pixel_size: float | str = "auto",
        *,
        seed: int = 0,
        stain: float = 0.03,
        grain: float = 0.06,
        **pyramid: int,
    ) -> None:
        super().__init__(**pyramid)
        picture = as_transmission(image)
        if pixel_size == "auto":
            pixel_size = max(MICROGRAPH_PIXEL_SIZE, AUTO_SPAN_UM * NM_PER_UM / min(picture.shape))
        if not (isinstance(pixel_size, int | float) and isfinite(pixel_size) and pixel_size > 0):
            raise ValueError(
                f'pixel_size is {pixel_size!r}; it must be a positive number of nm, or "auto"'
            )
        self.pixel_size = float(pixel_size)
        self.shape: tuple[int, int] = picture.shape
        self._sizes: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._picture = picture
        self._sizes_lock = threading.Lock()
        # Slow octaves from 1 µm up; fine ones from 1 nm to the pixel of the image, which it lacks.
        self._stain = NoiseField((seed, 1), {2**k: stain / 2.6 for k in range(10, 17)})
        top = max(int(np.ceil(np.log2(self.pixel_size))), 3)
        self._grain = NoiseField(
            (seed, 2), {2**k: grain / (top + 1) ** 0.5 for k in range(top + 1)}
        )

    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """See `PyramidSpecimen.render`."""
        picture = self._at_level(level)
        rows, columns = (
            _folded(first, count, level, n * self.pixel_size, size - 2 * BORDER) + BORDER
            for first, count, n, size in zip(
                (row, column), (height, width), self.shape, picture.shape, strict=True
            )
        )
        result = cubic_resample(picture, rows, columns, np.float32(1))
        where = (level, row, column, height, width)
        result *= 1 + self._stain.sample(*where) + self._grain.sample(*where)
        return np.clip(result + 0.5, 0, OPAQUE_TO_EMPTY).astype(np.uint8)

    def _at_level(self, level: int) -> NDArray[np.float32]:
        """Shrink the image by area, where a level is coarser than it; its sides stay in place."""
        shrink = max(level / self.pixel_size, 1.0)
        height, width = (max(round(n / shrink), 1) for n in self.shape)
        with self._sizes_lock:
            if (height, width) not in self._sizes:
                size = cv2.resize(self._picture, (width, height), interpolation=cv2.INTER_AREA)
                self._sizes[height, width] = np.pad(size, BORDER, mode="symmetric")
            return self._sizes[height, width]


def _folded(first: int, count: int, level: int, length: float, n: int) -> NDArray[np.float64]:
    """Find the image rows (or columns) under a line of pixels, mirrored at both edges.

    The image has `n` rows over `length` nm, with its middle at 0; edges are half a pixel out.
    """
    place = (first + 0.5 + np.arange(count)) * level / length + 0.5
    place = np.abs((place + 1) % 2 - 1)
    return place * n - 0.5


def as_transmission(image: ArrayLike) -> NDArray[np.float32]:
    """Turn an image into transmission × 255, one picture of grey values.

    Parameters
    ----------
    image : array_like
        See `ImageSpecimen`.

    Returns
    -------
    ndarray of float32, shape (height, width)
        The 0.5 and 99.5 percentiles are at transmissions of 0.15 and 0.90.

    Raises
    ------
    ValueError
        See `ImageSpecimen`.
    """
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise ValueError(f"expected an image of real numbers; found dtype {array.dtype}")
    if array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape[:2]) > 4:
        array = array[..., :3] @ np.array([0.299, 0.587, 0.114])
    if array.ndim != 2:
        raise ValueError(
            f"expected a single two-dimensional image; found shape {array.shape}. "
            "Give one section of a stack"
        )
    if min(array.shape) < 2:
        raise ValueError(
            f"the image is empty or a line: shape {array.shape}; expected at least 2 × 2"
        )
    grey = array.astype(np.float32)
    if not np.isfinite(grey).all():
        raise ValueError("the image has values that are not finite; replace NaN and infinity first")
    step = max(int((grey.size / PERCENTILE_SAMPLE) ** 0.5), 1)
    low, high = np.percentile(grey[::step, ::step], (0.5, 99.5))
    if high <= low:
        low, high = grey.min(), grey.max()
    if high <= low:
        raise ValueError(f"the image is constant ({low}); there is nothing to see in it")
    scaled = DARKEST + (grey - low) * ((BRIGHTEST - DARKEST) / (high - low))
    return np.clip(scaled, 0.02, 1.0) * np.float32(OPAQUE_TO_EMPTY)
