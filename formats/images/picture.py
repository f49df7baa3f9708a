"""PNG, JPEG and what else pictures are kept in, by Pillow; PNG's colours of 16 bits by imagecodecs.

These formats are decoded whole, whatever part is asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from imagecodecs import png_decode
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from formats.images.colour import colour_to_grey
from formats.images.errors import ImageFormatError
from formats.images.orientation import upright, upright_shape
from formats.images.pixel_size import printed_pixel
from formats.images.source import MAX_SIDE, Facts, Window, choose_page, require_size

# `require_size` judges by the file, so that large mosaics are read and small bombs are not.
Image.MAX_IMAGE_PIXELS = MAX_SIDE**2

# Those that begin with a mark of their own and hold pixels. Others need programs to draw them
# (EPS, WMF), or are guessed.
FORMATS = (
    "AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SGI", "WEBP",
)  # fmt: skip
NUMBERS = {"1": "?", "L": "u1", "I;16": "u2", "I;16L": "u2", "I;16B": "u2", "I": "i4", "F": "f4"}
"""By Pillow's mode, if it is of numbers and not of colours."""
PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH, PNG_COLOURS = 24, (2, 4, 6)  # where its header has the bits; and the types of colour
ORIENTATION = 274
EXPECTED = "TIFF, MRC, PNG, JPEG, DM3, DM4, EMD or SER"


class PictureSource:
    """One picture of a file that Pillow knows."""

    def __init__(self, path: Path, page: int | None) -> None:
        self._path = path
        with _opened(path) as picture:
            # What follows the picture in a camera's JPEG is its preview, or the other eye's.
            self._count = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            self._page = choose_page(path, page, self._count)
            picture.seek(self._page)
            self._mode, self._size = picture.mode, picture.size
            # Of a PNG, its own method would decode the pixels first, to look behind them.
            exif = Image.Image.getexif(picture)
            self._orientation = int(exif.get(ORIENTATION, 1))
            self._pixel_size = printed_pixel(picture.info.get("dpi", (0, 0)))
            self._deep = self._count == 1 and _is_deep(path)
        bands = Image.getmodebands(self._mode)
        require_size(path, self._size[::-1], bands * self.facts.dtype.itemsize)

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        shape = upright_shape(self._orientation, self._size[::-1])
        dtype = np.dtype("u2") if self._deep else np.dtype(NUMBERS.get(self._mode, "u1"))
        return Facts(shape, dtype, self._pixel_size, self._count)

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`."""
        return upright(self._orientation, self._stored())[window]

    def _stored(self) -> NDArray[np.generic]:
        if self._deep:
            return colour_to_grey(png_decode(self._path.read_bytes()))
        with _opened(self._path) as picture:
            picture.seek(self._page)
            if self._mode in NUMBERS:
                return np.asarray(picture, NUMBERS[self._mode])
            transparent = "A" in self._mode or "transparency" in picture.info
            return colour_to_grey(np.asarray(picture.convert("RGBA" if transparent else "RGB")))


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageFormatError(
            f"{path} is no image that temline reads; expected {EXPECTED}"
        ) from None


def _is_deep(path: Path) -> bool:
    """Whether a PNG file has colours of 16 bits, of which Pillow keeps 8."""
    with path.open("rb") as file:
        start = file.read(PNG_DEPTH + 2)
    return start.startswith(PNG_MARK) and start[PNG_DEPTH] == 16 and start[-1] in PNG_COLOURS
