"""The grid of tiles that covers a region, in the order in which they are taken.

The grid lies along the image's axes, because frames that are turned against it would not abut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

import numpy as np

from processing.geometry.frame import FrameGeometry
from processing.geometry.region import Region

Pattern = Literal["raster", "serpentine"]
PATTERNS: tuple[Pattern, ...] = ("raster", "serpentine")
MAX_OVERLAP_PERCENT = 90.0
MAX_TILES = 100_000


@dataclass(frozen=True)
class GridTile:
    """One place of a montage: its index in the order of taking, row, column, and stage (x, y)."""

    index: int
    row: int
    column: int
    x: float
    y: float


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
    pattern : {"raster", "serpentine"}
    tiles : tuple of GridTile
        In the order of taking; their indices are 0, 1, 2, …
    skipped : tuple of (int, int)
        (row, column) of the places that the region does not touch.
    """

    rows: int
    columns: int
    shape: tuple[int, int]
    pitch: tuple[float, float]
    geometry: FrameGeometry
    pattern: Pattern
    tiles: tuple[GridTile, ...]
    skipped: tuple[tuple[int, int], ...] = field(default=())

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
    pattern : {"raster", "serpentine"}
        Whether each row runs the same way, or every second row runs back.

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

    middle = (low + high) / 2
    outline = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * np.asarray(shape) / 2
    tiles: list[GridTile] = []
    skipped: list[tuple[int, int]] = []
    for row in range(rows):
        backwards = pattern == "serpentine" and row % 2
        for column in reversed(range(columns)) if backwards else range(columns):
            place = np.array([row - (rows - 1) / 2, column - (columns - 1) / 2]) * pitch
            centre = middle + place
            if region.overlaps(origin + geometry.stage_vector(centre + outline)):
                x, y = (origin + geometry.stage_vector(centre)).tolist()
                tiles.append(GridTile(len(tiles), row, column, x, y))
            else:
                skipped.append((row, column))
    return Grid(
        rows, columns, (shape[0], shape[1]), pitch, geometry, pattern, tuple(tiles), tuple(skipped)
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
