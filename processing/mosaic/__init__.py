"""Mosaics: tiles at their solved places, blended into one image with a pyramid, block by block.

A block needs the parts of the tiles that touch it and nothing else, so a mosaic may be larger than
the memory, and blocks may be made in any order by any number of workers: each pixel is the same.
"""

from processing.mosaic.layout import (
    BLOCK,
    Layout,
    Window,
    blocks,
    lay_out,
    mosaic_origin,
    plan_mosaic,
    plan_warped_mosaic,
)
from processing.mosaic.levels import display_range, halve, mosaic_levels
from processing.mosaic.rendering import SEAMS, Seam, render

__all__ = [
    "BLOCK",
    "SEAMS",
    "Layout",
    "Seam",
    "Window",
    "blocks",
    "display_range",
    "halve",
    "lay_out",
    "mosaic_levels",
    "mosaic_origin",
    "plan_mosaic",
    "plan_warped_mosaic",
    "render",
]
