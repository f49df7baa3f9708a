"""The tiles of a montage: where each lies, which are neighbours, and what is known of each take.

A take is one exposure of a tile; a tile that is taken again has a new one, which replaces the old.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.frames import FrameReference, LocatedEvent
from callbacks.tile_jobs import TileTask
from processing.geometry import FrameGeometry
from processing.matching import MatchTile, Side

TAKEN = "primary"  # the stream of tiles in the raw run
# The side of a tile on which a neighbour lies, that neighbour's place, and its own side.
NEIGHBOURS: tuple[tuple[Side, tuple[int, int], Side], ...] = (
    ("right", (0, 1), "left"),
    ("bottom", (1, 0), "top"),
    ("left", (0, -1), "right"),
    ("top", (-1, 0), "bottom"),
)
ACROSS: Mapping[Side, int] = {"left": 1, "right": 1, "top": 0, "bottom": 0}


@dataclass(eq=False)
class Take:
    """A tile as it was taken once.

    Attributes
    ----------
    number : int
        Its place in the order of all takes, from 0.
    index : int
        Of the tile.
    row, column : int
        Of the tile, in the grid.
    attempt : int
        How often the tile was taken, this time included.
    x, y : float
        Stage position, in µm.
    frame_number : int
        The camera's; −1 if it is not known.
    time : float
        When it was taken, in s since 1970.
    reference : FrameReference or None
        Where its frame is, if a document says so.
    task : TileTask or None
        What the workers were asked to do with it.
    failed : bool
        Whether that failed.
    edges : dict
        What matching needs, by side, until it is done.
    """

    number: int
    index: int
    row: int
    column: int
    attempt: int
    x: float
    y: float
    frame_number: int
    time: float
    reference: FrameReference | None
    task: TileTask | None = None
    failed: bool = False
    edges: dict[Side, MatchTile] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """What an event of the stream `tile` says of it before it is processed."""
        return {
            "tile_index": self.index,
            "tile_row": self.row,
            "tile_column": self.column,
            "tile_attempt": self.attempt,
            "tile_x": self.x,
            "tile_y": self.y,
            "frame_number": self.frame_number,
        }


def read_take(located: LocatedEvent, number: int) -> Take | None:
    """Make a take of an event of the raw run; None if it is not one of a tile."""
    data = located.event["data"]
    if located.stream != TAKEN or "tile_index" not in data:
        return None  # such as the frames of an autofocus, which are named after the tile to come
    reference = next(iter(located.frames.values()), None)
    return Take(
        number=number,
        index=int(data["tile_index"]),
        row=int(data["tile_row"]),
        column=int(data["tile_column"]),
        attempt=int(data.get("tile_attempt", 1)),
        x=float(data["tile_x"]),
        y=float(data["tile_y"]),
        frame_number=-1 if reference is None or reference.number is None else reference.number,
        time=float(located.event["time"]),
        reference=reference,
    )


class TileGrid:
    """The layout of a montage, from the start document of its raw run.

    Places are (row, column) of a tile's first pixel in px, from that of the first tile of the plan.

    Parameters
    ----------
    montage : mapping
        Of the start document.
    geometry : FrameGeometry
        Of the tiles as they are matched.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or is no number.

    Attributes
    ----------
    geometry : FrameGeometry
    shape : (int, int)
        (height, width) of a tile, in px.
    cells : list of (int, int)
        (row, column) of each tile in the grid, by index.
    nominal : ndarray of float64, shape (n, 2)
        Planned place of each tile, by index.
    zero : ndarray of float64, shape (2,)
        Stage (x, y) of a tile at the place (0, 0), in µm.
    """

    def __init__(self, montage: Mapping[str, Any], geometry: FrameGeometry) -> None:
        self.geometry = geometry
        self.shape = int(montage["tile_shape"][0]), int(montage["tile_shape"][1])
        self._pitch = float(montage["pitch_px"][0]), float(montage["pitch_px"][1])
        self.cells = [(int(row), int(column)) for row, column, *_ in montage["tiles"]]
        self._index = {cell: index for index, cell in enumerate(self.cells)}
        stage = np.array([[x, y] for _, _, x, y in montage["tiles"]], dtype=float).reshape(-1, 2)
        self.zero = stage[0] if len(stage) else np.zeros(2)
        self.nominal = geometry.pixel_vector(stage - self.zero)

    def neighbours(self, tile: Take) -> Iterator[tuple[Side, int, Side]]:
        """Give the sides of a tile that have a neighbour, its index, and its side."""
        for side, (down, across), its_side in NEIGHBOURS:
            index = self._index.get((tile.row + down, tile.column + across))
            if index is not None:
                yield side, index, its_side

    def edges(self, tile: Take, max_offset: float) -> dict[Side, float]:
        """Give how wide an edge matching needs, for each side that has a neighbour, in px."""
        return {
            side: self.shape[ACROSS[side]] - self._pitch[ACROSS[side]] + max_offset
            for side, _, _ in self.neighbours(tile)
        }

    def place(self, take: Take) -> NDArray[np.float64]:
        """Give the place of a take by its stage position."""
        return np.asarray(self.geometry.pixel_vector(np.array([take.x, take.y]) - self.zero))

    def offset(self, a: Take, b: Take) -> tuple[float, float]:
        """Give the place of b minus that of a by their stage positions."""
        down, across = self.geometry.pixel_vector((b.x - a.x, b.y - a.y)).tolist()
        return down, across

    def stage(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the stage (x, y), in µm, at which a tile would lie at a place."""
        return np.asarray(self.zero + self.geometry.stage_vector(places))
