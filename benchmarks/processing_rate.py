"""How fast tiles are processed: all steps, two matches a tile, the processed frame written.

Beside it stands a memory copy of the same frames in the same run, by one thread: from an array that
is in no cache into another that is in none either, but in memory that the process has already, as
the chain's own buffers are.

Rates are of the whole machine's clock, so nothing else should run; the table of steps is the time
that one thread works. There, processed tiles go to rows that were written before; in the montage
that latency is told of, each frame and each row is new to the disk, as they are at a microscope.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from event_model import compose_run
from numpy.typing import NDArray

from benchmarks._report import Result, run
from callbacks.documents import file_uri
from callbacks.folders import DataFolders
from callbacks.frames import DATASET, FrameReference, read_frame
from callbacks.lens_files import load_lens
from callbacks.processed_file import ProcessedFile
from callbacks.references import ReferenceFiles, load_references, reference_path, write_average
from callbacks.tile_jobs import ProcessorSettings, TileTask, process_tile
from callbacks.tile_processor import TileProcessor
from callbacks.warm_up import warm_up
from ioc.camera.writer import FrameFile
from ioc.drivers.protocol import Frame
from ioc.memory import keep_memory
from processing.chain import TileState, make_chain, thread_buffers
from processing.geometry import FrameGeometry
from processing.lens import LensModel
from processing.lens.model import grid_places
from processing.matching import match
from simulation import MicroscopeSettings, VirtualMicroscope
from simulation.specimen import NeuropilSection

FOCUS = -3.2  # µm
OVERLAP = 0.1
LENS_SHIFT = 20.0  # px, at the corner
SHAPES = ((2048, 2048), (3840, 3840), (5376, 5376), (3840, 5120))
GOALS = {(2048, 2048): 400.0, (3840, 5120): 600.0}  # Mpx/s on two cores
COPY = "cold memory copy, one thread"
WORKERS = 3
GOAL_LATENCY_MS = 150.0
GOAL_GROWTH_MB = 50.0
COLD_BYTES = 256 * 2**20  # so much lies between two uses of an array that is to be cold
ROWS = 24  # of the processed file; they are written again, so that the disk is not what is measured
SETTINGS = ProcessorSettings()


@dataclass(frozen=True)
class Scene:
    """Four neighbouring tiles, 2 × 2, on disk as the camera leaves them, and their references.

    Attributes
    ----------
    folders : DataFolders
    frames : Path
        HDF5 file of the four.
    shape, pitch : (int, int)
        Of a tile, and from one to the next, (rows, columns) in px.
    geometry : FrameGeometry
    references : ReferenceFiles
    lens : Path
    """

    folders: DataFolders
    frames: Path
    shape: tuple[int, int]
    pitch: tuple[int, int]
    geometry: FrameGeometry
    references: ReferenceFiles
    lens: Path

    @property
    def mpx(self) -> float:
        """Size of a tile, in Mpx."""
        return self.shape[0] * self.shape[1] / 1e6

    def task(self, number: int, file: ProcessedFile | None) -> TileTask:
        """Give the task of the n-th tile; the four take turns."""
        down, across = (
            side - step + SETTINGS.max_offset
            for side, step in zip(self.shape, self.pitch, strict=True)
        )
        return TileTask(
            FrameReference(str(self.frames), DATASET, number % 4, number % 4 + 1, number % 4 + 1),
            self.geometry,
            None if file is None else file.row(number % ROWS),
            self.references,
            str(self.lens),
            {"top": down, "bottom": down, "left": across, "right": across},
        )

    def processed_file(self, name: str) -> ProcessedFile:
        """Make a file for processed tiles, all rows of which have been written once."""
        path = self.folders.processed / f"{name}.h5"
        path.unlink(missing_ok=True)
        file = ProcessedFile(path, SETTINGS.outputs(self.shape), ROWS)
        blank = {key: np.ones(spec.shape, spec.dtype) for key, spec in file.arrays.items()}
        for index in range(ROWS):
            file.row(index).write(blank)
        return file


@contextmanager
def scene(shape: tuple[int, int]) -> Iterator[Scene]:
    """Have the virtual microscope take four tiles and their references, with all its errors."""
    with tempfile.TemporaryDirectory(prefix="temline-rate-") as name:
        folders = DataFolders(Path(name))
        pitch = round(shape[0] * (1 - OVERLAP)), round(shape[1] * (1 - OVERLAP))
        frames, geometry, model = _take(shape, pitch)
        path = Path(name) / "frames.h5"
        _write_frames(path, frames)
        bright, dark = (_reference(shape, screen) for screen in ("Up", "Down"))
        for uid, average in (("bright", bright), ("dark", dark)):
            write_average(reference_path(folders.references, uid), average, {})
        lens = Path(name) / "lens.json"
        lens.write_text(json.dumps({"model": model.to_dict(), "accepted": True, "reasons": []}))
        files = ReferenceFiles(
            str(reference_path(folders.references, "bright")),
            str(reference_path(folders.references, "dark")),
        )
        yield Scene(folders, path, shape, pitch, geometry, files, lens)


def _microscope(shape: tuple[int, int], specimen: Any) -> tuple[VirtualMicroscope, list[float]]:
    """Make a microscope whose time is what the second value says."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    settings = MicroscopeSettings.from_mapping(
        {
            "seed": 5,
            "camera": {"sensor": list(shape)},
            "optics": {"radial_distortion": LENS_SHIFT},
        }
    )
    microscope = VirtualMicroscope(settings, specimen, clock=lambda: now[0], sleep=sleep)
    column = {"screen": "Up", "blank": "Off", "column_valve": "Open", "defocus": FOCUS}
    for key, value in column.items():
        microscope.column.set(key, value)
    microscope.column.set("beam_spread", 12.0 * max(shape) / 2048)
    return microscope, now


def _take(
    shape: tuple[int, int], pitch: tuple[int, int]
) -> tuple[list[NDArray[np.uint16]], FrameGeometry, LensModel]:
    """Take the tiles; give the lens too that bent them, as a lens correction finds it."""
    microscope, now = _microscope(shape, NeuropilSection(seed=1))
    geometry = microscope.column.geometry
    frames = []
    for row, column in itertools.product(range(2), range(2)):
        x, y = geometry.stage_vector((row * pitch[0], column * pitch[1])).tolist()
        microscope.stage.move(x=x, y=y)
        now[0] += 2.0
        microscope.camera.expose(0.1)
        frames.append(microscope.camera.read().data)
    places = grid_places(shape).reshape(-1, 2)
    shifts = microscope.distortion.shift(places[:, 0], places[:, 1])
    microscope.close()
    return frames, geometry, LensModel.from_shifts(places, shifts, shape)


def _reference(shape: tuple[int, int], screen: str) -> NDArray[np.float32]:
    microscope, _ = _microscope(shape, None)
    microscope.column.set("screen", screen)
    total = np.zeros(shape, np.float32)
    for _ in range(4):
        microscope.camera.expose(0.1)
        total += microscope.camera.read().data
    microscope.close()
    return total / np.float32(4)


def _write_frames(path: Path, frames: Sequence[NDArray[np.uint16]]) -> None:
    """Write frames as the camera's plugin does."""
    file = FrameFile(path, frames[0].shape, frames[0].dtype)
    for number, data in enumerate(frames, start=1):
        file.append(Frame(data=data, number=number, timestamp=0.0))
    file.close()


# The limit


def copy_ms(frame: NDArray[np.uint16], repeats: int) -> float:
    """Give the median time of a copy of a frame on one thread, in ms.

    Neither of the two is in a cache; both are in memory that was written to before.
    """
    count = max(2, COLD_BYTES // (2 * frame.nbytes))
    sources, targets = ([frame.copy() for _ in range(count)] for _ in range(2))
    times = []
    for source, target in itertools.islice(
        itertools.cycle(zip(sources, targets, strict=True)), repeats * count
    ):
        begin = time.thread_time()
        np.copyto(target, source)
        times.append(time.thread_time() - begin)
    return 1e3 * statistics.median(times[count:])


# Step by step


def step_ms(one: Scene, repeats: int) -> dict[str, float]:
    """Give the least time that a thread works at each step of a tile, in ms."""
    times: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, action: Callable[[], Any]) -> Any:
        begin = time.thread_time()
        result = action()
        times[name].append(1e3 * (time.thread_time() - begin))
        return result

    chain = make_chain(SETTINGS.steps)
    file = one.processed_file("steps")
    references = load_references(one.references)
    lens = load_lens(one.lens)
    edges = [process_tile(one.task(number, None), SETTINGS).edges for number in range(4)]
    for number in range(repeats):
        task = one.task(number, file)
        frame = timed("read", lambda: read_frame(task.reference, 5.0, thread_buffers()))  # noqa: B023
        tile = TileState(frame, one.geometry, references, 1.0, lens, task.edges)
        for name, step in chain.steps.items():
            timed(name, lambda: step(tile))  # noqa: B023
        arrays = {"frame": tile.image, **tile.arrays}
        timed("write", lambda: task.row.write(arrays))  # type: ignore[union-attr] # noqa: B023
        timed("2 matches", lambda: _match_both(one, edges))
    return {name: min(values) for name, values in times.items()}


def _match_both(one: Scene, edges: Sequence[Any]) -> None:
    """Match a tile with the ones beside and below it."""
    for side, other, its_side, nominal in (
        ("right", 1, "left", (0.0, float(one.pitch[1]))),
        ("bottom", 2, "top", (float(one.pitch[0]), 0.0)),
    ):
        match(edges[0][side], edges[other][its_side], nominal, SETTINGS.max_offset)


# Rates


def seconds_a_tile(one: Scene, cores: int, tiles: int, rounds: int = 3) -> tuple[float, float]:
    """Process tiles on so many cores, with two matches each; the best round counts.

    There is one thread more than there are cores, as some thread always waits for the disk.

    Returns
    -------
    (float, float)
        Time a tile by the clock, and time that a processor works at it, in s.
    """
    file = one.processed_file(f"rate-{cores}")
    edges = [process_tile(one.task(number, None), SETTINGS).edges for number in range(4)]

    def work(number: int) -> None:
        process_tile(one.task(number, file), SETTINGS)
        _match_both(one, edges)

    found = []
    with _on_cores(cores), ThreadPoolExecutor(cores + 1) as pool:
        list(pool.map(work, range(2 * cores + 2)))
        for _ in range(rounds):
            clock, worked = time.perf_counter(), time.process_time()
            list(pool.map(work, range(tiles)))
            found.append(
                (
                    (time.perf_counter() - clock) / tiles,
                    (time.process_time() - worked) / tiles,
                )
            )
    file.path.unlink()
    return min(found)


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Let threads that are started here run on so many cores, of those that there are."""
    if not hasattr(os, "sched_setaffinity"):
        raise RuntimeError("this system cannot keep threads to some cores; run this on Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# Through the tile processor


class Camera:
    """Takes a montage without a microscope: writes frames at a pace, and tells of each.

    Parameters
    ----------
    one : Scene
    rows, columns : int
        Of the montage; the four tiles take turns, so that neighbours fit as often as not.
    """

    def __init__(self, one: Scene, rows: int, columns: int) -> None:
        self._one = one
        self._places = list(itertools.product(range(rows), range(columns)))
        self._rows, self._columns = rows, columns
        with h5py.File(one.frames, "r") as file:
            self._frames = list(file[DATASET][:])

    def take(self, consume: Callable[[str, Any], None], pace: float, folder: Path) -> None:
        """Take all tiles, one in `pace` s, into one file."""
        one = self._one
        bundle = compose_run(metadata=self._start())
        consume("start", bundle.start_doc)
        keys = {
            "tile_index": "integer",
            "tile_row": "integer",
            "tile_column": "integer",
            "tile_x": "number",
            "tile_y": "number",
        }
        described: dict[str, Any] = {
            key: {"source": "sim", "dtype": kind, "shape": []} for key, kind in keys.items()
        }
        described["camera_image"] = {
            "source": "sim",
            "dtype": "array",
            "dtype_numpy": "<u2",
            "shape": list(one.shape),
            "external": "STREAM:",
        }
        stream = bundle.compose_descriptor("primary", described)
        consume("descriptor", stream.descriptor_doc)
        path = folder / "camera.h5"
        file = FrameFile(path, one.shape, np.dtype(np.uint16))
        resource = bundle.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=file_uri(path),
            data_key="camera_image",
            parameters={"dataset": DATASET, "chunk_shape": [1, *one.shape]},
        )
        consume("stream_resource", resource.stream_resource_doc)
        due = time.monotonic()
        for index, (row, column) in enumerate(self._places):
            due += pace
            time.sleep(max(0.0, due - time.monotonic()))
            file.append(Frame(self._frames[row % 2 * 2 + column % 2], index + 1, time.time()))
            x, y = one.geometry.stage_vector((row * one.pitch[0], column * one.pitch[1])).tolist()
            data = dict(zip(keys, (index, row, column, x, y), strict=True))
            consume("event", stream.compose_event(data, dict.fromkeys(data, time.time())))
            consume(
                "stream_datum",
                resource.compose_stream_datum(
                    indices={"start": index, "stop": index + 1},
                    seq_nums={"start": index + 1, "stop": index + 2},
                    descriptor=stream.descriptor_doc,
                ),
            )
        file.close()
        consume("stop", bundle.compose_stop())

    def _start(self) -> dict[str, Any]:
        one = self._one
        tiles = [
            [*place, *one.geometry.stage_vector(np.multiply(place, one.pitch)).tolist()]
            for place in self._places
        ]
        return {
            "plan_name": "montage",
            "montage": {
                "rows": self._rows,
                "columns": self._columns,
                "tile_shape": list(one.shape),
                "pitch_px": list(one.pitch),
                "n_tiles": len(tiles),
                "skipped": [],
                "tiles": tiles,
            },
            "calibration": one.geometry.to_dict(),
            "references": {"bright": "bright", "dark": "dark"},
        }


def take_montage(
    one: Scene, rows: int, columns: int, pace: float
) -> tuple[list[dict[str, Any]], list[float]]:
    """Take a montage through the real tile processor, with as many workers as by default.

    Returns
    -------
    list of dict
        `latency` and `error` of the events of stream `tile`.
    list of float
        The process's memory at each of them, in MB.
    """
    tiles: list[dict[str, Any]] = []
    memory: list[float] = []
    process = psutil.Process(os.getpid())
    streams: dict[str, str] = {}

    def publish(name: str, doc: dict[str, Any]) -> None:
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "event" and streams[doc["descriptor"]] == "tile":
            # No more than is told of: memory that the benchmark takes is not what is looked for.
            tiles.append({key: doc["data"][key] for key in ("latency", "error")})
            memory.append(process.memory_info().rss / 2**20)

    with ThreadPoolExecutor(WORKERS) as pool, tempfile.TemporaryDirectory() as name:
        folders = DataFolders(Path(name))
        shutil.copytree(one.folders.references, folders.references)
        processor = TileProcessor(pool, publish, SETTINGS, folders)
        camera = threading.Thread(
            target=Camera(one, rows, columns).take, args=(processor, pace, Path(name))
        )
        camera.start()
        camera.join()
        if not processor.close(600):
            raise RuntimeError("the montage was not processed within 600 s of its end")
    return tiles, memory


# What is told


def measure(quick: bool) -> Iterator[Result]:
    """Measure all shapes of tiles, or the smallest a few times."""
    keep_memory()
    warm_up(SETTINGS)
    repeats = 8 if quick else 24
    for shape in SHAPES[: 1 if quick else None]:
        with scene(shape) as one:
            yield from _measure_rates(one, repeats)
            if shape in GOALS:
                yield from _measure_latency(one, 24 if quick else 100)
    with scene((256, 256)) as small:
        yield from _measure_memory(small, 400 if quick else 5000)


def _measure_rates(one: Scene, repeats: int) -> Iterator[Result]:
    size = f"{one.shape[1]} × {one.shape[0]}"
    with h5py.File(one.frames, "r") as file:
        copy = copy_ms(file[DATASET][0], 4)
    steps = step_ms(one, repeats)
    for name, value in {**steps, "all steps": sum(steps.values())}.items():
        yield Result(f"{size}: {name}, one thread", value, "ms", COPY, copy)
    for cores in (1, 2):
        clock, worked = seconds_a_tile(one, cores, repeats * cores)
        goal = GOALS.get(one.shape) if cores == 2 else None
        name = f"{size}: all on {cores} core{'s' if cores > 1 else ''}"
        copied = one.mpx / (copy / 1e3)
        yield Result(name, one.mpx / clock, "Mpx/s", COPY, copied, goal, better="more")
        yield Result(f"{name}, work a tile", 1e3 * worked, "ms", COPY, copy)


def _measure_latency(one: Scene, count: int) -> Iterator[Result]:
    """Take a montage at the pace of a camera that reads out 60 Mpx/s, and has 0.1 s to expose."""
    size = f"{one.shape[1]} × {one.shape[0]}"
    tiles, _ = take_montage(one, 4, count // 4, pace=max(0.1, one.mpx / 60))
    latency = [1e3 * tile["latency"] for tile in tiles]
    for name, value, goal in (
        ("median", statistics.median(latency), None),
        ("p95", float(np.percentile(latency, 95)), GOAL_LATENCY_MS),
    ):
        yield Result(f"{size}: frame on disk to published, {name}", value, "ms", goal=goal)
    failed = sum(bool(tile["error"]) for tile in tiles)
    yield Result(f"{size}: tiles that could not be processed", failed, "", goal=0)


def _measure_memory(one: Scene, count: int) -> Iterator[Result]:
    """See how memory grows over the last nine tenths of a long montage."""
    tiles, memory = take_montage(one, count // 50, 50, pace=0.0)
    growth = max(memory) - memory[len(memory) // 10]
    yield Result(f"memory growth over {len(tiles)} tiles", growth, "MB", goal=GOAL_GROWTH_MB)


if __name__ == "__main__":
    run("processing_rate", "How fast tiles are processed, against a memory copy.", measure)
