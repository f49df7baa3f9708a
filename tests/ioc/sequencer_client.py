"""A client of the sequencer's PVs, as a screen or a script without ophyd would be one."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import epics
import h5py
import numpy as np
from numpy.typing import NDArray

from ioc.sequence import STATES
from ioc.sequencer import RECORD
from tests.ioc.clients import refusal
from tests.support import IocProcess, get, put, wait_until

loads = itertools.count(1)


class SequencerClient:
    """What one can do with the sequencer, and see of it.

    Parameters
    ----------
    ioc : IocProcess
    """

    def __init__(self, ioc: IocProcess) -> None:
        self.ioc = ioc

    def put(self, name: str, value: Any, **options: Any) -> None:
        """Write any PV of the IOC, by its name without the prefix."""
        put(self.ioc.prefix + name, value, **options)

    def get(self, name: str) -> Any:
        return get(self.ioc.prefix + name)

    def text(self, name: str) -> str:
        return get(self.ioc.prefix + name, text=True)

    def refused(self, name: str, value: Any) -> str:
        """Write what must be refused; give the reason."""
        return refusal(self.ioc.prefix + name, value)

    @property
    def state(self) -> str:
        return self.text("SEQ:State_RBV")

    @property
    def done(self) -> int:
        return int(self.get("SEQ:Done_RBV"))

    @property
    def order(self) -> list[int]:
        """The points that are done, as they were."""
        done = self.done
        return self.array("Order", done).tolist() if done else []

    def array(self, name: str, length: int | None = None) -> NDArray[Any]:
        """Read results, with their length: pyepics would give as much of them as it gave before."""
        count = length or int(self.get("SEQ:Points_RBV"))
        pv = f"{self.ioc.prefix}SEQ:{name}_RBV"
        return np.atleast_1d(epics.caget(pv, count=count, use_monitor=False))

    def write(self, x: Sequence[float], y: Sequence[float] | None = None, **others: Any) -> None:
        """Write a trajectory, and do not load it."""
        arrays = {"X": x, "Y": [0.0] * len(x) if y is None else y, "Exposure": [0.005]}
        arrays |= {"FocusOffset": [0.0], "ShiftX": [0.0], "ShiftY": [0.0]} | others
        for name, values in arrays.items():
            self.put(f"SEQ:{name}", np.array(values, float))
        self.put("SEQ:NumPoints", len(x))

    def load(self, x: Sequence[float], y: Sequence[float] | None = None, **others: Any) -> None:
        """Load a trajectory, with a file for its frames."""
        self.write(x, y, **others)
        self.new_file()
        self.put("SEQ:Load", next(loads))
        assert self.state == "Loaded", self.text("SEQ:Message_RBV")

    def new_file(self) -> None:
        self.put("CAM:HDF1:Capture", 0)
        self.put("CAM:HDF1:Capture", 1)

    def start(self) -> None:
        self.put("SEQ:Start", 1)

    def until(self, *states: str, timeout: float = 20.0) -> None:
        wait_until(lambda: self.state in states, timeout, f"it is {states}, not {self.state}")

    def until_done(self, count: int) -> None:
        wait_until(lambda: self.done >= count, 20, f"{count} points", period=0.002)

    def fault(self) -> tuple[int, int, str]:
        """Wait for a fault; give the point, its code and the message."""
        self.until("Fault")
        point = int(self.get("SEQ:Failed_RBV"))
        message = self.text("SEQ:Message_RBV")
        assert message.startswith(f"point {point}: ")
        return point, int(self.array("Fault")[point]), message

    def bring_light(self) -> None:
        for name, value in (("ColumnValve", "Open"), ("Screen", "Up"), ("Blank", "Off")):
            self.put(f"SCOPE:{name}", value)

    def reset(self) -> None:
        """Bring all to where a test expects it, whatever the test before has left."""
        for fault in ("BeamDrop", "CameraTimeout", "StageStall", "LostFrame", "VacuumTrip"):
            self.put(f"SIM:Fault:{fault}", 0)
        self.put("SIM:Fault:DiskFull", 0)
        self.put("SEQ:Abort", 1, timeout=30)
        rules = {"Settle": 0.0, "SettleTimeout": 0.5, "ShiftSettle": 0.0, "Watchdog": 0.0}
        rules |= {"ShiftLimit": 0.0, "Tolerance": 0.05, "HoldAfter": -1, "Interlocks": 1}
        rules |= {"ShiftRotation": 0.0, "ShiftScale": 1.0}
        for name, value in rules.items():
            self.put(f"SEQ:{name}", value)
        for axis in ("X", "Y"):
            self.put(f"STAGE:{axis}.VELO", 100)
            self.put(f"STAGE:{axis}", 0)
        for name in ("Defocus", "ImageShiftX", "ImageShiftY"):
            self.put(f"SCOPE:{name}", 0)
        wait_until(lambda: self.get("SCOPE:Vacuum_RBV") < 1e-3, 30, "the vacuum")
        self.bring_light()

    def truth(self) -> dict[int, dict[str, Any]]:
        """What the simulator knows of each frame, by its number."""
        log = Path(self.ioc.options["driver_options"]["truth_log"])
        return {line["frame"]: line for line in map(json.loads, log.read_text().splitlines())}

    def check_frames(self, points: int) -> None:
        """Check that each point's frame is in the file, at the place and with the number told."""
        order, places, numbers = self.order, self.array("FramePlace"), self.array("FrameNumber")
        assert sorted(order) == list(range(points)), order
        assert np.all(np.diff(places[order]) > 0)
        assert np.all(np.diff(numbers[order]) > 0)
        path = self.text("CAM:HDF1:FullFileName_RBV")
        with h5py.File(path, "r", swmr=True, locking=False) as file:
            ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
            means = file["entry/data/data"][:].mean(axis=(1, 2))
        np.testing.assert_array_equal(ids[places], numbers)
        np.testing.assert_allclose(means[places], self.array("Mean"), rtol=1e-6)

    @contextmanager
    def recorded(self) -> Iterator[Recorder]:
        """Monitor what is told while it flies."""
        recorder = Recorder(self.ioc.prefix)
        try:
            yield recorder
        finally:
            recorder.close()


class Recorder:
    """All that monitors of the sequencer have brought, in order: (name, value)."""

    NAMES = ("State_RBV", "Message_RBV", "Failed_RBV", "Done_RBV", "Recent_RBV", "Index_RBV")

    def __init__(self, prefix: str) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self._pvs = [
            epics.PV(f"{prefix}SEQ:{name}", auto_monitor=True, callback=self._note(name))
            for name in self.NAMES
        ]
        wait_until(lambda: {name for name, _ in self.seen} == set(self.NAMES), 10, "monitors")

    def _note(self, name: str) -> Any:
        def note(value: Any, char_value: str, **_: Any) -> None:
            if name == "State_RBV":  # the client may not know the names of its choices yet
                value = STATES[value]
            with self._lock:
                self.seen.append((name, char_value if name == "Message_RBV" else value))

        return note

    @property
    def states(self) -> list[str]:
        return [value for name, value in self.seen if name == "State_RBV"]

    def rows(self) -> dict[int, NDArray[np.float64]]:
        """The rows of Recent_RBV by their serial number."""
        found = {}
        for name, value in list(self.seen):
            if name == "Recent_RBV":
                rows = np.atleast_1d(value)
                found |= {int(row[1]): row for row in rows.reshape(-1, len(RECORD)) if row[1]}
        return found

    def close(self) -> None:
        for pv in self._pvs:
            pv.clear_auto_monitor()
            pv.disconnect()
