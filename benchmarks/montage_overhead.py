"""How near a montage comes to the hardware's own speed: flown, stepped, and by stock Bluesky.

The limit is that of the virtual hardware: for each tile its exposure, and before it the longer of
the move with its settling and the readout of the frame before. When frames were exposed is read
from the simulator's log, for all plans alike. Processing and Tiled run beside, as at an instrument.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks._report import Result, run
from benchmarks._stand import Stand, stand
from simulation.motion import go

PIXEL_SIZE = 4.0  # nm
OVERLAP = 10.0  # %
TEXTURE_STEP_UM = 1.0  # between places where texture is asked for; it is made in larger pieces
FOCUS = -3.2  # µm
SPREAD = 14 / 2048  # µm of beam a px of the frame's side: wider than its diagonal
GOAL_FLOWN, GOAL_STEPPED = 1.03, 1.25  # of the limit
GOAL_ESTIMATE = 1.03  # of the time that was estimated
GOAL_MEDIAN_MS, GOAL_P95_MS = 5.0, 10.0
GOAL_IN_TILED = 10.0  # s
PROCESSED_TIMEOUT = 300.0  # s

Plan = Literal["fly_montage", "montage", "grid_scan"]


@dataclass(frozen=True)
class Case:
    """One setting of the hardware.

    Attributes
    ----------
    name : str
    side : int
        Of a frame, in px.
    exposure : float
        In s.
    move, row_move : float
        From tile to tile in a row, and from row to row, in s.
    settle : float
        In s.
    readout : float
        In s.
    columns : int
    goals : bool
        Whether the goals hold for it.
    period : float
        After which the specimen repeats, in µm, so that its texture is made once.
    """

    name: str
    side: int
    exposure: float
    move: float
    row_move: float
    settle: float
    readout: float
    columns: int
    goals: bool = False
    period: float = 32.0

    @property
    def pitch(self) -> float:
        """From tile to tile, in µm."""
        return self.side * (1 - OVERLAP / 100) * PIXEL_SIZE / 1000

    def options(self) -> dict[str, Any]:
        """Give the simulated driver's options, so that moves take what they are to take."""
        axes = {
            name: {
                "acceleration": 4 * self.pitch / seconds**2,  # half the way faster, half slower
                "speed": 1e4,
                "max_speed": 1e4,
                "backlash": 0.0,
            }
            for name, seconds in (("x", self.move), ("y", self.row_move))
        }
        return {
            "seed": 1,
            "specimen": "neuropil",
            "specimen_period": self.period,
            "sensor": [self.side, self.side],
            "camera": {"readout_time": self.readout},
            "stage": {**axes, "vibration_decay": 0.003},  # so that the settling is enough
        }

    def roi(self, rows: int) -> dict[str, Any]:
        """Give the region that so many rows of tiles cover."""
        height, width = ((count - 0.5) * self.pitch for count in (rows, self.columns))
        return {"centre": (0, 0), "width": width + self.pitch * 0.1, "height": height}


CASES = (
    Case("2048², 50 ms + 60 ms", 2048, 0.05, 0.04, 0.08, 0.02, 0.02, 25, goals=True),
    Case("2048², 20 ms + 40 ms", 2048, 0.02, 0.025, 0.05, 0.015, 0.02, 25),
    Case("3840², TilEM's: 103 ms, 317 ms, 845 ms", 3840, 0.103, 0.134, 0.662, 0.08, 0.1, 20, True),
)
# As small as what is processed may be.
SMALL = Case("128², 2 ms + 4 ms", 128, 0.002, 0.002, 0.004, 0.002, 0.0, 100, period=8.0)


@dataclass(frozen=True, eq=False)
class Taken:
    """When the frames of a montage were exposed, and what the hardware needs for that, in s.

    Attributes
    ----------
    ends : ndarray of float64, shape (n,)
        Of the exposures, in order.
    needed : ndarray of float64, shape (n,)
        What the hardware needs for each tile after the one before.
    exposure : float
    processed_after, in_tiled_after : float
        How long after the last frame all was processed, with the mosaic, and all in Tiled.
    estimated : float
        What the plan said beforehand that it would take, in s; NaN if it said nothing.
    memory : ndarray of float64, shape (m,)
        Of this process, while it went on, in MB.
    """

    ends: NDArray[np.float64]
    needed: NDArray[np.float64]
    exposure: float
    processed_after: float
    in_tiled_after: float
    estimated: float
    memory: NDArray[np.float64]

    @property
    def period(self) -> float:
        """Mean time a tile, in s."""
        return float((self.ends[-1] - self.ends[0]) / (len(self.ends) - 1))

    @property
    def limit(self) -> float:
        """What the hardware needs a tile, on average, in s."""
        return float(self.needed[1:].mean())

    @property
    def duration(self) -> float:
        """From the first tile, with its own settling and exposure, to the last, in s."""
        return float(self.ends[-1] - self.ends[0] + self.needed[0])

    @property
    def own(self) -> NDArray[np.float64]:
        """What the software adds at each tile, in s."""
        return np.diff(self.ends) - self.needed[1:]


def take(case: Case, plan: Plan, rows: int, processing: bool = True) -> Taken:
    """Take a montage in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_take, case, plan, rows, processing).result()


def _take(case: Case, plan: Plan, rows: int, processing: bool) -> Taken:
    with stand(case.options()) as one:
        one.RE(_set_up(one, case))
        _warm_texture(one, case, rows)
        frames = len(_read_log(one))
        memory, starts = _Memory(), []
        one.RE.subscribe(memory)
        one.RE.subscribe(lambda _, doc: starts.append(doc), "start")
        one.RE(_plan(one, case, plan, rows))
        if not one.pipeline.tiles.wait(PROCESSED_TIMEOUT):
            raise RuntimeError("the tiles were not processed in time")
        processed = time.time()
        if not one.pipeline.sink.flush(PROCESSED_TIMEOUT):
            raise RuntimeError("the documents were not in Tiled in time")
        in_tiled = time.time()
        places = _places(case, starts[-1], rows)
        ends = [frame["timestamp"] for frame in _read_log(one)[frames:]]
        if len(ends) != len(places):
            raise RuntimeError(f"{len(ends)} frames were taken; the grid has {len(places)} tiles")
        return Taken(
            np.array(ends),
            _needed(case, places),
            case.exposure,
            processed - ends[-1],
            in_tiled - ends[-1],
            starts[-1].get("estimated_time", np.nan),
            np.array(memory.values),
        )


def _set_up(one: Stand, case: Case) -> Iterator[Any]:
    from bluesky import plan_stubs as bps

    scope = one.devices["scope"]
    spread = max(SPREAD * case.side, scope.beam_spread.limits[0])
    yield from bps.mv(scope.defocus, FOCUS, scope.beam_spread, spread)
    yield from bps.mv(one.devices["camera"].cam.acquire_time, 0.01)


def _plan(one: Stand, case: Case, plan: Plan, rows: int) -> Any:
    devices = one.devices
    camera, stage, scope = devices["camera"], devices["stage"], devices["scope"]
    if plan == "grid_scan":
        return _grid_scan(one, case, rows)
    from plans import fly_montage, montage

    options: dict[str, Any] = {
        "overlap": OVERLAP,
        "settle": case.settle,
        "exposure": case.exposure,
        "gate": one.pipeline.quality if case.side > SMALL.side else None,  # too small to judge
        "retakes": 0,
    }
    if plan == "montage":
        return montage(camera, stage, scope, case.roi(rows), **options)
    return fly_montage(devices["sequencer"], camera, stage, scope, case.roi(rows), **options)


def _grid_scan(one: Stand, case: Case, rows: int) -> Any:
    """Do the same with nothing but stock classes: `EpicsMotor`, `SingleTrigger`, `grid_scan`."""
    from bluesky import plan_stubs as bps
    from bluesky.plans import grid_scan
    from ophyd import Component, EpicsMotor
    from ophyd.areadetector import DetectorBase
    from ophyd.areadetector.cam import CamBase
    from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
    from ophyd.areadetector.plugins import HDF5Plugin
    from ophyd.areadetector.trigger_mixins import SingleTrigger

    class Writer(HDF5Plugin, FileStoreHDF5IterativeWrite):
        pass

    prefix, data = one.config.epics.prefix, str(one.config.data.folder.absolute())

    class Detector(SingleTrigger, DetectorBase):
        cam = Component(CamBase, "cam1:")
        hdf = Component(Writer, "HDF1:", write_path_template=data, root=data)

    detector = Detector(f"{prefix}CAM:", name="detector")
    motors = [
        EpicsMotor(f"{prefix}STAGE:{axis}", name=axis.lower(), settle_time=settle)
        for axis, settle in (("Y", 0.0), ("X", case.settle))
    ]
    for device in (detector, *motors):
        device.wait_for_connection(timeout=30)
    half = [(count - 1) / 2 * case.pitch for count in (rows, case.columns)]

    def plan() -> Iterator[Any]:
        scope = one.devices["scope"]
        yield from bps.mv(detector.cam.acquire_time, case.exposure)
        yield from bps.stage(scope)
        axes = [
            part
            for motor, reach, count in zip(motors, half, (rows, case.columns), strict=True)
            for part in (motor, -reach, reach, count)
        ]
        yield from grid_scan([detector], *axes, snake_axes=True)
        yield from bps.unstage(scope)

    return plan()


def _warm_texture(one: Stand, case: Case, rows: int) -> None:
    """Have the specimen's texture made all over its period, with one long drive over it."""
    from bluesky import plan_stubs as bps

    stage, camera, scope = (one.devices[name] for name in ("stage", "camera", "scope"))
    step = max(case.pitch, TEXTURE_STEP_UM)
    steps = np.arange(-case.period / 2, case.period / 2 + step, step)

    def plan() -> Iterator[Any]:
        yield from bps.stage(camera)
        yield from bps.stage(scope)
        for y in steps:
            for x in steps:
                yield from bps.mv(stage.x, x, stage.y, y)
                yield from bps.trigger(camera, wait=True)
        yield from bps.unstage(scope)
        yield from bps.unstage(camera)

    one.RE(plan())


class _Memory:
    """A consumer of documents that notes this process's memory, in MB."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._process = psutil.Process()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name in ("event", "event_page"):
            self.values.append(self._process.memory_info().rss / 2**20)


def _read_log(one: Stand) -> list[dict[str, Any]]:
    lines = Path(one.truth).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _places(case: Case, start: Mapping[str, Any], rows: int) -> NDArray[np.float64]:
    """Give where the stage was sent for each tile, shape (n, 2), in µm."""
    if "montage" in start:
        return np.array([[x, y] for _, _, x, y in start["montage"]["tiles"]])
    x, y = ((np.arange(count) - (count - 1) / 2) * case.pitch for count in (case.columns, rows))
    return np.array([[px, py] for row, py in enumerate(y) for px in (x[::-1] if row % 2 else x)])


def _needed(case: Case, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give what the hardware needs for each tile after the one before, in s."""
    axes = [case.options()["stage"][name] for name in "xy"]
    travel = [
        max(
            go(0.0, 0.0, abs(length), axis["speed"], axis["acceleration"]).end
            for length, axis in zip(step, axes, strict=True)
        )
        for step in np.diff(places, axis=0, prepend=places[:1])
    ]
    return np.maximum(np.array(travel) + case.settle, case.readout) + case.exposure


# What is told


def measure(quick: bool) -> Iterator[Result]:
    """Measure all cases with all plans, then how the overhead grows."""
    for case in CASES[: 1 if quick else None]:
        yield from _measure_case(case, quick)
    yield from _measure_growth(quick)


def _measure_case(case: Case, quick: bool) -> Iterator[Result]:
    whole = 500 if case.side < 3000 else 120
    plans: tuple[tuple[Plan, int], ...] = (
        ("fly_montage", 100 if quick else whole),
        ("montage", 50 if quick else 100),
        ("grid_scan", 50 if quick else 100),
    )
    goals = {"fly_montage": GOAL_FLOWN, "montage": GOAL_STEPPED} if case.goals else {}
    if case.side > 3000:
        goals.pop("montage", None)
    for plan, tiles in plans:
        taken = take(case, plan, max(2, tiles // case.columns))
        name = f"{case.name}: {plan}"
        yield Result(
            f"{name}, period",
            1e3 * taken.period,
            "ms",
            "the hardware's own",
            1e3 * taken.limit,
            goals.get(plan),
            goal_is_ratio=True,
        )
        yield Result(f"{name}, exposing", 100 * taken.exposure / taken.period, "%")
        flown = plan == "fly_montage"
        for what, value, goal in (
            ("p50", np.median(taken.own), GOAL_MEDIAN_MS),
            ("p95", np.percentile(taken.own, 95), GOAL_P95_MS),
        ):
            yield Result(
                f"{name}, software's own time a tile, {what}",
                1e3 * float(value),
                "ms",
                goal=goal if flown else None,
            )
        if flown:
            yield Result(
                f"{name}, duration",
                taken.duration,
                "s",
                "estimated",
                taken.estimated,
                GOAL_ESTIMATE,
                goal_is_ratio=True,
            )
        if plan != "grid_scan":
            yield Result(f"{name}, processed after the last tile by", taken.processed_after, "s")
            yield Result(
                f"{name}, all of {len(taken.ends)} in Tiled after the last tile by",
                taken.in_tiled_after,
                "s",
                goal=GOAL_IN_TILED if flown and case.goals else None,
            )


def _measure_growth(quick: bool) -> Iterator[Result]:
    """See whether small tiles cost the same at the end of a long montage as at its begin."""
    count = 1000 if quick else 10_000
    case = replace(SMALL, columns=100)
    taken = take(case, "fly_montage", count // case.columns)
    tenth = len(taken.own) // 10
    first, last = (1e3 * float(np.median(part)) for part in (taken.own[:tenth], taken.own[-tenth:]))
    yield Result(f"{case.name}: own time a tile, last tenth of {count}", last, "ms", "first", first)
    growth = taken.memory[-1] - taken.memory[len(taken.memory) // 10]
    yield Result(f"{case.name}: memory over {count} tiles", float(growth), "MB")


if __name__ == "__main__":
    run(
        "montage_overhead",
        "How near a montage comes to the hardware's own speed, flown, stepped, and by stock plans.",
        measure,
    )
