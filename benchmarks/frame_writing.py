"""How fast frames go to their file: next to `write()` of the same bytes, and to what others do.

All write the same frames in any order, so that each finds disk, caches and machine alike.
The time is that of the clock, since threads help and writes wait; what the fastest tenth of the
frames took is told, as the others tell more of other work on the machine.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import cv2
import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks._report import Result, run
from ioc.camera import writer
from ioc.camera.compression import compress
from ioc.camera.writer import FrameFile
from ioc.drivers.protocol import Frame
from simulation import MicroscopeSettings, VirtualMicroscope
from simulation.specimen import NeuropilSection

GOAL = 0.9
FOCUS = -3.2
TAKEN = 3  # frames
COPIES = 4  # of each: more than the processor's cache holds, as a camera's frame is not in it
FASTEST = 0.1
ROUND = 12  # frames in a file: what waits for the disk is dropped with it, and does not pile up

Pixels = NDArray[np.uint16]
Write = Callable[[Pixels, int], object]
Way = Callable[[ExitStack, Path, Pixels], Write]


def frames_of(side: int) -> list[Pixels]:
    """Take frames of the section with the virtual camera, with all its noise."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    settings = MicroscopeSettings.from_mapping({"seed": 5, "camera": {"sensor": [side, side]}})
    section = NeuropilSection(seed=1, period=16.0)
    microscope = VirtualMicroscope(settings, section, clock=lambda: now[0], sleep=sleep)
    microscope.column.set("defocus", FOCUS)
    microscope.column.set("beam_spread", 20.0 * side / 2048)
    frames = []
    for _ in range(TAKEN):
        microscope.camera.expose(0.1)
        frames.append(microscope.camera.read().data)
    microscope.close()
    return [frame.copy() for _ in range(COPIES) for frame in frames]


# The ways


def plain(stack: ExitStack, path: Path, _: Pixels) -> Write:
    """Append the bytes to a file: what the system can do."""
    file = stack.enter_context(path.open("xb", buffering=0))

    def write(frame: Pixels, __: int) -> None:
        left = frame.data.cast("B")
        while left:
            left = left[file.write(left) :]

    return write


def frame_file(stack: ExitStack, path: Path, first: Pixels) -> Write:
    """Write as the camera's plugin does."""
    file = FrameFile(path, first.shape, first.dtype)
    stack.callback(file.close)
    return lambda frame, number: file.append(Frame(frame, number, 0.0))


def compressed(threads: int) -> Way:
    """Write as the camera's plugin does when it compresses, on so many threads."""

    def way(stack: ExitStack, path: Path, first: Pixels) -> Write:
        file = FrameFile(path, first.shape, first.dtype, "Blosc")
        stack.callback(file.close)

        def write(frame: Pixels, number: int) -> None:
            with mock.patch.object(writer, "compress", lambda data: compress(data, threads)):
                file.append(Frame(frame, number, 0.0))

        return write

    return way


def slices(stack: ExitStack, path: Path, first: Pixels) -> Write:
    """Write with h5py as its manual has it, readable while it grows."""
    file = stack.enter_context(h5py.File(path, "x", libver="latest"))
    shape = first.shape
    data = file.create_dataset(
        "data", (0, *shape), "u2", maxshape=(None, *shape), chunks=(1, *shape)
    )
    file.swmr_mode = True

    def write(frame: Pixels, number: int) -> None:
        data.resize(number + 1, axis=0)
        data[number] = frame
        data.flush()

    return write


def tiff(stack: ExitStack, path: Path, _: Pixels) -> Write:
    """Write the pages of a TIFF file; nobody can read it before it is closed.

    It may be quicker than `write()`: numpy has the file system reserve the space of a page first.
    """
    file = stack.enter_context(tifffile.TiffWriter(path, bigtiff=True))
    return lambda frame, __: file.write(frame, contiguous=True)


WAYS: dict[str, Way] = {
    "write()": plain,
    "FrameFile": frame_file,
    "FrameFile, Blosc on 1 thread": compressed(1),
    "FrameFile, Blosc on 2 threads": compressed(2),
    "h5py, a slice a frame": slices,
    "tifffile": tiff,
}


def rates(frames: list[Pixels], rounds: int) -> dict[str, float]:
    """Measure each way; give MB/s of pixels."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    order = np.random.default_rng(1)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            writes = {
                name: way(stack, Path(folder, str(i)), frames[0])
                for i, (name, way) in enumerate(WAYS.items())
            }
            following = itertools.cycle(frames)
            for number in range(ROUND):
                for name in order.permutation(list(WAYS)):
                    frame = next(following)
                    begin = time.perf_counter()
                    writes[name](frame, number)
                    times[name].append(time.perf_counter() - begin)
    return {
        name: frames[0].nbytes / np.quantile(taken, FASTEST) / 1e6 for name, taken in times.items()
    }


def measure(quick: bool) -> Iterator[Result]:
    """Measure frames of two sizes, or of the smaller in fewer rounds."""
    cv2.setNumThreads(1)
    for side, rounds in ((2048, 3),) if quick else ((2048, 12), (3840, 4)):
        frames = frames_of(side)
        found = rates(frames, rounds)
        limit = found.pop("write()")
        for name, rate in found.items():
            goal = GOAL if name == "FrameFile" else None
            yield Result(
                f"{name}, {side}²", rate, "MB/s", "write() of the same bytes", limit,
                goal, "more", goal_is_ratio=True,
            )  # fmt: skip
        yield Result(
            f"size of a frame with Blosc, {side}²",
            float(np.mean([len(compress(frame)) for frame in frames])) / 1e6,
            "MB",
            "its pixels",
            frames[0].nbytes / 1e6,
        )


if __name__ == "__main__":
    run("frame_writing", "How fast frames go to their file.", measure)
