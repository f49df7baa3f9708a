"""Writes mosaics as OME-Zarr, in jobs of a block each, so that any number of workers can do it.

A block is one shard on every level it fills, so no two jobs write one file; the store gets its
name once all is in it.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from callbacks.documents import ZARR_MIMETYPE, StoredArray
from callbacks.zarr_images import AXES, CHUNK, create_image, read_image, write_shard
from processing.chain import thread_buffers
from processing.geometry import FrameGeometry
from processing.mosaic import (
    BLOCK,
    Layout,
    Seam,
    Window,
    blocks,
    display_range,
    halve,
    lay_out,
    mosaic_levels,
    render,
)
from processing.solve import TileMaps

THUMBNAIL = 1024  # largest side of the thumbnail, in px
SUFFIX = ".ome.zarr"
UNFINISHED = ".part"
NGFF_VERSION = "0.5"
LEVELS_A_BLOCK = (BLOCK // CHUNK).bit_length() - 1  # halvings until a block is one chunk
CHUNKS = (CHUNK, CHUNK)
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class TileSource(Protocol):
    """Where the pixels of a tile are; small enough to send to a worker that is a process."""

    def read(self, window: Window) -> NDArray[np.unsignedinteger]:
        """Read some rows and columns of the tile: uint8 or uint16, 0 where there is no signal."""


@dataclass(frozen=True, eq=False)
class MosaicTask:
    """A mosaic that is to be written.

    Attributes
    ----------
    path : Path
        Of the store; its name should end in ``.ome.zarr``.
    tiles : sequence of TileSource or None
        One for each position; None for a tile that is to be left out.
    maps : TileMaps
        Where the pixels of each tile lie, in px. Tiles are turned and bent where that shows, and
        put down at whole pixels otherwise.
    geometry : FrameGeometry or None
        Of the tiles; None if the size of their pixels is not known.
    stage : (float, float)
        Stage (x, y) that the middle of a tile at the position (0, 0) shows, in µm.
    attributes : mapping
        What else the store is to tell about itself.
    seam : {"blend", "cut"}
    """

    path: Path
    tiles: Sequence[TileSource | None]
    maps: TileMaps
    geometry: FrameGeometry | None
    stage: tuple[float, float] = (0.0, 0.0)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    seam: Seam = "blend"


@dataclass(frozen=True, eq=False)
class MosaicBlock:
    """A job: one block, and what is needed to write it; small enough to send to any worker.

    Attributes
    ----------
    number : int
        Which one it is.
    store : Path
        Where the mosaic is being written.
    window : (slice, slice)
        Rows and columns of the mosaic, in px of level 0.
    layout : Layout
        Of the tiles that touch the block.
    tiles : mapping of int to TileSource
        Those that there are, by their index in the layout.
    names : sequence of int
        The index in the whole mosaic of each tile of the layout.
    seam : {"blend", "cut"}
    """

    number: int
    store: Path
    window: Window
    layout: Layout
    tiles: Mapping[int, TileSource]
    names: tuple[int, ...]
    seam: Seam


@dataclass(frozen=True, eq=False)
class MosaicPlan:
    """A mosaic that is being written.

    Attributes
    ----------
    task : MosaicTask
    layout : Layout
    store : Path
        Where it is until it is complete.
    blocks : sequence of MosaicBlock
        The jobs to do.
    seconds : float
        How long `begin_mosaic` took.
    """

    task: MosaicTask
    layout: Layout
    store: Path
    blocks: tuple[MosaicBlock, ...]
    seconds: float

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level, in px."""
        return mosaic_levels(self.layout.shape)


@dataclass(frozen=True)
class BlockResult:
    """What became of a block.

    Attributes
    ----------
    number : int
        Which one.
    seconds : float
        How long it took.
    missing : mapping of int to str
        Tiles that could not be read, by their index in the whole mosaic, and why.
    """

    number: int
    seconds: float
    missing: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MosaicFile:
    """A mosaic on disk.

    Attributes
    ----------
    arrays : sequence of StoredArray
        ``mosaic_0``, ``mosaic_1``, … (uint16) and ``thumbnail`` (uint8).
    origin : (int, int)
        (row, column) of its first pixel, in px, in the frame of the positions.
    seconds : float
        How long all jobs took together.
    missing : mapping of int to str
        Tiles that could not be read again, and why; their places are 0.
    """

    arrays: tuple[StoredArray, ...]
    origin: tuple[int, int]
    seconds: float
    missing: Mapping[int, str] = field(default_factory=dict)


def make_mosaic(task: MosaicTask) -> MosaicFile:
    """Write a mosaic in one go; the store appears complete or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with begun_mosaic(task) as plan:
        return end_mosaic(plan, [write_block(block) for block in plan.blocks])


@contextmanager
def begun_mosaic(task: MosaicTask) -> Iterator[MosaicPlan]:
    """Begin a mosaic, to be ended within; whatever ends that sooner drops it.

    Parameters
    ----------
    task : MosaicTask

    Raises
    ------
    OSError, ValueError
        As `begin_mosaic`.
    """
    plan = begin_mosaic(task)
    try:
        yield plan
    except BaseException:  # Ctrl-C, too: nothing half-made is left
        drop_mosaic(plan)
        raise


def begin_mosaic(task: MosaicTask) -> MosaicPlan:
    """Lay a mosaic out and make its store, empty, beside where it will be.

    Parameters
    ----------
    task : MosaicTask

    Returns
    -------
    MosaicPlan
        Give each of its blocks to `write_block`, then it to `end_mosaic`; or to `drop_mosaic`.

    Raises
    ------
    OSError
        If the store cannot be made, or there is one of that name.
    ValueError
        If there is no tile, or a position is not finite.
    """
    started = time.monotonic()
    layout = lay_out(task.maps)
    store = task.path.with_name(task.path.name + UNFINISHED)
    with _explained(store):
        if task.path.exists():
            raise FileExistsError(errno.EEXIST, "there is a mosaic already", str(task.path))
        task.path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(store, mode="w", zarr_format=3)
        for number, shape in enumerate(mosaic_levels(layout.shape)):
            create_image(group, str(number), shape, "<u2", _shard(number))
    jobs = tuple(
        _block(task, layout, store, number, window)
        for number, window in enumerate(blocks(layout.shape))
    )
    return MosaicPlan(task, layout, store, jobs, time.monotonic() - started)


def _block(
    task: MosaicTask, layout: Layout, store: Path, number: int, window: Window
) -> MosaicBlock:
    names = tuple(layout.touching(window).tolist())
    tiles = {at: tile for at, name in enumerate(names) if (tile := task.tiles[name]) is not None}
    return MosaicBlock(number, store, window, layout.only(names), tiles, names, task.seam)


def write_block(block: MosaicBlock) -> BlockResult:
    """Write one block, on the levels of which it fills whole chunks.

    It may run on any worker, at any time, and again.

    Parameters
    ----------
    block : MosaicBlock

    Returns
    -------
    BlockResult

    Raises
    ------
    OSError
        If it cannot be written.
    """
    started = time.monotonic()
    missing: dict[int, str] = {}

    def read(index: int, window: Window) -> NDArray[Any] | None:
        if index not in block.tiles:
            return None
        try:
            return block.tiles[index].read(window)
        except Exception as error:  # a tile that went bad meanwhile costs its place, not the rest
            missing[block.names[index]] = str(error)
            return None

    with _explained(block.store):
        shape = [side.stop - side.start for side in block.window]
        out = _buffer("mosaic", (shape[0], shape[1]))
        image = render(read, block.layout, block.window, seam=block.seam, out=out)
        _write_levels(block.store, mosaic_levels(block.layout.shape), 0, image, block.window)
    return BlockResult(block.number, time.monotonic() - started, missing)


def end_mosaic(plan: MosaicPlan, results: Iterable[BlockResult]) -> MosaicFile:
    """Add the smaller levels, the thumbnail and the metadata, and give the store its name.

    Parameters
    ----------
    plan : MosaicPlan
    results : iterable of BlockResult
        Of all blocks.

    Returns
    -------
    MosaicFile

    Raises
    ------
    ValueError
        If a block has not been written.
    OSError
        If the store cannot be written.
    """
    started = time.monotonic()
    done = {result.number: result for result in results}
    if left := len(plan.blocks) - len(done):
        raise ValueError(f"{left} of {len(plan.blocks)} blocks have not been written")
    with _explained(plan.store):
        for level in range(LEVELS_A_BLOCK, len(plan.levels) - 1, LEVELS_A_BLOCK):
            for window in blocks(plan.levels[level]):
                image = read_image(plan.store, str(level), window)
                _write_levels(plan.store, plan.levels, level, image, window, first=1)
        thumbnail, shown = _write_thumbnail(plan)
        group = zarr.open_group(plan.store, mode="r+")
        group.attrs.update(ome=_ngff(plan, shown), temline=_provenance(plan))
        plan.store.rename(plan.task.path)
    path = str(plan.task.path)
    levels = [
        StoredArray(f"mosaic_{number}", path, str(number), shape, "<u2", CHUNKS, ZARR_MIMETYPE)
        for number, shape in enumerate(plan.levels)
    ]
    missing = {tile: why for result in done.values() for tile, why in result.missing.items()}
    seconds = plan.seconds + sum(result.seconds for result in done.values())
    seconds += time.monotonic() - started
    return MosaicFile((*levels, thumbnail), plan.layout.origin, seconds, missing)


def drop_mosaic(plan: MosaicPlan) -> None:
    """Take away what was written of a mosaic that will not be completed."""
    shutil.rmtree(plan.store, ignore_errors=True)


def _shard(level: int) -> int:
    """Give the side of a level's shards, in px: what one block covers of it."""
    return BLOCK >> ((level - 1) % LEVELS_A_BLOCK + 1) if level else BLOCK


def _buffer(name: str, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Return a buffer of this thread for a block, or a smaller one at the edge of the mosaic."""
    whole = thread_buffers().get(name, (BLOCK**2,), np.uint16)
    return whole[: shape[0] * shape[1]].reshape(shape)


def _write_levels(
    store: Path,
    levels: Sequence[tuple[int, int]],
    level: int,
    image: NDArray[np.uint16],
    window: Window,
    *,
    first: int = 0,
) -> None:
    """Write a block of a level and the levels that follow from it, from the `first` on."""
    if not image.any():
        return  # what is not written reads as 0
    last = min(LEVELS_A_BLOCK, len(levels) - 1 - level)
    for halvings in range(last + 1):
        if halvings:
            if min(image.shape) < 2:
                return  # a sliver at the edge, of which nothing is left
            half = image.shape[0] // 2, image.shape[1] // 2
            image = halve(image, _buffer(f"halved_{halvings % 2}", half))
        if halvings >= first:
            top, left = (side.start >> halvings for side in window)
            array = store / str(level + halvings)
            write_shard(array, image, (top, left), _shard(level + halvings))


def _write_thumbnail(plan: MosaicPlan) -> tuple[StoredArray, tuple[int, int]]:
    """Write the first level that is small enough once more, in 256 grey levels.

    Returns
    -------
    (StoredArray, (int, int))
        The thumbnail, and the counts that are black and white in it.
    """
    sizes = [max(shape) for shape in plan.levels]
    level = next(number for number, size in enumerate(sizes) if size <= THUMBNAIL)
    image = read_image(plan.store, str(level))
    black, white = display_range(image)
    grey = (image.astype(np.float32) - black) * (255 / (white - black))
    group = zarr.open_group(plan.store, mode="r+")
    thumbnail = create_image(group, "thumbnail", image.shape, "|u1")
    thumbnail[0] = np.clip(grey, 0, 255).astype(np.uint8)
    path = str(plan.task.path)
    stored = StoredArray("thumbnail", path, "thumbnail", image.shape, "|u1", CHUNKS, ZARR_MIMETYPE)
    return stored, (black, white)


def _ngff(plan: MosaicPlan, shown: tuple[int, int]) -> dict[str, Any]:
    """Describe the levels as OME-NGFF does.

    The coordinates are those of the image (y down, x right), in nm from the place where the stage
    is at 0, so that mosaics of one section lie right beside each other. NGFF knows no rotation:
    stage coordinates come of them by the geometry that stands beside. Where the size of a pixel is
    not known they are px of the mosaic.
    """
    geometry, task = plan.task.geometry, plan.task
    pixel, origin, axes = 1.0, np.zeros(2), [{**axis} for axis in AXES]
    if geometry is None:
        for axis in axes:
            axis.pop("unit", None)
    else:
        at_zero = geometry.pixel_vector(task.stage) - geometry.middle(task.maps.shape)
        pixel, origin = geometry.pixel_size, at_zero + plan.layout.origin
    datasets = []
    for level in range(len(plan.levels)):
        size = pixel * 2**level
        # The middle of a pixel of a level is the middle of those that it is the mean of.
        corner = (origin + (2**level - 1) / 2) * pixel
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, size, size]},
                    {"type": "translation", "translation": [0.0, *map(float, corner)]},
                ],
            }
        )
    window = {"min": 0, "max": 65535, "start": shown[0], "end": shown[1]}
    channel = {"label": "TEM", "color": "FFFFFF", "active": True, "window": window}
    return {
        "version": NGFF_VERSION,
        "multiscales": [
            {"name": task.path.name.removesuffix(SUFFIX), "axes": axes, "datasets": datasets}
            | {"type": "mean", "metadata": {"description": "means of 2 × 2 pixels"}}
        ],
        "omero": {"channels": [channel]},
    }


def _provenance(plan: MosaicPlan) -> dict[str, Any]:
    task = plan.task
    return {
        **(task.geometry.to_dict() if task.geometry else {}),
        "tiles": len(task.tiles),
        "seam": task.seam,
        "interpolated": plan.layout.maps is not None,
        **task.attributes,
    }


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do if there is no room for a mosaic."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free / 1e9
        raise OSError(
            error.errno,
            f"there is no room for the mosaic ({free:.1f} GB are free): "
            "make some, then process the run again",
            str(path),
        ) from error
