"""The grid of tiles that covers a region, in the order in which they are taken.

The grid lies along the image's axes, because frames that are turned against it would not abut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from processing.geometry.blocks import Place, walk_blocks
from processing.geometry.frame import FrameGeometry
from processing.geometry.image_shift import ImageShift
from processing.geometry.region import Region

Pattern = Literal["raster", "serpentine", "blocks"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
MAX_OVERLAP_PERCENT = 90.0
MAX_TILES = 100_000
MAX_BLOCK = 15
"""Tiles along the side of a block: more than any image shift reaches."""

_DECIMALS = 6  # of a stage position in µm; beyond them is the rounding of what it is made of


@dataclass(frozen=True)
class GridTile:
    """One place of a montage: the middle of a tile, and how it is reached.

    Attributes
    ----------
    index : int
        In the order of taking.
    row, column : int
        In the grid.
    x, y : float
        Its middle, as stage coordinates, in µm.
    shift_x, shift_y : float
        How much of that is image shift, along stage x and y in µm; the stage goes the rest of the
        way.
    """

    index: int
    row: int
    column: int
    x: float
    y: float
    shift_x: float = 0.0
    shift_y: float = 0.0

    @property
    def stage_x(self) -> float:
        """Stage x for this tile, in µm: the very same number for all tiles of a block."""
        return round(self.x - self.shift_x, _DECIMALS)

    @property
    def stage_y(self) -> float:
        """Stage y for this tile, in µm: the very same number for all tiles of a block."""
        return round(self.y - self.shift_y, _DECIMALS)


@dataclass(frozen=True)
class Grid:
    """The tiles of a montage and what they were laid out by.

    Attributes
    ----------
    rows, columns : int
        Size of the whole grid, skipped tiles included.
    shape : (int, int)
        (height, width) of a tile in px.
    pitch : (float, float)
        Distance between neighbours along rows and along columns, in px.
    geometry : FrameGeometry
    pattern : {"raster", "serpentine", "blocks"}
    tiles : tuple of GridTile
        In the order of taking; their indices are 0, 1, 2, …
    skipped : tuple of (int, int)
        (row, column) of the places that the region does not touch.
    block : int
        Tiles along the side of a block that is taken at one stage position; 1 but for "blocks".
    """

    rows: int
    columns: int
    shape: tuple[int, int]
    pitch: tuple[float, float]
    geometry: FrameGeometry
    pattern: Pattern
    tiles: tuple[GridTile, ...]
    skipped: tuple[tuple[int, int], ...] = field(default=())
    block: int = 1

    def passes(self) -> Iterator[list[GridTile]]:
        """Give the tiles pass by pass over the region: by rows, or by rows of blocks."""
        for _, tiles in groupby(self.tiles, lambda tile: tile.row // self.block):
            yield list(tiles)

    @property
    def overlap_px(self) -> tuple[float, float]:
        """Overlap between vertical neighbours and between horizontal ones, in px."""
        return self.shape[0] - self.pitch[0], self.shape[1] - self.pitch[1]

    def neighbours(self) -> Iterator[tuple[GridTile, GridTile]]:
        """Give each pair (tile, the one to its right) and (tile, the one below it)."""
        places = {(tile.row, tile.column): tile for tile in self.tiles}
        for (row, column), tile in places.items():
            for place in ((row, column + 1), (row + 1, column)):
                if place in places:
                    yield tile, places[place]


def plan_grid(
    region: Region,
    geometry: FrameGeometry,
    shape: tuple[int, int],
    *,
    overlap: float = 10.0,
    min_overlap: float = 0.0,
    pattern: Pattern = "serpentine",
    block: int = 3,
    image_shift: ImageShift | None = None,
) -> Grid:
    """Lay the fewest tiles over a region that cover it with the overlap asked for.

    Parameters
    ----------
    region : Region
        What to cover. A tile that does not touch it is skipped.
    geometry : FrameGeometry
        Pixel size, angle and flips of the frames.
    shape : (int, int)
        (height, width) of a frame, in px.
    overlap : float
        Overlap between neighbours in percent of a tile, 0 to 90.
    min_overlap : float
        The least overlap in µm; the larger of the two counts.
    pattern : {"raster", "serpentine", "blocks"}
        Whether each row runs the same way, or every second row runs back; or blocks of tiles are
        taken from one stage position each, by image shift. The blocks then run back in every
        second row of them, and each begins with the image shift that the one before ended with.
    block : int
        Tiles along the side of a block, 1 to 15; it counts for "blocks" only.
    image_shift : ImageShift, optional
        How far the image shift may reach, for "blocks"; as `ImageShift` has it, if it is left out.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If an argument is out of its range or the montage would have over 100 000 tiles; the
        message names the argument, what it was and what is allowed.
    """
    pitch = _pitch(geometry, shape, overlap, min_overlap)
    if pattern not in PATTERNS:
        raise ValueError(f"pattern is {pattern!r}; it must be one of {', '.join(PATTERNS)}")
    if pattern != "blocks":
        block = 1
    elif not 1 <= block <= MAX_BLOCK:
        raise ValueError(f"block is {block}; it must lie between 1 and {MAX_BLOCK}")

    # In the image's axes, about the first corner, the region is a box of whole tiles.
    origin = np.asarray(region.vertices[0])
    corners = geometry.pixel_vector(np.asarray(region.vertices) - origin)
    low, high = corners.min(axis=0), corners.max(axis=0)
    rows, columns = (
        1 + max(0, ceil((extent - side) / step - 1e-9))
        for extent, side, step in zip(high - low, shape, pitch, strict=True)
    )
    if rows * columns > MAX_TILES:
        raise ValueError(
            f"roi needs {rows} × {columns} tiles; at most {MAX_TILES} are allowed: "
            "take a smaller region, less overlap or a lower magnification"
        )
    if pattern == "blocks":
        _check_reach(block, (rows, columns), pitch, geometry, image_shift or ImageShift())

    middle = (low + high) / 2
    outline = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * np.asarray(shape) / 2
    centres: dict[Place, NDArray[np.float64]] = {}
    skipped: list[Place] = []
    for row in range(rows):
        backwards = pattern == "serpentine" and row % 2
        for column in reversed(range(columns)) if backwards else range(columns):
            place = np.array([row - (rows - 1) / 2, column - (columns - 1) / 2]) * pitch
            centre = middle + place
            if region.overlaps(origin + geometry.stage_vector(centre + outline)):
                centres[row, column] = origin + geometry.stage_vector(centre)
            else:
                skipped.append((row, column))
    if pattern == "blocks":
        tiles = _tiles_in_blocks(centres, block, pitch, geometry)
    else:
        tiles = (
            GridTile(index, *place, *map(float, centre))
            for index, (place, centre) in enumerate(centres.items())
        )
    return Grid(
        rows,
        columns,
        (shape[0], shape[1]),
        pitch,
        geometry,
        pattern,
        tuple(tiles),
        tuple(skipped),
        block,
    )


def _tiles_in_blocks(
    centres: Mapping[Place, NDArray[np.float64]],
    block: int,
    pitch: tuple[float, float],
    geometry: FrameGeometry,
) -> Iterable[GridTile]:
    for index, (place, steps) in enumerate(walk_blocks(centres, block, pitch)):
        shift = geometry.stage_vector(np.multiply(steps, pitch))
        yield GridTile(index, *place, *map(float, (*centres[place], *shift)))


def _check_reach(
    block: int,
    size: tuple[int, int],
    pitch: tuple[float, float],
    geometry: FrameGeometry,
    image_shift: ImageShift,
) -> None:
    """Refuse blocks whose corner tiles the image shift may not reach."""

    def reach(side: int) -> float:
        corner = [
            (min(side, count) - 1) / 2 * step for count, step in zip(size, pitch, strict=True)
        ]
        return float(np.hypot(*geometry.stage_vector(corner)))

    if reach(block) > image_shift.most_shift:
        largest = max(side for side in range(1, block) if reach(side) <= image_shift.most_shift)
        raise ValueError(
            f"block is {block}, and its corner tiles need an image shift of {reach(block):.3g} µm; "
            f"it may be {image_shift.most_shift:g} µm at most: block must be {largest} or less here"
        )


def _pitch(
    geometry: FrameGeometry, shape: tuple[int, int], overlap: float, min_overlap: float
) -> tuple[float, float]:
    """Give the distance between neighbours along rows and columns, in px."""
    if not 0 <= overlap <= MAX_OVERLAP_PERCENT:
        raise ValueError(f"overlap is {overlap} %; it must lie between 0 and {MAX_OVERLAP_PERCENT}")
    smallest = float(geometry.size(shape).min())
    if not 0 <= min_overlap < smallest * MAX_OVERLAP_PERCENT / 100:
        raise ValueError(
            f"min_overlap is {min_overlap} µm; it must lie between 0 and "
            f"{smallest * MAX_OVERLAP_PERCENT / 100:.3g} µm, {MAX_OVERLAP_PERCENT:g} % of a tile"
        )
    least = min_overlap * 1000 / geometry.pixel_size
    down, across = (side - max(side * overlap / 100, least) for side in shape)
    return down, across
