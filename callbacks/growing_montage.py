"""A montage while it is taken: where its tiles lie by now, and the minimap that shows them there.

What it tells is for looking at; the end solves everything once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.documents import ProcessedRun
from callbacks.jobs import Priority, RunJobs
from callbacks.minimap import Minimap, draw_picture
from callbacks.montage_tiles import Take, TileGrid
from processing.matching import Match
from processing.solve import IncrementalSolver

logger = logging.getLogger(__name__)

UPDATE_SECONDS = 0.5


class GrowingMontage:
    """Solves a montage as it grows, and draws its minimap.

    Both are done some times a second, for all that came since: to solve for two tiles takes little
    longer than for one.

    Parameters
    ----------
    grid : TileGrid
    jobs : RunJobs
    minimap : Minimap or None
        None: nothing is drawn.
    """

    def __init__(self, grid: TileGrid, jobs: RunJobs, minimap: Minimap | None) -> None:
        self._grid, self._jobs, self._minimap = grid, jobs, minimap
        self._solver = IncrementalSolver()
        self._tiles: set[int] = set()
        self._minis: dict[int, tuple[NDArray[np.uint8], float]] = {}  # that are not drawn yet
        self._changed, self._next_update = False, 0.0
        self._places = np.full((len(grid.cells), 2), np.nan)

    def add(self, take: Take, mini: NDArray[np.uint8] | None, heat: float) -> None:
        """Add a tile; a take of it before goes, with its matches.

        Parameters
        ----------
        take : Take
        mini : ndarray of uint8 or None
            Its small picture; None if there is none.
        heat : float
            What the heat map shows of it.
        """
        self.remove(take)
        self._solver.add_tile(take.index, self._grid.place(take))
        self._tiles.add(take.index)
        if mini is not None:
            self._minis[take.index] = mini, heat
        self._changed = True

    def remove(self, take: Take) -> None:
        """Remove a tile, if it is there."""
        if take.index in self._tiles:
            self._solver.remove_tile(take.index)
            self._tiles.remove(take.index)

    def match(self, a: Take, b: Take, match: Match) -> None:
        """Take in a good match between two tiles as they were taken last."""
        if match.good and {a.index, b.index} <= self._tiles:
            self._solver.add_match(a.index, b.index, match.drow, match.dcol, match.sd)
            self._changed = True

    def advance(self) -> None:
        """Solve and draw what is new, if it is time for it."""
        now = time.monotonic()
        if self._changed and now >= self._next_update:
            self._changed, self._next_update = False, now + UPDATE_SECONDS
            self._update()

    def finish(self, done: Callable[[], None]) -> None:
        """Solve and draw all that is left, and call `done`."""
        self._update()
        if self._minimap is None:
            done()
            return

        def drawn(picture: Path | None, error: Exception | None) -> None:
            self._drawn(picture, error)
            done()

        self._jobs.submit(drawn, draw_picture, self._minimap.path)

    def _update(self) -> None:
        for index, place in self._solver.update().items():
            self._places[index] = place
        if self._minimap is None:
            return
        for index, (mini, heat) in self._minis.items():
            self._minimap.place(index, mini, self._places[index], heat)
        self._minis.clear()
        self._minimap.move(self._places)
        if self._minimap.picture_due():
            path = self._minimap.path
            self._jobs.submit(self._drawn, draw_picture, path, priority=Priority.IDLE)

    @staticmethod
    def _drawn(picture: Path | None, error: Exception | None) -> None:
        if error is not None:
            logger.warning("the picture of the minimap could not be written: %s", error)


def publish_minimap(
    run: ProcessedRun, grid: TileGrid, path: Path, mini_shape: tuple[int, int], margin: float
) -> Minimap | None:
    """Make the minimap of a montage and publish where it is; None if it cannot be made.

    Parameters
    ----------
    run : ProcessedRun
    grid : TileGrid
    path : Path
        Of its store.
    mini_shape : (int, int)
        (height, width) of a small tile, in px.
    margin : float
        How far tiles may lie outside their nominal places, in px of the camera.
    """
    try:
        minimap = Minimap(
            path,
            grid.nominal,
            tile_shape=grid.shape,
            mini_shape=mini_shape,
            margin=margin,
            cells=grid.cells,
        )
    except OSError as error:
        logger.error("there will be no minimap, %s cannot be made: %s", path, error)
        return None
    x, y = grid.stage((grid.nominal.min(axis=0) + grid.nominal.max(axis=0)) / 2)
    run.arrays(
        "minimap",
        minimap.arrays,
        {
            "minimap_x": float(x),
            "minimap_y": float(y),
            "minimap_pixel_size": float(grid.geometry.pixel_size / minimap.scale[0]),
            "minimap_angle": grid.geometry.angle,
        },
    )
    return minimap
