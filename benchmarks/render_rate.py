"""How fast the virtual microscope makes frames: it must not hide the stack's own speed.

The work for a frame, from the exposure to its pixels, once the texture of the place exists, against
a memory copy. It is the time that this process works, so other work on the machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks._report import Result, best, run_in_worlds
from simulation import MicroscopeSettings, VirtualMicroscope, World
from simulation.specimen import NeuropilSection

GOAL_MS = 60.0
FOCUS = -3.2


def frame_time(
    world: World,
    sensor: int,
    repeats: int,
    exposure: float = 0.01,
    magnification: int = 5000,
    **column: float,
) -> tuple[float, float]:
    """Measure one case.

    Returns
    -------
    (float, float)
        Shortest time of a frame and of a copy of the same frame, in ms.
    """
    settings = MicroscopeSettings.of_world(world).updated({"camera": {"sensor": [sensor] * 2}})
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    specimen = NeuropilSection(seed=1, section=settings.section)
    microscope = VirtualMicroscope(settings, specimen, clock=lambda: now[0], sleep=sleep)
    microscope.column.set("magnification", magnification)
    for name, value in column.items():
        microscope.column.set(name, value)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        microscope.camera.expose(exposure)
        microscope.camera.read()
        times.append(1e3 * (time.process_time() - start))
    microscope.camera.expose(exposure)
    frame = microscope.camera.read().data
    copy = np.empty_like(frame)
    microscope.close()
    # The first one made the texture.
    return min(times[1:]), best(lambda: np.copyto(copy, frame), repeats)


def measure(quick: bool, world: World) -> Iterator[Result]:
    """Measure all cases, or the first one a few times."""
    cv2.setNumThreads(1)
    cases: dict[str, tuple[float | None, dict[str, Any]]] = {
        "frame of 2048²": (GOAL_MS, {"sensor": 2048, "defocus": FOCUS}),
        "frame of 2048², 10 µm out of focus": (None, {"sensor": 2048, "defocus": FOCUS + 10}),
        "frame of 2048², low magnification": (None, {"sensor": 2048, "magnification": 500}),
        "frame of 3840²": (None, {"sensor": 3840, "defocus": FOCUS, "beam_spread": 40.0}),
        "frame of 5376²": (None, {"sensor": 5376, "defocus": FOCUS, "beam_spread": 60.0}),
    }
    for name, (goal, how) in list(cases.items())[: 1 if quick else None]:
        value, copy = frame_time(world, repeats=7 if quick else 15, **how)
        yield Result(name, value, "ms", "memory copy of the frame", copy, goal)


if __name__ == "__main__":
    run_in_worlds("render_rate", "How fast the virtual microscope makes frames.", measure)
