"""Finds who reads a file, by its content: suffixes lie.

What a decoder stumbles over becomes one line here, for all formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.images.errors import ImageFormatError, damaged
from formats.images.mrc import MrcSource, is_compressed, is_mrc
from formats.images.picture import PictureSource
from formats.images.ser import SerSource, is_ser
from formats.images.source import Source
from formats.images.tiff import TiffSource, is_tiff
from formats.images.vendor import VendorSource, vendor_kind

START = 1024  # bytes by which a file is known


def open_source(path: Path, page: int | None) -> Source:
    """Open one image of a file with the reader of its format.

    Raises
    ------
    ImageFormatError
        If no reader knows the file, or the image is not in it. Use it within `guarded`.
    """
    if path.is_dir():
        raise ImageFormatError(f"{path} is a folder; expected the file of an image")
    with path.open("rb") as file:
        start = file.read(START)
    if not start:
        raise ImageFormatError(f"{path} is empty; expected an image: copy it again")
    if is_tiff(start):
        return TiffSource(path, page)
    if is_ser(start):
        return SerSource(path, page)
    if (kind := vendor_kind(start)) is not None:
        return VendorSource(path, page, kind)
    if is_mrc(start) or is_compressed(start):
        return MrcSource(path, page)
    return PictureSource(path, page)


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn whatever ends the reading of a file into one line that names it.

    Raises
    ------
    ImageFormatError
    """
    try:
        yield
    except ImageFormatError:
        raise
    except FileNotFoundError as error:
        raise ImageFormatError(f"{path}: there is no such file; check its name") from error
    except PermissionError as error:
        raise ImageFormatError(f"{path} may not be read; check its permissions") from error
    # Decoders meet bytes of anyone's making, and stumble in ways that none of them lists.
    except Exception as error:
        raise damaged(path, error) from error
