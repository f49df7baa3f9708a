"""What the executor's workers do: read and measure tiles, match them, solve, write the mosaic.

Plain functions of small arguments, so that threads, processes and a cluster can all run them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from callbacks.documents import StoredArray
from callbacks.frames import FrameReference, read_frame
from callbacks.references import ReferenceFiles, load_references
from processing.flatfield import flat_field
from processing.focus import focus_score
from processing.matching import Match, MatchTile, Side, match, prepare
from processing.mosaic import (
    Layout,
    ReadTile,
    display_range,
    level_shapes,
    plan_mosaic,
    write_mosaic,
)
from processing.statistics import tile_statistics

CHUNK = 512  # side of a chunk of the mosaic's levels, in px
THUMBNAIL = 1024  # largest side of the thumbnail, in px
DARK = 0.1  # pixels below so much of the tile's 99th percentile are dark: no specimen is


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
    bit_depth : int or None
        Bits that the camera fills, for counting saturated pixels; None for all of its type.
    max_offset : int
        How far a neighbour may lie from its nominal place along each axis, in px.
    """

    max_in_flight: int = 4
    frame_timeout: float = 5.0
    reference_timeout: float = 60.0
    bit_depth: int | None = None
    max_offset: int = 255


@dataclass(frozen=True, eq=False)
class ProcessedTile:
    """What is kept of a tile once its frame has been let go.

    Attributes
    ----------
    figures : mapping of str to float
        Statistics and focus, as they are published.
    edges : mapping of str to MatchTile
        What matching needs, for each side that has a neighbour.
    shape : (int, int)
        (height, width) of the frame, in px.
    """

    figures: Mapping[str, float | bool]
    edges: Mapping[Side, MatchTile]
    shape: tuple[int, int]


@dataclass(frozen=True)
class MosaicFile:
    """A mosaic on disk.

    Attributes
    ----------
    arrays : sequence of StoredArray
        ``mosaic_0``, ``mosaic_1``, … (uint16) and ``thumbnail`` (uint8).
    seconds : float
        How long writing took.
    missing : mapping of int to str
        Tiles that could not be read again, and why; their places are 0.
    """

    arrays: tuple[StoredArray, ...]
    seconds: float
    missing: Mapping[int, str] = field(default_factory=dict)


def load_tile(
    reference: FrameReference, references: ReferenceFiles | None, timeout: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a frame; give it raw and flat-fielded (the same one if there are no references)."""
    raw = read_frame(reference, timeout)
    return raw, raw if references is None else flat_field(raw, load_references(references))


def process_tile(
    reference: FrameReference,
    references: ReferenceFiles | None,
    edges: Mapping[Side, float],
    settings: ProcessorSettings,
) -> ProcessedTile:
    """Read, flatten and measure a tile, and prepare it for matching.

    Parameters
    ----------
    reference : FrameReference
    references : ReferenceFiles or None
    edges : mapping of {"top", "bottom", "left", "right"} to float
        The sides that have a neighbour, and how far the two may overlap, in px.
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
    """
    started = time.monotonic()
    raw, flat = load_tile(reference, references, settings.frame_timeout)
    figures = measure(raw, flat, settings.bit_depth)
    whole = prepare(flat)
    kept = {side: whole.edge(side, width) for side, width in edges.items()}
    figures["seconds"] = time.monotonic() - started
    return ProcessedTile(figures, kept, (int(flat.shape[0]), int(flat.shape[1])))


def measure(
    raw: NDArray[Any], flat: NDArray[Any], bit_depth: int | None
) -> dict[str, float | bool]:
    """Give the figures of a tile, named as they are published.

    Parameters
    ----------
    raw, flat : ndarray of uint8 or uint16, shape (height, width)
        The frame before and after the flat field. Saturated pixels are counted in the raw frame,
        all else in the flat one.
    bit_depth : int or None
        Bits that the camera fills; None for all of its type.
    """
    statistics = tile_statistics(flat)
    focus = focus_score(flat)
    full = 2 ** (bit_depth or 8 * raw.dtype.itemsize) - 1
    return {
        "mean": statistics.mean,
        "std": statistics.std,
        "minimum": float(statistics.minimum),
        "maximum": float(statistics.maximum),
        "p01": statistics.p01,
        "p50": statistics.p50,
        "p99": statistics.p99,
        "saturated": float(np.count_nonzero(raw >= full)) / raw.size,
        "dark": float(np.count_nonzero(flat < DARK * statistics.p99)) / flat.size,
        "focus": focus.score,
        "astigmatism": focus.astigmatism,
        "astigmatism_angle": focus.astigmatism_angle,
        "texture": focus.texture,
        "textured": focus.textured,
    }


def match_tiles(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], settings: ProcessorSettings
) -> Match:
    """Measure where tile b lies from tile a, near its nominal offset (rows, columns) in px."""
    return match(a, b, nominal, max_offset=settings.max_offset)


@dataclass(frozen=True, eq=False)
class MosaicTask:
    """A mosaic that is to be written.

    Attributes
    ----------
    path : Path
        Of the HDF5 file.
    tiles : sequence of FrameReference or None
        The frame of each position; None for a tile without one.
    positions : ndarray of float64, shape (n, 2)
        Solved (row, column) of each tile's first pixel, in px.
    shape : (int, int)
        (height, width) of a tile, in px.
    references : ReferenceFiles or None
    attributes : mapping
        Written to each level, with the level's own ``pixel_size`` in nm.
    """

    path: Path
    tiles: Sequence[FrameReference | None]
    positions: NDArray[np.float64]
    shape: tuple[int, int]
    references: ReferenceFiles | None
    attributes: Mapping[str, Any]


def make_mosaic(task: MosaicTask, settings: ProcessorSettings) -> MosaicFile:
    """Write a mosaic and its levels; the file appears complete or not at all.

    The frames are read and flattened again instead of being kept: a flat field costs 4 ms a frame
    of 2048², and a scratch copy of a montage would double the data on disk.

    Parameters
    ----------
    task : MosaicTask
    settings : ProcessorSettings

    Returns
    -------
    MosaicFile

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    started = time.monotonic()
    missing: dict[int, str] = {}

    def read(index: int) -> NDArray[Any] | None:
        reference = task.tiles[index]
        if reference is None:
            return None
        try:
            return load_tile(reference, task.references, settings.frame_timeout)[1]
        except Exception as error:  # a tile that went bad meanwhile costs its place, not the rest
            missing[index] = str(error)
            return None

    layout = plan_mosaic(task.positions, task.shape)
    task.path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = task.path.with_suffix(".part")
    try:
        with h5py.File(unfinished, "w", libver="latest") as file:
            levels = _write_levels(file, read, layout, task.attributes)
            arrays = (*levels, _write_thumbnail(file, levels))
        unfinished.rename(task.path)
    finally:
        unfinished.unlink(missing_ok=True)
    stored = tuple(_stored(task.path, array) for array in arrays)
    return MosaicFile(stored, time.monotonic() - started, missing)


class _Plane:
    """A stack of one image, written to as if it were the image."""

    def __init__(self, stack: h5py.Dataset) -> None:
        self._stack = stack
        self.shape = stack.shape[1:]

    def __setitem__(self, key: tuple[slice, slice], value: NDArray[np.uint16]) -> None:
        self._stack[(0, *key)] = value


@dataclass(frozen=True)
class _Written:
    """A dataset that was written, without its file."""

    key: str
    shape: tuple[int, int]
    dtype: str
    chunk: tuple[int, int]


def _stored(path: Path, written: _Written) -> StoredArray:
    return StoredArray(
        written.key, str(path), f"/{written.key}", written.shape, written.dtype, written.chunk
    )


def _write_levels(
    file: h5py.File, read: ReadTile, layout: Layout, attributes: Mapping[str, Any]
) -> list[_Written]:
    """Write all levels, each a stack of one image in chunks of 512²."""
    written, planes = [], []
    for number, shape in enumerate(level_shapes(layout.shape)):
        key, chunk = f"mosaic_{number}", (min(CHUNK, shape[0]), min(CHUNK, shape[1]))
        level = file.create_dataset(key, (1, *shape), np.uint16, chunks=(1, *chunk))
        level.attrs.update(attributes)
        level.attrs["pixel_size"] = attributes["pixel_size"] * 2**number
        planes.append(_Plane(level))
        written.append(_Written(key, shape, "<u2", chunk))
    write_mosaic(read, layout, planes)
    return written


def _write_thumbnail(file: h5py.File, levels: Sequence[_Written]) -> _Written:
    """Write the first level that is small enough once more, in 256 grey levels."""
    fitting = (level for level in levels if max(level.shape) <= THUMBNAIL)
    image = file[next(fitting, levels[-1]).key][0]
    black, white = display_range(image)
    grey = (image.astype(np.float32) - black) * (255 / (white - black))
    file.create_dataset("thumbnail", data=np.clip(grey, 0, 255).astype(np.uint8)[np.newaxis])
    return _Written("thumbnail", image.shape, "|u1", image.shape)
