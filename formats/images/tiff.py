"""TIFF files: any compression, number, colour and order of rows; pyramids, thumbnails, stacks.

tifffile and imagecodecs decode; only the strips or tiles that a window shows are read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from formats.images.errors import ImageFormatError
from formats.images.grey import colour_to_grey
from formats.images.orientation import stored_window, upright, upright_shape
from formats.images.source import Facts, Shape, Window, choose_page, require_size
from formats.images.tiff_pixel_size import pixel_sizes

# What it finds odd goes to the log of who has one, not to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MARKS = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR, CFA, LINEAR_RAW = 0, 1, 2, 3, 6, 32803, 34892
GREYS = WHITE_IS_ZERO, BLACK_IS_ZERO, CFA, LINEAR_RAW
JPEG_COMPRESSIONS = 6, 7  # which come as RGB, whatever they were stored as
UNCOMPRESSED = 1
ORIENTATION = 274
REMEMBERED = 8  # files


@dataclass(frozen=True)
class Plane:
    """One image of a file: some samples of a page, at one depth.

    Attributes
    ----------
    page : TiffPage
    depth : int
    samples : tuple of int
        One, grey; three, colour; with one more, alpha.
    offset : int
        Bytes from the page's own data, where a page stands for a whole stack.
    """

    page: TiffPage
    depth: int
    samples: tuple[int, ...]
    offset: int = 0


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF or BigTIFF file."""
    return start[:4] in MARKS


class TiffSource:
    """One image of a TIFF file."""

    def __init__(self, path: Path, page: int | None) -> None:
        self._path = path
        status = path.stat()
        planes, sizes = _parsed(path, status.st_size, status.st_mtime_ns)
        index = choose_page(path, page, len(planes))
        self._plane, self._pixel_size, self._count = planes[index], sizes[index], len(planes)
        self._page = self._plane.page
        self._stored: Shape = self._page.imagelength, self._page.imagewidth
        tag = self._page.tags.get(ORIENTATION)
        self._orientation = int(tag.value) if tag is not None else 1
        self._require_data()

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        shape = upright_shape(self._orientation, self._stored)
        paletted = self._page.photometric == PALETTE
        dtype = self._palette().dtype if paletted else np.dtype(self._page.dtype)
        return Facts(shape, dtype, self._pixel_size, self._count)

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`."""
        rows, columns = stored_window(self._orientation, self._stored, window)
        pixels = self._mapped(rows, columns) if self._is_mapped else self._decoded(rows, columns)
        if self._page.photometric == PALETTE:
            grey = self._palette()[pixels[..., 0].astype(np.intp)]
        else:
            grey = colour_to_grey(pixels)
        if self._page.photometric == WHITE_IS_ZERO:
            grey = _inverted(grey, self._page.bitspersample)
        return upright(self._orientation, grey)

    @property
    def _is_mapped(self) -> bool:
        return bool(self._page.is_final)

    def _mapped(self, rows: slice, columns: slice) -> NDArray[np.generic]:
        """Read what is stored as it is."""
        page = self._page
        stored = np.memmap(
            self._path,
            dtype=np.dtype(page.dtype).newbyteorder(page.parent.byteorder),
            mode="r",
            offset=page.dataoffsets[0] + self._plane.offset,
            shape=page.shaped,
        )
        contiguous = page.shaped[-1]
        planes = [
            stored[s // contiguous, self._plane.depth, rows, columns, s % contiguous]
            for s in self._plane.samples
        ]
        return np.stack(planes, axis=-1)

    def _decoded(self, rows: slice, columns: slice) -> NDArray[np.generic]:
        """Decode the strips or tiles that show some of the rows and columns."""
        page, plane = self._page, self._plane
        contiguous = page.shaped[-1]
        shape = rows.stop - rows.start, columns.stop - columns.start, len(plane.samples)
        result = np.zeros(shape, page.dtype)
        jpeg = page.jpegtables is not None or page.jpegheader is not None
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if jpeg else {}
        with self._path.open("rb") as file:
            for index, (offset, length) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=False)
            ):
                _, (separate, depth, top, left, _), (depths, height, width, _) = page.decode(
                    None, index
                )
                shown = _common(rows, top, height), _common(columns, left, width)
                samples = [
                    (k, sample % contiguous)
                    for k, sample in enumerate(plane.samples)
                    if sample // contiguous == separate
                ]
                there = length > 0 and depth <= plane.depth < depth + depths
                if not (there and samples and all(part.start < part.stop for part in shown)):
                    continue
                file.seek(offset)
                decoded, _, _ = page.decode(file.read(length), index, **tables)
                if decoded is None:
                    continue
                part = decoded[plane.depth - depth][_moved(shown, -top, -left)]
                for k, sample in samples:
                    result[_moved(shown, -rows.start, -columns.start)][..., k] = part[..., sample]
        return result

    def _palette(self) -> NDArray[np.generic]:
        """Give the grey of each number; of 8 bits, if the colours have no more."""
        colours = np.asarray(self._page.colormap, np.uint16)
        high, low = colours >> 8, colours & 255
        # Some programs write 8 bits as 0xabab, others as 0xab00.
        in_bytes = ((high == low) | (low == 0)).all()
        return colour_to_grey((high.astype(np.uint8) if in_bytes else colours).T[None])[0]

    def _require_data(self) -> None:
        """Refuse what its header cannot be right about, or what is not all there."""
        page = self._page
        if page.dtype is None or page.dtype.kind not in "buif":
            raise ImageFormatError(
                f"{self._path} has pixels of a kind that cannot be read ({page.bitspersample} "
                f"bits, sample format {page.sampleformat}); save it as 8 or 16 bit TIFF"
            )
        require_size(self._path, self._stored, page.dtype.itemsize * page.samplesperpixel)
        if not len(page.dataoffsets):
            raise ImageFormatError(f"{self._path} has no pixels, only a header; make it again")
        size = self._path.stat().st_size
        if page.compression == UNCOMPRESSED:
            bits = page.imagewidth * page.bitspersample * page.samplesperpixel
            needed = -(-bits // 8) * page.imagelength * page.imagedepth
            if not page.is_subsampled and sum(page.databytecounts) < needed and not page.is_stk:
                raise ImageFormatError(
                    f"{self._path} holds {sum(page.databytecounts)} of {needed} bytes; "
                    "copy it again from where it was made"
                )
        end = max(
            offset + length
            for offset, length in zip(page.dataoffsets, page.databytecounts, strict=False)
        )
        end = max(end, page.dataoffsets[0] + self._plane.offset + page.nbytes * self._is_mapped)
        if end > size:
            raise ImageFormatError(
                f"{self._path} is cut short: its image ends at byte {end} of {size}; "
                "copy it again, or wait until it is written"
            )


@lru_cache(maxsize=REMEMBERED)
def _parsed(path: Path, size: int, changed: int) -> tuple[list[Plane], list[float | None]]:
    """List the images of a file and the sizes of their pixels.

    The pages of a stack are a chain, which has to be gone through for any of them; so the last
    files are remembered, while their size and time of change stay.
    """
    # A tile of a set is asked for alone, though OME-XML may name other files.
    with TiffFile(path, _multifile=False) as file:
        planes = _planes(path, file)
        sizes = pixel_sizes(file, [plane.page for plane in planes])
        for plane in planes:
            # Some decoders look into the file when they are made.
            plane.page.decode(None, 0)
        return planes, sizes


def _common(wanted: slice, start: int, length: int) -> slice:
    """Give what of a range is wanted; it may be empty."""
    return slice(max(wanted.start, start), min(wanted.stop, start + length))


def _moved(window: Window, rows: int, columns: int) -> Window:
    """Give a window as it is counted from another place."""
    down, across = window
    return (
        slice(down.start + rows, down.stop + rows),
        slice(across.start + columns, across.stop + columns),
    )


def _planes(path: Path, file: TiffFile) -> list[Plane]:
    """List the images of a file."""
    pages = [page for page in _pages(file) if page.imagelength and page.imagewidth]
    real = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages
    if not real:
        raise ImageFormatError(f"{path} is a TIFF file without an image; make it again")
    first = real[0]
    planes = [plane for page in real for plane in _of_page(path, page)]
    if len(pages) == 1 and (stacked := _stacked(file, first)) > 1:
        planes = [
            Plane(first, plane.depth, plane.samples, k * first.nbytes)
            for k in range(stacked)
            for plane in planes
        ]
    return planes


def _pages(file: TiffFile) -> list[TiffPage]:
    """List the pages, each once: in damaged files the last may lead back to an earlier one."""
    found: dict[int, TiffPage] = {}
    for page in file.pages:
        if page.offset in found:
            break
        if isinstance(page, TiffPage):
            found[page.offset] = page
    return list(found.values())


def _stacked(file: TiffFile, page: TiffPage) -> int:
    """Give how many images lie one after another behind a file's only page, as ImageJ has them."""
    series = file.series[0]
    if series.dataoffset is None or not page.is_final or page.nbytes == 0:
        return 1
    return max(int(series.nbytes // page.nbytes), 1)


def _of_page(path: Path, page: TiffPage) -> list[Plane]:
    """List the images of a page: its depths, and its samples if they are no colours."""
    separate, depths, _, _, contiguous = page.shaped
    samples = separate * contiguous
    alpha = sum(kind in (1, 2) for kind in page.extrasamples)
    if page.photometric == RGB or (
        page.photometric == YCBCR and page.compression in JPEG_COMPRESSIONS
    ):
        colours = tuple(range(3)) if samples >= 3 else (0,)
        groups = [(*colours, 3)] if alpha and samples == 4 else [colours]
    elif page.photometric == PALETTE and page.colormap is not None:
        groups = [(0,)]
    elif page.photometric in GREYS:
        groups = [(0, 1)] if alpha and samples == 2 else [(k,) for k in range(samples)]
    else:
        raise ImageFormatError(
            f"{path} has colours that cannot be read ({tifffile.PHOTOMETRIC(page.photometric).name}"
            "); save it as grey or RGB"
        )
    return [Plane(page, depth, group) for depth in range(depths) for group in groups]


def _inverted(grey: NDArray[Any], bits: int) -> NDArray[np.generic]:
    """Make white high where it is stored as 0."""
    if grey.dtype == bool:
        return np.logical_not(grey)
    if grey.dtype.kind == "u":
        return np.subtract(2**bits - 1, grey, dtype=grey.dtype)
    return np.negative(grey) if grey.dtype.kind == "f" else np.invert(grey)
