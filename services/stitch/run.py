"""Stitches: reads, corrects, matches and solves a montage, writes it, and tells how well it went.

One function a phase; what each does stands in modules that know nothing of the command line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from callbacks.mosaic import (
    MosaicFile,
    MosaicTask,
    begun_mosaic,
    end_mosaic,
    write_block,
)
from callbacks.warm_up import use_one_thread
from formats.montage import Montage
from formats.readers import read_montage
from formats.tile_images import TileImages
from formats.writing import write_text
from processing.matching import Match
from processing.stitch import (
    PlacementError,
    find_placement,
    match_prepared,
    processors,
    worker_threads,
)
from services.errors import PlainError
from services.solved_montage import Solved, place, solve_edges
from services.stitch.layout import (
    frame_geometry,
    matched_montage,
    placed_montage,
)
from services.stitch.light import MAX_SAMPLE, Light, found_light, given_light
from services.stitch.quality import judge_tiles
from services.stitch.report import Stitched, tell
from services.stitch.request import StitchRequest
from services.stitch.review import draw_review
from services.stitch.tiles import Tiles

Matches = Mapping[tuple[int, int], Match]


def run_stitch(request: StitchRequest) -> bool:
    """Stitch a montage, and print how well that went.

    Parameters
    ----------
    request : StitchRequest

    Returns
    -------
    bool
        Whether the solution is accepted.

    Raises
    ------
    PlainError, FormatError
        As `stitch`.
    """
    console = Console()
    stitched = stitch(request, console)
    tell(console, stitched)
    return stitched.solved.accepted


def stitch(request: StitchRequest, console: Console | None = None) -> Stitched:
    """Stitch a montage, and write what is asked for.

    Parameters
    ----------
    request : StitchRequest
    console : Console, optional
        Where to show progress.

    Returns
    -------
    Stitched

    Raises
    ------
    PlainError
        If outputs cannot be written, or nothing tells where tiles lie.
    FormatError
        If something cannot be read.
    """
    request.require_outputs()
    use_one_thread()
    with _shown(console or Console(quiet=True)) as progress:
        return _Run(request, request.workers or processors(), progress).stitch()


@dataclass(frozen=True, eq=False)
class _Run:
    """A montage that is being stitched.

    Attributes
    ----------
    request : StitchRequest
    workers : int
    progress : Progress
    seconds : dict of str to float
        How long each phase took.
    """

    request: StitchRequest
    workers: int
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def stitch(self) -> Stitched:
        """Do all of it."""
        montage, light = self._read()
        montage = replace(montage, notes=montage.notes | {"flat field": light.told})
        tiles = Tiles(TileImages.of(montage), montage.shape, light.references)
        montage, matches = self._match(montage, tiles)
        measured = [tiles.figures[index] for index in range(len(montage.names))]
        quality = judge_tiles(measured, montage.cells, montage.nominal, matches)
        solved = replace(self._solve(montage), textured=quality.textured)
        mosaic = self._write_mosaic(solved, tiles)
        stitched = Stitched(self.request, solved, quality, mosaic, self.seconds)
        with self._phase("review"):
            draw_review(stitched)
        return replace(stitched, files=tuple(self._export(stitched, tiles)))

    def _read(self) -> tuple[Montage, Light]:
        """Read the montage and the flat field; what is wrong with them is told here."""
        request = self.request
        with self._phase("reading"):
            montage = read_montage(request.inputs, request.options, request.offsets)
            request.require_fit(montage)
            images = TileImages.of(montage)
            if request.bright is not None:
                light = given_light(request.bright, request.dark, images, montage.shape)
                return montage, light
        if not request.flat:
            return montage, Light(None, "none, as asked")
        with self._phase("light", min(len(montage.names), MAX_SAMPLE)) as advance:
            return montage, found_light(images, self.workers, montage.shape, advance)

    def _match(self, montage: Montage, tiles: Tiles) -> tuple[Montage, Matches]:
        """Look at all tiles, and match neighbours unless the input holds matches."""
        request = self.request
        if len(montage.edges.pairs) and not request.match_anew:
            self._look(montage, tiles)
            notes = montage.notes | {"matched": "by the input; --match-anew matches its images"}
            return replace(montage, notes=notes), {}
        with self._phase("placing"):
            try:
                placement = find_placement(
                    tiles.read,
                    montage.cells,
                    montage.shape,
                    montage.nominal,
                    reach=request.reach,
                    workers=self.workers,
                )
            except PlacementError as error:
                raise PlainError(f"{montage.path}: {error} (--overlap, --pattern)") from error
        montage = placed_montage(montage, placement)
        with self._phase("matching", len(montage.names)) as advance:
            matches = match_prepared(
                tiles.look,
                placement.nominal,
                montage.shape,
                pairs=placement.pairs,
                reach=placement.reach,
                workers=self.workers,
                on_tile=advance,
            )
        return matched_montage(montage, matches), matches

    def _look(self, montage: Montage, tiles: Tiles) -> None:
        """Measure all tiles, without matching."""
        indices = range(len(montage.names))
        with self._phase("looking", len(indices)) as advance, worker_threads(self.workers) as pool:
            for done in as_completed([pool.submit(tiles.look, index, {}) for index in indices]):
                done.result()
                advance()

    def _solve(self, montage: Montage) -> Solved:
        with self._phase("solving"):
            try:
                return solve_edges(montage, self.request.freedom)
            except ValueError as error:  # a tile that is bent beyond belief
                raise PlainError(f"{montage.path}: {error} (--model translation)") from error

    def _write_mosaic(self, solved: Solved, tiles: Tiles) -> MosaicFile:
        """Write the mosaic; it appears complete or not at all."""
        montage, maps = solved.montage, solved.solution.maps
        geometry, stage = frame_geometry(montage)
        task = MosaicTask(
            path=self.request.output,
            tiles=tiles.sources(),
            maps=maps,
            geometry=geometry,
            stage=stage,
            attributes={"source": str(montage.path), "accepted": solved.accepted},
            seam=self.request.seam,
        )
        try:
            return self._write(task)
        except OSError as error:
            raise PlainError(
                f"{error.filename or task.path} cannot be written: {error.strerror or error}"
            ) from error

    def _write(self, task: MosaicTask) -> MosaicFile:
        with (
            begun_mosaic(task) as plan,
            self._phase("mosaic", len(plan.blocks)) as advance,
            worker_threads(self.workers) as pool,
        ):
            results = []
            for done in as_completed([pool.submit(write_block, one) for one in plan.blocks]):
                results.append(done.result())
                advance()
            return end_mosaic(plan, results)

    def _export(self, stitched: Stitched, tiles: Tiles) -> Iterator[Path]:
        """Write the other files that are asked for; yield all."""
        yield from (self.request.output, self.request.review)
        placed = place(stitched.solved)

        def frames() -> Iterator[NDArray[np.generic]]:
            return (np.ma.getdata(tiles.read(index)) for index in range(len(placed.tiles)))

        yield from self.request.outputs.write(placed, frames, self.progress)
        if self.request.json is not None:
            text = json.dumps(stitched.figures(), indent=2, ensure_ascii=False, allow_nan=False)
            write_text(self.request.json, text)
            yield self.request.json

    @contextmanager
    def _phase(self, name: str, total: int | None = None) -> Iterator[Callable[[], object]]:
        """Show a phase while it lasts; what it gives is called at each step."""
        began = time.perf_counter()
        task = self.progress.add_task(name, total=total)
        try:
            yield lambda: self.progress.advance(task)
        finally:
            self.progress.remove_task(task)
            self.seconds[name] = time.perf_counter() - began


def _shown(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
