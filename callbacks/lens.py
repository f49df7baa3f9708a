"""Fits the lens's distortion to tiles of a lens_correction run, for montages that name that run.

The fit goes to a file, for the workers, and to a processed run, for everyone else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from callbacks.documents import (
    TEXT_LENGTH,
    ProcessedRun,
    Publish,
    boolean,
    integer,
    number,
    text,
)
from callbacks.frame_runs import FrameRunProcessor
from callbacks.frames import FrameError, FrameReference, LocatedEvent
from callbacks.lens_files import fit_figures, lens_path, write_lens
from callbacks.references import ReferenceFiles, await_references, reference_files
from callbacks.tile_jobs import ProcessorSettings, TileTask, read_tile
from processing.chain import make_chain
from processing.geometry import FrameGeometry
from processing.geometry.pair_matches import Tile
from processing.lens import Degree, LensFit, LensLimits
from processing.lens.model import grid_places
from processing.lens.overlaps import measure_lens
from processing.points import terms

PLAN = "lens_correction"
NAN = float("nan")
FIELD = 9  # places along each side at which the field of the lens is published
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "lens": {
        "accepted": boolean(),
        "reasons": text(),
        "residual_px_rms": number("px"),
        "residual_px_median": number("px"),
        "residual_px_mean": number("px", 4),
        "residual_px_std": number("px"),
        "uncorrected_px_median": number("px"),
        "largest_shift_px": number("px"),
        "degree": integer(),
        "held_out_px_rms": number("px"),
        "pairs_held_out_px_rms": number("px"),
        "pairs_held_out_px_rms_next": number("px"),
        "tile_bend_px_rms": number("px"),
        "covered": number(),
        "matches": integer(),
        "inlier_share": number(),
        "scale": number("", 4),
        "rotation": number("deg"),
    },
    "degree": {
        "degree": integer(),
        "held_out_px_shifts": number("px"),
        "held_out_px_affines": number("px"),
    },
    "tile": {
        "tile_index": integer(),
        "row_px": number("px"),
        "column_px": number("px"),
        "scale": number("", 5),
        "rotation": number("deg", 4),
    },
    "coefficient": {
        "order_row": integer(),
        "order_column": integer(),
        "shift_row": number("px", 4),
        "shift_column": number("px", 4),
    },
    "pair": {
        "tile_a": integer(),
        "tile_b": integer(),
        "matches": integer(),
        "inliers": integer(),
        "residual_px_rms": number("px"),
    },
    "field": {
        "row_px": number("px", 1),
        "column_px": number("px", 1),
        "shift_row": number("px"),
        "shift_column": number("px"),
        "residual_row": number("px"),
        "residual_column": number("px"),
        "matches": integer(),
    },
}


@dataclass(frozen=True)
class LensSettings:
    """How a lens is fitted.

    Attributes
    ----------
    degree : int or "auto"
        Of the polynomial; "auto": what tells pairs of tiles best that are held out.
    limits : LensLimits
        For a fit to be accepted.
    processor : ProcessorSettings
        How tiles are read, and how far they may lie from their nominal places.
    """

    degree: Degree = "auto"
    limits: LensLimits = field(default_factory=LensLimits)
    processor: ProcessorSettings = field(default_factory=ProcessorSettings)


@dataclass(frozen=True)
class LensTask:
    """A lens that is to be fitted.

    Attributes
    ----------
    tiles : mapping of int to (FrameReference, (float, float))
        By index, the frame and the stage's (x, y) of each tile, in µm.
    geometry : FrameGeometry
        Of the frames as the camera gives them.
    references : ReferenceFiles or None
        None: no flat field.
    path : Path
        Where the result goes.
    raw_uid : str
        Of the run.
    """

    tiles: Mapping[int, tuple[FrameReference, tuple[float, float]]]
    geometry: FrameGeometry
    references: ReferenceFiles | None
    path: Path
    raw_uid: str


def fit_tiles(task: LensTask, settings: LensSettings) -> LensFit:
    """Read tiles, match them, fit a lens, and write it down.

    Parameters
    ----------
    task : LensTask
    settings : LensSettings

    Returns
    -------
    LensFit
        It is written also if it is not accepted; `load_lens` then refuses it.

    Raises
    ------
    FrameError
        If a frame cannot be read.
    LensFitError
        If too few tiles match, or the matches determine no lens.
    FileNotFoundError, ValueError
        If the references do not come in time, or do not fit the frames.
    OSError
        If the result cannot be written.
    """
    if not task.tiles:
        raise FrameError("the run has no tile; take it again")
    processor = settings.processor
    if task.references is not None:
        await_references(task.references, processor.reference_timeout)
    geometry = make_chain(processor.steps).geometry(task.geometry)
    frames: dict[Tile, NDArray[Any]] = {}
    nominal: dict[Tile, tuple[float, float]] = {}
    for index, (reference, place) in task.tiles.items():
        tile = TileTask(reference, task.geometry, references=task.references)
        frames[index] = read_tile(tile, processor).copy()
        row, column = geometry.pixel_vector(place)
        nominal[index] = float(row), float(column)
    fit = measure_lens(
        frames,
        nominal,
        degree=settings.degree,
        max_offset=processor.max_offset,
        limits=settings.limits,
    )
    write_lens(task.path, fit, raw_uid=task.raw_uid)
    return fit


class LensProcessor(FrameRunProcessor):
    """A RunEngine callback that fits a lens to the tiles of each lens_correction run.

    It publishes a run ``process_lens_correction`` with the streams `lens` (how good the fit is, and
    whether it is accepted), `degree` (what each leaves of pairs that are held out), `tile` (how it
    lies, is scaled and turned), `coefficient` (of Legendre polynomials, see `LensModel`), `pair`
    (of tiles) and `field`: on a grid over the frame, the correction and the mean residual round
    about.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Where tiles are matched, which takes some seconds.
    publish : callable
        Called with (name, document) on a thread of the executor (on the caller's if it is a pool
        of processes), one run at a time.
    root : Path
        Folder of the fits; give the same one to `TileProcessor`.
    reference_root : Path
        Folder of the averages that `ReferenceProcessor` writes.
    settings : LensSettings, optional
    """

    plans: ClassVar[frozenset[str]] = frozenset({PLAN})
    streams = STREAMS

    def __init__(
        self,
        executor: Executor,
        publish: Publish,
        root: Path,
        reference_root: Path,
        settings: LensSettings | None = None,
    ) -> None:
        super().__init__(executor, publish)
        self._root, self._reference_root = Path(root), Path(reference_root)
        self._settings = settings or LensSettings()

    def job(self, start: dict[str, Any], events: Sequence[LocatedEvent]) -> Callable[[], LensFit]:
        """Give the fit that is to be made."""
        tiles = {}  # of a tile that was taken again, the last one
        for located in events:
            data = located.event["data"]
            reference = next(iter(located.frames.values()), None)
            if reference is not None and "tile_index" in data:
                place = float(data["tile_x"]), float(data["tile_y"])
                tiles[int(data["tile_index"])] = reference, place
        task = LensTask(
            tiles=tiles,
            geometry=FrameGeometry.from_mapping(start["calibration"]),
            references=reference_files(self._reference_root, start.get("references") or {}),
            path=lens_path(self._root, start["uid"]),
            raw_uid=start["uid"],
        )
        return partial(fit_tiles, task, self._settings)

    def report(self, run: ProcessedRun, result: LensFit) -> None:
        """Publish a fit."""
        figures = {
            name: NAN if value is None else value for name, value in fit_figures(result).items()
        }
        reasons = "; ".join(result.reasons)[:TEXT_LENGTH]
        run.event("lens", {"accepted": result.accepted, "reasons": reasons, **figures})
        for trial in result.trials:
            run.event(
                "degree",
                {
                    "degree": trial.degree,
                    "held_out_px_shifts": trial.shifts_px,
                    "held_out_px_affines": trial.affines_px,
                },
            )
        for tile, (row, column) in result.positions.items():
            scale, rotation = result.turns[tile]
            run.event(
                "tile",
                {
                    "tile_index": tile,
                    "row_px": row,
                    "column_px": column,
                    "scale": scale,
                    "rotation": rotation,
                },
            )
        model = result.model
        for (i, j), row, column in zip(terms(model.degree), *model.coefficients, strict=True):
            run.event(
                "coefficient",
                {"order_row": i, "order_column": j, "shift_row": row, "shift_column": column},
            )
        for pair in result.pairs:
            run.event(
                "pair",
                {
                    "tile_a": pair.a,
                    "tile_b": pair.b,
                    "matches": pair.matches,
                    "inliers": pair.inliers,
                    "residual_px_rms": pair.rms,
                },
            )
        for row_of_field in field_of(result):
            run.event("field", row_of_field)


def field_of(fit: LensFit) -> list[dict[str, float]]:
    """Give the correction on a grid over the frame, and the mean residual in the cell about it."""
    places = grid_places(fit.model.shape, count=FIELD).reshape(-1, 2)
    shifts = fit.model.shift(places)
    means, counts = cell_means(fit.model.shape, fit.places, fit.residuals)
    keys = ("row_px", "column_px", "shift_row", "shift_column", "residual_row", "residual_column")
    return [
        {**dict(zip(keys, line, strict=True)), "matches": int(count)}
        for line, count in zip(np.hstack([places, shifts, means]).tolist(), counts, strict=True)
    ]


def cell_means(
    shape: tuple[int, int], places: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Average vectors at places, (row, column) in px, in the cells of a 9 × 9 grid over a frame.

    Returns
    -------
    means : ndarray of float64, shape (81, 2)
        NaN where there is none.
    counts : ndarray of int, shape (81,)
    """
    cells = np.clip((places / (np.asarray(shape) - 1) * (FIELD - 1)).round(), 0, FIELD - 1)
    numbers = (cells @ [FIELD, 1]).astype(int)
    counts = np.bincount(numbers, minlength=FIELD**2)
    sums = [np.bincount(numbers, line, minlength=FIELD**2) for line in vectors.T]
    return np.transpose(sums) / np.where(counts, counts, np.nan)[:, None], counts
