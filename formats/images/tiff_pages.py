"""Tells which images a TIFF file holds: pages that are none, and pages that are several.

A thumbnail, a mask or a level of a pyramid is no image; a page may stand for a whole stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tifffile import PHOTOMETRIC, TiffFile, TiffPage

from formats.images.errors import ImageFormatError
from formats.images.source import require_count
from formats.images.tiff_pixel_size import pixel_sizes

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR, CFA, LINEAR_RAW = 0, 1, 2, 3, 6, 32803, 34892
GREYS = WHITE_IS_ZERO, BLACK_IS_ZERO, CFA, LINEAR_RAW
JPEG_COMPRESSIONS = 6, 7  # which come as RGB, whatever they were stored as
ALPHA = 1, 2  # of what extra samples may be
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


@lru_cache(maxsize=REMEMBERED)
def planes_of(path: Path, size: int, changed: int) -> list[tuple[Plane, float | None]]:
    """List the images of a file, each with the size of its pixels in nm.

    The pages of a stack are a chain, which has to be gone through for any of them. So the last
    files are remembered, as long as their `size` and time of change, `changed`, stay.

    Raises
    ------
    ImageFormatError
        If it holds none, or one of colours that cannot be read.
    """
    with TiffFile(path) as file:
        planes = _planes(path, file)
        for plane in planes:
            # Some decoders look into the file when they are made.
            plane.page.decode(None, 0)
        sizes = pixel_sizes(file, [plane.page for plane in planes])
    return list(zip(planes, sizes, strict=True))


def _planes(path: Path, file: TiffFile) -> list[Plane]:
    pages = [page for page in _pages(file) if page.imagelength and page.imagewidth]
    real = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages
    if not real:
        raise ImageFormatError(f"{path} is a TIFF file without an image; make it again")
    planes = [plane for page in real for plane in _of_page(path, page)]
    if len(pages) > 1 or (stacked := _stacked(file, real[0])) == 1:
        return planes
    require_count(path, stacked * len(planes))
    return [
        Plane(plane.page, plane.depth, plane.samples, k * plane.page.nbytes)
        for k in range(stacked)
        for plane in planes
    ]


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
    """Give how many images lie one after another behind a file's only page, as ImageJ has them.

    Of OME-TIFF the series is not asked for: its XML may name other files, which would be opened.
    """
    if not (page.is_imagej or page.is_shaped or page.is_stk) or page.is_ome or not page.is_final:
        return 1
    series = file.series[0]
    if series.dataoffset is None or page.nbytes == 0:
        return 1
    return max(int(series.nbytes // page.nbytes), 1)


def _of_page(path: Path, page: TiffPage) -> list[Plane]:
    """List the images of a page: its depths, and its samples if they are no colours."""
    separate, depths, _, _, contiguous = page.shaped
    samples = separate * contiguous
    require_count(path, samples * depths)
    has_alpha = any(kind in ALPHA for kind in page.extrasamples)
    is_rgb = page.photometric == RGB or (
        page.photometric == YCBCR and page.compression in JPEG_COMPRESSIONS
    )
    groups: list[tuple[int, ...]]
    if is_rgb and samples >= 3:
        groups = [(0, 1, 2, 3) if has_alpha and samples == 4 else (0, 1, 2)]
    elif page.photometric == PALETTE and page.colormap is not None:
        groups = [(0,)]
    elif page.photometric in GREYS or is_rgb:
        groups = [(0, 1)] if has_alpha and samples == 2 else [(k,) for k in range(samples)]
    else:
        raise ImageFormatError(
            f"{path} has colours that cannot be read ({PHOTOMETRIC(page.photometric).name}); "
            "save it as grey or RGB"
        )
    return [Plane(page, depth, group) for depth in range(depths) for group in groups]
