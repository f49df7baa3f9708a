"""What a reader of one format gives: one image of a file, in the file's own numbers.

It also holds what all formats share: the limits of size, and the bounds of windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from formats.images.errors import ImageFormatError

Shape = tuple[int, int]
Window = tuple[slice, slice]

MAX_SIDE = 2**20
"""Of an image, in px: four metres of specimen at 4 nm. Headers that claim more are damaged."""
FREE_BYTES = 2**28
"""An image may take so much memory, however small its file is."""
MAX_COMPRESSION = 1000
"""Beyond that it may take so many bytes for each of its file: deflate makes 1 of 1032 at most."""
MAX_IMAGES = 2**18
"""In a file; who lists them all must come to an end."""


@dataclass(frozen=True)
class Facts:
    """What the headers of a file tell of one of its images.

    Attributes
    ----------
    shape : (int, int)
        (height, width) in px, as the image is meant to be seen.
    dtype : dtype
        Of the file's numbers, after colours became grey.
    pixel_size : float or None
        In nm; None if the file does not tell.
    count : int
        Images that the file holds.
    """

    shape: Shape
    dtype: np.dtype[np.generic]
    pixel_size: float | None
    count: int


class Source(Protocol):
    """One image of a file."""

    @property
    def facts(self) -> Facts:
        """What its headers tell."""

    def read(self, window: Window) -> NDArray[np.generic]:
        """Read a part, shape (height, width), row 0 at the top, in the file's own numbers."""


def require_size(path: Path, shape: Shape, bytes_per_pixel: int) -> None:
    """Refuse an image that is empty, or that its file is too small to hold.

    Raises
    ------
    ImageFormatError
    """
    height, width = shape
    if min(shape) < 1:
        raise ImageFormatError(f"{path} holds an empty image of {width} × {height} px")
    needed, file_size = height * width * bytes_per_pixel, path.stat().st_size
    if max(shape) > MAX_SIDE or needed > max(FREE_BYTES, MAX_COMPRESSION * file_size):
        raise ImageFormatError(
            f"{path} claims {width} × {height} px, which its {file_size} bytes cannot hold; "
            "it is damaged: get it again from where it was made"
        )


def require_count(path: Path, count: int) -> None:
    """Refuse a file that claims to hold more images than any does.

    Raises
    ------
    ImageFormatError
    """
    if count > MAX_IMAGES:
        raise ImageFormatError(
            f"{path} claims to hold {count} images; it is damaged: get it again from where it was "
            "made"
        )


def choose_page(path: Path, page: int | None, count: int) -> int:
    """Give the index of the image that is meant.

    Parameters
    ----------
    path : Path
    page : int or None
        None for the one image of the file.
    count : int
        Images that the file holds.

    Raises
    ------
    ImageFormatError
        If the file holds no such image, or several where one is meant.
    """
    require_count(path, count)
    if page is None:
        if count != 1:
            raise ImageFormatError(
                f"{path} holds {count} images; expected one: name one of them (0 to {count - 1}), "
                "or save it in a file of its own"
            )
        return 0
    if not 0 <= page < count:
        raise ImageFormatError(f"{path} holds {count} images; there is no image {page} (from 0)")
    return page
