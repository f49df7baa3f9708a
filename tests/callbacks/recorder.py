"""A consumer that keeps documents, and checks that they are valid and in order."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from event_model import DocumentNames, schema_validators


class Recorder:
    """Collects documents; `check` fails if they break event-model's rules."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.threads: set[str] = set()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.documents.append((name, doc))

    def of(self, name: str) -> Iterator[dict[str, Any]]:
        return (doc for kind, doc in tuple(self.documents) if kind == name)

    @property
    def starts(self) -> list[dict[str, Any]]:
        return list(self.of("start"))

    @property
    def stops(self) -> list[dict[str, Any]]:
        return list(self.of("stop"))

    def run(self, uid: str) -> Recorder:
        """Give the documents of one run only."""
        one = Recorder()
        known = {uid}
        for name, doc in self.documents:
            refers = {doc.get(key) for key in ("uid", "run_start", "descriptor", "stream_resource")}
            if refers & known:
                if name in {"descriptor", "stream_resource"}:
                    known.add(doc["uid"])
                one.documents.append((name, doc))
        return one

    def table(self, stream: str) -> list[dict[str, Any]]:
        """Give the data of the events of a stream."""
        uids = {doc["uid"] for doc in self.of("descriptor") if doc["name"] == stream}
        return [doc["data"] for doc in self.of("event") if doc["descriptor"] in uids]

    def check(self) -> None:
        """Validate each document, and the order and the keys across documents."""
        open_runs: set[str] = set()
        descriptors: dict[str, dict[str, Any]] = {}
        resources: set[str] = set()
        counts: dict[str, int] = defaultdict(int)
        for name, doc in self.documents:
            schema_validators[DocumentNames[name]].validate(doc)
            if name == "start":
                open_runs.add(doc["uid"])
            elif name == "descriptor":
                assert doc["run_start"] in open_runs
                descriptors[doc["uid"]] = doc
            elif name == "event":
                descriptor = descriptors[doc["descriptor"]]
                assert descriptor["run_start"] in open_runs
                internal = {k for k, v in descriptor["data_keys"].items() if "external" not in v}
                assert set(doc["data"]) == set(doc["timestamps"]) == internal
                for key, value in doc["data"].items():
                    kind = descriptor["data_keys"][key]["dtype"]
                    types = {"integer": int, "number": float, "string": str, "boolean": bool}
                    assert type(value) is types[kind], (key, value)
                    if kind == "string":
                        assert len(value) <= int(descriptor["data_keys"][key]["dtype_numpy"][2:])
                counts[doc["descriptor"]] += 1
                assert doc["seq_num"] == counts[doc["descriptor"]]
            elif name == "stream_resource":
                assert doc["run_start"] in open_runs
                resources.add(doc["uid"])
            elif name == "stream_datum":
                assert doc["stream_resource"] in resources
                assert doc["descriptor"] in descriptors
            elif name == "stop":
                open_runs.remove(doc["run_start"])
                told = {
                    descriptors[uid]["name"]: n
                    for uid, n in counts.items()
                    if descriptors[uid]["run_start"] == doc["run_start"]
                }
                assert doc["num_events"] == told
        assert not open_runs
