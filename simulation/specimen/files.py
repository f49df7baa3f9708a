"""Read a micrograph from a PNG, TIFF or MRC file, with errors that say what is wrong with it.

The one module of the simulation that reads files: everything else takes arrays.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray

TIFF_SUFFIXES = (".tif", ".tiff")
MRC_SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".st")
NM_PER_ANGSTROM = 0.1


class Micrograph(NamedTuple):
    """An image as it was in its file."""

    pixels: NDArray[np.generic]
    """Shape (height, width), or (height, width, 3 or 4) in RGB order; row 0 at the top."""
    pixel_size: float | None
    """In nm, where the file says so."""


def load_micrograph(path: str | Path) -> Micrograph:
    """Read one image.

    Parameters
    ----------
    path : str or Path
        TIFF and MRC are known by their suffix; anything else that OpenCV can read (PNG, JPEG …) is
        read by it. A stack of one image counts as an image.

    Returns
    -------
    Micrograph

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read as an image, or holds more than one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}; give the path of a PNG, TIFF or MRC file")
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            pixels, pixel_size = tifffile.imread(path), None
        elif path.suffix.lower() in MRC_SUFFIXES:
            pixels, pixel_size = _read_mrc(path)
        else:
            pixels, pixel_size = _read_picture(path), None
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); expected a PNG, TIFF or MRC file"
        ) from error
    pixels = pixels[0] if pixels.ndim == 3 and pixels.shape[0] == 1 else pixels
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise ValueError(
            f"{path}: expected a single two-dimensional image; found shape {pixels.shape}. "
            "Save one section of the stack on its own"
        )
    return Micrograph(pixels, pixel_size)


def _read_picture(path: Path) -> NDArray[np.generic]:
    # Read first, decode then: OpenCV prints a warning of its own about a file it cannot open.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("not an image format that OpenCV knows")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(
            pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
        )
    return pixels


def _read_mrc(path: Path) -> tuple[NDArray[np.generic], float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many good files break the standard's small print
        with mrcfile.open(path, permissive=True) as file:
            if file.data is None:
                raise ValueError("the MRC header is damaged")
            pixels = np.array(file.data)
            size = float(file.voxel_size.x) * NM_PER_ANGSTROM
    # MRC images have their first row at the bottom.
    return pixels[..., ::-1, :], size if size > 0 else None
