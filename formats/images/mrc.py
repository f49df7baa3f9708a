"""MRC files, of one image or a stack: as IMOD and SerialEM write them, and as the standard says.

Only the sections and rows that are asked for are read; compressed files are unpacked up to them.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from formats.images.colour import colour_to_grey
from formats.images.errors import ImageFormatError
from formats.images.levels import BYTE_SHIFT
from formats.images.pixel_size import square_pixel
from formats.images.source import Facts, Shape, Window, choose_page, require_size

NM_PER_ANGSTROM = 0.1
IMOD_STAMP = 1146047817
SIGNED_FLAG, PACKED_FLAG = 1, 16
"""Of IMOD: bytes are signed; bytes hold two pixels each, and nx counts bytes."""
FIRST_STANDARD = 20140  # the field nversion, from the standard of 2014 on
DTYPES = {0: "u1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 16: "u1", 101: "u1"}
"""By mode. The standard has 0, 1, 2, 6, 12 and 101; IMOD 16, that is red, green and blue bytes."""
COMPLEX = 3, 4
COLOUR, NIBBLES = 16, 101
UNPACK: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
IMOD_WORDS = slice(40, 48)  # of what mrcfile calls extra2: the stamp and the flags
OLDEST_SIDE = 2**16  # of an image in a file without a mark


@dataclass(frozen=True)
class Layout:
    """How the sections of a file are stored.

    Attributes
    ----------
    shape : (int, int)
        (height, width) in px.
    count : int
        Sections.
    dtype : dtype
        Of what is stored.
    row_bytes : int
    start : int
        Of the first section, in bytes.
    mode : int
    signed : bool
        Whether bytes are signed.
    top_first : bool
        Whether the first row is the top one.
    pixel_size : float or None
        In nm.
    """

    shape: Shape
    count: int
    dtype: np.dtype[np.generic]
    row_bytes: int
    start: int
    mode: int
    signed: bool
    top_first: bool
    pixel_size: float | None

    @property
    def section_bytes(self) -> int:
        """Bytes of a section."""
        return self.row_bytes * self.shape[0]


def is_mrc(start: bytes) -> bool:
    """Whether a file that starts so is an MRC file; older ones have no mark but their numbers."""
    return _header(start) is not None


def is_compressed(start: bytes) -> bool:
    """Whether a file is compressed as MRC files are: gzip or bzip2."""
    return start[:2] in UNPACK


class MrcSource:
    """One section of an MRC file."""

    def __init__(self, path: Path, page: int | None) -> None:
        self._path = path
        with _opened(path) as file:
            compressed = isinstance(file, gzip.GzipFile | bz2.BZ2File)
            header = _header(file.read(HEADER_DTYPE.itemsize))
        if header is None:
            raise ImageFormatError(
                f"{path} is compressed, but holds no MRC file; unpack it, and give what was in it"
            )
        self._layout = _layout(path, header)
        self._page = choose_page(path, page, self._layout.count)
        require_size(path, self._layout.shape, self._layout.dtype.itemsize)
        end = self._layout.start + (self._page + 1) * self._layout.section_bytes
        if not compressed and path.stat().st_size < end:
            raise self._cut_short(path.stat().st_size)

    @property
    def facts(self) -> Facts:
        """See `Source`."""
        layout = self._layout
        dtype = np.dtype(np.int8) if layout.signed else layout.dtype
        return Facts(layout.shape, dtype, layout.pixel_size, layout.count)

    def read(self, window: Window) -> NDArray[np.generic]:
        """See `Source`."""
        rows, columns = window
        layout = self._layout
        height, width = layout.shape
        if not layout.top_first:
            rows = slice(height - rows.stop, height - rows.start)
        lines = self._lines(rows)
        if layout.mode == NIBBLES:
            pixels = np.stack([lines & 15, lines >> 4], axis=-1).reshape(len(lines), -1)
        elif layout.mode == COLOUR:
            pixels = colour_to_grey(lines.reshape(len(lines), width, 3))
        else:
            pixels = lines.view(np.int8 if layout.signed else layout.dtype)
        pixels = pixels[:, columns]
        return pixels if layout.top_first else pixels[::-1]

    def _lines(self, rows: slice) -> NDArray[np.uint8]:
        """Read stored rows, as bytes."""
        layout = self._layout
        first = layout.start + self._page * layout.section_bytes + rows.start * layout.row_bytes
        length = (rows.stop - rows.start) * layout.row_bytes
        with _opened(self._path) as file:
            file.seek(first)
            content = file.read(length)
        if len(content) < length:
            raise self._cut_short(first + len(content))
        return np.frombuffer(content, np.uint8).reshape(-1, layout.row_bytes)

    def _cut_short(self, size: int) -> ImageFormatError:
        layout = self._layout
        return ImageFormatError(
            f"{self._path} is cut short: its image {self._page} ends at byte "
            f"{layout.start + (self._page + 1) * layout.section_bytes} of {size}; "
            "copy it again, or wait until it is written"
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, whether it is compressed or not."""
    with path.open("rb") as file:
        start = file.read(HEADER_DTYPE.itemsize)
        file.seek(0)
        # The width may happen to look like the mark of a compressed file.
        if _header(start) is not None or not is_compressed(start):
            yield file
            return
        with UNPACK[start[:2]](file) as unpacked:
            yield unpacked


def _header(start: bytes) -> np.void | None:
    """Give the header in its byte order, None if it is none.

    The numbers decide, as they do for IMOD: machine stamps are often wrong, and older files have
    none. The stamp decides where both orders are possible.
    """
    if len(start) < HEADER_DTYPE.itemsize:
        return None
    both = [
        np.frombuffer(start, HEADER_DTYPE.newbyteorder(order), count=1)[0] for order in ("<", ">")
    ]
    possible = [one for one in both if _is_possible(one)]
    if len(possible) > 1 and bytes(both[0]["machst"])[:1] == b"\x11":
        return possible[1]
    return possible[0] if possible else None


def _is_possible(header: np.void) -> bool:
    sides = [int(header[name]) for name in ("nx", "ny", "nz")]
    axes = [int(header[name]) for name in ("mapc", "mapr", "maps")]
    # Without its mark a file has to look like one altogether.
    marked = bytes(header["map"])[:3] == b"MAP"
    return bool(
        min(sides) > 0
        and int(header["mode"]) in (*DTYPES, *COMPLEX)
        and (all(-2 <= one <= 4 for one in axes) if marked else sorted(axes) == [1, 2, 3])
        and (marked or max(sides) <= OLDEST_SIDE)
        and int(header["nsymbt"]) >= 0
        and 0 <= int(header["nlabl"]) <= 10
    )


def _layout(path: Path, header: np.void) -> Layout:
    mode = int(header["mode"])
    if mode in COMPLEX:
        raise ImageFormatError(
            f"{path} holds complex numbers (MRC mode {mode}), a Fourier transform; expected an "
            "image: transform it back first"
        )
    height, width = int(header["ny"]), int(header["nx"])
    order = header.dtype["nx"].byteorder
    stamp, flags = np.frombuffer(bytes(header["extra2"])[IMOD_WORDS], f"{order}i4").tolist()
    by_imod = stamp == IMOD_STAMP
    if by_imod and mode == 0 and flags & PACKED_FLAG:
        mode, width = NIBBLES, 2 * width
    dtype = np.dtype(DTYPES[mode]).newbyteorder(order)
    row_bytes = {NIBBLES: (width + 1) // 2, COLOUR: 3 * width}.get(mode, width * dtype.itemsize)
    signed = bool(flags & SIGNED_FLAG) if by_imod else _signed_by_range(header)
    return Layout(
        shape=(height, width),
        count=int(header["nz"]),
        dtype=dtype,
        row_bytes=row_bytes,
        start=HEADER_DTYPE.itemsize + int(header["nsymbt"]),
        mode=mode,
        signed=mode == 0 and signed,
        top_first=not by_imod and _by_first_fei_software(header),
        pixel_size=_pixel_size(header),
    )


def _signed_by_range(header: np.void) -> bool:
    """Whether bytes are signed, by the range that the header tells, as IMOD judges it.

    The standard of 2014 has them signed; before, most programs did not.
    """
    low, high = float(header["dmin"]), float(header["dmax"])
    if not low < high:
        return int(header["nversion"]) >= FIRST_STANDARD
    return low < 0 and (high < BYTE_SHIFT or -low > high - BYTE_SHIFT)


def _by_first_fei_software(header: np.void) -> bool:
    """Whether rows run downwards: the first files of FEI with an extended header, and mapr −2."""
    of_fei = bytes(header["exttyp"])[:3] == b"FEI" and int(header["nversion"]) == FIRST_STANDARD
    return of_fei or int(header["mapr"]) == -2


def _pixel_size(header: np.void) -> float | None:
    """Give the pixel size in nm; where mx is not told, the cell is taken for that of the image.

    1 Å exactly is what IMOD writes where it does not know.
    """
    cells = [int(header["mx"]) or int(header["nx"]), int(header["my"]) or int(header["ny"])]
    lengths = [float(header["cella"][axis]) for axis in ("x", "y")]
    return square_pixel(
        [length / n * NM_PER_ANGSTROM for length, n in zip(lengths, cells, strict=True)],
        unknown=NM_PER_ANGSTROM,
    )
