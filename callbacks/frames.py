"""Finds the frames that documents point at, and reads them from the files on disk.

Stock ophyd classes (resource, datum) and flyers (stream_resource, stream_datum) look the same here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401  # what it takes to read frames that are compressed
import numpy as np
from event_model import unpack_datum_page, unpack_event_page
from numpy.typing import NDArray

from processing.chain import Buffers

HDF5_SPECS = frozenset({"AD_HDF5", "AD_HDF5_SINGLE", "AD_HDF5_SWMR", "HDF5"})
HDF5_MIMETYPE = "application/x-hdf5"
DATASET = "/entry/data/data"  # where areaDetector's HDF5 plugin puts the frames
FRAME_NUMBERS = "/entry/instrument/NDAttributes/NDArrayUniqueId"
FRAME_NUMBER_KEY = "cam_array_counter"  # the end of the event key that holds a frame's number
POLL_SECONDS = 0.02
# Flags and locks with which a file is opened, in turn, whether or not it was made for SWMR; never
# to lock out its writer. One that this process has open with locks can only be opened with locks.
OPEN_MODES = (
    (h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ, False),
    (h5py.h5f.ACC_RDONLY, False),
    (h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ, True),
    (h5py.h5f.ACC_RDONLY, True),
)


class FrameError(Exception):
    """A frame could not be read; the message says which one, why, and what to look at."""


class _NotYetError(Exception):
    """The frame is not there yet, and may come."""


@dataclass(frozen=True)
class FrameReference:
    """Where one or more frames lie.

    Attributes
    ----------
    path : str
        The HDF5 file.
    dataset : str
        The dataset in it, of shape (frames, height, width).
    start, stop : int
        The frames of the event are ``dataset[start:stop]``.
    number : int or None
        The camera's number of the frame, if the event tells it. It is looked up in the file, so
        that a frame which the camera lost does not shift those after it.
    """

    path: str
    dataset: str
    start: int
    stop: int
    number: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[FrameReference]:
        """Give a reference to each frame."""
        if len(self) == 1:
            yield self
        else:
            for index in range(self.start, self.stop):
                yield replace(self, start=index, stop=index + 1, number=None)


@dataclass(frozen=True)
class LocatedEvent:
    """An event and its frames.

    Attributes
    ----------
    stream : str
        Name of its stream.
    event : mapping
        The event document.
    frames : mapping of str to FrameReference
        By data key; a frame that no document located is missing.
    """

    stream: str
    event: Mapping[str, Any]
    frames: Mapping[str, FrameReference]


@dataclass
class _Stream:
    """What one descriptor says, and the stream datums that arrived for it."""

    name: str
    external: frozenset[str]
    ranges: list[tuple[str, int, int, FrameReference]] = field(default_factory=list)


class FrameLocator:
    """Follows the documents of one run and tells for each event where its frames are.

    Call it with each document; it gives back the events whose frames are all located. An event that
    comes before its datum waits for it. After the last document, `remaining` gives what is left.

    Examples
    --------
    >>> locator = FrameLocator()
    >>> for located in locator(name, doc):
    ...     frame = read_frame(located.frames["camera_image"])
    """

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._datums: dict[str, FrameReference] = {}
        self._waiting: list[Mapping[str, Any]] = []

    def __call__(self, name: str, doc: Any) -> list[LocatedEvent]:
        """Take a document in; give the events that are complete now, in their order."""
        if name == "descriptor":
            external = (key for key, value in doc["data_keys"].items() if "external" in value)
            self._streams[doc["uid"]] = _Stream(doc["name"], frozenset(external))
        elif name in {"resource", "stream_resource"}:
            self._resources[doc["uid"]] = doc
        elif name == "datum":
            self._add_datum(doc)
        elif name == "datum_page":
            for datum in unpack_datum_page(doc):
                self._add_datum(datum)
        elif name == "stream_datum":
            self._add_stream_datum(doc)
        elif name == "event":
            self._waiting.append(doc)
        elif name == "event_page":
            self._waiting.extend(unpack_event_page(doc))
        return self._complete()

    def remaining(self) -> list[LocatedEvent]:
        """Give the events that still lack a frame, with the frames that they have."""
        left, self._waiting = self._waiting, []
        return [self._locate(event) for event in left]

    def _complete(self) -> list[LocatedEvent]:
        done: list[LocatedEvent] = []
        still: list[Mapping[str, Any]] = []
        for event in self._waiting:
            located = self._locate(event)
            if len(located.frames) == len(self._streams[event["descriptor"]].external):
                done.append(located)
                for datum_id in event["data"].values():
                    if isinstance(datum_id, str):
                        self._datums.pop(datum_id, None)
            else:
                still.append(event)
        self._waiting = still
        return done

    def _locate(self, event: Mapping[str, Any]) -> LocatedEvent:
        stream = self._streams[event["descriptor"]]
        number = next(
            (int(value) for key, value in event["data"].items() if key.endswith(FRAME_NUMBER_KEY)),
            None,
        )
        frames: dict[str, FrameReference] = {}
        for key in stream.external:
            found = self._datums.get(event["data"].get(key, ""))
            found = found or _in_ranges(stream, key, event["seq_num"])
            if found is not None:
                frames[key] = replace(found, number=number if len(found) == 1 else None)
        return LocatedEvent(stream.name, event, frames)

    def _add_datum(self, doc: Mapping[str, Any]) -> None:
        resource = self._resources.get(doc["resource"])
        if resource is None or resource.get("spec", "").upper() not in HDF5_SPECS:
            return
        parameters, at = resource["resource_kwargs"], doc["datum_kwargs"]
        frames = int(parameters.get("frame_per_point", 1))
        point = int(at.get("point_number", at.get("frame", 0)))
        self._datums[doc["datum_id"]] = FrameReference(
            path=str(Path(resource["root"]) / resource["resource_path"].lstrip("/")),
            dataset=parameters.get("dataset", DATASET),
            start=point * frames,
            stop=(point + 1) * frames,
        )

    def _add_stream_datum(self, doc: Mapping[str, Any]) -> None:
        resource = self._resources.get(doc["stream_resource"])
        stream = self._streams.get(doc["descriptor"])
        if resource is None or stream is None or resource["mimetype"] != HDF5_MIMETYPE:
            return
        parameters = resource["parameters"]
        reference = FrameReference(
            path=unquote(urlparse(resource["uri"]).path),
            dataset=parameters.get("dataset", DATASET),
            start=doc["indices"]["start"],
            stop=doc["indices"]["stop"],
        )
        first, last = doc["seq_nums"]["start"], doc["seq_nums"]["stop"]
        stream.ranges.append((resource["data_key"], first, last, reference))


def _in_ranges(stream: _Stream, key: str, seq_num: int) -> FrameReference | None:
    """Find the frames of one event in the stream datums, newest first: they follow each other."""
    for data_key, first, last, reference in reversed(stream.ranges):
        if data_key != key:
            continue
        if last <= seq_num:
            return None
        if first <= seq_num:
            each = len(reference) // (last - first)
            start = reference.start + (seq_num - first) * each
            return replace(reference, start=start, stop=start + each)
    return None


def read_frame(
    reference: FrameReference, timeout: float = 5.0, buffers: Buffers | None = None
) -> NDArray[Any]:
    """Read one frame, also while the file is being written (SWMR).

    The file is opened for each frame: that takes a quarter of a millisecond, and leaves no handle
    behind that could keep a file alive, or see an old version of it.

    Parameters
    ----------
    reference : FrameReference
        To one frame.
    timeout : float
        How long to wait for a frame that is not in the file yet, in s.
    buffers : Buffers, optional
        Where the frame is put; it holds until the next one is read into the same buffers.

    Returns
    -------
    ndarray of uint8 or uint16, shape (height, width)

    Raises
    ------
    FrameError
        If the file or the frame does not appear in time, or cannot be read.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _read(reference, Buffers() if buffers is None else buffers)
        except (OSError, KeyError, RuntimeError, _NotYetError) as error:
            if time.monotonic() >= deadline:
                raise FrameError(_explain(reference, error, timeout)) from error
        time.sleep(POLL_SECONDS)


# By h5py's low-level interface, which takes a third of the time, all of it with Python's lock held.


def _read(reference: FrameReference, buffers: Buffers) -> NDArray[Any]:
    file = _open(reference.path)
    try:
        return _read_from(file, reference, buffers)
    finally:
        file.close()


def _read_from(file: h5py.h5f.FileID, reference: FrameReference, buffers: Buffers) -> NDArray[Any]:
    frames = h5py.h5d.open(file, reference.dataset.encode())
    shape, dtype = frames.shape, frames.dtype
    if len(shape) != 3:
        raise FrameError(
            f"{reference.dataset} of {reference.path} has shape {shape}; "
            "frames must be stacked as (frames, height, width)"
        )
    index = _index(file, reference)
    if index >= shape[0]:
        raise _NotYetError(f"it holds {shape[0]} frames")
    offset = _check_written(frames, index, os.stat(reference.path).st_size)
    frame = buffers.get("raw", shape[1:], dtype.newbyteorder("="))
    if not _is_plain(frames):
        h5py.Dataset(frames).read_direct(frame, np.s_[index])
        return frame
    if _chunks(frames) is None:
        offset += index * frame.nbytes
    # HDF5 would read it through a buffer of its own, with its lock held.
    read_exactly(file.get_vfd_handle(), frame, offset)
    return frame


def read_exactly(file: int, array: NDArray[Any], offset: int) -> None:
    """Fill an array from a file.

    Parameters
    ----------
    file : int
        Descriptor.
    array : ndarray
        C-contiguous.
    offset : int
        In bytes.

    Raises
    ------
    OSError
        If the file ends before.
    """
    left = array.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise OSError(f"the file ends at byte {offset}, {len(left)} bytes too early")
        left, offset = left[count:], offset + count


def _is_plain(frames: h5py.h5d.DatasetID) -> bool:
    """Whether the file holds each frame in one piece, byte for byte."""
    return (
        _chunks(frames) in (None, (1, *frames.shape[1:]))
        and not frames.get_create_plist().get_nfilters()
        and frames.dtype.isnative
    )


def _chunks(data: h5py.h5d.DatasetID) -> tuple[int, ...] | None:
    """Return the shape of a dataset's chunks; None if it lies in the file in one piece."""
    how = data.get_create_plist()
    return how.get_chunk() if how.get_layout() == h5py.h5d.CHUNKED else None


def _check_written(data: h5py.h5d.DatasetID, index: int, file_size: int) -> int:
    """Refuse what is not on disk: HDF5 would give zeros for it without a word.

    That holds for a chunk that is not written yet, and, under SWMR, for a file that was cut off.
    Gives the byte at which the chunk of an index, or the whole of a dataset without chunks, begins.
    """
    chunks = _chunks(data)
    if chunks is None:
        start, size = data.get_offset(), data.get_storage_size()
    else:
        last = (index, *(side - 1 for side in data.shape[1:]))
        corner = tuple(at // side * side for at, side in zip(last, chunks, strict=True))
        chunk = data.get_chunk_info_by_coord(corner)
        start, size = chunk.byte_offset, chunk.size
    if start is None:
        raise _NotYetError("its place is there, but empty")
    if start + size > file_size:
        raise OSError(f"it should end at byte {start + size}, the file has {file_size}")
    return int(start)


def _open(path: str) -> h5py.h5f.FileID:
    """Open a file for reading, in the first way that works."""
    name = os.fsencode(path)
    for flags, locks in OPEN_MODES[:-1]:
        try:
            return h5py.h5f.open(name, flags, _access(locks))
        except FileNotFoundError:
            raise
        except OSError:
            continue
    flags, locks = OPEN_MODES[-1]
    return h5py.h5f.open(name, flags, _access(locks))


@lru_cache(maxsize=2)
def _access(locks: bool) -> h5py.h5p.PropFAID:
    """Return how a file is opened: as `h5py.File` does it, but made once."""
    how = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    how.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    if not locks:
        how.set_file_locking(use_file_locking=False, ignore_when_disabled=True)
    return how


def _index(file: h5py.h5f.FileID, reference: FrameReference) -> int:
    """Find the frame by its number, or else take the place that the documents tell."""
    if reference.number is None:
        return reference.start
    try:
        dataset = h5py.h5d.open(file, FRAME_NUMBERS.encode())
    except KeyError:  # not every camera numbers its frames
        return reference.start
    count = dataset.shape[0]
    if count:
        _check_written(dataset, count - 1, os.stat(reference.path).st_size)
    if reference.start < count and _numbers(dataset, reference.start, 1) == reference.number:
        return reference.start
    numbers = _numbers(dataset, 0, count)
    places = np.flatnonzero(numbers == reference.number)
    if not len(places):
        held = f"{numbers[0]} to {numbers[-1]}" if count else "none"
        raise _NotYetError(f"it holds the frame numbers {held}")
    return int(places[-1])


def _numbers(dataset: h5py.h5d.DatasetID, start: int, count: int) -> NDArray[np.integer]:
    """Read some elements of a dataset of numbers."""
    numbers = np.empty(count, dataset.dtype)
    within = dataset.get_space()
    within.select_hyperslab((start,), (count,))
    dataset.read(h5py.h5s.create_simple((count,)), within, numbers)
    return numbers


def _explain(reference: FrameReference, error: Exception, timeout: float) -> str:
    """Say what is wrong and what to do; the path comes last, since a document cuts long texts."""
    wanted = f"frame {reference.start}"
    if reference.number is not None:
        wanted = f"frame number {reference.number} (place {reference.start})"
    if isinstance(error, _NotYetError):
        problem = (
            f"did not appear within {timeout:g} s; {error}: "
            "look whether the camera lost the frame or its file plugin stopped"
        )
    elif isinstance(error, FileNotFoundError):
        problem = (
            f"cannot be read, there is no such file after {timeout:g} s: "
            "look whether this machine sees the camera's data folder"
        )
    elif isinstance(error, KeyError):
        problem = "cannot be read, there is no such dataset: look at the camera's HDF5 layout"
    else:
        problem = f"cannot be read, the file is damaged or cut off: {error}"
    return f"{wanted} {problem} ({reference.dataset} of {reference.path})"
