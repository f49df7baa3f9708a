"""The end of a montage: all of it is solved once more, and its mosaic is written.

The mosaic's blocks are the least urgent of jobs, so the tiles of a next montage go before them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.documents import ProcessedRun
from callbacks.jobs import Priority, RunJobs
from callbacks.montage_streams import AFFINE, LENS
from callbacks.montage_tiles import Take, TileGrid
from callbacks.mosaic import (
    SUFFIX,
    BlockResult,
    MosaicFile,
    MosaicPlan,
    MosaicTask,
    begin_mosaic,
    drop_mosaic,
    end_mosaic,
    write_block,
)
from callbacks.tile_jobs import ProcessorSettings, StoredTile
from processing.lens.model import terms
from processing.matching import Match
from processing.mosaic import mosaic_origin
from processing.quality import Agreement
from processing.solve import MATCHED, MapSolution, solve_maps_of_matches

logger = logging.getLogger(__name__)

NAN = float("nan")


class EndError(RuntimeError):
    """The end of a montage could not be reached; the message says which step failed, and why."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A montage that is solved.

    Attributes
    ----------
    takes : sequence of Take
        By the index of their tiles.
    nominal : ndarray of float64, shape (n, 2)
        Nominal place of each.
    matches : mapping of (int, int) to Match
        By the indices of tiles, in order.
    solution : MapSolution
        For `takes` and `matches`.
    """

    takes: Sequence[Take]
    nominal: NDArray[np.float64]
    matches: Mapping[tuple[int, int], Match]
    solution: MapSolution

    @cached_property
    def origin(self) -> NDArray[np.float64]:
        """The place of the mosaic's first pixel among the positions, (row, column)."""
        return mosaic_origin(self.solution.maps).astype(np.float64)

    @property
    def positions(self) -> NDArray[np.float64]:
        """(row, column) of each tile's first pixel in px, if it is moved as its middle is."""
        return self.solution.maps.positions

    @property
    def good_matches(self) -> list[tuple[int, int]]:
        """The pairs, by the indices of tiles, that the solution's figures a match are of."""
        return [pair for pair, match in self.matches.items() if match.good]


class MontageEnd:
    """Solves a montage and writes its mosaic, and publishes both.

    Parameters
    ----------
    grid : TileGrid
    run : ProcessedRun
    jobs : RunJobs
    mosaic_root : Path
        Folder of the mosaics.
    settings : ProcessorSettings
        How the tiles were processed.
    solved : callable
        Told of the solution, before the mosaic is begun.
    finished : callable
        Told at the very end: the solution and the mosaic, each None if there is no tile for it; or
        the error.
    """

    def __init__(
        self,
        grid: TileGrid,
        run: ProcessedRun,
        jobs: RunJobs,
        mosaic_root: Path,
        *,
        settings: ProcessorSettings,
        solved: Callable[[Solved], None],
        finished: Callable[[Solved | None, MosaicFile | None, EndError | None], None],
    ) -> None:
        self._grid, self._run, self._jobs = grid, run, jobs
        self._mosaic_root, self._settings = mosaic_root, settings
        self._tell_solved, self._finished = solved, finished
        self._blocks: list[BlockResult] = []
        self._blocks_left = 0
        self._error: Exception | None = None

    def begin(self, takes: Mapping[int, Take], matches: Mapping[tuple[int, int], Match]) -> None:
        """Begin with the takes and matches that count, by the indices of their tiles."""
        if not takes:
            self._finished(None, None, None)
            return
        ordered = [takes[index] for index in sorted(takes)]
        place = {take.index: number for number, take in enumerate(ordered)}
        nominal = np.array([self._grid.place(take) for take in ordered])
        sorted_matches = dict(sorted(matches.items()))
        numbered = {(place[a], place[b]): match for (a, b), match in sorted_matches.items()}
        self._jobs.submit(
            partial(self._have_solution, ordered, nominal, sorted_matches),
            solve_maps_of_matches,
            nominal,
            numbered,
            self._grid.shape,
            self._settings.freedom,
            priority=Priority.URGENT,
        )

    # The solution

    def _have_solution(
        self,
        takes: Sequence[Take],
        nominal: NDArray[np.float64],
        matches: Mapping[tuple[int, int], Match],
        solution: MapSolution | None,
        error: Exception | None,
    ) -> None:
        if solution is None:
            self._fail("the montage could not be solved", error)
            return
        solved = Solved(takes, nominal, matches, solution)
        self._publish_positions(solved)
        self._publish_outliers(solved)
        self._publish_maps(solved)
        self._tell_solved(solved)
        self._make_mosaic(solved)

    def _make_mosaic(self, solved: Solved) -> None:
        """Make the mosaic, if there is a tile for it."""
        if all(take.failed for take in solved.takes):
            self._finished(solved, None, None)
        else:
            self._begin_mosaic(solved)

    def _publish_positions(self, solved: Solved) -> None:
        solution = solved.solution.translation
        places = solved.positions - solved.origin
        stage = self._grid.stage(solved.positions)
        for number, take in enumerate(solved.takes):
            self._run.event(
                "position",
                {
                    "tile_index": take.index,
                    "row_px": float(places[number, 0]),
                    "column_px": float(places[number, 1]),
                    "x": float(stage[number, 0]),
                    "y": float(stage[number, 1]),
                    "sd_row": float(solution.sd[number, 0]),
                    "sd_col": float(solution.sd[number, 1]),
                    "residual_px": float(solved.solution.tile_residuals[number]),
                    "component": int(solution.component[number]),
                    "placed_by": solution.placed_by[number],
                },
            )

    def _publish_outliers(self, solved: Solved) -> None:
        pairs = solved.good_matches
        for number in solved.solution.translation.outliers:
            a, b = pairs[number]
            apart = float(solved.solution.disagreement[number])
            self._run.event("outlier", {"tile_a": a, "tile_b": b, "residual_px": apart})

    def _publish_maps(self, solved: Solved) -> None:
        """Publish what tiles are bent by, if they are."""
        maps = solved.solution.maps
        if solved.solution.model.freedom == "translation":
            return
        origin = [(0.0, 0.0, row) for row in solved.origin]
        for take, matrix in zip(solved.takes, maps.matrices - origin, strict=True):
            numbers = dict(zip(list(AFFINE)[1:], matrix.ravel().tolist(), strict=True))
            self._run.event("affine", {"tile_index": take.index, **numbers})
        if maps.lens is not None:
            rows, columns = maps.lens.coefficients
            for (i, j), row, column in zip(terms(maps.lens.degree), rows, columns, strict=True):
                self._run.event("lens", dict(zip(LENS, (i, j, row, column), strict=True)))

    # The mosaic

    def _begin_mosaic(self, solved: Solved) -> None:
        takes = solved.takes
        task = MosaicTask(
            path=self._mosaic_root / f"{self._run.uid}{SUFFIX}",
            tiles=[
                None if take.failed or take.task is None else StoredTile(take.task, self._settings)
                for take in takes
            ],
            maps=solved.solution.maps,
            geometry=self._grid.geometry,
            stage=(float(self._grid.zero[0]), float(self._grid.zero[1])),
            attributes={"processed_uid": self._run.uid},
        )
        self._jobs.submit(
            partial(self._write_blocks, solved), begin_mosaic, task, priority=Priority.IDLE
        )

    def _write_blocks(
        self, solved: Solved, plan: MosaicPlan | None, error: Exception | None
    ) -> None:
        if plan is None:
            self._fail("the mosaic could not be written", error)
            return
        self._blocks_left = len(plan.blocks)
        for block in plan.blocks:
            self._jobs.submit(
                partial(self._have_block, solved, plan),
                write_block,
                block,
                priority=Priority.IDLE,
            )

    def _have_block(
        self, solved: Solved, plan: MosaicPlan, block: BlockResult | None, error: Exception | None
    ) -> None:
        self._error = self._error or error
        self._blocks_left -= 1
        if block is not None:
            self._blocks.append(block)
        if self._blocks_left:
            return
        if self._error is None:
            self._jobs.submit(
                partial(self._have_mosaic, solved),
                end_mosaic,
                plan,
                self._blocks,
                priority=Priority.IDLE,
            )
        else:
            failed = partial(self._fail, "the mosaic could not be written", self._error)
            self._jobs.submit(lambda *_: failed(), drop_mosaic, plan)

    def _have_mosaic(
        self, solved: Solved, mosaic: MosaicFile | None, error: Exception | None
    ) -> None:
        if mosaic is None:
            self._fail("the mosaic could not be written", error)
            return
        for number, reason in mosaic.missing.items():
            index = solved.takes[number].index
            logger.warning("tile %d is missing in the mosaic: %s", index, reason)
        sides = np.array(mosaic.arrays[0].shape)
        middle = np.array(mosaic.origin) + (sides - self._grid.shape) / 2
        x, y = self._grid.stage(middle)
        self._run.arrays(
            "mosaic",
            mosaic.arrays,
            {
                "mosaic_x": float(x),
                "mosaic_y": float(y),
                "mosaic_pixel_size": self._grid.geometry.pixel_size,
                "mosaic_angle": self._grid.geometry.angle,
            },
        )
        self._finished(solved, mosaic, None)

    def _fail(self, what: str, error: Exception | None) -> None:
        self._finished(None, None, EndError(f"{what}: {error}"))


def summary(
    solved: Solved | None, mosaic: MosaicFile | None, agreement: Agreement | None
) -> dict[str, Any]:
    """Return what the stream `montage` says of a solution and a mosaic."""
    rows, columns = mosaic.arrays[0].shape if mosaic is not None else (0, 0)
    figures = {
        "matches_outliers": 0,
        "matches_rejected_share": 0.0,
        "tiles_placed_by_match": 0,
        "tiles_unplaced": 0,
        "residual_px_median": NAN,
        "residual_px_p95": NAN,
        "residual_px_max": NAN,
        "closing_px_p95": NAN,
        "closing_px_max": NAN,
        "model": "",
        "held_out_px": NAN,
        "held_out_px_translations": NAN,
        "offset_px_median": NAN,
        "mosaic_rows": rows,
        "mosaic_columns": columns,
        "mosaic_seconds": mosaic.seconds if mosaic is not None else NAN,
    }
    if solved is not None and agreement is not None:
        moved = solved.positions - solved.nominal
        trials = solved.solution.trials
        figures |= {
            "matches_outliers": agreement.rejected,
            "matches_rejected_share": agreement.rejected_share,
            "tiles_placed_by_match": solved.solution.translation.placed_by.count(MATCHED),
            "tiles_unplaced": agreement.unplaced,
            "residual_px_median": agreement.median,
            "residual_px_p95": agreement.p95,
            "residual_px_max": agreement.largest,
            "closing_px_p95": agreement.closing_p95,
            "closing_px_max": agreement.closing_largest,
            "model": str(solved.solution.model),
            "held_out_px": trials[-1].held_out_px,
            "held_out_px_translations": trials[0].held_out_px,
            "offset_px_median": float(np.median(np.hypot(*(moved - moved.mean(axis=0)).T))),
        }
    return figures
