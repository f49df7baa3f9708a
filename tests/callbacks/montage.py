"""A montage without a microscope: tiles cut from one image, HDF5 files, and its documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from event_model import compose_run
from numpy.typing import NDArray

from processing.geometry import FrameGeometry

SIDE = 256
PITCH = 200
PIXEL_SIZE = 4.0


def texture(side: int, seed: int = 1) -> NDArray[np.float32]:
    """Blobs at several scales, 0 to 1: something that matching and focus can hold on to."""
    random = np.random.default_rng(seed)
    image = np.zeros((side, side), np.float32)
    for sigma in (1.0, 3.0, 9.0):
        noise = cv2.GaussianBlur(random.standard_normal((side, side), np.float32), (0, 0), sigma)
        image += np.where(noise > 0, 1.0, 0.0).astype(np.float32)
    return image / 3


@dataclass
class Taken:
    """One event of the raw run: which tile, the frame of which is at which place in the file."""

    index: int
    attempt: int = 1
    place: int = -1
    number: int = -1


@dataclass
class SimulatedMontage:
    """Tiles at places that are off from nominal by known amounts."""

    folder: Path
    rows: int = 2
    columns: int = 3
    seed: int = 1
    error_px: int = 20
    skipped: Sequence[tuple[int, int]] = ()
    background: NDArray[np.float32] | None = None
    offset: float = 0.0
    md: dict[str, Any] = field(default_factory=dict)
    geometry: FrameGeometry = field(default_factory=lambda: FrameGeometry(PIXEL_SIZE, angle=30.0))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"frames-{self.seed}.h5"
        self.specimen = texture(PITCH * max(self.rows, self.columns) + SIDE, self.seed)
        self.places = [
            (row, column)
            for row in range(self.rows)
            for column in (range(self.columns) if row % 2 == 0 else reversed(range(self.columns)))
            if (row, column) not in self.skipped
        ]
        random = np.random.default_rng(self.seed)
        self.nominal = np.array(self.places) * PITCH + self.error_px
        self.true = self.nominal + random.integers(
            -self.error_px, self.error_px + 1, self.nominal.shape
        )
        self.stage = [self.geometry.stage_vector(place) for place in self.nominal]

    @property
    def n_tiles(self) -> int:
        return len(self.places)

    def frame(self, index: int, noise_seed: int = 0) -> NDArray[np.uint16]:
        row, column = self.true[index]
        counts = 2000 + 10000 * self.specimen[row : row + SIDE, column : column + SIDE]
        random = np.random.default_rng(1000 * noise_seed + index)
        if self.background is not None:
            counts = counts * self.background
        counts = counts + random.normal(0, 50, counts.shape) + self.offset
        return np.clip(counts, 0, 65535).astype(np.uint16)

    def start(self) -> dict[str, Any]:
        return {
            "plan_name": "montage",
            "plan_type": "generator",
            "scan_id": 7,
            "sample": {"name": "test section"},
            "montage": {
                "rows": self.rows,
                "columns": self.columns,
                "tile_shape": [SIDE, SIDE],
                "pitch_px": [PITCH, PITCH],
                "pattern": "serpentine",
                "n_tiles": self.n_tiles,
                "skipped": [list(place) for place in self.skipped],
                "tiles": [
                    [*place, *map(float, xy)]
                    for place, xy in zip(self.places, self.stage, strict=True)
                ],
            },
            "calibration": self.geometry.to_dict() | {"magnification": 5000},
            "references": {"bright": None, "dark": None},
            **self.md,
        }

    def tile_data(self, taken: Taken) -> dict[str, Any]:
        row, column = self.places[taken.index]
        x, y = self.stage[taken.index]
        return {
            "tile_index": taken.index,
            "tile_row": row,
            "tile_column": column,
            "tile_attempt": taken.attempt,
            "tile_x": float(x),
            "tile_y": float(y),
            "camera_cam_array_counter": taken.number,
        }

    def all_tiles(self) -> list[Taken]:
        return [Taken(index) for index in range(self.n_tiles)]

    def write(self, frames: Sequence[NDArray[Any]], numbers: Sequence[int] | None = None) -> None:
        write_frames(self.path, frames, numbers)

    def documents(
        self,
        tiles: Sequence[Taken] | None = None,
        *,
        stream: bool = False,
        exit_status: str = "success",
        reason: str = "",
        write: bool = True,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the raw run's documents; the file is written before the first."""
        tiles = self.all_tiles() if tiles is None else list(tiles)
        for place, taken in enumerate(tiles):
            taken.place = place if taken.place < 0 else taken.place
            taken.number = 100 + place if taken.number < 0 else taken.number
        if write:
            frames = [self.frame(taken.index, taken.attempt) for taken in tiles]
            self.write(frames, [taken.number for taken in tiles])
        yield from raw_documents(
            self.start(),
            self.path,
            [self.tile_data(taken) for taken in tiles],
            [taken.place for taken in tiles],
            stream=stream,
            exit_status=exit_status,
            reason=reason,
        )


def write_frames(
    path: Path, frames: Sequence[NDArray[Any]], numbers: Sequence[int] | None = None
) -> None:
    """Write frames as areaDetector's HDF5 plugin lays them out."""
    stack = np.stack(frames)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("/entry/data/data", data=stack, chunks=(1, *stack.shape[1:]))
        if numbers is not None:
            file["/entry/instrument/NDAttributes/NDArrayUniqueId"] = np.asarray(numbers)


def raw_documents(
    start: dict[str, Any],
    path: Path,
    rows: Sequence[dict[str, Any]],
    places: Sequence[int],
    *,
    stream: bool = False,
    exit_status: str = "success",
    reason: str = "",
    shape: tuple[int, int] = (SIDE, SIDE),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compose a run whose events point at frames of one file, by datum or by stream_datum."""
    run = compose_run(metadata=start)
    yield "start", run.start_doc
    keys = {
        key: {
            "source": "sim",
            "dtype": "integer" if isinstance(value, int) else "number",
            "dtype_numpy": "<i8" if isinstance(value, int) else "<f8",
            "shape": [],
        }
        for key, value in (rows[0] if rows else {}).items()
    }
    keys["camera_image"] = {
        "source": "sim",
        "dtype": "array",
        "dtype_numpy": "<u2",
        "shape": list(shape) if stream else [1, *shape],
        "external": "STREAM:" if stream else "FILESTORE:",
    }
    primary = run.compose_descriptor("primary", keys)
    yield "descriptor", primary.descriptor_doc
    if stream:
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key="camera_image",
            parameters={"dataset": "/entry/data/data", "chunk_shape": [1, *shape]},
        )
        yield "stream_resource", resource.stream_resource_doc
    else:
        resource = run.compose_resource(
            spec="AD_HDF5",
            root="/",
            resource_path=str(path).lstrip("/"),
            resource_kwargs={"frame_per_point": 1},
        )
        yield "resource", resource.resource_doc
    for seq_num, (row, place) in enumerate(zip(rows, places, strict=True), start=1):
        data = dict(row)
        if stream:
            event = primary.compose_event(data, dict.fromkeys(data, time.time()))
            yield "event", event
            yield (
                "stream_datum",
                resource.compose_stream_datum(
                    indices={"start": place, "stop": place + 1},
                    seq_nums={"start": seq_num, "stop": seq_num + 1},
                    descriptor=primary.descriptor_doc,
                ),
            )
        else:
            datum = resource.compose_datum({"point_number": place})
            yield "datum", datum
            data["camera_image"] = datum["datum_id"]
            event = primary.compose_event(
                data, dict.fromkeys(data, time.time()), filled={"camera_image": False}
            )
            yield "event", event
    yield "stop", run.compose_stop(exit_status=exit_status, reason=reason)


def feed(callback: Callable[[str, dict[str, Any]], Any], documents: Any) -> str:
    """Give documents to a callback; tell the uid of the run."""
    uid = ""
    for name, doc in documents:
        uid = doc["uid"] if name == "start" else uid
        callback(name, doc)
    return uid
