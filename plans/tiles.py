"""Taking the tiles of a grid: go there, settle, expose, record, and again if the camera failed.

What a montage does, and every other plan that covers a grid: only what comes between differs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus, MsgGenerator

from devices import Tile
from plans import names
from plans.exposures import (
    acquisition,
    declare,
    expose,
    let_settle,
    move,
    set_exposure,
)
from plans.image_shift import ShiftedTiles
from plans.safety import illuminated
from processing.geometry import Grid, GridTile

_log = logging.getLogger(__name__)


class TileError(RuntimeError):
    """A tile could not be taken, however often it was tried."""


@dataclass
class TileTaker:
    """Takes tiles of a grid within a run that is open, with the camera staged and the beam on.

    Attributes
    ----------
    camera, stage, scope : device
    grid : Grid
    settle : float
        Seconds to wait after each move.
    retries : int
        How often a tile is tried again, at once, if the camera fails.
    shifts : ShiftedTiles, optional
        The image shift of each tile, if the grid has any.
    defocus : callable, optional
        Gives the defocus of each tile, in µm; as it is set, if it is left out.
    attempts : Counter
        How often each tile was recorded, by its index.
    missing : dict of int to str
        Tiles that were given up, and why: none, as the montage ends with the first.
    waited : float
        Seconds waited before the next tile for the processing to catch up; recorded with it.
    tile : devices.Tile
        Soft device with what is known of the tile; recorded with its frame.
    """

    camera: Any
    stage: Any
    scope: Any
    grid: Grid
    settle: float
    retries: int
    shifts: ShiftedTiles | None = None
    defocus: Callable[[GridTile], float] | None = None
    attempts: Counter[int] = field(default_factory=Counter)
    missing: dict[int, str] = field(default_factory=dict)
    waited: float = 0.0
    tile: Tile = field(default_factory=lambda: Tile(name=names.TILE))

    @property
    def readables(self) -> list[Any]:
        """What is read with each frame."""
        return [self.tile, self.stage, self.scope]

    def declare(self, stream: str = names.PRIMARY) -> MsgGenerator[None]:
        """Describe a stream of tiles' frames."""
        yield from declare(stream, self.camera, *self.readables)

    def take(self, tile: GridTile, then: GridTile | None = None) -> MsgGenerator[None]:
        """Take a tile, as an event of the primary stream; try again at once if the camera fails.

        Parameters
        ----------
        tile : GridTile
        then : GridTile, optional
            What is likely to be taken next: the stage leaves for it while the camera reads out.

        Raises
        ------
        TileError
            If the camera failed each time.
        bluesky.utils.FailedStatus
            If something else failed.
        """
        for remaining in reversed(range(self.retries + 1)):
            try:
                yield from bps.checkpoint()
                yield from self._go(tile)
                yield from expose(
                    self.camera, self.readables, names.PRIMARY, self._ahead(tile, then)
                )
            except FailedStatus as error:
                if not self._is_camera_fault(error):
                    raise
                if not remaining:
                    raise TileError(self._given_up(tile, error)) from error
                _log.warning("tile %d is taken again: %s", tile.index, error)
            else:
                self.attempts[tile.index] += 1
                self.waited = 0.0
                return

    def place(self, tile: GridTile) -> dict[Any, Any]:
        """Give where the devices have to be for the next attempt at a tile."""
        known = about_tile(tile, self.attempts[tile.index] + 1, self.waited)
        place: dict[Any, Any] = {
            self.tile: known,
            self.stage.x: tile.stage_x,
            self.stage.y: tile.stage_y,
        }
        if self.shifts is not None:
            place |= self.shifts.place(tile)
        if self.defocus is not None:
            place[self.scope.defocus] = self.defocus(tile)
        return place

    def _go(self, tile: GridTile) -> MsgGenerator[None]:
        """Go to a tile and settle; what is set beside the stage settles from when all are there."""
        place = self.place(tile)
        axes = (self.stage.x, self.stage.y)
        if place.keys() - {self.tile, *axes}:
            yield from move(place, self.settle)
        else:
            yield from move(place, 0)
            yield from let_settle(axes, self.settle)

    def _ahead(self, tile: GridTile, then: GridTile | None) -> dict[Any, float]:
        """Give where the stage may leave for; nowhere if it can stay."""
        if then is None:
            return {}
        axes = {
            self.stage.x: (tile.stage_x, then.stage_x),
            self.stage.y: (tile.stage_y, then.stage_y),
        }
        return {axis: there for axis, (here, there) in axes.items() if here != there}

    def _is_camera_fault(self, error: FailedStatus) -> bool:
        return bool(error.args) and getattr(error.args[0], "device", None) is self.camera

    def _given_up(self, tile: GridTile, error: FailedStatus) -> str:
        return (
            f"tile {tile.index} (row {tile.row}, column {tile.column}) could not be taken in "
            f"{self.retries + 1} attempts: {error}. {len(+self.attempts)} of "
            f"{len(self.grid.tiles)} tiles are on disk; put the camera right and take the rest"
        )


def about_tile(tile: GridTile, attempt: int, waited: float) -> dict[str, Any]:
    """Give what an event says of a tile, by the attributes of `devices.Tile`."""
    return {
        "index": tile.index,
        "row": tile.row,
        "column": tile.column,
        "attempt": attempt,
        "x": tile.x,
        "y": tile.y,
        "waited": waited,
    }


def take_grid(
    taker: TileTaker, metadata: Mapping[str, Any], exposure: float | None = None
) -> MsgGenerator[str]:
    """Take each tile of a grid once, in a run of its own, and leave the microscope safe.

    Parameters
    ----------
    taker : TileTaker
    metadata : mapping
        For the start document; `describe_grid` gives its `montage`.
    exposure : float, optional
        In s; as the camera is set, if it is left out.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    TileError
        If a tile could not be taken.
    """

    def take_all() -> MsgGenerator[None]:
        tiles = taker.grid.tiles
        for tile, then in zip(tiles, [*tiles[1:], None], strict=True):
            yield from taker.take(tile, then)

    def inner_grid(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(taker.camera, exposure)
        yield from taker.declare()
        yield from illuminated(take_all(), taker.scope)

    uid, _ = yield from acquisition(inner_grid, metadata, taker.camera, taker.scope)
    return str(uid)


def describe_grid(grid: Grid, overlap: float, min_overlap: float = 0.0) -> dict[str, Any]:
    """Describe a grid as it stands in the `montage` of a start document.

    Parameters
    ----------
    grid : Grid
    overlap : float
        In percent, as it was asked for.
    min_overlap : float
        In µm, as it was asked for.

    Returns
    -------
    dict
        Plain data; `tiles` are [row, column, x, y] in the order of taking, `pitch_px` is along
        rows and columns. If they are taken in blocks, `shifts_um` are the parts of x and y that
        are image shift.
    """
    blocks = {
        "block": grid.block,
        "shifts_um": [[tile.shift_x, tile.shift_y] for tile in grid.tiles],
    }
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "tile_shape": list(grid.shape),
        "overlap_percent": float(overlap),
        "min_overlap_um": float(min_overlap),
        "pitch_px": [float(step) for step in grid.pitch],
        "pattern": grid.pattern,
        "n_tiles": len(grid.tiles),
        "skipped": [list(place) for place in grid.skipped],
        "tiles": [[tile.row, tile.column, tile.x, tile.y] for tile in grid.tiles],
        **(blocks if grid.pattern == "blocks" else {}),
    }
