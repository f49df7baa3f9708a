"""SER files of TIA, the software of FEI's microscopes: one image or a series.

RosettaSciIO reads them too, but goes by the suffix, and a damaged header costs it gigabytes. The
layout is that described by C. Boothroyd (personal.ntu.edu.sg/cbb/info/TIAformat).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.images.errors import ImageFormatError
from formats.images.pixel_size import square_pixel
from formats.images.source import Facts, Window, choose_page, require_size

MARK = b"II\x97\x01"
NM_PER_M = 1e9
IMAGES = 0x4122  # the kind of a series; spectra have another
LAST_OF_4_BYTES = 0x0210  # versions up to this one have offsets of 4 bytes
HEADER = np.dtype(
    [
        ("mark", "S4"),
        ("version", "<u2"),
        ("kind", "<u4"),
        ("tag_kind", "<u4"),
        ("planned", "<u4"),
        ("count", "<u4"),
    ]
)
ELEMENT = np.dtype(
    [
        ("x", "<f8"),
        ("x_step", "<f8"),
        ("x_pixel", "<i4"),
        ("y", "<f8"),
        ("y_step", "<f8"),
        ("y_pixel", "<i4"),
        ("type", "<u2"),
        ("width", "<u4"),
        ("height", "<u4"),
    ]
)
"""What stands before the pixels of an image; steps are in m."""
TYPES = {1: "u1", 2: "<u2", 3: "<u4", 4: "i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8"}


def is_ser(start: bytes) -> bool:
    """Whether a file that starts so is one of TIA."""
    return start[:4] == MARK


class SerSource:
    """One image of a SER file."""

    def __init__(self, path: Path, page: int | None) -> None:
        self._path = path
        header = self._record(HEADER, 0)
        if header["kind"] != IMAGES:
            raise ImageFormatError(f"{path} holds spectra, no image; expected an image")
        self._count = int(header["count"])
        offset = np.dtype("<u4" if header["version"] <= LAST_OF_4_BYTES else "<u8")
        table = int(self._record(offset, HEADER.itemsize))
        place = choose_page(path, page, self._count) * offset.itemsize
        start = int(self._record(offset, table + place))
        element = self._record(ELEMENT, start)
        self._shape = int(element["height"]), int(element["width"])
        if int(element["type"]) not in TYPES:
            raise ImageFormatError(
                f"{path} has pixels of the kind {element['type']}, which are no real numbers"
            )
        self._dtype = np.dtype(TYPES[int(element["type"])])
        self._start = start + ELEMENT.itemsize
        steps = [float(element["x_step"]), float(element["y_step"])]
        self._pixel_size = square_pixel([abs(step) * NM_PER_M for step in steps])
        require_size(path, self._shape, self._dtype.itemsize)
        end = self._start + self._shape[0] * self._shape[1] * self._dtype.itemsize
        if end > path.stat().st_size:
            raise ImageFormatError(
                f"{path} is cut short: its image ends at byte {end} of {path.stat().st_size}; "
                "copy it again"
            )

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        return Facts(self._shape, self._dtype, self._pixel_size, self._count)

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`; the first row is the bottom one."""
        stored = np.memmap(self._path, self._dtype, "r", self._start, self._shape)
        return stored[::-1][window]

    def _record(self, dtype: np.dtype[Any], offset: int) -> Any:
        return np.fromfile(self._path, dtype, count=1, offset=offset)[0]
