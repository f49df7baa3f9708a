"""A flown montage: as a montage, but taken by the sequencer; and whatever may happen to it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from bluesky.simulators import summarize_plan

from plans import MontageResult, TileError, estimate_montage, fly_montage, montage
from processing.geometry import ImageShift
from tests.devices.lab import Lab, Session, check_documents
from tests.plans.test_steering import Judge
from tests.support import wait_until

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
    own = {"uid", "time", "scan_id", "plan_name", "plan_args", "estimated_time"}
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


def test_where_nothing_works_it_ends(lab: Lab, session: Session):
    lab.fault("LostFrame", 100)
    try:
        with pytest.raises(TileError, match="3 tiles one after the other could not be taken"):
            session(fly(lab, retakes=0))
    finally:
        lab.clear_faults()
    check_documents(session.documents)
    assert session.one("stop")["exit_status"] == "fail"
    assert lab.is_safe()


def test_a_beam_that_is_blanked_by_hand_is_a_fault_and_not_dark_frames(lab: Lab, session: Session):
    def blank() -> None:
        lab.put("SCOPE:Blank", "On")

    with pytest.raises(TileError, match="blank is 'On'"):
        session.interrupt(fly(lab, exposure=0.1), lambda: len(order(session)) >= 2, blank)
    check_documents(session.documents)
    means = [event["camera_stats1_mean_value"] for event in session.events()]
    assert sum(mean < 500 for mean in means) <= 1, "but for the one that was being exposed"


# --- steering


def test_what_the_gate_refuses_is_taken_again_at_the_end_of_its_row(lab: Lab, session: Session):
    gate = Judge(session, {1: 1, 4: 1})
    result = session(fly(lab, gate=gate, exposure=0.25))
    check_documents(session.documents)
    taken = order(session)
    assert Counter(taken) == {**dict.fromkeys(range(9), 1), 1: 2, 4: 2}
    assert taken.index(3) > len(taken[: taken.index(3)]) - 1
    rows = [index // 3 for index in taken]
    assert rows == sorted(rows), "again within its row, or on the way from there"
    attempts = [event["tile_attempt"] for event in session.events() if event["tile_index"] == 4]
    assert attempts == [1, 2]
    assert (result.tiles, result.retaken, result.failed) == (9, 2, ())


def test_what_is_judged_late_is_taken_again_at_the_end(lab: Lab, session: Session):
    gate = Judge(session, {8: 1}, lag=100)
    result = session(fly(lab, gate=gate, max_behind=1000))
    assert order(session) == [*range(9), 8]
    assert result.retaken == 1


class Says:
    """A gate that says one thing from a number of tiles on."""

    def __init__(self, session: Session, after: int, **advice) -> None:
        self.session, self.after, self.said = session, after, advice
        self.asked_behind = 0

    def advice(self, raw_uid: str) -> dict:
        return self.said if len(self.session.events()) >= self.after else {}

    def failed(self, raw_uid: str, timeout: float) -> list[int]:
        return []


def test_the_gate_stops_it_in_mid_row(lab: Lab, session: Session):
    gate = Says(session, 2, decision="stop_now", reason="the beam is gone")
    result = session(fly(lab, gate=gate, exposure=0.2))
    check_documents(session.documents)
    stop = session.one("stop")
    assert stop["exit_status"] == "abort"
    assert "the beam is gone" in stop["reason"]
    assert 2 <= len(order(session)) < 9
    assert result.stop == "now"
    session.frames()
    assert lab.is_safe()


def test_the_gate_has_it_focused(lab: Lab, session: Session):
    class Once(Says):
        def advice(self, raw_uid: str) -> dict:
            due = len(self.session.events()) >= 6 and not self.session.events("focus")
            return {"refocus": due, "reason": "soft"}

    session(fly(lab, gate=Once(session, 6), exposure=0.1, focus_range=6, focus_steps=7))
    check_documents(session.documents)
    assert len(session.events("autofocus")) == 1
    assert Counter(order(session)) == dict.fromkeys(range(9), 1)
    session.frames()


def test_it_waits_for_the_processing_with_the_beam_blanked(lab: Lab, session: Session):
    class Busy(Says):
        def advice(self, raw_uid: str) -> dict:
            if len(self.session.events()) < 3 or self.asked_behind > 3:
                return {}
            self.asked_behind += lab.text("SCOPE:Blank_RBV") == "On"
            return {"behind": 5}

    session(fly(lab, gate=Busy(session, 3), max_behind=2, exposure=0.1))
    check_documents(session.documents)
    assert order(session) == list(range(9))
    waited = [event["tile_waited"] for event in session.events()]
    assert sum(wait > 0 for wait in waited) == 1


# --- focus and order


def test_a_focus_each_row_lets_it_rest_in_between(lab: Lab, session: Session):
    session(fly(lab, focus="row", focus_range=6, focus_steps=7))
    check_documents(session.documents)
    assert order(session) == list(range(9))
    assert [event["autofocus_tile"] for event in session.events("autofocus")] == [0, 3, 6]
    session.frames()


def test_a_plane_of_focus_is_flown_without_a_rest(lab: Lab, session: Session):
    session(fly(lab, focus="plane", focus_range=12, focus_steps=13, exposure=0.05))
    check_documents(session.documents)
    (surface,) = session.events("focus_surface")
    for event in session.events():
        expected = (
            surface["focus_surface_defocus"]
            + surface["focus_surface_slope_x"]
            * (event["tile_x"] - surface["focus_surface_origin_x"])
            + surface["focus_surface_slope_y"]
            * (event["tile_y"] - surface["focus_surface_origin_y"])
        )
        assert event["scope_defocus"] == pytest.approx(expected, abs=1e-3)
        frame = lab.truth()[event["camera_cam_array_counter"]]
        assert abs(frame["defocus"]) < 1.5


def test_blocks_are_reached_by_image_shift(lab: Lab, session: Session):
    session(fly(lab, pattern="blocks", block=3, image_shift=ImageShift()))
    check_documents(session.documents)
    events = session.events()
    assert len({event["stage_x_user_setpoint"] for event in events}) == 1
    truth = lab.truth()
    for event in events:
        frame = truth[event["camera_cam_array_counter"]]
        np.testing.assert_allclose(
            [frame["x"], frame["y"]], [event["tile_x"], event["tile_y"]], atol=1.3
        )
    assert lab.pv("SCOPE:ImageShiftX_RBV") == 0, "as it was"


def test_tiles_that_another_run_has_are_not_taken(lab: Lab, session: Session):
    taken = session(fly(lab, taken=[0, 1, 5]))
    check_documents(session.documents)
    assert order(session) == [2, 3, 4, 6, 7, 8]
    assert taken.tiles == 6


# --- interruptions


@pytest.fixture
def slow(lab: Lab):
    """Steps long enough to be interrupted in their middle."""
    lab.stage.x.velocity.set(2.0).wait(10)
    yield {"exposure": 0.2, "settle": 0.1}
    lab.stage.x.velocity.set(1000).wait(10)


@pytest.mark.parametrize("moment", ["move", "exposure"])
def test_a_pause_loses_no_frame_and_takes_none_twice(lab: Lab, session: Session, slow, moment: str):
    is_moving = lab.stage.x.motor_is_moving.get
    when = {
        "move": lambda: len(order(session)) >= 1 and is_moving() == 1,
        "exposure": lambda: len(order(session)) >= 1 and is_moving() == 0,
    }[moment]
    session.interrupt(fly(lab, **slow), when)
    assert session.RE.state == "paused"
    assert lab.text("SEQ:State_RBV") == "Paused"
    assert lab.text("SCOPE:Blank_RBV") == "On"
    lab.stage.x.set(0.0).wait(10)  # the stage is free meanwhile
    session.RE.resume()
    check_documents(session.documents)
    assert order(session) == list(range(9))
    session.frames()
    assert lab.is_safe()


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_an_end_in_mid_row_leaves_no_frame_unaccounted_for(lab: Lab, session: Session, how: str):
    session.interrupt(fly(lab, exposure=0.15), lambda: len(order(session)) >= 1)
    getattr(session.RE, how)()
    check_documents(session.documents)
    events = session.events()
    assert order(session) == list(range(len(events)))
    assert len(session.frames()) == len(events) == lab.pv("SEQ:Done_RBV")
    assert lab.text("SEQ:State_RBV") == "Aborted"
    assert lab.is_safe()


def test_a_halt_leaves_it_safe(lab: Lab, session: Session):
    session.interrupt(fly(lab, exposure=0.15), lambda: len(order(session)) >= 1)
    session.RE.halt()
    wait_until(lab.is_safe, 20, "the microscope is safe")
    assert lab.text("SEQ:State_RBV") == "Aborted"


def test_a_dry_run_moves_nothing(lab: Lab, capsys):
    before = lab.text("SEQ:State_RBV"), lab.pv("SEQ:Load_RBV")
    summarize_plan(fly(lab, focus="plane"))
    assert "Open Run" in capsys.readouterr().out
    assert (lab.text("SEQ:State_RBV"), lab.pv("SEQ:Load_RBV")) == before


@pytest.mark.parametrize(
    "order",
    [
        {"pattern": "serpentine"},
        {"pattern": "raster"},
        {"pattern": "blocks", "block": 3, "image_shift": ImageShift()},
    ],
    ids=lambda order: order["pattern"],
)
def test_the_time_is_known_beforehand(lab: Lab, session: Session, order: dict):
    options = {"settle": 0.2, "exposure": 0.3, **order}  # long, so that a busy machine hides
    devices = lab.sequencer, lab.camera, lab.stage, lab.scope
    expected = session(estimate_montage(*devices, ROI, **options))
    assert not session.documents
    assert lab.text("SEQ:State_RBV") == "Loaded"
    session(fly_montage(*devices, ROI, **options))
    assert session.one("start")["estimated_time"] == pytest.approx(expected, rel=0.02)
    events = session.events()
    took = events[-1]["sequencer_end"] - events[0]["sequencer_start"] + 0.2
    assert 0.9 * expected < took < 3 * expected, "a busy machine takes longer"
