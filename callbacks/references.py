"""Averages bright and dark frames into files that the flat field reads, and publishes them as runs.

A file is named after its raw run, so whoever knows that uid finds it: nothing else is shared.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from callbacks.documents import ProcessedRun, Publish, StoredArray, integer, number
from callbacks.folders import await_files
from callbacks.frame_runs import FrameRunProcessor
from callbacks.frames import FrameError, FrameReference, LocatedEvent, read_frame
from formats.whole_file import whole_file
from processing.flatfield import References, make_references

AVERAGE = "average"
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "reference": {"frames": integer(), "mean": number("counts"), "std": number("counts")},
}


@dataclass(frozen=True)
class ReferenceFiles:
    """Files of the averaged bright and dark frames; without a dark one, dark is taken for 0."""

    bright: str
    dark: str | None


def reference_path(root: Path, raw_uid: str) -> Path:
    """Give the file that holds the average of a brightfield or darkfield run."""
    return root / f"{raw_uid}.h5"


def reference_files(root: Path, uids: Mapping[str, str | None]) -> ReferenceFiles | None:
    """Give the files of the averages that a run names in its `references`; None if it names none.

    Parameters
    ----------
    root : Path
        Folder of the averages.
    uids : mapping of str to str or None
        Uids of the runs by ``bright`` and ``dark``; without a bright one there is no flat field.
    """
    bright, dark = uids.get("bright"), uids.get("dark")
    if not bright:
        return None
    return ReferenceFiles(
        str(reference_path(root, bright)), str(reference_path(root, dark)) if dark else None
    )


def await_references(
    files: ReferenceFiles,
    timeout: float,
    shape: tuple[int, int] | None = None,
    flips: tuple[bool, bool] = (False, False),
) -> None:
    """Wait until the averages are on disk, and make of them once what the tiles need.

    Parameters
    ----------
    files : ReferenceFiles
    timeout : float
        In s.
    shape : (int, int), optional
        (height, width) of the frames that they are for, in px.
    flips : (bool, bool)
        Whether the chain mirrors rows, and columns, before it corrects.

    Raises
    ------
    FileNotFoundError
        If one is missing after the time-out.
    OSError
        If one cannot be read.
    ValueError
        If they do not make a flat field, or are of another shape.
    """
    await_files(filter(None, (files.bright, files.dark)), "average", timeout)
    references = load_references(files)
    if shape is not None and references.shape != shape:
        raise ValueError(
            f"{files.bright} holds references of {references.shape} px, the frames are {shape}: "
            "take bright and dark frames with this camera setting"
        )
    if any(flips):
        references.flipped(*flips)


def load_references(files: ReferenceFiles) -> References:
    """Read averages and make a flat field of them; again only when a file has changed.

    The last ones are kept, in each process.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If they do not make a flat field.
    """
    paths = [path for path in (files.bright, files.dark) if path]
    with _loading:  # or all workers would begin a montage by making the same
        return _load_references(files, tuple(file_version(path) for path in paths))


def reference_age(files: ReferenceFiles) -> float:
    """Tell how long ago the older of the averages was written, in h."""
    written = min(os.stat(path).st_mtime for path in (files.bright, files.dark) if path)
    return (time.time() - written) / 3600


_loading = threading.Lock()


@lru_cache(maxsize=2)
def _load_references(files: ReferenceFiles, versions: tuple[tuple[int, ...], ...]) -> References:
    bright = read_average(files.bright)
    dark = np.zeros_like(bright) if files.dark is None else read_average(files.dark)
    return make_references(bright, dark)


def file_version(path: str) -> tuple[int, ...]:
    """Give what changes when a file is written again or replaced.

    Raises
    ------
    OSError
        If there is no such file.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def read_average(path: str | Path) -> NDArray[np.float32]:
    """Read the average that `write_average` wrote: float32, shape (height, width), in counts."""
    with h5py.File(path, "r", locking=False) as file:
        return np.asarray(file[AVERAGE][0], dtype=np.float32)


def write_average(
    path: Path, average: NDArray[np.float32], attributes: Mapping[str, Any]
) -> StoredArray:
    """Write an averaged frame; the file appears complete or not at all.

    Parameters
    ----------
    path : Path
    average : ndarray of float32, shape (height, width)
        In counts.
    attributes : mapping
        Written to the dataset.

    Returns
    -------
    StoredArray
    """
    with whole_file(path) as unfinished, h5py.File(unfinished, "w", libver="latest") as file:
        stack = file.create_dataset(AVERAGE, data=average[np.newaxis].astype(np.float32))
        stack.attrs.update(attributes)
    return StoredArray(AVERAGE, str(path), f"/{AVERAGE}", average.shape, "<f4", average.shape)


def average_frames(
    references: Sequence[FrameReference], path: Path, attributes: Mapping[str, Any], timeout: float
) -> tuple[StoredArray, dict[str, float]]:
    """Average frames, one in memory at a time, into a file.

    Parameters
    ----------
    references : sequence of FrameReference
    path : Path
    attributes : mapping
        Written to the file.
    timeout : float
        How long each frame may take to appear, in s.

    Returns
    -------
    StoredArray
    dict
        ``frames``, and ``mean`` and ``std`` of the average in counts.

    Raises
    ------
    FrameError
        If there is no frame, one cannot be read, or their shapes differ.
    """
    total: NDArray[np.float64] | None = None
    for reference in references:
        frame = read_frame(reference, timeout)
        if total is None:
            total = np.zeros(frame.shape)
        elif total.shape != frame.shape:
            raise FrameError(f"frames have shapes {total.shape} and {frame.shape}; take them again")
        total += frame
    if total is None:
        raise FrameError("the run has no frame to average")
    average = (total / len(references)).astype(np.float32)
    figures = {
        "frames": len(references),
        "mean": float(average.mean(dtype=np.float64)),
        "std": float(average.std(dtype=np.float64)),
    }
    return write_average(path, average, {**attributes, **figures}), figures


class ReferenceProcessor(FrameRunProcessor):
    """A RunEngine callback that averages the frames of brightfield and darkfield runs.

    It publishes a run ``process_brightfield`` or ``process_darkfield`` with a stream `reference`
    that holds the average.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Where frames are read and averaged.
    publish : callable
        Called with (name, document) on a thread of the executor (on the caller's if it is a pool
        of processes), one run at a time.
    root : Path
        Folder of the averages; give the same one to `TileProcessor`.
    frame_timeout : float
        How long a frame may take to appear in its file, in s.
    """

    plans: ClassVar[frozenset[str]] = frozenset({"brightfield", "darkfield"})
    streams = STREAMS

    def __init__(
        self, executor: Executor, publish: Publish, root: Path, frame_timeout: float = 5.0
    ) -> None:
        super().__init__(executor, publish)
        self._root, self._timeout = Path(root), frame_timeout

    def job(self, start: dict[str, Any], events: Sequence[LocatedEvent]) -> Callable[[], Any]:
        """Give the average that is to be made."""
        frames = [
            frame for located in events for frames in located.frames.values() for frame in frames
        ]
        attributes = {"raw_uid": start["uid"], "plan_name": start["plan_name"]}
        path = reference_path(self._root, start["uid"])
        return partial(average_frames, frames, path, attributes, self._timeout)

    def report(self, run: ProcessedRun, result: tuple[StoredArray, dict[str, float]]) -> None:
        """Publish an average."""
        stored, figures = result
        run.arrays("reference", [stored], figures)
