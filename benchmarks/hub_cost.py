"""What a tile costs beside its pixels: documents, queues and book-keeping, in CPU time of threads.

Workers are replaced by results that are there at once, so that nothing else is measured.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_run

from benchmarks._report import Result, run
from callbacks.folders import DataFolders
from callbacks.montage_streams import no_figures
from callbacks.quality import QualityGate
from callbacks.tile_jobs import ProcessedTile, ProcessorSettings, match_tiles, process_tile
from callbacks.tile_processor import TileProcessor
from callbacks.tiled_sink import TiledSink
from processing.chain import make_chain
from processing.matching import Match

SHAPE = (2048, 2048)
PITCH = 1800
COLUMNS = 40
PIXEL_SIZE = 4.0
RATE = 40  # tiles/s, several times what a camera gives; what is done by the clock costs less then
GOAL_MS = 2.0
GOOD: dict[str, Any] = {"mean": 5000.0, "std": 800.0, "focus": 0.8, "textured": True}


class Canned(Executor):
    """An executor whose workers need no time: results are made once."""

    def __init__(self, settings: ProcessorSettings) -> None:
        chain = make_chain(settings.steps)
        figures = {**no_figures(chain), **GOOD, "seconds": 0.03}
        mini = np.zeros(chain.arrays(SHAPE)["mini"].shape, np.uint8)
        edges: Any = dict.fromkeys(("top", "bottom", "left", "right"))
        self._tile = ProcessedTile(figures, {"mini": mini}, edges, SHAPE)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give a future that is done."""
        future: Future[Any] = Future()
        if fn is process_tile:
            future.set_result(self._tile)
        elif fn is match_tiles:
            row, column = args[2]
            future.set_result(Match(row + 1, column - 1, 0.02, 0.9, True, "", 0.8, 5, 0.02, 0.02))
        else:
            future.set_result(None)
        return future


def raw_documents(n_tiles: int, frames: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the documents of a raw run in a serpentine."""
    cells = [
        (row, column if row % 2 == 0 else COLUMNS - 1 - column)
        for row in range(n_tiles // COLUMNS)
        for column in range(COLUMNS)
    ]
    places = [(c * PITCH * PIXEL_SIZE / 1e3, -r * PITCH * PIXEL_SIZE / 1e3) for r, c in cells]
    tiles = [[*cell, *place] for cell, place in zip(cells, places, strict=True)]
    bundle = compose_run(
        metadata={
            "plan_name": "montage",
            "montage": {"tile_shape": SHAPE, "pitch_px": (PITCH, PITCH), "tiles": tiles},
            "calibration": {"pixel_size": PIXEL_SIZE},
        }
    )
    yield "start", dict(bundle.start_doc)
    number = {"source": "benchmark", "dtype": "number", "shape": []}
    keys = dict.fromkeys(("tile_index", "tile_row", "tile_column", "tile_x", "tile_y"), number)
    image = {"source": "benchmark", "dtype": "array", "shape": [*SHAPE], "external": "STREAM:"}
    primary = bundle.compose_descriptor("primary", {**keys, "image": image}, validate=False)
    yield "descriptor", dict(primary.descriptor_doc)
    resource = bundle.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{frames}",
        data_key="image",
        parameters={"dataset": "/entry/data/data"},
    )
    yield "stream_resource", dict(resource.stream_resource_doc)
    for index, (cell, place) in enumerate(zip(cells, places, strict=True)):
        data = dict(zip(keys, (index, *cell, *place), strict=True))
        event = primary.compose_event(data, dict.fromkeys(data, time.time()), validate=False)
        yield "event", dict(event)
        datum = resource.compose_stream_datum(
            indices={"start": index, "stop": index + 1},
            seq_nums={"start": index + 1, "stop": index + 2},
            descriptor=primary.descriptor_doc,
            validate=False,
        )
        yield "stream_datum", dict(datum)


def cpu_seconds(thread: threading.Thread) -> float:
    """Give the CPU time that a thread has used, in s."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


def named(name: str) -> threading.Thread:
    """Find a thread by its name."""
    return next(thread for thread in threading.enumerate() if thread.name == name)


def measure(quick: bool) -> Iterator[Result]:
    """Feed a montage whose workers need no time."""
    n_tiles = COLUMNS * (5 if quick else 20)
    settings = ProcessorSettings()
    with tempfile.TemporaryDirectory() as folder:
        sink = TiledSink("http://127.0.0.1:9", None, Path(folder) / "backup")
        gate = QualityGate()

        published = [0]

        def publish(name: str, doc: dict[str, Any]) -> None:
            gate(name, doc)
            sink(name, doc)
            published[0] += name == "event" and "latency" in doc["data"]

        processor = TileProcessor(Canned(settings), publish, settings, DataFolders(Path(folder)))
        hub, journal = named("tile-processor"), named("tiled-journal")

        def feed(n: int) -> float:
            """Feed a montage and give the CPU time of the calls, in s."""
            spent, goal = 0.0, published[0] + n
            for name, doc in raw_documents(n, Path(folder) / "frames.h5"):
                begun = time.thread_time()
                processor(name, doc)
                spent += time.thread_time() - begun
                if name == "event":
                    time.sleep(1 / RATE)
            while published[0] < goal:
                time.sleep(0.001)
            sink.flush(60)
            return spent

        feed(2 * COLUMNS)  # what is imported and compiled only once
        before = cpu_seconds(hub), cpu_seconds(journal)
        caller = feed(n_tiles)
        spent = cpu_seconds(hub) - before[0], cpu_seconds(journal) - before[1]
        processor.close(0.1)
        sink.close(10)
    yield Result("RunEngine's thread", 1e6 * caller / n_tiles, "µs/tile")
    yield Result("hub's thread", 1e3 * spent[0] / n_tiles, "ms/tile")
    yield Result("journal's thread", 1e3 * spent[1] / n_tiles, "ms/tile")
    yield Result("both", 1e3 * sum(spent) / n_tiles, "ms/tile", goal=GOAL_MS)


if __name__ == "__main__":
    run("hub_cost", "CPU time that a tile costs beside its pixels", measure)
