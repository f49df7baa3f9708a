"""What vendors' software writes: DM3 and DM4 of Gatan's, EMD of Velox.

RosettaSciIO reads them. It is an extra, `temline[vendor]`: most sites never need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.images.colour import colour_to_grey
from formats.images.errors import ImageFormatError
from formats.images.pixel_size import in_nm, square_pixel
from formats.images.source import Facts, Window, choose_page, require_size

READERS: dict[str, Callable[[bytes], bool]] = {
    # A version, a length, and whether numbers are little-endian.
    "digitalmicrograph": lambda start: (
        (start[:4] == b"\0\0\0\3" and start[8:11] == b"\0\0\0" and start[11] < 2)
        or (start[:4] == b"\0\0\0\4" and start[12:15] == b"\0\0\0" and start[15] < 2)
    ),
    "emd": lambda start: start[:8] == b"\x89HDF\r\n\x1a\n",
}
"""RosettaSciIO's readers, and how files begin that they read."""
REMEMBERED = 4  # files


def vendor_reader(start: bytes) -> str | None:
    """Give the name of the reader for a file that starts so, None if there is none."""
    return next((name for name, begins in READERS.items() if begins(start)), None)


class VendorSource:
    """One image of a vendor's file."""

    def __init__(self, path: Path, page: int | None, reader: str) -> None:
        status = path.stat()
        planes = _parsed(path, reader, status.st_size, status.st_mtime_ns)
        if not planes:
            raise ImageFormatError(
                f"{path} holds no image of real numbers (spectra and Fourier transforms are none)"
            )
        self._pixels, self._pixel_size = planes[choose_page(path, page, len(planes))]
        self._count = len(planes)
        height, width = self._pixels.shape
        require_size(path, (height, width), self._pixels.dtype.itemsize)

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        dtype = self._pixels.dtype
        if dtype.names:
            dtype = dtype[0]
        height, width = self._pixels.shape
        return Facts((height, width), dtype, self._pixel_size, self._count)

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`."""
        pixels = np.asarray(self._pixels[window])
        if pixels.dtype.names:
            return colour_to_grey(np.stack([pixels[name] for name in "RGB"], axis=-1))
        return pixels


@lru_cache(maxsize=REMEMBERED)
def _parsed(path: Path, reader: str, size: int, changed: int) -> list[tuple[Any, float | None]]:
    """List the images of a file; the last files are remembered, while they stay as they are."""
    return [plane for signal in _signals(path, reader) for plane in _planes(signal)]


def _signals(path: Path, reader: str) -> list[dict[str, Any]]:
    """Read what is in a file: its pixels are not read yet, but for colours."""
    try:
        import_module("rsciio").set_log_level("CRITICAL")
        module = import_module(f"rsciio.{reader}")
    except ImportError as error:
        raise ImageFormatError(
            f"{path} is a {reader} file, which needs RosettaSciIO: "
            "run pip install 'temline[vendor]', or save it as TIFF"
        ) from error
    try:
        signals: list[dict[str, Any]] = module.file_reader(str(path), lazy=True)
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        signals = module.file_reader(str(path))
    return signals


def _planes(signal: dict[str, Any]) -> Iterator[tuple[Any, float | None]]:
    """List the images of one data set, and the size of their pixels in nm.

    The last two of the axes that are not for navigation are those of an image.
    """
    data = signal["data"]
    axes = [(k, axis) for k, axis in enumerate(signal["axes"]) if not axis["navigate"]]
    if len(axes) < 2 or not (data.dtype.names or data.dtype.kind in "buif"):
        return
    chosen = [k for k, _ in axes[-2:]]
    sides = [in_nm(abs(float(axis["scale"])), str(axis["units"])) for _, axis in axes[-2:]]
    others = [range(1) if k in chosen else range(n) for k, n in enumerate(data.shape)]
    for place in product(*others):
        index = tuple(slice(None) if k in chosen else n for k, n in enumerate(place))
        yield data[index], square_pixel(sides)
