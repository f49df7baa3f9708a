"""How fast mosaics are written, with their pyramid, on one core and on two.

Against raw `write()` of the same pixels, uncompressed, in the same run. Tiles are read back from
the file of a processed run, as after a montage.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tiled.adapters.zarr import ZarrAdapter
from tiled.ndslice import NDSlice

from benchmarks._report import Result, run
from callbacks.frames import FrameReference
from callbacks.mosaic import MosaicTask, begin_mosaic, drop_mosaic, make_mosaic, write_block
from callbacks.processed_file import ProcessedFile
from callbacks.tile_jobs import ProcessorSettings, StoredTile, TileTask
from callbacks.warm_up import use_one_thread
from ioc.memory import keep_memory
from processing.chain import ArraySpec
from processing.geometry import FrameGeometry
from processing.lens import LensModel
from processing.solve import TileMaps

GOAL_MB_PER_S = 400.0  # of uncompressed pixels of all levels, a core
GOAL_CROP_MS = 10.0
OVERLAP = 0.10
LENS_SHIFT = 20.0  # px, at the corner
TURN = 0.001  # rad, and share by which tiles are scaled and sheared, as of real ones
CROP = 512


def montage(folder: Path, side: int, rows: int, columns: int) -> MosaicTask:
    """Write tiles of detail and noise as a camera of 12 bits gives them; give the mosaic to make.

    Eight tiles are made, and used again: what they show does not change how long it takes.
    """
    random = np.random.default_rng(1)
    spec = ArraySpec((side, side), "<u2")
    places = np.array([(r, c) for r in range(rows) for c in range(columns)], dtype=float)
    file = ProcessedFile(folder / "processed.h5", {"frame": spec}, len(places))
    tiles = []
    for _ in range(8):
        coarse = random.uniform(800, 3000, (side // 16 + 1, side // 16 + 1))
        detail = np.kron(coarse, np.ones((16, 16)))[:side, :side]
        tiles.append(random.poisson(detail).astype(np.uint16))
    tasks = []
    geometry = FrameGeometry(4.0)
    for index in range(len(places)):
        file.row(index).write({"frame": tiles[index % len(tiles)]})
        tasks.append(TileTask(FrameReference("", "", 0, 1), geometry, file.row(index)))
    jitter = random.integers(-20, 21, places.shape)
    return MosaicTask(
        path=folder / "mosaic.ome.zarr",
        tiles=[StoredTile(task, ProcessorSettings()) for task in tasks],
        maps=TileMaps.shifts(places * side * (1 - OVERLAP) + jitter, (side, side)),
        geometry=geometry,
        stage=(0.0, 0.0),
    )


def bent(task: MosaicTask) -> MosaicTask:
    """Return the same mosaic of tiles that are turned and bent, as real ones are."""
    random = np.random.default_rng(2)
    lines = np.stack(np.meshgrid(*(np.linspace(-1, 1, 9),) * 2, indexing="ij"), -1).reshape(-1, 2)
    middle = (np.array(task.maps.shape) - 1) / 2
    shifts = LENS_SHIFT * lines * (lines**2).sum(axis=1, keepdims=True) / 2**1.5
    lens = LensModel.from_shifts(middle + lines * middle, shifts, task.maps.shape)
    matrices = task.maps.matrices.copy()
    matrices[:, :, :2] += random.normal(0, TURN, (len(matrices), 2, 2))
    return replace(task, maps=TileMaps(task.maps.shape, matrices, lens))


def core_time(task: MosaicTask) -> float:
    """Write a mosaic on this process; give the time that it worked, in s."""
    shutil.rmtree(task.path, ignore_errors=True)
    began = time.process_time()
    make_mosaic(task)
    return time.process_time() - began


def wall_time(task: MosaicTask, workers: int) -> float:
    """Write a mosaic's blocks on worker processes that have compiled all; give the time, in s."""
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, context, use_one_thread) as pool:
        plan = begin_mosaic(replace(task, path=task.path.with_name("blocks.ome.zarr")))
        list(pool.map(write_block, plan.blocks[:1] * 2 * workers))
        began = time.perf_counter()
        list(pool.map(write_block, plan.blocks))
        taken = time.perf_counter() - began
    drop_mosaic(plan)
    return taken


def raw_write(path: Path, n_bytes: int) -> float:
    """Write so many bytes with `write()`; give the time, in s."""
    block = np.random.default_rng(0).integers(0, 4096, 16 * 2**20, dtype=np.uint16)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        left = n_bytes
        while left > 0:
            left -= file.write(memoryview(block).cast("B")[:left])
    taken = time.perf_counter() - began
    path.unlink()
    return taken


def crop_time(path: Path) -> float:
    """Give the shortest time in which Tiled's adapter opens a level and reads a crop, in ms."""
    times = []
    for place in range(20):
        start = 100 * place
        began = time.perf_counter()
        adapter = ZarrAdapter.from_uris((path / "0").as_uri())
        adapter.read(NDSlice(0, slice(start, start + CROP), slice(start, start + CROP)))
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


def measure(quick: bool) -> Iterator[Result]:
    """Measure tiles of 2048² and, unless quick, of 3840²."""
    keep_memory()
    use_one_thread()
    cases = [(2048, 5, 5)] if quick else [(2048, 7, 7), (3840, 4, 4)]
    repeats = 2 if quick else 3
    for side, rows, columns in cases:
        folder = Path(tempfile.mkdtemp(prefix="mosaic-rate-"))
        try:
            yield from measure_case(folder, side, rows, columns, repeats)
        finally:
            shutil.rmtree(folder)


def measure_case(
    folder: Path, side: int, rows: int, columns: int, repeats: int
) -> Iterator[Result]:
    """Measure one montage."""
    task = montage(folder, side, rows, columns)
    plan = begin_mosaic(task)
    pixels = [height * width for height, width in plan.levels]
    drop_mosaic(plan)
    megabytes = 2 * sum(pixels) / 1e6
    name = f"{rows} × {columns} tiles of {side}²"
    written = min(raw_write(folder / "raw", 2 * sum(pixels)) for _ in range(repeats))
    work = min(core_time(task) for _ in range(repeats + 1))  # the first one compiles
    size = sum(file.stat().st_size for file in task.path.rglob("*") if file.is_file()) / 1e6
    yield Result(
        f"{name}: all levels, of one core",
        megabytes / work,
        "MB/s",
        "raw write()",
        megabytes / written,
        GOAL_MB_PER_S,
        better="more",
    )
    by_maps = min(core_time(bent(task)) for _ in range(repeats + 1))
    yield Result(
        f"{name}: all levels by maps, of one core",
        megabytes / by_maps,
        "MB/s",
        "whole pixels",
        megabytes / work,
        better="more",
    )
    yield Result(f"{name}: mosaic", pixels[0] / 1e6 / work, "Mpx/s of a core")
    yield Result(f"{name}: on disk", size, "MB", "uncompressed", megabytes)
    rate = {
        workers: pixels[0] / 1e6 / min(wall_time(task, workers) for _ in range(repeats))
        for workers in (1, min(2, os.cpu_count() or 1))
    }
    yield Result(f"{name}: blocks on one worker", rate[1], "Mpx/s")
    yield Result(
        f"{name}: blocks on two workers",
        rate[max(rate)],
        "Mpx/s",
        "on one worker",
        rate[1],
    )
    yield Result(
        f"a crop of {CROP}² by Tiled's adapter", crop_time(task.path), "ms", goal=GOAL_CROP_MS
    )


if __name__ == "__main__":
    run("mosaic_rate", "How fast mosaics are written.", measure)
