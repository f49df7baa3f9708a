"""One image of a file, as whoever stitches or simulates wants it: grey, upright, uint8 or uint16.

The formats differ in `source`s; here their numbers come to one kind, by one rule a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.images.errors import ImageFormatError
from formats.images.levels import Levels, as_unsigned, fits, read_dtype
from formats.images.opening import guarded, open_source
from formats.images.source import Shape, Window

MAX_SAMPLES = 8  # images that the levels of a file, or of a set, are found by
MAX_SAMPLE = 2**20  # pixels of each, in bands of rows
BANDS = 16
REMEMBERED = 64  # files, the levels of which were found


@dataclass(frozen=True)
class Image:
    """One image of a file: what its headers tell, and its pixels when they are asked for.

    Attributes
    ----------
    path : Path
    page : int
        Which image of the file it is.
    count : int
        Images that the file holds.
    shape : (int, int)
        (height, width) in px.
    dtype : dtype
        As it will be read: uint8 where the file has bytes, else uint16.
    pixel_size : float or None
        In nm; None if the file does not tell.
    fits : bool
        Whether all numbers of the file's dtype are kept, so that it needs no levels.
    given_levels : Levels or None
        How numbers that do not fit become uint16; None to find it in the file.
    """

    path: Path
    page: int
    count: int
    shape: Shape
    dtype: np.dtype[np.generic]
    pixel_size: float | None
    fits: bool
    given_levels: Levels | None = None

    def read(self, window: Window | None = None) -> NDArray[np.uint8 | np.uint16]:
        """Read the image, or a part of it.

        Parameters
        ----------
        window : (slice, slice), optional
            Of rows and columns, as in ``array[window]``, without steps. Of most TIFF and MRC files
            no more is decoded than it needs.

        Returns
        -------
        ndarray of `dtype`, shape (height, width)
            C-contiguous, row 0 at the top.

        Raises
        ------
        ImageFormatError
            If the file is damaged, or gone.
        """
        rows, columns = window if window is not None else (slice(None), slice(None))
        bounds = _bounded(rows, self.shape[0]), _bounded(columns, self.shape[1])
        if any(part.start == part.stop for part in bounds):
            return np.empty([part.stop - part.start for part in bounds], self.dtype)
        with guarded(self.path):
            numbers = open_source(self.path, self.page).read(bounds)
            if self.fits:
                return as_unsigned(numbers)
        return self.levels.apply(numbers)

    @cached_property
    def levels(self) -> Levels:
        """How the file's numbers become uint16; of all its images alike. See `Levels.of`."""
        if self.fits:
            return Levels()
        if self.given_levels is not None:
            return self.given_levels
        with guarded(self.path):
            status = self.path.stat()
        return _levels_of_file(self.path, self.count, status.st_size, status.st_mtime_ns)

    def with_levels(self, levels: Levels) -> Image:
        """Give the same image, its numbers brought to uint16 as those of others are."""
        return replace(self, given_levels=levels)


def common_levels(images: Sequence[Image]) -> Levels:
    """Find the levels for images that belong together, as the tiles of a montage do.

    A few of them are read. Images whose numbers fit need none.

    Raises
    ------
    ImageFormatError
        If one of those that are read is damaged.
    """
    chosen = [images[k] for k in _spread(len(images))]
    samples = [_sample(image.path, image.page) for image in chosen]
    with guarded(chosen[0].path):
        return Levels.of(samples)


@lru_cache(maxsize=REMEMBERED)
def _levels_of_file(path: Path, count: int, size: int, changed: int) -> Levels:
    """Find the levels of a file once, as long as its `size` and time of change, `changed`, stay."""
    samples, errors = [], []
    for page in _spread(count):
        try:
            samples.append(_sample(path, page))
        except ImageFormatError as error:  # of a stack that is still written, some are not there
            errors.append(error)
    if not samples:
        raise errors[0]
    with guarded(path):
        return Levels.of(samples)


def _spread(count: int) -> list[int]:
    """Choose a few of many, from the first to the last."""
    return sorted({*np.linspace(0, count - 1, min(count, MAX_SAMPLES)).astype(int).tolist()})


def _sample(path: Path, page: int) -> NDArray[np.generic]:
    """Read an image, or bands of rows all over a large one."""
    with guarded(path):
        source = open_source(path, page)
        height, width = source.facts.shape
        columns = slice(0, width)
        if height * width <= MAX_SAMPLE:
            return source.read((slice(0, height), columns))
        band = max(MAX_SAMPLE // (BANDS * width), 1)
        starts = np.linspace(0, height - band, BANDS).astype(int).tolist()
        return np.concatenate([source.read((slice(k, k + band), columns)) for k in starts])


def open_image(path: str | Path, page: int | None = None) -> Image:
    """Open an image: its headers are read and checked, its pixels not yet.

    Parameters
    ----------
    path : str or Path
        TIFF, MRC (also compressed), SER, PNG, JPEG and other pictures; DM3, DM4 and EMD with the
        extra ``temline[vendor]``. The content decides, not the suffix.
    page : int, optional
        Which image of a stack, from 0; the image of a file that holds one.

    Returns
    -------
    Image

    Raises
    ------
    ImageFormatError
        If the file cannot be read as an image, or holds several and none was chosen.
    """
    path = Path(path)
    with guarded(path):
        source = open_source(path, page)
        facts = source.facts
    return Image(
        path=path,
        page=page or 0,
        count=facts.count,
        shape=facts.shape,
        dtype=read_dtype(facts.dtype),
        pixel_size=facts.pixel_size,
        fits=fits(facts.dtype),
    )


def open_images(path: str | Path) -> list[Image]:
    """Open all images of a file, in its order.

    Raises
    ------
    ImageFormatError
        See `open_image`.
    """
    first = open_image(path, 0)
    return [first, *(open_image(path, page) for page in range(1, first.count))]


def _bounded(part: slice, length: int) -> slice:
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"a window has step {step}; only whole windows can be read")
    return slice(start, max(start, stop))
