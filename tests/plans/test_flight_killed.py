"""Kill -9 in full flight, of the IOC or of the RunEngine: no tile twice, none lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from plans import fly_montage
from tests import support
from tests.devices.lab import DocumentChecker, Lab, Session, check_documents
from tests.plans.flying_client import ROI
from tests.support import REPOSITORY, IocProcess, wait_until

SENSOR = (128, 128)


def fly(lab: Lab, taken=()):
    return fly_montage(
        lab.sequencer, lab.camera, lab.stage, lab.scope, ROI, settle=0, exposure=0.1, taken=taken
    )


def tiles_of(session: Session) -> list[int]:
    return [event["tile_index"] for event in session.events()]


def take_the_rest(lab: Lab, before: Session) -> None:
    """Fly what is not in the documents of another run; check that each tile is there once."""
    first = before.one("start")
    taken = tiles_of(before)
    n_tiles = first["num_points"]
    assert 0 < len(taken) < n_tiles
    session = Session()
    session(fly(lab, taken))
    check_documents(session.documents)
    assert session.one("start")["montage"] == first["montage"]
    assert Counter(taken + tiles_of(session)) == dict.fromkeys(range(n_tiles), 1)
    for run in (before, session):
        assert len(run.frames()) == len(tiles_of(run)), "what is told of is on disk"
    assert lab.is_safe()


def test_the_ioc(start_ioc, tmp_path: Path):
    ioc: IocProcess = start_ioc(sensor=SENSOR, specimen="points")
    lab, session = Lab.over(ioc), Session()
    with pytest.raises(Exception, match=r"lost its IOC|not connect|disconnect"):
        session.interrupt(fly(lab), lambda: len(tiles_of(session)) >= 3, ioc.kill)
    check_documents(session.documents)
    assert session.one("stop")["exit_status"] == "fail"
    again = support.start_ioc(
        tmp_path,
        sensor=SENSOR,
        specimen="points",
        # Under its old names this process would look for it ever more seldom, without beacons.
        settings={"data_root": ioc.data_root},
    )
    try:
        take_the_rest(Lab.over(again), session)
    finally:
        again.stop()


def test_the_run_engine(start_ioc, tmp_path: Path):
    lab = Lab.over(start_ioc(sensor=SENSOR, specimen="points"))
    documents, session = tmp_path / "documents.jsonl", Session()

    def read() -> int:
        if documents.exists():
            whole = documents.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
            session.documents[:] = [tuple(json.loads(line)) for line in whole]
        return len(session.events())

    command = [sys.executable, "-m", "tests.plans.flying_client"]
    client = subprocess.Popen(
        [*command, lab.ioc.prefix, str(lab.ioc.data_root), str(documents)], cwd=REPOSITORY
    )
    try:
        wait_until(lambda: read() >= 3, 60, "some tiles")
        lab.put("SEQ:Watchdog", 1.5)  # of the 30 s that it had set
    finally:
        client.kill()
        client.wait(10)
    assert lab.text("SEQ:State_RBV") == "Running", "nobody has told it yet"
    wait_until(lambda: lab.text("SEQ:State_RBV") == "Paused", 10, "the watchdog")
    assert "no client was heard of" in lab.text("SEQ:Message_RBV")
    assert lab.text("SCOPE:Blank_RBV") == "On"
    read()
    checker = DocumentChecker()
    for name, document in session.documents:
        checker(name, document)
    assert checker.open_runs, "it did not come to its end"
    take_the_rest(lab, session)
