"""A clock that is stepped by hand, specimens that are formulas, and small quiet microscopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation import Frame, FrameTruth, MicroscopeSettings, VirtualMicroscope

Function = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


class ManualClock:
    """Real seconds that pass only by sleeping; `on_sleep` is what happens meanwhile."""

    def __init__(self) -> None:
        self.time = 100.0
        self.on_sleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()


@dataclass
class Region:
    pixels: NDArray[np.float32]
    x: float
    y: float


@dataclass
class Formula:
    """A specimen that is a function of the place (x, y) in µm."""

    function: Function
    prefetched: list[tuple[float, ...]] = field(default_factory=list)

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> Region:
        step = level / 1000
        left, right = np.floor((x - width_um / 2) / step), np.ceil((x + width_um / 2) / step)
        bottom, top = np.floor((y - height_um / 2) / step), np.ceil((y + height_um / 2) / step)
        xs = (np.arange(left, right) + 0.5) * step
        ys = (np.arange(top, bottom, -1) - 0.5) * step
        pixels = self.function(*np.meshgrid(xs, ys)).astype(np.float32)
        return Region(pixels, float(xs[0]), float(ys[0]))

    def prefetch(self, *where: float) -> None:
        self.prefetched.append(where)


EMPTY = Formula(lambda x, y: np.full(x.shape, 0.95))


def dots(places: Sequence[tuple[float, float]], radius: float = 0.02) -> Formula:
    """Soft dark dots (Gaussian, standard deviation `radius` µm) at known places in µm."""

    def transmission(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        dark = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in places)
        return 0.95 - 0.6 * dark

    return Formula(transmission)


def white_noise(size: float, contrast: float = 0.2, seed: int = 3) -> Formula:
    """White noise at the lattice of whatever level is asked for, about (0, 0), `size` µm wide."""
    lattice = np.random.default_rng(seed).normal(0.5, contrast, (2048, 2048))

    def transmission(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        step = x[0, 1] - x[0, 0]
        assert np.abs(x).max() < 1000 * step
        columns = np.round(x / step - 0.5).astype(int) + 1024
        rows = np.round(y / step - 0.5).astype(int) + 1024
        return lattice[rows, columns]

    return Formula(transmission)


QUIET: dict[str, Any] = {
    "column": {
        "gun_current": 4700.0, "beam_falloff": 0.0, "pixel_size_error": 0, "rotation_error": 0,
    },
    "optics": {
        "focus_offset": 0, "section_tilt": [0, 0], "height_rms": 0, "astigmatism": [0, 0],
        "radial_distortion": 0, "field_distortion": 0, "amplitude_contrast": 1.0,
    },
    "camera": {
        "sensor": [256, 256], "counts_per_electron": 0.08, "gain_spread": 0, "offset_spread": 0,
        "dark_current": 0, "read_noise": 0, "hot_fraction": 0, "dead_fraction": 0,
    },
    "stage": {
        "x": {"backlash": 0, "jitter": 0, "encoder_noise": 0},
        "y": {"backlash": 0, "jitter": 0, "encoder_noise": 0},
        "z": {"backlash": 0, "jitter": 0, "encoder_noise": 0},
        "repeatable_error": 0, "screw_error": 0, "vibration": 0, "drift": [0, 0],
        "drift_wander": 0, "aperture_jitter": 0,
    },
}  # fmt: skip
"""Settings of an ideal instrument: nothing is wrong, and noise is small."""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second wins."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def quiet(specimen: Any = EMPTY, clock: ManualClock | None = None, **changes: Any):
    """Make an ideal microscope at 256², but for the settings given, on a clock of its own."""
    clock = clock or ManualClock()
    settings = MicroscopeSettings.from_mapping(merged(QUIET, changes))
    return VirtualMicroscope(settings, specimen, clock=clock, sleep=clock.sleep)


def real(specimen: Any = EMPTY, clock: ManualClock | None = None, **changes: Any):
    """Make a microscope with all its default errors at 256², on a clock of its own."""
    clock = clock or ManualClock()
    settings = MicroscopeSettings.from_mapping(merged({"camera": {"sensor": [256, 256]}}, changes))
    return VirtualMicroscope(settings, specimen, clock=clock, sleep=clock.sleep)


def snap(
    microscope: VirtualMicroscope, exposure: float = 0.1, **how: Any
) -> tuple[Frame, FrameTruth]:
    """Take a frame and its truth."""
    number = microscope.camera.expose(exposure, **how)
    frame = microscope.camera.read()
    assert frame.number == number
    return frame, microscope.truth(number)


def go(microscope: VirtualMicroscope, settle: float = 1.0, **targets: float) -> None:
    """Move, wait for the end, and let it settle."""
    microscope.stage.move(**targets)
    microscope.stage.wait()
    clock = microscope.clock
    clock.wait_until(clock.now() + settle)


def find_dot(data: NDArray[Any], near: Sequence[float], half: int = 18) -> NDArray[np.float64]:
    """Measure the (row, column) of a dark dot near a pixel: its centroid, iterated."""
    place = np.asarray(near, dtype=float)
    for _ in range(4):
        r, c = np.round(place).astype(int)
        part = data[r - half : r + half + 1, c - half : c + half + 1].astype(float)
        rows, columns = np.mgrid[r - half : r + half + 1, c - half : c + half + 1]
        distance = np.hypot(rows - place[0], columns - place[1])
        ground = np.median(part[distance > half - 3])
        weight = np.clip(ground - part, 0, None) * (distance < half - 3)
        weight[weight < 0.02 * weight.max()] = 0
        place = np.array([(weight * rows).sum(), (weight * columns).sum()]) / weight.sum()
    return place
