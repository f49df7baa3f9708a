"""One montage on its way through processing: from the documents of its raw run to those of its own.

Used on one thread only. The parts that it puts together each have a module: the tiles' order, the
matches between neighbours, the verdicts, and the end with its solution and mosaic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from callbacks.corrections import Corrections
from callbacks.documents import TEXT_LENGTH, ExitStatus, ProcessedRun
from callbacks.folders import DataFolders
from callbacks.frames import FrameLocator, LocatedEvent
from callbacks.growing_montage import GrowingMontage, publish_minimap
from callbacks.in_order import InOrder
from callbacks.jobs import RunJobs, Workers
from callbacks.minimap import SUFFIX, Minimap
from callbacks.montage_end import EndError, MontageEnd, Solved, summary
from callbacks.montage_streams import PLAN_NAME, montage_streams, no_figures
from callbacks.montage_tiles import Take, TileGrid, read_take
from callbacks.mosaic import MosaicFile
from callbacks.processed_file import ProcessedFile, Row
from callbacks.tile_jobs import ProcessedTile, ProcessorSettings, TileTask, process_tile
from callbacks.tile_matcher import TileMatcher
from processing.chain import ArraySpec, Chain, make_chain
from processing.geometry import FrameGeometry
from processing.matching import Match
from processing.quality import Agreement, Fault, Judge, Thresholds

logger = logging.getLogger(__name__)

NAN = float("nan")
MINI = "mini"
WINDOW = 4  # tiles that may be begun before the first of them is done, for each in flight


class Processor(Workers, Protocol):
    """What a montage needs of the tile processor."""

    settings: ProcessorSettings
    thresholds: Thresholds
    folders: DataFolders

    @property
    def tiles_behind(self) -> int:
        """Tiles that were taken and are not published yet, of all montages."""

    def publish(self, name: str, doc: dict[str, Any]) -> None:
        """Publish a document."""


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
        settings = processor.settings
        chain = make_chain(settings.steps)
        self._camera_geometry = FrameGeometry.from_mapping(start["calibration"])
        self._grid = TileGrid(start["montage"], chain.geometry(self._camera_geometry))
        self._no_figures = no_figures(chain)
        arrays = settings.outputs(self._grid.shape)
        self._processor, self._settings = processor, settings
        self._locator = FrameLocator()
        self._exit: tuple[ExitStatus, str] | None = None
        self._finishing = False
        self.stopped = False
        self._n_takes = 0
        self._jobs = RunJobs(processor, partial(self._fail, "processing failed"))
        self._order: InOrder[Take, ProcessedTile] = InOrder(
            self._process, self._processed, WINDOW * settings.max_in_flight
        )
        self._matcher = TileMatcher(self._grid, self._jobs, settings, self._matched)
        self._judge = Judge(processor.thresholds, len(self._grid.cells))
        self._run = ProcessedRun(
            processor.publish,
            PLAN_NAME,
            start,
            montage_streams(chain),
            {
                "calibration": {**start["calibration"], **self._grid.geometry.to_dict()},
                "temline_version": start.get("temline_version", ""),
            },
        )
        self._file = self._make_file(arrays)
        self._growing = GrowingMontage(self._grid, self._jobs, self._make_minimap(chain))
        self._corrections = Corrections(start.get("references") or {}, processor.folders)
        raw, processed = self._camera_geometry, self._grid.geometry
        flips = (
            raw.flip_rows != processed.flip_rows,
            raw.flip_columns != processed.flip_columns,
        )
        self._corrections.wait(
            self._jobs, settings.reference_timeout, self._grid.shape, flips, self._order.open
        )

    # What the tile processor calls

    @property
    def tiles_behind(self) -> int:
        """Tiles that were taken and are not published yet."""
        return len(self._order)

    @property
    def is_acquired(self) -> bool:
        """Whether the raw run has ended."""
        return self._exit is not None

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
        """Do what is due: show what is new; end, once the raw run has and its tiles are matched."""
        self._growing.advance()
        if self.is_acquired and not (self._jobs.pending or self._order or self._finishing):
            self._finishing = True
            self._end()

    def stop(self, exit_status: ExitStatus, reason: str) -> None:
        """End the processed run."""
        if not self.stopped:
            self.stopped = True
            self._jobs.close()
            self._finish_file()
            self._run.stop(exit_status, reason)

    # Where tiles are kept

    def _make_file(self, arrays: Mapping[str, ArraySpec]) -> ProcessedFile | None:
        """Make the file of the processed arrays; without it the rest is processed all the same."""
        if not arrays:
            return None
        path = self._processor.folders.processed / f"{self._run.uid}.h5"
        try:
            file = ProcessedFile(
                path, arrays, len(self._grid.cells), {"processed_uid": self._run.uid}
            )
        except OSError as error:
            logger.error("processed tiles are not kept, %s cannot be made: %s", path, error)
            return None
        self._run.keep("tile", file.stored)
        return file

    def _finish_file(self) -> None:
        """Take the rows away that no tile came for; they do no harm if that is not possible."""
        if self._file is not None:
            try:
                self._file.finish(self._n_takes)
            except OSError as error:
                logger.warning("%s keeps empty rows at its end: %s", self._file.path, error)

    def _make_minimap(self, chain: Chain) -> Minimap | None:
        """Make the minimap, if the chain makes what it shows."""
        mini = chain.arrays(self._grid.shape).get(MINI)
        if mini is None or not self._grid.cells:
            return None
        path = self._processor.folders.minimaps / f"{self._run.uid}{SUFFIX}"
        height, width = mini.shape
        return publish_minimap(
            self._run, self._grid, path, (height, width), float(self._settings.max_offset)
        )

    # Tiles

    def _take(self, located: LocatedEvent) -> None:
        take = read_take(located, self._n_takes)
        if take is not None:
            self._n_takes += 1
            self._matcher.add(take)
            self._order.add(take)

    def _process(self, take: Take) -> None:
        done = partial(self._order.done, take)
        if take.reference is None:
            done(None, LookupError("no document says where its frame is"))
            return
        try:
            row = self._row(take)
        except OSError as error:
            done(None, error)
            return
        take.task = TileTask(
            take.reference,
            self._camera_geometry,
            row,
            self._corrections.references,
            self._corrections.lens,
            edges=self._grid.edges(take, self._settings.max_offset),
        )
        self._jobs.submit(done, process_tile, take.task, self._settings)

    def _row(self, take: Take) -> Row | None:
        return None if self._file is None else self._file.row(take.number)

    def _processed(self, take: Take, result: ProcessedTile | None, error: Exception | None) -> None:
        """Publish a tile, in the order in which they were taken, and have it matched."""
        if result is not None and result.shape != self._grid.shape:
            error = ValueError(f"the frame is {result.shape} px; the run says {self._grid.shape}")
        if error is not None:
            take.failed = True
            logger.warning("tile %d could not be processed: %s", take.index, error)
        self._publish_tile(take, {} if result is None else result.figures, error)
        if not self._matcher.is_current(take):
            return
        if result is None or take.failed:
            self._growing.remove(take)
        else:
            focus = float(result.figures.get("focus", NAN))
            self._growing.add(take, result.arrays.get(MINI), focus)
            self._matcher.match(take, result)

    def _publish_tile(
        self, take: Take, figures: Mapping[str, float | bool], error: Exception | None
    ) -> None:
        data = {
            **take.data,
            **self._no_figures,
            "seconds": NAN,
            **figures,
            "error": f"{type(error).__name__}: {error}"[:TEXT_LENGTH] if error else "",
        }
        verdict = self._judge.tile(data)
        data |= {
            "verdict": verdict.verdict,
            "faults": verdict.names,
            "severity": verdict.severity,
            "confidence": verdict.confidence,
            "latency": time.time() - take.time,
            "behind": self._processor.tiles_behind,
        }
        self._run.event("tile", data)
        for fault in verdict.faults:
            self._run.event("fault", _fault_data(take, fault))

    # Matches

    def _matched(
        self,
        a: Take,
        b: Take,
        nominal: tuple[float, float],
        match: Match | None,
        error: Exception | None,
    ) -> None:
        data = _match_data(a, b, nominal, match, error)
        self._run.event("match", data)
        if match is not None and self._matcher.is_current(a) and self._matcher.is_current(b):
            self._growing.match(a, b, match)
        for index, fault in self._judge.match(data):
            self._run.event("fault", _fault_data(self._matcher.takes[index], fault))

    # The end

    def _end(self) -> None:
        self._matcher.clear()
        end = MontageEnd(
            self._grid,
            self._run,
            self._jobs,
            self._processor.folders.mosaics,
            settings=self._settings,
            solved=self._solved,
            finished=self._finished,
        )
        self._growing.finish(partial(end.begin, self._matcher.takes, self._matcher.matches))

    def _solved(self, solved: Solved) -> None:
        for index, verdict in self._judge.verdicts().items():
            data = {"tile_index": index, "verdict": verdict.verdict, "faults": verdict.names}
            self._run.event("verdict", data)

    def _finished(
        self, solved: Solved | None, mosaic: MosaicFile | None, error: EndError | None
    ) -> None:
        if error is not None:
            logger.error("%s", error)
            self.stop("fail", str(error))
            return
        takes, matches = self._matcher.takes.values(), self._matcher.matches.values()
        agreement = None if solved is None else self._agreement(solved)
        data = summary(solved, mosaic, agreement)
        judgement = self._judge.montage(agreement)
        self._run.event(
            "montage",
            {
                "tiles": len(takes),
                "tiles_failed": sum(take.failed for take in takes),
                "tiles_retaken": self._n_takes - len(takes),
                "matches": len(matches),
                "matches_good": sum(match.good for match in matches),
                **data,
                "flat_fielded": self._corrections.references is not None,
                "lens_corrected": self._corrections.lens is not None,
                "go": judgement.go,
                "reasons": "; ".join(judgement.reasons)[:TEXT_LENGTH],
            },
        )
        self.stop(*(self._exit or ("success", "")))

    def _agreement(self, solved: Solved) -> Agreement:
        """Sum up how well a solution agrees with its matches."""
        textured = self._judge.textured()
        shows = np.array([textured.get(take.index, True) for take in solved.takes])
        return Agreement.of(solved.solution, shows)

    def _fail(self, what: str, error: Exception) -> None:
        logger.error("%s: %s", what, error)
        self.stop("fail", f"{what}: {error}")


def _fault_data(take: Take, fault: Fault) -> dict[str, Any]:
    """Give the data of an event of the stream `fault`."""
    return {
        "tile_index": take.index,
        "tile_attempt": take.attempt,
        "fault": fault.name,
        "severity": fault.severity,
        "confidence": fault.confidence,
        "scope": fault.scope,
        "value": fault.value,
        "limit": fault.limit,
    }


def _match_data(
    a: Take,
    b: Take,
    nominal: tuple[float, float],
    match: Match | None,
    error: Exception | None,
) -> dict[str, Any]:
    """Give the data of an event of the stream `match`."""
    if match is None:
        inf = float("inf")
        match = Match(NAN, NAN, inf, 0.0, False, "", NAN, 0)
    return {
        "tile_a": a.index,
        "tile_b": b.index,
        "attempt_a": a.attempt,
        "attempt_b": b.attempt,
        "drow": match.drow,
        "dcol": match.dcol,
        "nominal_drow": nominal[0],
        "nominal_dcol": nominal[1],
        "sd": match.sd,
        "sd_row": match.sd_row,
        "sd_col": match.sd_col,
        "rotation": match.rotation,
        "quality": match.quality,
        "correlation": match.correlation,
        "patches": match.patches,
        "good": match.good,
        "reason": match.reason if error is None else str(error)[:TEXT_LENGTH],
    }
