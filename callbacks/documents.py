"""Composes the documents of a processed run: the one place that knows event-model's bookkeeping.

Results travel as documents, so that stock consumers take them as they take the raw ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from event_model import ComposeDescriptorBundle, ComposeStreamResourceBundle, compose_run
from event_model.documents.stream_datum import StreamRange
from numpy.typing import DTypeLike

from callbacks.frames import HDF5_MIMETYPE

Publish = Callable[[str, dict[str, Any]], None]
ExitStatus = Literal["success", "abort", "fail"]

SOURCE = "temline"
ZARR_MIMETYPE = "application/x-zarr"
TELL_SECONDS = 1.0  # rows of stored arrays are told of together, at most so often
AXES = {1: ("bin",), 2: ("row", "column")}
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
    """An array in a file or store that stacks one image, or one histogram, for each event.

    Attributes
    ----------
    key : str
        Data key of the stream under which it is published.
    path : str
        The HDF5 file, or the folder of the Zarr store.
    dataset : str
        Path of the array in it.
    shape : tuple of int
        Of one: (height, width) in px, or the number of bins.
    dtype : str
    chunks : tuple of int
        What of one is in a chunk.
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


@dataclass(eq=False)
class _Stream:
    """A stream that has been described, and what of its stored arrays has been told."""

    bundle: ComposeDescriptorBundle
    resources: tuple[ComposeStreamResourceBundle, ...] = ()
    events: int = 0
    told: int = 0
    told_at: float = field(default_factory=time.time)


class ProcessedRun:
    """A run that holds what was computed from a raw run.

    Events are not checked against event-model's schema, which would take ten times as long as all
    else that is done for them; the tests check them.

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
        self._keys = streams
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
        self._kept: dict[str, tuple[StoredArray, ...]] = {}
        self._streams: dict[str, _Stream] = {}
        publish("start", dict(self._run.start_doc))

    @property
    def uid(self) -> str:
        """The uid of this run."""
        return str(self._run.start_doc["uid"])

    def keep(self, stream: str, arrays: Iterable[StoredArray]) -> None:
        """Say which arrays in files have an item for each event of a stream, before the first."""
        self._kept[stream] = tuple(arrays)

    def event(self, stream: str, data: Mapping[str, Any]) -> None:
        """Publish an event, and the stream's descriptor before the first."""
        if stream not in self._streams:
            self._streams[stream] = self._describe(stream)
        one, now = self._streams[stream], time.time()
        plain = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in data.items()
        }
        times = dict.fromkeys(plain, now)
        event: Any = one.bundle.compose_event(plain, times, time=now, validate=False)
        self._publish("event", event)
        one.events += 1
        if one.resources and now - one.told_at >= TELL_SECONDS:
            self._tell(one, now)

    def arrays(
        self, stream: str, arrays: Iterable[StoredArray], data: Mapping[str, Any] | None = None
    ) -> None:
        """Publish arrays that lie in files, and numbers that belong to them, as one event."""
        self.keep(stream, arrays)
        self.event(stream, data or {})
        self._tell(self._streams[stream], time.time())

    def stop(self, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """End the run."""
        for one in self._streams.values():
            self._tell(one, time.time())
        self._publish("stop", dict(self._run.compose_stop(exit_status, reason)))

    def _describe(self, stream: str) -> _Stream:
        """Publish the descriptor of a stream, and where its arrays lie."""
        stored = self._kept.get(stream, ())
        keys = {key: dict(value) for key, value in self._keys.get(stream, {}).items()}
        for array in stored:
            # Sizes differ, so names must too.
            dims = [f"{axis}_{array.key}" for axis in AXES[len(array.shape)]]
            keys[array.key] = image(array.shape, array.dtype, dims)
        bundle = self._run.compose_descriptor(stream, keys, object_keys={SOURCE: list(keys)})
        self._publish("descriptor", dict(bundle.descriptor_doc))
        resources = tuple(
            self._run.compose_stream_resource(  # type: ignore[misc]
                mimetype=array.mimetype,
                uri=array.uri,
                data_key=array.key,
                parameters=array.parameters,
            )
            for array in stored
        )
        for resource in resources:
            self._publish("stream_resource", dict(resource.stream_resource_doc))
        return _Stream(bundle, resources)

    def _tell(self, one: _Stream, now: float) -> None:
        """Publish which items of the stored arrays belong to the last events."""
        if one.told < one.events:
            indices = StreamRange(start=one.told, stop=one.events)
            seq_nums = StreamRange(start=one.told + 1, stop=one.events + 1)
            for resource in one.resources:
                datum: Any = resource.compose_stream_datum(
                    indices, seq_nums, one.bundle.descriptor_doc, validate=False
                )
                self._publish("stream_datum", datum)
        one.told, one.told_at = one.events, now
