"""Composes the documents of a processed run: the one place that knows event-model's bookkeeping.

Results travel as documents, so that stock consumers take them as they take the raw ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from event_model import ComposeDescriptorBundle, compose_run
from numpy.typing import DTypeLike

from callbacks.frames import HDF5_MIMETYPE

Publish = Callable[[str, dict[str, Any]], None]
ExitStatus = Literal["success", "abort", "fail"]

SOURCE = "temline"
ZARR_MIMETYPE = "application/x-zarr"
COPIED_FROM_RAW = ("sample", "operator", "roi", "montage", "calibration", "references")
TEXT_LENGTH = 256


def number(units: str = "", precision: int = 3) -> dict[str, Any]:
    """Describe a float64 value."""
    key = {"source": SOURCE, "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    return {**key, "units": units, "precision": precision}


def integer(units: str = "") -> dict[str, Any]:
    """Describe an int64 value."""
    key = {"source": SOURCE, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
    return {**key, "units": units}


def boolean() -> dict[str, Any]:
    """Describe a truth value."""
    return {"source": SOURCE, "dtype": "boolean", "dtype_numpy": "|b1", "shape": []}


def text() -> dict[str, Any]:
    """Describe a text of up to 256 characters."""
    key = {"source": SOURCE, "dtype": "string", "dtype_numpy": f"<U{TEXT_LENGTH}", "shape": []}
    return {**key, "units": ""}


def image(shape: Sequence[int], dtype: DTypeLike, dims: Sequence[str]) -> dict[str, Any]:
    """Describe an array that is kept in a file; shape and names of the axes of one of them."""
    return {
        "source": SOURCE,
        "dtype": "array",
        "dtype_numpy": np.dtype(dtype).str,
        "shape": list(shape),
        "dims": list(dims),
        "external": "STREAM:",
    }


@dataclass(frozen=True)
class StoredArray:
    """An array in a file or store, of shape (1, height, width): a stack of one image.

    Attributes
    ----------
    key : str
        Data key of the stream under which it is published.
    path : str
        The HDF5 file, or the folder of the Zarr store.
    dataset : str
        Path of the array in it.
    shape : tuple of int
        (height, width) in px.
    dtype : str
    chunks : tuple of int
        (height, width) of a chunk, in px.
    mimetype : str
        `HDF5_MIMETYPE` or `ZARR_MIMETYPE`.
    """

    key: str
    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    mimetype: str = HDF5_MIMETYPE

    @property
    def uri(self) -> str:
        """Where a reader finds it: an array of a Zarr store is a folder of its own."""
        in_folder = self.mimetype == ZARR_MIMETYPE
        return file_uri(Path(self.path) / self.dataset if in_folder else self.path)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a reader needs to know besides."""
        chunks = {"chunk_shape": [1, *self.chunks]}
        if self.mimetype == ZARR_MIMETYPE:
            return chunks
        return {**chunks, "dataset": self.dataset, "swmr": False}


def file_uri(path: str | Path) -> str:
    """Give the URI of a file as Tiled writes it."""
    return Path(path).absolute().as_uri().replace("file://", "file://localhost", 1)


class ProcessedRun:
    """A run that holds what was computed from a raw run.

    Parameters
    ----------
    publish : callable
        Called with (name, document), in event-model order.
    plan_name : str
        ``"process_<…>"``.
    raw : mapping
        Start document of the raw run; what describes the sample is copied from it.
    streams : mapping of str to mapping
        Data keys of the streams of events, by name.
    md : mapping, optional
        More metadata for the start document.
    """

    def __init__(
        self,
        publish: Publish,
        plan_name: str,
        raw: Mapping[str, Any],
        streams: Mapping[str, Mapping[str, Any]],
        md: Mapping[str, Any] | None = None,
    ) -> None:
        copied = {key: raw[key] for key in COPIED_FROM_RAW if key in raw}
        self._publish = publish
        self._streams = streams
        self._run = compose_run(
            metadata={
                **copied,
                "plan_name": plan_name,
                "plan_type": "callback",
                "raw_uid": raw["uid"],
                "raw_scan_id": raw.get("scan_id"),
                **(md or {}),
            }
        )
        self._descriptors: dict[str, ComposeDescriptorBundle] = {}
        publish("start", dict(self._run.start_doc))

    @property
    def uid(self) -> str:
        """The uid of this run."""
        return str(self._run.start_doc["uid"])

    def event(self, stream: str, data: Mapping[str, Any]) -> None:
        """Publish an event, and the stream's descriptor before the first."""
        self._event(self._descriptor(stream, self._streams[stream]), data)

    def arrays(
        self, stream: str, arrays: Iterable[StoredArray], data: Mapping[str, Any] | None = None
    ) -> None:
        """Publish arrays that lie in files, and numbers that belong to them, as one event."""
        stored = tuple(arrays)
        keys = dict(self._streams.get(stream, {}))
        for array in stored:
            dims = (f"row_{array.key}", f"column_{array.key}")  # sizes differ, so names must too
            keys[array.key] = image(array.shape, array.dtype, dims)
        descriptor = self._descriptor(stream, keys)
        for array in stored:
            resource = self._run.compose_stream_resource(  # type: ignore[misc]
                mimetype=array.mimetype,
                uri=array.uri,
                data_key=array.key,
                parameters=array.parameters,
            )
            datum = resource.compose_stream_datum(
                indices={"start": 0, "stop": 1},
                seq_nums={"start": 1, "stop": 2},
                descriptor=descriptor.descriptor_doc,
            )
            self._publish("stream_resource", dict(resource.stream_resource_doc))
            self._publish("stream_datum", dict(datum))
        self._event(descriptor, data or {})

    def stop(self, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """End the run."""
        self._publish("stop", dict(self._run.compose_stop(exit_status, reason)))

    def _event(self, descriptor: ComposeDescriptorBundle, data: Mapping[str, Any]) -> None:
        now = time.time()
        plain = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in data.items()
        }
        event = descriptor.compose_event(plain, dict.fromkeys(plain, now), time=now)
        self._publish("event", dict(event))

    def _descriptor(self, stream: str, keys: Mapping[str, Any]) -> ComposeDescriptorBundle:
        if stream not in self._descriptors:
            bundle = self._run.compose_descriptor(
                stream,
                {key: dict(value) for key, value in keys.items()},
                object_keys={SOURCE: list(keys)},
            )
            self._descriptors[stream] = bundle
            self._publish("descriptor", dict(bundle.descriptor_doc))
        return self._descriptors[stream]
