"""What vendors' software writes: DM3 and DM4 of Gatan, EMD of Velox.

RosettaSciIO reads them. It is an extra, `temline[vendor]`: most sites never need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.images.colour import colour_to_grey
from formats.images.errors import ImageFormatError
from formats.images.pixel_size import in_nm, square_pixel
from formats.images.source import Facts, Window, choose_page, require_size

REMEMBERED = 4  # files


@dataclass(frozen=True)
class Kind:
    """A kind of file that RosettaSciIO reads.

    Attributes
    ----------
    name : str
    module : str
        Of RosettaSciIO.
    begins : callable
        Tells whether a file of this kind may begin so.
    """

    name: str
    module: str
    begins: Callable[[bytes], bool]


def _is_dm(start: bytes) -> bool:
    """Whether a file begins with a version, a length, and whether numbers are little-endian."""
    flag = {b"\0\0\0\3": start[8:12], b"\0\0\0\4": start[12:16]}.get(start[:4])
    return flag in (b"\0\0\0\0", b"\0\0\0\1")


KINDS = (
    Kind("DM3 or DM4", "rsciio.digitalmicrograph", _is_dm),
    Kind("HDF5 (EMD)", "rsciio.emd", lambda start: start[:8] == b"\x89HDF\r\n\x1a\n"),
)


def vendor_kind(start: bytes) -> Kind | None:
    """Give the kind of a file that starts so, None if it is none of these."""
    return next((kind for kind in KINDS if kind.begins(start)), None)


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of a file: images, one for each place along its other axes.

    Attributes
    ----------
    data : array
        Of dask, as a rule: nothing of it is read before it is asked for.
    axes : (int, int)
        Of rows and of columns.
    pixel_size : float or None
        In nm.
    """

    data: Any
    axes: tuple[int, int]
    pixel_size: float | None

    @property
    def others(self) -> list[int]:
        """Lengths of all axes but those of an image."""
        return [n for axis, n in enumerate(self.data.shape) if axis not in self.axes]

    @property
    def count(self) -> int:
        """Images that it holds."""
        return prod(self.others)

    def image(self, number: int) -> Any:
        """Give an image, counted from 0, the last of the other axes first."""
        place = iter(np.unravel_index(number, self.others) if self.others else ())
        index = [
            slice(None) if axis in self.axes else int(next(place)) for axis in range(self.data.ndim)
        ]
        return self.data[tuple(index)]


class VendorSource:
    """One image of a vendor's file."""

    def __init__(self, path: Path, page: int | None, kind: Kind) -> None:
        status = path.stat()
        sets = _data_sets(path, kind, status.st_size, status.st_mtime_ns)
        if not sets:
            raise ImageFormatError(
                f"{path} holds no image of real numbers (spectra and Fourier transforms are none)"
            )
        self._count = sum(each.count for each in sets)
        number = choose_page(path, page, self._count)
        for each in sets:
            if number < each.count:
                self._pixels, self._pixel_size = each.image(number), each.pixel_size
                break
            number -= each.count
        height, width = self._pixels.shape
        require_size(path, (height, width), self._pixels.dtype.itemsize)

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        dtype = self._pixels.dtype
        height, width = self._pixels.shape
        return Facts(
            (height, width), dtype[0] if dtype.names else dtype, self._pixel_size, self._count
        )

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`."""
        pixels = np.asarray(self._pixels[window])
        if pixels.dtype.names:
            return colour_to_grey(np.stack([pixels[name] for name in "RGB"], axis=-1))
        return pixels


@lru_cache(maxsize=REMEMBERED)
def _data_sets(path: Path, kind: Kind, size: int, changed: int) -> list[DataSet]:
    """List the data sets that hold images.

    The last files are remembered, as long as their `size` and time of change, `changed`, stay.
    """
    found = (_of_signal(signal) for signal in _signals(path, kind))
    return [each for each in found if each is not None and each.count]


def _signals(path: Path, kind: Kind) -> list[dict[str, Any]]:
    """Read what is in a file: its pixels are not read yet, but for colours."""
    try:
        import_module("rsciio").set_log_level("CRITICAL")
        module = import_module(kind.module)
    except ImportError as error:
        raise ImageFormatError(
            f"{path} is a {kind.name} file, which needs RosettaSciIO: "
            "run pip install 'temline[vendor]', or save it as TIFF"
        ) from error
    try:
        signals: list[dict[str, Any]] = module.file_reader(str(path), lazy=True)
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        signals = module.file_reader(str(path))
    return signals


def _of_signal(signal: dict[str, Any]) -> DataSet | None:
    """Tell where images lie in a signal of RosettaSciIO, None if it holds none of real numbers.

    The last two of the axes that are not for navigation are those of an image.
    """
    data = signal["data"]
    axes = [(k, axis) for k, axis in enumerate(signal["axes"]) if not axis["navigate"]][-2:]
    if len(axes) < 2 or not (data.dtype.names or data.dtype.kind in "buif"):
        return None
    sides = [in_nm(abs(float(axis["scale"])), str(axis["units"])) for _, axis in axes]
    return DataSet(data, (axes[0][0], axes[1][0]), square_pixel(sides))
