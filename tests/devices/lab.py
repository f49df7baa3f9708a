"""A simulated instrument with its devices and a RunEngine, for tests of devices and plans."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from callbacks.frames import FrameLocator, LocatedEvent
from devices import ApertureChanger, Camera, Microscope, Sequencer, Stage, connect
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
    sequencer: Sequencer

    @classmethod
    def over(cls, ioc: IocProcess) -> Lab:
        """Make devices and connect them."""
        lab = cls(
            ioc,
            Microscope(f"{ioc.prefix}SCOPE:", name="scope"),
            Stage(f"{ioc.prefix}STAGE:", name="stage"),
            ApertureChanger(f"{ioc.prefix}STAGE:", name="aperture"),
            Camera(f"{ioc.prefix}CAM:", name="camera", write_path_template=str(ioc.data_root)),
            Sequencer(f"{ioc.prefix}SEQ:", name="sequencer"),
        )
        connect(lab.devices, timeout=30)
        return lab

    @property
    def devices(self) -> list[Any]:
        return [self.scope, self.stage, self.aperture, self.camera, self.sequencer]

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
        return [event["data"] for event in self._events() if event["descriptor"] in uids]

    def _events(self) -> Iterator[dict[str, Any]]:
        for name, document in self.documents:
            if name == "event":
                yield document
            elif name == "event_page":
                yield from event_model.unpack_event_page(document)

    def one(self, name: str) -> dict[str, Any]:
        """Give the only document of a kind."""
        (document,) = [d for n, d in self.documents if n == name]
        return document

    def frames(self) -> list[np.ndarray]:
        """Read from disk the frame of each primary event, by what the documents say of it."""
        located: list[LocatedEvent] = []
        locator = FrameLocator()
        for name, document in self.documents:
            located += locator(name, document)
        assert not locator.remaining(), "each event has its frame"
        frames = []
        for event in located:
            if event.stream != "primary":
                continue
            reference = event.frames["camera_image"]
            with h5py.File(reference.path, "r", swmr=True, locking=False) as file:
                ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"]
                assert ids[reference.start] == event.event["data"]["camera_cam_array_counter"]
                frames.append(file[reference.dataset][reference.start])
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
        self._streamed: dict[str, list[int]] = defaultdict(list)

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
        if "uid" in document and name != "event_page":
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

    def event_page(self, document: dict[str, Any]) -> None:
        for event in event_model.unpack_event_page(document):
            keys = self._descriptors[event["descriptor"]]["data_keys"]
            streamed = {key for key, about in keys.items() if about.get("external") == "STREAM:"}
            assert set(event["data"]) == set(keys) - streamed
            assert event["uid"] not in self._uids
            self._uids.add(event["uid"])
            self._counts[event["descriptor"]].append(event["seq_num"])

    def stream_resource(self, document: dict[str, Any]) -> None:
        assert document["run_start"] in self.open_runs
        self._resources.add(document["uid"])

    def stream_datum(self, document: dict[str, Any]) -> None:
        assert document["stream_resource"] in self._resources
        sequence = range(*document["seq_nums"].values())
        assert len(sequence) == len(range(*document["indices"].values())) > 0
        self._streamed[document["descriptor"]] += list(sequence)

    def stop(self, document: dict[str, Any]) -> None:
        self.open_runs.remove(document["run_start"])
        for uid, descriptor in self._descriptors.items():
            if descriptor["run_start"] == document["run_start"]:
                count = len(self._counts[uid])
                assert self._counts[uid] == list(range(1, count + 1))
                assert document["num_events"].get(descriptor["name"], 0) == count
                assert self._streamed[uid] in ([], self._counts[uid])


def check_documents(documents: list[Document]) -> None:
    """Check that documents are whole runs, and right."""
    checker = DocumentChecker()
    for name, document in documents:
        checker(name, document)
    assert not checker.open_runs
