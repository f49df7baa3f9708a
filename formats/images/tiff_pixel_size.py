"""Finds the size of a pixel in a TIFF file, wherever the program that wrote it has put it.

OME-XML, ImageJ, the makers of cameras and microscopes; at last the resolution, if it can be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tifffile import TiffFile, TiffPage, xml2dict

from formats.images.pixel_size import NM_PER_INCH, in_nm, printed_pixel, square_pixel

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
INCH, CENTIMETRE = 2, 3
DM_UNIT, DM_SCALES = 65003, (65009, 65010)
"""Tags that Gatan's DigitalMicrograph writes: the unit, and the size along x and y in it."""
OME_UNIT = "µm"  # where none is named


def pixel_sizes(file: TiffFile, pages: Sequence[TiffPage]) -> list[float | None]:
    """Give the size of a pixel in nm of each image, None where the file does not tell.

    Parameters
    ----------
    file : TiffFile
        Open.
    pages : sequence of TiffPage
        Of each image of the file.
    """
    try:
        by_xml = _of_ome(file.ome_metadata or "<OME/>", len(pages))
        by_maker = _of_maker(file)
        return [
            _first(told, by_maker, _of_imagej(file, page), _of_dm(page), _of_resolution(page))
            for told, page in zip(by_xml, pages, strict=True)
        ]
    # What programs write there may be anything, and an image is one without it.
    except Exception:
        return [None] * len(pages)


def _first(*sizes: float | None) -> float | None:
    return next((size for size in sizes if size is not None), None)


def _of_ome(xml: str, count: int) -> list[float | None]:
    """Take them from the Image elements, each of which may describe several planes."""
    described = (xml2dict(xml).get("OME") or {}).get("Image", [])
    sizes: list[float | None] = []
    for one in described if isinstance(described, list) else [described]:
        pixels = one.get("Pixels", {})
        size = square_pixel([_ome_side(pixels, axis) for axis in "XY"])
        planes = prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")
        sizes += [size] * min(planes, count - len(sizes))
    return sizes + [None] * (count - len(sizes))


def _ome_side(pixels: dict[str, Any], axis: str) -> float | None:
    side = _scaled(pixels.get(f"PhysicalSize{axis}"), 1.0)
    unit = str(pixels.get(f"PhysicalSize{axis}Unit", OME_UNIT))
    return None if side is None else in_nm(side, unit)


def _of_imagej(file: TiffFile, page: TiffPage) -> float | None:
    metadata = file.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    sides = [1 / value if value > 0 else None for value in _resolutions(page)]
    return square_pixel([None if side is None else in_nm(side, unit) for side in sides])


def _of_maker(file: TiffFile) -> float | None:
    """Take what makers of cameras and microscopes write in tags of their own."""
    tvips: dict[str, Any] = file.tvips_metadata or {}
    fei: dict[str, Any] = (file.fei_metadata or {}).get("Scan", {})
    sis: dict[str, Any] = file.sis_metadata or {}
    sem: dict[str, Any] = file.sem_metadata or {}
    zeiss: Sequence[Any] = sem.get("ap_image_pixel_size") or sem.get("ap_pixel_size") or ()
    told = [
        [tvips.get("PixelSizeX"), tvips.get("PixelSizeY")],
        [_scaled(fei.get("PixelWidth"), 1e9), _scaled(fei.get("PixelHeight"), 1e9)],
        [_scaled(sis.get("pixelsizex"), 1e9), _scaled(sis.get("pixelsizey"), 1e9)],
        [in_nm(float(zeiss[1]), str(zeiss[2])) if len(zeiss) > 2 else None],
    ]
    return _first(*(square_pixel([_scaled(side, 1.0) for side in sides]) for sides in told))


def _scaled(value: Any, scale: float) -> float | None:
    return float(value) * scale if isinstance(value, int | float) else None


def _of_dm(page: TiffPage) -> float | None:
    tags = [page.tags.get(code) for code in (DM_UNIT, *DM_SCALES)]
    if any(tag is None for tag in tags):
        return None
    unit, *scales = (tag.value for tag in tags if tag is not None)
    return square_pixel([in_nm(float(scale), str(unit)) for scale in scales])


def _of_resolution(page: TiffPage) -> float | None:
    unit = page.tags.get(RESOLUTION_UNIT)
    per_inch = {INCH: 1.0, CENTIMETRE: NM_PER_INCH / 1e7}
    scale = per_inch.get(int(unit.value) if unit is not None else INCH)
    return None if scale is None else printed_pixel([n * scale for n in _resolutions(page)])


def _resolutions(page: TiffPage) -> list[float]:
    """Give XResolution and YResolution, in px a unit; 0 where not told."""
    found = []
    for code in (X_RESOLUTION, Y_RESOLUTION):
        tag = page.tags.get(code)
        above, below = tag.value if tag is not None else (0, 1)
        found.append(above / below if below else 0.0)
    return found
