"""One small file of each kind that is read, for the tests that damage them."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mrcfile
import numpy as np
import PIL.Image
import tifffile

from tests.formats.images.pictures import picture
from tests.formats.images.vendor_files import write_dm, write_ser, write_velox

DEEP = picture(24, 32, top=4000)
FLAT = DEEP.astype(np.uint8)
STACK = np.stack([picture(24, 32, seed=k) for k in range(3)])


def _tiff(pixels: Any = DEEP, **how: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **how)


def _mrc(pixels: Any, pack: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with mrcfile.new(path) as file:
            file.set_data(pixels)
            file.voxel_size = 40.0
        path.write_bytes(pack(path.read_bytes()))

    return write


def _picture(mode: str = "L", **how: Any) -> Callable[[Path], None]:
    return lambda path: PIL.Image.fromarray(FLAT).convert(mode).save(path, **how)


SMALL_FILES: dict[str, Callable[[Path], None]] = {
    "plain.tif": _tiff(photometric="minisblack"),
    "big.tif": _tiff(bigtiff=True, byteorder=">"),
    "lzw.tif": _tiff(compression="lzw", predictor=True, rowsperstrip=5),
    "tiles.tif": _tiff(compression="zlib", tile=(16, 16)),
    "zstd.tif": _tiff(compression="zstd", rowsperstrip=7),
    "jpeg.tif": _tiff(FLAT, compression="jpeg", tile=(16, 16)),
    "packed.tif": _tiff(bitspersample=12),
    "float.tif": _tiff(DEEP / np.float32(7)),
    "colour.tif": _tiff(np.dstack([FLAT] * 3), photometric="rgb"),
    "palette.tif": _tiff(
        FLAT, photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256)
    ),
    "imagej.tif": _tiff(STACK, imagej=True, metadata={"axes": "ZYX"}),
    "ome.tif": _tiff(STACK, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.004}),
    "fax.tif": lambda path: PIL.Image.fromarray(FLAT > 99).save(path, compression="group4"),
    "int16.mrc": _mrc(DEEP.astype(np.int16)),
    "float.mrc": _mrc(STACK.astype(np.float32)),
    "packed.mrc.gz": _mrc(FLAT.astype(np.int8), gzip.compress),
    "packed.mrc.bz2": _mrc(STACK, bz2.compress),
    "grey.png": _picture(),
    "palette.png": _picture("P"),
    "deep.png": lambda path: cv2.imwrite(str(path), np.dstack([DEEP] * 3)),
    "grey.jpg": _picture(),
    "grey.bmp": _picture(),
    "grey.gif": _picture(),
    "grey.webp": _picture("RGB"),
    "grey.jp2": _picture(),
    "grey.pgm": _picture(),
    "image.dm3": lambda path: write_dm(path, DEEP, 4.0, "nm", 3),
    "image.dm4": lambda path: write_dm(path, DEEP, 4.0, "nm", 4),
    "image.ser": lambda path: write_ser(path, STACK, 4e-9),
    "image.emd": lambda path: write_velox(path, STACK.astype(np.int16), 4e-9),
}
"""What writes each, by the name of the file."""
