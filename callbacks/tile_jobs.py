"""What the executor's workers do: read, process and write tiles, and match them.

Plain functions of small arguments, so that threads, processes and a cluster can all run them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.direct_io import read_direct
from callbacks.frames import FrameReference, read_frame
from callbacks.lens_files import load_lens
from callbacks.processed_file import Row
from callbacks.references import ReferenceFiles, load_references, reference_age
from processing.chain import (
    DEFAULT_STEPS,
    PAGE,
    ArraySpec,
    StepSettings,
    TileState,
    make_chain,
    thread_buffers,
)
from processing.flatfield import flat_field
from processing.geometry import FrameGeometry
from processing.matching import Match, MatchTile, Side, match, prepare_edges
from processing.solve import Freedom

FRAME = "frame"
RETURNED = ("histogram", "mini")  # arrays that are small enough to be handed back


@dataclass(frozen=True)
class ProcessorSettings:
    """How tiles are processed.

    Attributes
    ----------
    max_in_flight : int
        Frames that the workers hold at a time, at most; a few more than there are workers.
    frame_timeout : float
        How long a frame may take to appear in its file, in s.
    reference_timeout : float
        How long bright and dark averages may take to appear, in s.
    max_offset : int
        How far a neighbour may lie from its nominal place along each axis, in px.
    steps : tuple of StepSettings
        What the chain does with each tile.
    write : tuple of str or None
        Which arrays are written: ``frame``, or names that the steps give; None for all of them.
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
        What tiles may do when the montage is solved; "auto": what matches bear out.
    """

    max_in_flight: int = 4
    frame_timeout: float = 5.0
    reference_timeout: float = 60.0
    max_offset: int = 255
    steps: tuple[StepSettings, ...] = DEFAULT_STEPS
    write: tuple[str, ...] | None = None
    freedom: Freedom = "auto"

    def outputs(self, shape: tuple[int, int]) -> dict[str, ArraySpec]:
        """Tell which arrays are written of a tile of (height, width) in px.

        Raises
        ------
        ValueError
            If an array is to be written that no step makes.
        """
        made = {FRAME: ArraySpec(shape, "<u2"), **make_chain(self.steps).arrays(shape)}
        if self.write is None:
            return made
        unknown = set(self.write) - set(made)
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(unknown))} cannot be written: the steps make {', '.join(made)}"
            )
        return {name: spec for name, spec in made.items() if name in self.write}


@dataclass(frozen=True, eq=False)
class TileTask:
    """A tile that is to be processed.

    Attributes
    ----------
    reference : FrameReference
        Where its frame is.
    geometry : FrameGeometry
        Of the frame as the camera gives it.
    row : Row or None
        Where its arrays go; None: nowhere.
    references : ReferenceFiles or None
        None: no flat field.
    lens : str or None
        File of the lens correction; None: none.
    edges : mapping of {"top", "bottom", "left", "right"} to float
        The sides that have a neighbour, and how far the two may overlap, in px.
    """

    reference: FrameReference
    geometry: FrameGeometry
    row: Row | None = None
    references: ReferenceFiles | None = None
    lens: str | None = None
    edges: Mapping[Side, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ProcessedTile:
    """What is kept of a tile once its frame has been let go.

    Attributes
    ----------
    figures : mapping of str to float
        What the steps measured, and ``seconds``, the time that it took.
    arrays : mapping of str to ndarray
        ``histogram`` and ``mini``, if the steps make them.
    edges : mapping of str to MatchTile
        What matching needs, for each side that has a neighbour.
    shape : (int, int)
        (height, width) of the frame, in px.
    stored : tuple of str
        Which arrays were written.
    """

    figures: Mapping[str, float | bool]
    arrays: Mapping[str, NDArray[Any]]
    edges: Mapping[Side, MatchTile]
    shape: tuple[int, int]
    stored: tuple[str, ...] = ()


def load_tile(
    reference: FrameReference, references: ReferenceFiles | None, timeout: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a frame; give it raw and flat-fielded (the same one if there are no references)."""
    raw = read_frame(reference, timeout)
    return raw, raw if references is None else flat_field(raw, load_references(references))


def process_tile(task: TileTask, settings: ProcessorSettings) -> ProcessedTile:
    """Read a tile, take it through the chain, and write what is to be kept.

    Parameters
    ----------
    task : TileTask
    settings : ProcessorSettings

    Returns
    -------
    ProcessedTile

    Raises
    ------
    FrameError
        If the frame cannot be read.
    ValueError, TypeError
        If the frame does not fit the references, or is too small, or of a type that no camera has.
    OSError
        If it cannot be written.
    """
    started = time.monotonic()
    tile = _read(task, settings)
    make_chain(settings.steps)(tile)
    made = {FRAME: tile.image, **tile.arrays}
    stored: tuple[str, ...] = ()
    if task.row is not None:
        task.row.write(made)
        stored = tuple(task.row.places)
    tile.figures["seconds"] = time.monotonic() - started
    return ProcessedTile(
        figures=tile.figures,
        arrays={name: made[name].copy() for name in RETURNED if name in made},
        edges=tile.edges,
        shape=(int(tile.image.shape[0]), int(tile.image.shape[1])),
        stored=stored,
    )


def read_tile(task: TileTask, settings: ProcessorSettings) -> NDArray[np.uint16]:
    """Give a tile as the chain leaves it: read back if it was written, else made again.

    Parameters
    ----------
    task : TileTask
    settings : ProcessorSettings

    Returns
    -------
    ndarray of uint16, shape (height, width)
        It holds until the same thread reads the next one.

    Raises
    ------
    FrameError, ValueError, TypeError, OSError
        As `process_tile`.
    """
    if task.row is not None and FRAME in task.row.places:
        spec = task.row.places[FRAME][1]
        return task.row.read(FRAME, thread_buffers().get(FRAME, spec.shape, spec.dtype))
    tile = _read(task, settings)
    make_chain(settings.steps).corrections(tile)
    return tile.image


@dataclass(frozen=True, eq=False)
class StoredTile:
    """A tile as the chain left it, for whoever wants a part of it: a mosaic.

    Attributes
    ----------
    task : TileTask
    settings : ProcessorSettings
        How it is made again if it was not written.
    """

    task: TileTask
    settings: ProcessorSettings

    def read(self, window: tuple[slice, slice]) -> NDArray[np.uint16]:
        """Read some rows and columns of it; of a tile that was written, only the rows.

        Raises
        ------
        FrameError, ValueError, TypeError, OSError
            As `process_tile`.
        """
        rows, columns = window
        row = self.task.row
        if row is None or FRAME not in row.places:
            # Its frame is on disk: it was read once. What has gone is not worth waiting for.
            settings = replace(self.settings, frame_timeout=0.0)
            tile = read_tile(self.task, settings)
            return tile[window].copy()  # it is in a buffer that is used again
        offset, spec = row.places[FRAME]
        line = spec.nbytes // spec.shape[0]
        buffer = thread_buffers().get("part", (spec.nbytes + 2 * PAGE,), np.uint8)
        count = rows.stop - rows.start
        whole = read_direct(row.path, offset + rows.start * line, count * line, buffer)
        return whole.view(spec.dtype).reshape(count, spec.shape[1])[:, columns].copy()


def read_edges(task: TileTask, settings: ProcessorSettings) -> dict[Side, MatchTile]:
    """Give what matching needs of a tile once more.

    Raises
    ------
    FrameError, ValueError, TypeError, OSError
        As `process_tile`.
    """
    return prepare_edges(read_tile(task, settings), task.edges)


def _read(task: TileTask, settings: ProcessorSettings) -> TileState:
    """Read a frame and what its correction needs."""
    frame = read_frame(task.reference, settings.frame_timeout, thread_buffers())
    tile = TileState(frame, task.geometry)
    tile.widths = task.edges
    if task.references is not None:
        tile.references = load_references(task.references)
        tile.reference_age = reference_age(task.references)
    if task.lens is not None:
        tile.lens = load_lens(task.lens)
    return tile


def match_tiles(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], settings: ProcessorSettings
) -> Match:
    """Measure where tile b lies from tile a, near its nominal offset (rows, columns) in px."""
    return match(a, b, nominal, max_offset=settings.max_offset)
