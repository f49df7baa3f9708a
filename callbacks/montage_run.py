"""One montage on its way through processing: its tiles, what is left to do, what is published.

Used on one thread only; the work itself is done by jobs that the tile processor hands to workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from callbacks.documents import (
    TEXT_LENGTH,
    ExitStatus,
    ProcessedRun,
    boolean,
    integer,
    number,
    text,
)
from callbacks.frames import FrameLocator, FrameReference, LocatedEvent
from callbacks.mosaic import SUFFIX, MosaicFile, MosaicTask, make_mosaic
from callbacks.references import ReferenceFiles, await_references, reference_path
from callbacks.tile_jobs import (
    ProcessedTile,
    ProcessorSettings,
    TileTask,
    match_tiles,
    process_tile,
)
from processing.chain import make_chain
from processing.geometry import FrameGeometry
from processing.matching import Match, MatchTile, Side
from processing.solve import Solution, solve_matches

logger = logging.getLogger(__name__)

PLAN_NAME = "process_montage"
NAN = float("nan")
STREAMS: dict[str, dict[str, Any]] = {
    "tile": {
        "tile_index": integer(),
        "tile_row": integer(),
        "tile_column": integer(),
        "tile_attempt": integer(),
        "tile_x": number("um"),
        "tile_y": number("um"),
        "frame_number": integer(),
        "error": text(),
    },
    "match": {
        "tile_a": integer(),
        "tile_b": integer(),
        "attempt_a": integer(),
        "attempt_b": integer(),
        "drow": number("px"),
        "dcol": number("px"),
        "nominal_drow": number("px"),
        "nominal_dcol": number("px"),
        "sd": number("px"),
        "quality": number(),
        "good": boolean(),
        "reason": text(),
    },
    "position": {
        "tile_index": integer(),
        "row_px": number("px"),
        "column_px": number("px"),
        "x": number("um"),
        "y": number("um"),
        "residual_px": number("px"),
        "placed_by": text(),
    },
    "mosaic": {
        "mosaic_x": number("um"),
        "mosaic_y": number("um"),
        "mosaic_pixel_size": number("nm"),
        "mosaic_angle": number("deg"),
    },
    "montage": {
        "tiles": integer(),
        "tiles_failed": integer(),
        "tiles_retaken": integer(),
        "matches": integer(),
        "matches_good": integer(),
        "matches_outliers": integer(),
        "tiles_placed_by_match": integer(),
        "residual_px_median": number("px"),
        "residual_px_max": number("px"),
        "offset_px_median": number("px"),
        "mosaic_rows": integer("px"),
        "mosaic_columns": integer("px"),
        "mosaic_seconds": number("s"),
        "flat_fielded": boolean(),
    },
}
# The side of a tile on which a neighbour lies, that neighbour's place, and its own side.
NEIGHBOURS: tuple[tuple[Side, tuple[int, int], Side], ...] = (
    ("right", (0, 1), "left"),
    ("bottom", (1, 0), "top"),
    ("left", (0, -1), "right"),
    ("top", (-1, 0), "bottom"),
)


@dataclass(eq=False)
class Job:
    """A call for a worker and, on the processor's thread, what becomes of its result or error."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    done: Callable[[Any, Exception | None], None]


class Processor(Protocol):
    """What a montage needs of the tile processor."""

    settings: ProcessorSettings
    mosaic_root: Path
    reference_root: Path | None

    def submit(self, job: Job, urgent: bool = False) -> None:
        """Queue a job; an urgent one, which frees memory, goes before the others."""

    def publish(self, name: str, doc: dict[str, Any]) -> None:
        """Publish a document."""


@dataclass(eq=False)
class Tile:
    """A tile of a montage as it was taken last."""

    index: int
    row: int
    column: int
    attempt: int
    x: float
    y: float
    frame_number: int
    reference: FrameReference | None
    processed: bool = False
    failed: bool = False
    edges: dict[Side, MatchTile] = field(default_factory=dict)


def tile_figures(settings: ProcessorSettings) -> dict[str, Any]:
    """Describe what is measured of each tile, as data keys."""
    made = make_chain(settings.steps).figures
    described = {
        name: boolean()
        if figure.kind == "boolean"
        else integer(figure.units)
        if figure.kind == "integer"
        else number(figure.units, figure.precision)
        for name, figure in made.items()
    }
    return {**described, "seconds": number("s")}


def _pair(tile: Tile, other: Tile) -> tuple[Tile, Tile]:
    """Put two tiles in the order of their indices."""
    return (tile, other) if tile.index < other.index else (other, tile)


def _origin(solution: Solution) -> NDArray[np.float64]:
    """Give the place of the mosaic's first pixel among the solved positions, (row, column)."""
    return np.asarray(np.floor(solution.positions + 0.5).min(axis=0))


class MontageRun:
    """Follows one raw run, has its tiles processed, and publishes the processed run.

    Parameters
    ----------
    start : mapping
        Start document of the raw run, with `montage` and `calibration`.
    processor : Processor

    Raises
    ------
    KeyError, TypeError, ValueError
        If the start document does not say what is needed.
    """

    def __init__(self, start: dict[str, Any], processor: Processor) -> None:
        montage, calibration = start["montage"], start["calibration"]
        self._geometry = FrameGeometry(
            calibration["pixel_size"],
            calibration.get("angle", 0.0),
            calibration.get("flip_columns", False),
            calibration.get("flip_rows", False),
        )
        self._shape = int(montage["tile_shape"][0]), int(montage["tile_shape"][1])
        self._pitch = float(montage["pitch_px"][0]), float(montage["pitch_px"][1])
        self._index = {
            (int(row), int(column)): index
            for index, (row, column, *_) in enumerate(montage["tiles"])
        }
        self._processor = processor
        self._figures = tile_figures(processor.settings)
        self._no_figures = {
            key: {"number": NAN, "integer": 0, "boolean": False}[value["dtype"]]
            for key, value in self._figures.items()
        }
        self._locator = FrameLocator()
        self._tiles: dict[int, Tile] = {}
        self._matches: dict[tuple[int, int], Match] = {}
        self._matching: set[tuple[Tile, Tile]] = set()
        self._jobs = 0
        self._retaken = 0
        self._exit: tuple[ExitStatus, str] | None = None
        self._finishing = False
        self.stopped = False
        self.tiles_behind = 0
        self._run = ProcessedRun(
            processor.publish,
            PLAN_NAME,
            start,
            {**STREAMS, "tile": {**STREAMS["tile"], **self._figures}},
            {"temline_version": start.get("temline_version", "")},
        )
        self._references: ReferenceFiles | None = None
        self._held: list[Tile] | None = None  # tiles that wait for the references
        self._await_references(start.get("references") or {})

    # What the tile processor calls

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document of the raw run in."""
        if name == "stop":
            self._exit = doc["exit_status"], doc.get("reason", "")
            complete = self._locator.remaining()
        else:
            complete = self._locator(name, doc)
        for located in complete:
            self._take(located)

    def end_early(self, reason: str) -> None:
        """Take the raw run for ended, if it has not."""
        if self._exit is None:
            self._exit = "abort", reason

    def advance(self) -> None:
        """Begin to solve once the raw run has ended and its tiles are matched."""
        if self._exit is not None and not self._jobs and not self._finishing:
            self._finishing = True
            self._solve()

    def stop(self, exit_status: ExitStatus, reason: str) -> None:
        """End the processed run."""
        if not self.stopped:
            self.stopped = True
            self._run.stop(exit_status, reason)

    # Tiles

    def _take(self, located: LocatedEvent) -> None:
        data = located.event["data"]
        if "tile_index" not in data:
            return
        reference = next(iter(located.frames.values()), None)
        tile = Tile(
            index=int(data["tile_index"]),
            row=int(data["tile_row"]),
            column=int(data["tile_column"]),
            attempt=int(data.get("tile_attempt", 1)),
            x=float(data["tile_x"]),
            y=float(data["tile_y"]),
            frame_number=-1 if reference is None or reference.number is None else reference.number,
            reference=reference,
        )
        self.tiles_behind += 1
        if tile.index in self._tiles:
            self._retaken += 1
            self._forget_matches(tile.index)
        self._tiles[tile.index] = tile
        if self._held is None:
            self._process(tile)
        else:
            self._held.append(tile)

    def _process(self, tile: Tile) -> None:
        if tile.reference is None:
            self._tile_done(tile, None, LookupError("no document says where its frame is"))
            return
        self._submit_processing(tile, tile.reference, self._tile_done)

    def _submit_processing(
        self,
        tile: Tile,
        reference: FrameReference,
        done: Callable[[Tile, ProcessedTile | None, Exception | None], None],
    ) -> None:
        """Have a tile read, for the first time or because its neighbour was taken again."""
        widths = {"left": 1, "right": 1, "top": 0, "bottom": 0}
        edges = {
            side: self._shape[widths[side]] - self._pitch[widths[side]] + self._max_offset
            for side, _, _ in self._sides(tile)
        }
        self._submit(
            partial(done, tile),
            process_tile,
            TileTask(reference, self._geometry, references=self._references, edges=edges),
            self._processor.settings,
        )

    @property
    def _max_offset(self) -> int:
        return self._processor.settings.max_offset

    def _tile_done(self, tile: Tile, result: ProcessedTile | None, error: Exception | None) -> None:
        self.tiles_behind -= 1
        if result is not None and result.shape != self._shape:
            error = ValueError(f"the frame is {result.shape} px; the run says {self._shape}")
        failed = result is None or error is not None
        if error is not None:
            logger.warning("tile %d could not be processed: %s", tile.index, error)
        self._run.event(
            "tile",
            {
                "tile_index": tile.index,
                "tile_row": tile.row,
                "tile_column": tile.column,
                "tile_attempt": tile.attempt,
                "tile_x": tile.x,
                "tile_y": tile.y,
                "frame_number": tile.frame_number,
                **(self._no_figures if result is None else result.figures),
                "error": f"{type(error).__name__}: {error}"[:TEXT_LENGTH] if error else "",
            },
        )
        tile.processed, tile.failed = True, failed
        if self._is_current(tile) and result is not None and not failed:
            tile.edges = dict(result.edges)
            self._match_neighbours(tile)

    # Matches

    def _sides(self, tile: Tile) -> Iterator[tuple[Side, int, Side]]:
        """Give the sides that have a neighbour, its index, and its side."""
        for side, (down, across), its_side in NEIGHBOURS:
            index = self._index.get((tile.row + down, tile.column + across))
            if index is not None:
                yield side, index, its_side

    def _match_neighbours(self, tile: Tile) -> None:
        for side, index, its_side in self._sides(tile):
            other = self._tiles.get(index)
            if other is None or not other.processed or other.failed:
                continue
            if self._is_matched(tile, other):
                continue
            if its_side in other.edges:
                self._match(tile, side, other, its_side)
            elif other.reference is not None:
                # It was let go when it was matched with the earlier take of this tile.
                self._submit_processing(other, other.reference, self._read_again)

    def _is_matched(self, tile: Tile, other: Tile) -> bool:
        """Tell whether two tiles are matched or about to be."""
        pair = _pair(tile, other)
        return pair in self._matching or (pair[0].index, pair[1].index) in self._matches

    def _read_again(
        self, tile: Tile, result: ProcessedTile | None, error: Exception | None
    ) -> None:
        if error is not None:
            logger.warning("tile %d could not be read again: %s", tile.index, error)
        if result is not None and self._is_current(tile):
            for side, index, _ in self._sides(tile):
                other = self._tiles.get(index)
                if other is None or not self._is_matched(tile, other):
                    tile.edges[side] = result.edges[side]
            self._match_neighbours(tile)

    def _match(self, tile: Tile, side: Side, other: Tile, its_side: Side) -> None:
        """Match two tiles; their edges are let go as soon as that is done."""
        mine, its = tile.edges.pop(side), other.edges.pop(its_side)
        first, second = _pair(tile, other)
        edges = (mine, its) if first is tile else (its, mine)
        self._matching.add((first, second))
        nominal = self._nominal_offset(first, second)
        self._submit(
            partial(self._matched, first, second, nominal),
            match_tiles,
            *edges,
            nominal,
            self._processor.settings,
            urgent=True,
        )

    def _nominal_offset(self, a: Tile, b: Tile) -> tuple[float, float]:
        down, across = self._geometry.pixel_vector((b.x - a.x, b.y - a.y)).tolist()
        return down, across

    def _matched(
        self,
        a: Tile,
        b: Tile,
        nominal: tuple[float, float],
        match: Match | None,
        error: Exception | None,
    ) -> None:
        self._matching.discard((a, b))
        if match is None:
            logger.warning("tiles %d and %d could not be matched: %s", a.index, b.index, error)
        elif self._is_current(a) and self._is_current(b):
            self._matches[a.index, b.index] = match
        self._run.event(
            "match",
            {
                "tile_a": a.index,
                "tile_b": b.index,
                "attempt_a": a.attempt,
                "attempt_b": b.attempt,
                "drow": NAN if match is None else match.drow,
                "dcol": NAN if match is None else match.dcol,
                "nominal_drow": nominal[0],
                "nominal_dcol": nominal[1],
                "sd": NAN if match is None else match.sd,
                "quality": 0.0 if match is None else match.quality,
                "good": match is not None and match.good,
                "reason": str(error)[:TEXT_LENGTH] if match is None else match.reason,
            },
        )

    def _forget_matches(self, index: int) -> None:
        self._matches = {pair: match for pair, match in self._matches.items() if index not in pair}

    def _is_current(self, tile: Tile) -> bool:
        return self._tiles.get(tile.index) is tile

    # References

    def _await_references(self, uids: Mapping[str, str | None]) -> None:
        root, bright, dark = self._processor.reference_root, uids.get("bright"), uids.get("dark")
        if root is None or not bright:
            return
        files = ReferenceFiles(
            str(reference_path(root, bright)), str(reference_path(root, dark)) if dark else None
        )
        self._held = []
        self._submit(
            partial(self._have_references, files),
            await_references,
            files,
            self._processor.settings.reference_timeout,
        )

    def _have_references(self, files: ReferenceFiles, _: None, error: Exception | None) -> None:
        if error is None:
            self._references = files
        else:
            logger.error("tiles are processed without flat field: %s", error)
        held, self._held = self._held or [], None
        for tile in held:
            self._process(tile)

    # The end

    def _solve(self) -> None:
        for tile in self._tiles.values():
            tile.edges.clear()
        if not self._tiles:
            self._finish(None, None, None)
            return
        tiles = [self._tiles[index] for index in sorted(self._tiles)]
        number_of = {tile.index: i for i, tile in enumerate(tiles)}
        nominal = np.array([self._nominal_offset(tiles[0], tile) for tile in tiles])
        matches = {
            (number_of[a], number_of[b]): match for (a, b), match in sorted(self._matches.items())
        }
        self._submit(
            partial(self._solved, tiles, nominal), solve_matches, nominal, matches, urgent=True
        )

    def _solved(
        self,
        tiles: list[Tile],
        nominal: NDArray[np.float64],
        solution: Solution | None,
        error: Exception | None,
    ) -> None:
        if solution is None:
            self._fail("the montage could not be solved", error)
            return
        stage = np.array([tiles[0].x, tiles[0].y]) + self._geometry.stage_vector(solution.positions)
        for tile, place, (x, y), residual, placed_by in zip(
            tiles,
            solution.positions - _origin(solution),
            stage,
            solution.tile_residuals,
            solution.placed_by,
            strict=True,
        ):
            self._run.event(
                "position",
                {
                    "tile_index": tile.index,
                    "row_px": float(place[0]),
                    "column_px": float(place[1]),
                    "x": float(x),
                    "y": float(y),
                    "residual_px": float(residual),
                    "placed_by": placed_by,
                },
            )
        self._make_mosaic(tiles, nominal, solution)

    def _make_mosaic(
        self, tiles: list[Tile], nominal: NDArray[np.float64], solution: Solution
    ) -> None:
        if all(tile.failed for tile in tiles):
            self._finish(nominal, solution, None)
            return
        task = MosaicTask(
            path=self._processor.mosaic_root / f"{self._run.uid}{SUFFIX}",
            tiles=[None if tile.failed else tile.reference for tile in tiles],
            positions=solution.positions,
            shape=self._shape,
            references=self._references,
            geometry=self._geometry,
            stage=(tiles[0].x, tiles[0].y),
            attributes={"processed_uid": self._run.uid},
        )
        self._submit(
            partial(self._have_mosaic, tiles, nominal, solution),
            make_mosaic,
            task,
            urgent=True,
        )

    def _have_mosaic(
        self,
        tiles: list[Tile],
        nominal: NDArray[np.float64],
        solution: Solution,
        mosaic: MosaicFile | None,
        error: Exception | None,
    ) -> None:
        if mosaic is None:
            self._fail("the mosaic could not be written", error)
            return
        for number_, reason in mosaic.missing.items():
            logger.warning("tile %d is missing in the mosaic: %s", tiles[number_].index, reason)
        height, width = mosaic.arrays[0].shape
        middle = _origin(solution) + (np.array([height, width]) - self._shape) / 2
        x, y = np.array([tiles[0].x, tiles[0].y]) + self._geometry.stage_vector(middle)
        self._run.arrays(
            "mosaic",
            mosaic.arrays,
            {
                "mosaic_x": float(x),
                "mosaic_y": float(y),
                "mosaic_pixel_size": self._geometry.pixel_size,
                "mosaic_angle": self._geometry.angle,
            },
        )
        self._finish(nominal, solution, mosaic)

    def _finish(
        self,
        nominal: NDArray[np.float64] | None,
        solution: Solution | None,
        mosaic: MosaicFile | None,
    ) -> None:
        kept = np.empty(0)
        offsets = np.empty(0)
        if solution is not None and nominal is not None:
            kept = np.delete(solution.residuals, solution.outliers)
            moved = solution.positions - nominal
            offsets = np.hypot(*(moved - moved.mean(axis=0)).T)
        rows, columns = mosaic.arrays[0].shape if mosaic is not None else (0, 0)
        placed = solution.placed_by.count("match") if solution is not None else 0
        self._run.event(
            "montage",
            {
                "tiles": len(self._tiles),
                "tiles_failed": sum(tile.failed for tile in self._tiles.values()),
                "tiles_retaken": self._retaken,
                "matches": len(self._matches),
                "matches_good": sum(match.good for match in self._matches.values()),
                "matches_outliers": len(solution.outliers) if solution is not None else 0,
                "tiles_placed_by_match": placed,
                "residual_px_median": float(np.median(kept)) if len(kept) else NAN,
                "residual_px_max": float(kept.max()) if len(kept) else NAN,
                "offset_px_median": float(np.median(offsets)) if len(offsets) else NAN,
                "mosaic_rows": rows,
                "mosaic_columns": columns,
                "mosaic_seconds": mosaic.seconds if mosaic is not None else NAN,
                "flat_fielded": self._references is not None,
            },
        )
        self.stop(*(self._exit or ("success", "")))

    def _fail(self, what: str, error: Exception | None) -> None:
        logger.error("%s: %s", what, error)
        self.stop("fail", f"{what}: {error}")

    def _submit(
        self,
        done: Callable[[Any, Exception | None], None],
        function: Callable[..., Any],
        *arguments: Any,
        urgent: bool = False,
    ) -> None:
        def finished(result: Any, error: Exception | None) -> None:
            self._jobs -= 1
            if self.stopped:
                return
            try:
                done(result, error)
            except Exception as failure:  # else the run would never end
                logger.exception("processing of a montage failed")
                self._fail("processing failed", failure)

        self._jobs += 1
        self._processor.submit(Job(function, arguments, finished), urgent)
