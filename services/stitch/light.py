"""What the flat field of a montage is: taken from given images, estimated from its tiles, or none.

What was decided, and why, is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.images import Levels, common_levels, open_images
from formats.tile_images import TileImages
from processing.flatfield import References, make_references
from processing.masks import find_mask
from processing.shading import MIN_TILES, block_levels, estimate_shading
from processing.stitch import worker_threads
from services.errors import PlainError

MAX_SAMPLE = 300  # tiles that light is estimated from


@dataclass(frozen=True, eq=False)
class Light:
    """A flat field.

    Attributes
    ----------
    references : References or None
        None: tiles stay as they are.
    told : str
        Where it comes from, or why there is none.
    """

    references: References | None
    told: str


def given_light(
    bright: Path, dark: Path | None, tiles: TileImages, shape: tuple[int, int]
) -> Light:
    """Make the flat field of images of the beam.

    Parameters
    ----------
    bright, dark : Path
        An image or a stack each; without a dark one its level is taken to be 0.
    tiles : TileImages
    shape : (int, int)
        (height, width) of the tiles, in px.

    Raises
    ------
    PlainError
        If they do not fit the tiles, or each other; `ImageFormatError` if one cannot be read.
    """
    # Numbers of both have to mean what those of tiles do; of a bright image alone only ratios do.
    levels = tiles.levels or (Levels() if dark else None)
    frames = _mean(bright, shape, levels)
    without_beam = np.zeros(shape) if dark is None else _mean(dark, shape, levels)
    try:
        references = make_references(frames, without_beam)
    except ValueError as error:
        raise PlainError(f"{bright}: {error}") from error
    told = f"by {bright.name}" + (f" and {dark.name}" if dark else ", dark level taken for 0")
    return Light(references, told)


def _mean(path: Path, shape: tuple[int, int], levels: Levels | None) -> NDArray[np.float64]:
    """Read the mean of all images of a file."""
    images = open_images(path)
    if images[0].shape != shape:
        sizes = [f"{height} × {width} px" for height, width in (images[0].shape, shape)]
        raise PlainError(f"{path} has {sizes[0]} and tiles {sizes[1]}; they must have one size")
    levels = levels or common_levels(images)
    return np.mean([image.with_levels(levels).read() for image in images], axis=0)


def found_light(
    tiles: TileImages, workers: int, shape: tuple[int, int], on_tile: Callable[[], object]
) -> Light:
    """Estimate the flat field from tiles, if they tell it.

    Parameters
    ----------
    tiles : TileImages
    workers : int
        Threads.
    shape : (int, int)
        (height, width) of a tile, in px.
    on_tile : callable
        Called when a tile has been looked at.

    Raises
    ------
    ImageFormatError
        If a tile cannot be read.
    """
    count = len(tiles.images)
    if count < MIN_TILES:
        return Light(None, f"none; {count} tiles are too few to tell it, {MIN_TILES} at least are")
    chosen = np.linspace(0, count - 1, min(count, MAX_SAMPLE)).astype(int).tolist()

    def look(index: int) -> NDArray[np.float64]:
        tile, mask = tiles.read(index), tiles.read_mask(index)
        levels = block_levels(tile, find_mask(tile) if mask is None else mask)
        on_tile()
        return levels

    with worker_threads(workers) as pool:
        shading = estimate_shading(list(pool.map(look, chosen)))
    if shading is None:
        return Light(None, "none; too few tiles show anything to tell it by")
    figures = f"uneven by {shading.unevenness:.1%}"
    if not shading.is_worth_it:
        return Light(
            None, f"none; light is {figures}, {shading.left:.1%} between halves of the tiles"
        )
    told = f"estimated from {shading.tiles} tiles: {figures}, {shading.left:.1%} in tiles held out"
    return Light(shading.references(shape), told)
