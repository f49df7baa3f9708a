"""TIFF files of any compression, numbers, colours and orientation.

tifffile and imagecodecs decode; only the strips or tiles that a window shows are read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.images.colour import colour_to_grey
from formats.images.errors import ImageFormatError
from formats.images.orientation import stored_window, upright, upright_shape
from formats.images.source import Facts, Shape, Window, choose_page, require_size
from formats.images.tiff_pages import PALETTE, WHITE_IS_ZERO, planes_of

# What it finds odd goes to the log of who has one, not to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MARKS = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
UNCOMPRESSED = 1
ORIENTATION = 274


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF or BigTIFF file."""
    return start[:4] in MARKS


class TiffSource:
    """One image of a TIFF file."""

    def __init__(self, path: Path, page: int | None) -> None:
        self._path = path
        status = path.stat()
        planes = planes_of(path, status.st_size, status.st_mtime_ns)
        self._plane, self._pixel_size = planes[choose_page(path, page, len(planes))]
        self._count = len(planes)
        self._page = self._plane.page
        self._stored: Shape = self._page.imagelength, self._page.imagewidth
        tag = self._page.tags.get(ORIENTATION)
        self._orientation = int(tag.value) if tag is not None else 1
        self._require_numbers()
        pixel_bytes = np.dtype(self._page.dtype).itemsize * self._page.samplesperpixel
        require_size(path, self._stored, pixel_bytes)
        self._require_data(status.st_size)

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
        pixels = self._mapped if self._page.is_final else self._decoded
        return upright(self._orientation, self._grey(pixels(rows, columns)))

    def _grey(self, pixels: NDArray[Any]) -> NDArray[np.generic]:
        """Turn samples, the last axis, to grey with white high."""
        if self._page.photometric == PALETTE:
            return self._palette()[pixels[..., 0].astype(np.intp)]
        if self._page.photometric == WHITE_IS_ZERO:
            grey, alpha = pixels[..., :1], pixels[..., 1:]
            pixels = np.concatenate([_inverted(grey, self._page.bitspersample), alpha], axis=-1)
        return colour_to_grey(pixels)

    def _palette(self) -> NDArray[np.generic]:
        """Give the grey of each number; of 8 bits, if the colours have no more."""
        colours = np.asarray(self._page.colormap, np.uint16)
        high, low = colours >> 8, colours & 255
        # Some programs write 8 bits as 0xabab, others as 0xab00.
        in_bytes = ((high == low) | (low == 0)).all()
        return colour_to_grey((high.astype(np.uint8) if in_bytes else colours).T[None])[0]

    def _mapped(self, rows: slice, columns: slice) -> NDArray[np.generic]:
        """Read what is stored as it is meant, shape (height, width, samples)."""
        page, plane = self._page, self._plane
        stored = np.memmap(
            self._path,
            dtype=np.dtype(page.dtype).newbyteorder(page.parent.byteorder),
            mode="r",
            offset=page.dataoffsets[0] + plane.offset,
            shape=page.shaped,
        )
        places = [divmod(sample, page.shaped[-1]) for sample in plane.samples]
        parts = [stored[separate, plane.depth, rows, columns, k] for separate, k in places]
        return np.stack(parts, axis=-1)

    def _decoded(self, rows: slice, columns: slice) -> NDArray[np.generic]:
        """Decode what a window shows, shape (height, width, samples)."""
        page, plane = self._page, self._plane
        shape = rows.stop - rows.start, columns.stop - columns.start, len(plane.samples)
        result = np.zeros(shape, page.dtype)
        for separate, (top, left), segment in self._segments(rows, columns):
            shown = _common(rows, top, len(segment)), _common(columns, left, segment.shape[1])
            part = segment[_moved(shown, -top, -left)]
            target = result[_moved(shown, -rows.start, -columns.start)]
            for k, sample in enumerate(plane.samples):
                where, sample_in_segment = divmod(sample, page.shaped[-1])
                if where == separate:
                    target[..., k] = part[..., sample_in_segment]
        return result

    def _segments(
        self, rows: slice, columns: slice
    ) -> Iterator[tuple[int, tuple[int, int], NDArray[Any]]]:
        """Decode the strips or tiles that show some of the rows and columns.

        Yields
        ------
        int, (int, int), ndarray of shape (height, width, samples)
            Which of separate samples it holds, its first row and column, and its pixels.
        """
        page, plane = self._page, self._plane
        wanted = {sample // page.shaped[-1] for sample in plane.samples}
        jpeg = page.jpegtables is not None or page.jpegheader is not None
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if jpeg else {}
        with self._path.open("rb") as file:
            for index, (offset, length) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=False)
            ):
                # Without bytes, the decoder tells the place of the segment alone.
                _, (separate, depth, top, left, _), (depths, height, width, _) = page.decode(
                    None, index
                )
                shown = _common(rows, top, height), _common(columns, left, width)
                if (
                    length == 0  # a hole, as in sparse files
                    or separate not in wanted
                    or not depth <= plane.depth < depth + depths
                    or any(part.start >= part.stop for part in shown)
                ):
                    continue
                file.seek(offset)
                segment, _, _ = page.decode(file.read(length), index, **tables)
                if segment is not None:
                    yield separate, (top, left), segment[plane.depth - depth]

    def _require_numbers(self) -> None:
        page = self._page
        if page.dtype is None or page.dtype.kind not in "buif":
            raise ImageFormatError(
                f"{self._path} has pixels of a kind that cannot be read ({page.bitspersample} "
                f"bits, sample format {page.sampleformat}); save it as 8 or 16 bit TIFF"
            )

    def _require_data(self, size: int) -> None:
        """Refuse what is not all there, as far as headers tell."""
        page = self._page
        if not len(page.dataoffsets):
            raise ImageFormatError(f"{self._path} has no pixels, only a header; make it again")
        there = sum(page.databytecounts)
        row_bytes = -(-page.imagewidth * page.bitspersample * page.samplesperpixel // 8)
        needed = row_bytes * page.imagelength * page.imagedepth
        if page.compression == UNCOMPRESSED and there < needed and not page.is_stk:
            raise ImageFormatError(f"{self._path} holds {there} of {needed} bytes; copy it again")
        ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if page.is_final:
            ends.append(page.dataoffsets[0] + self._plane.offset + page.nbytes)
        if max(ends) > size:
            raise ImageFormatError(
                f"{self._path} is cut short: its image ends at byte {max(ends)} of {size}; "
                "copy it again, or wait until it is written"
            )


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


def _inverted(grey: NDArray[Any], bits: int) -> NDArray[np.generic]:
    """Make white high where it is stored as 0."""
    if grey.dtype == bool:
        return np.logical_not(grey)
    if grey.dtype.kind == "u":
        return np.subtract(2**bits - 1, grey, dtype=grey.dtype)
    return np.negative(grey) if grey.dtype.kind == "f" else np.invert(grey)
