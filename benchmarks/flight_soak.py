"""Ten thousand flown tiles with faults of every kind: each is there once, or named with its reason.

Frames are small, so that what counts is the sequencer, its documents, and what they cost in the
first thousand tiles and in the last.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from benchmarks._report import Result, run
from tests import support  # first of all imports that read the EPICS environment
from tests.devices.lab import DocumentChecker, Lab

TILES, QUICK_TILES = 10_000, 1_000
SHARE = 10  # of the tiles make up what is compared: the first tenth and the last
SENSOR = (64, 64)
PERIOD_UM = 8.0  # after which the specimen repeats: its texture is the simulator's memory, not ours
EXPOSURE = 0.002  # s
TILES_PER_FAULT = 25  # on average: by tiles and not by time, so that machines do not differ
LEFT_IN_PEACE = 50  # of the last tiles, so that the light is not put back after the end
LOOK_PERIOD = 0.01  # s between looks at how many were taken
DARK = 0.05  # s that the light is away
MOST_RUNS = 20  # that it may take: three tiles in a row that fail end one
MOST_GROWTH = 1.1  # of the time of a tile, from the first to the last
MOST_MEMORY = 64.0  # MB that a process may grow by in 10 000 tiles
MB = 2**20

INJECTED = ("StageStall", "CameraTimeout", "LostFrame", "DiskFull")
LIGHTS = (("Screen", "Down", "Up"), ("Blank", "On", "Off"), ("ColumnValve", "Closed", "Open"))


@dataclass(eq=False)
class Record:
    """What the documents of all runs say, without keeping them.

    Attributes
    ----------
    taken : Counter
        How often each tile has an event.
    missing : dict of int to str
        Tiles that were left out, and why.
    frames : list of (str, int, int)
        File, place and number of the frame of each event.
    starts, costs : list of float
        When each exposure began; the time from the end of one to the next, less its settling.
    memory : list of float
        Of this process, in bytes, with each event.
    """

    taken: Counter[int] = field(default_factory=Counter)
    missing: dict[int, str] = field(default_factory=dict)
    frames: list[tuple[str, int, int]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)
    _places: list[tuple[str, int]] = field(default_factory=list)
    _checker: DocumentChecker = field(default_factory=DocumentChecker)
    _end: float = 0.0

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take in a document, and check that it is valid where it stands."""
        self._checker(name, document)
        if name == "descriptor":
            self._names[document["uid"]] = document["name"]
        elif name == "stream_resource":
            self._files[document["uid"]] = document["uri"].removeprefix("file://localhost")
        elif name == "stream_datum":
            file = self._files[document["stream_resource"]]
            self._places += [(file, i) for i in range(*document["indices"].values())]
        elif name == "event_page" and self._names[document["descriptor"]] == "primary":
            self._page(document["data"])
        elif name == "event" and self._names[document["descriptor"]] == "missing":
            data = document["data"]
            self.missing[data["missing_index"]] = data["missing_reason"]

    def _page(self, data: dict[str, list[Any]]) -> None:
        columns = ("tile_index", "camera_cam_array_counter")
        times = ("sequencer_start", "sequencer_end", "sequencer_settle")
        for tile, number, start, end, settle in zip(
            *(data[k] for k in columns + times), strict=True
        ):
            self.taken[tile] += 1
            self.frames.append((*self._places.pop(0), number))
            self.starts.append(start)
            self.costs.append(start - self._end - settle)
            self._end = end
        self.memory += [float(psutil.Process().memory_info().rss)] * len(data["tile_index"])

    def check(self, tiles: int) -> None:
        """Check that each tile is there once, with the frame that its event tells of, or named.

        Raises
        ------
        AssertionError
            If not.
        """
        assert not self._checker.open_runs
        assert not self._places, "each reference has its event"
        assert max(self.taken.values()) == 1, "no tile is there twice"
        assert all(self.missing.values()), "a tile that is missing has its reason"
        given_up = {tile for tile in self.missing if tile not in self.taken}
        assert set(self.taken) | given_up == set(range(tiles)), "no tile is lost without a word"
        for path in {file for file, _, _ in self.frames}:
            with h5py.File(path, "r", swmr=True, locking=False) as file:
                ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
            told = np.array([frame[1:] for frame in self.frames if frame[0] == path])
            np.testing.assert_array_equal(ids[told[:, 0]], told[:, 1])


class Trouble:
    """Strikes at random until it is told to stop; all that it breaks it puts right, but the disk.

    Parameters
    ----------
    put : callable
        Writes a PV, by its name without the prefix.
    over : callable
        Tells how many tiles are over with.
    tiles : int
        How many there are.
    seed : int
    """

    def __init__(
        self, put: Callable[..., None], over: Callable[[], int], tiles: int, seed: int
    ) -> None:
        self._put, self._over, self._last = put, over, tiles - LEFT_IN_PEACE
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.struck: Counter[str] = Counter()

    def run(self) -> None:
        """Strike; on a thread of its own."""
        import epics

        epics.ca.use_initial_context()
        due = 0.0
        for name, strike in self._kinds():
            due += self._random.expovariate(1 / TILES_PER_FAULT)
            while (over := self._over()) < due:
                if self._stop.wait(LOOK_PERIOD):
                    return
            if over > self._last:
                return
            strike()
            self.struck[name] += 1

    def stop(self) -> None:
        """Strike no more."""
        self._stop.set()

    def _kinds(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Give every kind as often as the others, in a random order."""
        kinds: list[tuple[str, Callable[[], None]]] = [
            *((name, lambda name=name: self._inject(name)) for name in INJECTED),
            *((name, lambda all=(name, *how): self._darken(*all)) for name, *how in LIGHTS),
            ("STOP", lambda: self._put(f"STAGE:{self._random.choice('XY')}.STOP", 1)),
            ("StopAll", lambda: self._put("STAGE:StopAll", 1)),
        ]
        while True:
            self._random.shuffle(kinds)
            yield from kinds

    def _inject(self, name: str) -> None:
        self._put(f"SIM:Fault:{name}:Count", self._random.randint(1, 2))

    def _darken(self, name: str, dark: str, light: str) -> None:
        self._put(f"SCOPE:{name}", dark)
        time.sleep(DARK)
        self._put(f"SCOPE:{name}", light)


def soak(lab: Lab, RE: Any, tiles: int, seed: int = 1) -> tuple[Record, Trouble]:
    """Fly a montage of so many tiles in as many runs as it takes, while all kinds of things fail.

    Parameters
    ----------
    lab : Lab
    RE : RunEngine
    tiles : int
    seed : int

    Returns
    -------
    Record, Trouble
    """
    from plans import TileError, fly_montage

    record = Record()
    trouble = Trouble(lab.put, lambda: len(record.taken) + len(record.missing), tiles, seed)
    subscription = RE.subscribe(record)
    thread = threading.Thread(target=trouble.run, name="trouble", daemon=True)
    thread.start()
    try:
        for _ in range(MOST_RUNS):
            known = set(record.taken) | set(record.missing)
            if len(known) == tiles:
                break
            plan = fly_montage(
                lab.sequencer,
                lab.camera,
                lab.stage,
                lab.scope,
                roi_of(lab, tiles),
                settle=0,
                exposure=EXPOSURE,
                retakes=2,
                taken=known,
            )
            try:
                RE(plan)
            except TileError:
                continue
    finally:
        trouble.stop()
        thread.join(10)
        RE.unsubscribe(subscription)
        lab.clear_faults()
        lab.put("SCOPE:ColumnValve", "Open")
    return record, trouble


def roi_of(lab: Lab, tiles: int) -> dict[str, Any]:
    """Give a region that takes exactly so many tiles: as square as their number allows."""
    columns = next(n for n in range(int(tiles**0.5), 0, -1) if tiles % n == 0)
    side = SENSOR[0] * lab.scope.pixel_size.get() / 1000 * 0.9  # µm, with an overlap of 10 %
    width, height = (side * (n - 0.5) for n in (columns, tiles // columns))
    return {"centre": (0, 0), "width": width, "height": height, "angle": lab.scope.rotation.get()}


@contextmanager
def instrument() -> Iterator[Lab]:
    """Start an instrument with small frames, whose camera gives up soon."""
    with tempfile.TemporaryDirectory(prefix="temline-soak-") as folder:
        ioc = support.start_ioc(
            Path(folder),
            sensor=SENSOR,
            specimen="neuropil",
            specimen_period=PERIOD_UM,
            camera={"timeout": 0.05},
        )
        try:
            yield Lab.over(ioc)
        finally:
            ioc.stop()


def measure(quick: bool) -> Iterable[Result]:
    """Fly, check, and compare the first tiles with the last."""
    from bluesky import RunEngine

    tiles = QUICK_TILES if quick else TILES
    with instrument() as lab:
        server = psutil.Process(lab.ioc.pid)
        watcher = _Watcher(server)
        began = time.monotonic()
        try:
            record, trouble = soak(lab, RunEngine(context_managers=[]), tiles)
        finally:
            watcher.stop()
        seconds = time.monotonic() - began
        record.check(tiles)
    yield Result("tiles that are there once", len(record.taken), "", "of", tiles)
    yield Result("tiles that are named as missing", len(record.missing), "")
    yield Result("faults", trouble.struck.total(), "")
    yield Result("time a tile, with its faults", 1e3 * seconds / tiles, "ms")
    first, last = slice(1, tiles // SHARE), slice(-tiles // SHARE, None)
    for name, values in (("period", np.diff(record.starts)), ("software's own", record.costs)):
        early, late = (1e3 * float(np.median(values[part])) for part in (first, last))
        goal = MOST_GROWTH if name == "period" else None
        yield Result(
            f"{name}, last tenth", late, "ms", "first tenth", early, goal, goal_is_ratio=True
        )
    for name, memory in (("IOC", watcher.memory), ("RunEngine's process", record.memory)):
        part = max(len(memory) // SHARE, 1)
        early, late = np.median(memory[:part]) / MB, np.median(memory[-part:]) / MB
        yield Result(f"memory of the {name} more", late - early, "MB", "", None, MOST_MEMORY)


class _Watcher:
    """Notes the memory of a process, in bytes, twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        self.memory: list[float] = []
        self._process, self._stop = process, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.memory.append(float(self._process.memory_info().rss))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    run("flight_soak", __doc__, measure)
