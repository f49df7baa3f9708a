"""A montage that was cut off is gone on with from Tiled: no tile twice, none lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from callbacks.tiled_sink import TiledSink
from plans import fly_montage, montage
from processing.geometry import ImageShift
from services.resume import ResumeError, resume_montage, tiles_of
from tests.callbacks.conftest import _tiled, tiled, tiled_folder
from tests.callbacks.tiled import KEY, TiledProcess
from tests.devices.conftest import lab, session, shared_lab
from tests.devices.lab import Lab, Session, check_documents

__all__ = ["_tiled", "lab", "session", "shared_lab", "tiled", "tiled_folder"]

ROI = {"centre": (0, 0), "width": 1.3, "height": 1.3}  # 3 × 3 tiles


@pytest.fixture
def sink(tiled: TiledProcess, tmp_path: Path):
    sink = TiledSink(tiled.uri, KEY, tmp_path)
    yield sink
    sink.close(30)


@pytest.mark.parametrize("plan", [fly_montage, montage])
def test_the_rest_of_a_montage_is_taken_by_what_tiled_has(
    lab: Lab, session: Session, tiled: TiledProcess, sink: TiledSink, plan
):
    devices = {device.name: device for device in lab.devices}
    first = [lab.sequencer] if plan is fly_montage else []
    request = plan(
        *first,
        lab.camera,
        lab.stage,
        lab.scope,
        ROI,
        settle=0,
        exposure=0.1,
        overlap=12,
        image_shift=ImageShift(most_shift=3),
        sample="S1",
    )
    session.RE.subscribe(sink)
    session.interrupt(request, lambda: len(session.events()) >= 2)
    session.RE.abort("the power went")
    assert sink.flush(30)
    run = tiled.client()[session.one("start")["uid"]]
    had = tiles_of(run)
    assert had == [event["tile_index"] for event in session.events()]
    assert 2 <= len(had) < 9

    again = Session()
    again.RE.subscribe(sink)
    result = again(resume_montage(run, devices))
    check_documents(again.documents)
    start = again.one("start")
    assert start["continues"] == run.metadata["start"]["uid"]
    assert (start["sample"], start["plan_name"]) == ("S1", plan.__name__)
    assert start["montage"] == session.one("start")["montage"]
    took = [event["tile_index"] for event in again.events()]
    assert Counter(had + took) == dict.fromkeys(range(9), 1)
    assert result.tiles == len(took)
    assert sink.flush(30)
    with pytest.raises(ResumeError, match="has all its 9 tiles"):
        again(resume_montage(tiled.client()[start["uid"]], devices))


def test_another_run_is_refused(lab: Lab, session: Session):
    class Run:
        def __init__(self) -> None:
            self.metadata = {"start": {"uid": "abc", "plan_name": "snap"}}

    with pytest.raises(ResumeError, match="'snap'; only montage, fly_montage"):
        session(resume_montage(Run(), {}))
