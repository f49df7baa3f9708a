"""A simulated instrument with its devices and a RunEngine, for tests of devices and plans."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from devices import ApertureChanger, Camera, Microscope, Stage, connect
from tests import support
from tests.support import IocProcess, wait_until

Document = tuple[str, dict[str, Any]]


@dataclass
class Lab:
    """An IOC and the devices over it."""

    ioc: IocProcess
    scope: Microscope
    stage: Stage
    aperture: ApertureChanger
    camera: Camera

    @classmethod
    def over(cls, ioc: IocProcess) -> Lab:
        """Make devices and connect them."""
        lab = cls(
            ioc,
            Microscope(f"{ioc.prefix}SCOPE:", name="scope"),
            Stage(f"{ioc.prefix}STAGE:", name="stage"),
            ApertureChanger(f"{ioc.prefix}STAGE:", name="aperture"),
            Camera(f"{ioc.prefix}CAM:", name="camera", write_path_template=str(ioc.data_root)),
        )
        connect(lab.devices, timeout=30)
        return lab

    @property
    def devices(self) -> list[Any]:
        return [self.scope, self.stage, self.aperture, self.camera]

    def pv(self, name: str) -> Any:
        """Read a PV from the server, by no device."""
        return support.get(self.ioc.prefix + name)

    def text(self, name: str) -> str:
        """Read a menu or a text from the server."""
        return support.get(self.ioc.prefix + name, text=True)

    def put(self, name: str, value: Any, wait: bool = True) -> None:
        """Write a PV, as another client would."""
        support.put(self.ioc.prefix + name, value, wait=wait)

    def fault(self, name: str, count: int) -> None:
        """Have a fault strike the next `count` events."""
        self.put(f"SIM:Fault:{name}:Count", count)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        names = ("BeamDrop", "CameraTimeout", "StageStall", "LostFrame", "VacuumTrip", "DiskFull")
        for name in names:
            self.put(f"SIM:Fault:{name}", 0)

    def is_safe(self) -> bool:
        """Whether the server says: beam blanked, screen down, camera idle."""
        return (
            self.text("SCOPE:Blank_RBV") == "On"
            and self.text("SCOPE:Screen_RBV") == "Down"
            and self.pv("CAM:cam1:Acquire_RBV") == 0
        )

    def truth(self) -> dict[int, dict[str, float]]:
        """What the simulator knows of each frame, by the frame's number."""
        lines = Path(self.ioc.options["driver_options"]["truth_log"]).read_text().splitlines()
        return {record["frame"]: record for record in map(json.loads, lines)}


@dataclass
class Session:
    """A RunEngine that keeps the documents it emits."""

    RE: RunEngine = field(
        default_factory=lambda: RunEngine(call_returns_result=True, context_managers=[])
    )
    documents: list[Document] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.RE.subscribe(lambda name, document: self.documents.append((name, document)))

    def __call__(self, plan: Any) -> Any:
        """Run a plan; give what it returns."""
        return self.RE(plan).plan_result

    def events(self, stream: str = "primary") -> list[dict[str, Any]]:
        """Give the data of the events of a stream."""
        uids = {d["uid"] for n, d in self.documents if n == "descriptor" and d["name"] == stream}
        return [d["data"] for n, d in self.documents if n == "event" and d["descriptor"] in uids]

    def one(self, name: str) -> dict[str, Any]:
        """Give the only document of a kind."""
        (document,) = [d for n, d in self.documents if n == name]
        return document

    def frames(self) -> list[np.ndarray]:
        """Read from disk, by way of resource and datum, the frame of each primary event."""
        datums = {d["datum_id"]: d for n, d in self.documents if n == "datum"}
        resources = {d["uid"]: d for n, d in self.documents if n == "resource"}
        frames = []
        for data in self.events():
            datum = datums[data["camera_image"]]
            resource = resources[datum["resource"]]
            path = Path(resource["root"]) / resource["resource_path"]
            with h5py.File(path, "r", swmr=True, locking=False) as file:
                place = datum["datum_kwargs"]["point_number"]
                ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"]
                assert ids[place] == data["camera_cam_array_counter"]
                frames.append(file["entry/data/data"][place])
        return frames

    def interrupt(
        self, plan: Any, when: Callable[[], Any], action: Callable[[], Any] | None = None
    ) -> None:
        """Run a plan, and pause it (or do something else) when a condition is met."""
        act = action or self.RE.request_pause
        errors: list[BaseException] = []

        def watch() -> None:
            try:
                wait_until(when, timeout=60, what="the moment to interrupt", period=0.001)
                act()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            self.RE(plan)
        except RunEngineInterrupted:
            pass
        finally:
            thread.join(60)
            if errors:
                raise errors[0]


class DocumentChecker:
    """Checks runs against the event model: schemas, order, counts, references, no duplicates."""

    def __init__(self) -> None:
        self.open_runs: set[str] = set()
        self._uids: set[str] = set()
        self._streams: set[tuple[str, str]] = set()
        self._descriptors: dict[str, dict[str, Any]] = {}
        self._resources: set[str] = set()
        self._datums: set[str] = set()
        self._counts: dict[str, list[int]] = defaultdict(list)

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
        if "uid" in document:
            assert document["uid"] not in self._uids
            self._uids.add(document["uid"])
        getattr(self, name)(document)

    def start(self, document: dict[str, Any]) -> None:
        json.dumps(document)
        self.open_runs.add(document["uid"])

    def descriptor(self, document: dict[str, Any]) -> None:
        assert document["run_start"] in self.open_runs
        stream = document["run_start"], document["name"]
        assert stream not in self._streams, f"stream {stream} is described twice"
        self._streams.add(stream)
        self._descriptors[document["uid"]] = document

    def resource(self, document: dict[str, Any]) -> None:
        self._resources.add(document["uid"])

    def datum(self, document: dict[str, Any]) -> None:
        assert document["resource"] in self._resources
        assert document["datum_id"] not in self._datums
        self._datums.add(document["datum_id"])

    def event(self, document: dict[str, Any]) -> None:
        keys = self._descriptors[document["descriptor"]]["data_keys"]
        assert set(document["data"]) == set(keys)
        self._counts[document["descriptor"]].append(document["seq_num"])
        for name, key in keys.items():
            if key.get("external", "").startswith("FILESTORE"):
                assert document["data"][name] in self._datums

    def stop(self, document: dict[str, Any]) -> None:
        self.open_runs.remove(document["run_start"])
        for uid, descriptor in self._descriptors.items():
            if descriptor["run_start"] == document["run_start"]:
                count = len(self._counts[uid])
                assert self._counts[uid] == list(range(1, count + 1))
                assert document["num_events"].get(descriptor["name"], 0) == count


def check_documents(documents: list[Document]) -> None:
    """Check that documents are whole runs, and right."""
    checker = DocumentChecker()
    for name, document in documents:
        checker(name, document)
    assert not checker.open_runs
