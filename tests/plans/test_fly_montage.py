"""A flown montage: as a montage, but taken by the sequencer; and whatever may happen to it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from plans import MontageResult, fly_montage, montage
from tests.devices.lab import Lab, Session, check_documents

ROI = {"centre": (0, 0), "width": 1.3, "height": 1.3}  # 3 × 3 tiles


def fly(lab: Lab, roi=ROI, **options):
    options = {"settle": 0, **options}
    return fly_montage(lab.sequencer, lab.camera, lab.stage, lab.scope, roi, **options)


def order(session: Session) -> list[int]:
    return [event["tile_index"] for event in session.events()]


def test_it_looks_like_a_montage(lab: Lab, session: Session):
    flown = session(fly(lab))
    check_documents(session.documents)
    stepped = Session()
    stepped(montage(lab.camera, lab.stage, lab.scope, ROI, settle=0))
    assert flown == MontageResult(
        session.one("start")["uid"], 9, retaken=0, failed=(), stop="", reason=""
    )
    one, other = session.one("start"), stepped.one("start")
    own = {"uid", "time", "scan_id", "plan_name", "plan_args"}
    assert {k: v for k, v in one.items() if k not in own} == {
        k: v for k, v in other.items() if k not in own
    }
    assert one["plan_args"] == {**other["plan_args"], "sequencer": "sequencer"}
    assert order(session) == order(stepped)
    flown_keys, stepped_keys = (set(each.events()[0]) for each in (session, stepped))
    extra = {"sequencer_settle", "sequencer_start", "sequencer_end"}
    assert flown_keys == (stepped_keys - {"camera_image"}) | extra
    json.dumps(one)
    for a, b in zip(session.events(), stepped.events(), strict=True):
        assert a["tile_x"] == b["tile_x"]
        assert a["scope_defocus"] == b["scope_defocus"]
        assert a["stage_x"] == pytest.approx(b["stage_x"], abs=0.1)
    assert session.one("stop")["num_events"] == {"primary": 9}
    assert lab.is_safe()


def test_each_event_has_its_own_frame_on_disk(lab: Lab, session: Session):
    session(fly(lab))
    events = session.events()
    means = [event["camera_stats1_mean_value"] for event in events]
    np.testing.assert_allclose([frame.mean() for frame in session.frames()], means, rtol=1e-6)
    assert min(means) > 500, "the beam was on"
    truth = lab.truth()
    for event in events:
        frame = truth[event["camera_cam_array_counter"]]
        np.testing.assert_allclose(
            [frame["x"], frame["y"]], [event["tile_x"], event["tile_y"]], atol=1.3
        )


@pytest.mark.parametrize("fault", ["StageStall", "CameraTimeout", "LostFrame"])
def test_a_tile_that_fails_is_taken_again_at_once(lab: Lab, session: Session, fault: str):
    lab.fault(fault, 1)
    result = session(fly(lab))
    check_documents(session.documents)
    assert result.tiles == 9
    assert Counter(order(session)) == dict.fromkeys(range(9), 1)
    session.frames()


def test_a_full_disk_is_a_fault_and_goes_on_in_another_file(lab: Lab, session: Session):
    session.interrupt(
        fly(lab, exposure=0.1), lambda: len(order(session)) >= 2, lambda: lab.fault("DiskFull", 1)
    )
    check_documents(session.documents)
    assert Counter(order(session)) == dict.fromkeys(range(9), 1)
    session.frames()
    assert len([name for name, _ in session.documents if name == "stream_resource"]) == 2


def test_a_tile_that_cannot_be_taken_is_named_with_its_reason(lab: Lab, session: Session):
    lab.fault("LostFrame", 2)
    result = session(fly(lab, retakes=1))
    check_documents(session.documents)
    (missing,) = session.events("missing")
    assert Counter([*order(session), missing["missing_index"]]) == dict.fromkeys(range(9), 1)
    assert "did not arrive" in missing["missing_reason"]
    assert result.tiles == 8
    assert lab.is_safe()
