"""Snap, bright and dark field, the quality gate, and plans that nobody runs."""

from __future__ import annotations

import time
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky.simulators import check_limits, summarize_plan

from plans import QualityGate, brightfield, darkfield, make_safe, montage, snap
from plans.reference_frames import _spiral
from tests.devices.lab import Lab, Session, check_documents

ROI = {"centre": (0, 0), "width": 0.9, "height": 0.9}  # 2 × 2 tiles


def take(lab: Lab, **options):
    return montage(lab.camera, lab.stage, lab.scope, ROI, **{"settle": 0, **options})


def test_a_snap_gives_its_uid_and_what_it_saw(lab: Lab, session: Session):
    seen = session(snap(lab.camera, lab.scope, stage=lab.stage, exposure=0.05, sample="M21"))
    check_documents(session.documents)
    start = session.one("start")
    assert seen.uid == start["uid"]
    assert (start["plan_name"], start["sample"]) == ("snap", "M21")
    assert start["plan_args"] == {
        "camera": "camera",
        "scope": "scope",
        "stage": "stage",
        "exposure": 0.05,
    }
    (frame,) = session.frames()
    assert seen.mean == pytest.approx(frame.mean())
    assert seen.frame_number == lab.pv("CAM:cam1:ArrayCounter_RBV")
    assert seen.values["stage_x"] == pytest.approx(lab.pv("STAGE:X.RBV"), abs=0.05)
    assert lab.is_safe()


def test_dark_frames_are_dark_and_bright_ones_are_bright(lab: Lab, session: Session):
    dark = session(darkfield(lab.camera, lab.scope, frames=3, exposure=0.05))
    bright = session(brightfield(lab.camera, lab.stage, lab.scope, frames=3, exposure=0.05))
    check_documents(session.documents)
    starts = {d["uid"]: d for n, d in session.documents if n == "start"}
    assert (starts[dark]["plan_name"], starts[bright]["plan_name"]) == ("darkfield", "brightfield")
    assert [starts[uid]["num_points"] for uid in (dark, bright)] == [3, 3]
    means = [event["camera_stats1_mean_value"] for event in session.events()]
    assert len(means) == 6
    assert max(means[:3]) < min(means[3:]) / 3
    assert lab.is_safe()


def test_the_dark_field_blanks_a_beam_that_was_on(lab: Lab, session: Session):
    lit = session(snap(lab.camera, lab.scope)).mean
    session.documents.clear()
    session(bps.mv(lab.scope.screen, "Up", lab.scope.blank, "Off"))
    session(darkfield(lab.camera, lab.scope, frames=1))
    (event,) = session.events()
    assert event["camera_stats1_mean_value"] < lit / 3
    assert lab.is_safe()


def test_a_bright_field_with_a_pitch_moves_about_and_comes_back(lab: Lab, session: Session):
    lab.stage.x.set(3).wait(20)
    lab.stage.y.set(-2).wait(20)
    session(brightfield(lab.camera, lab.stage, lab.scope, frames=5, pitch=2.0))
    places = [(round(e["stage_x"]), round(e["stage_y"])) for e in session.events()]
    assert places == [(3, -2), (5, -2), (5, 0), (3, 0), (1, 0)]
    assert lab.pv("STAGE:X.RBV") == pytest.approx(3, abs=0.1)
    assert lab.pv("STAGE:Y.RBV") == pytest.approx(-2, abs=0.1)


def test_a_spiral_visits_every_place_once_and_goes_in_steps_of_one():
    places = np.array(list(_spiral(49)))
    assert len({tuple(place) for place in places}) == 49
    assert np.abs(places).max() == 3
    assert np.abs(np.diff(places, axis=0)).sum(axis=1).tolist() == [1] * 48


class Gate:
    """A gate that fails given tiles, round by round."""

    def __init__(self, *rounds: list[int], delay: float = 0.0) -> None:
        self.rounds = list(rounds)
        self.delay = delay
        self.asked: list[tuple[str, float]] = []

    def failed(self, raw_uid: str, timeout: float) -> list[int]:
        self.asked.append((raw_uid, timeout))
        time.sleep(self.delay)
        return self.rounds.pop(0)


def test_the_gate_has_tiles_taken_again_with_a_higher_attempt(lab: Lab, session: Session):
    gate = Gate([2, 0, 2], [0], [])
    assert isinstance(gate, QualityGate)
    uid = session(take(lab, gate=gate, retakes=3))
    check_documents(session.documents)
    tries = [(event["tile_index"], event["tile_attempt"]) for event in session.events()]
    assert tries == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2), (0, 3)]
    assert [asked[0] for asked in gate.asked] == [uid] * 3
    assert session.one("start")["plan_args"]["gate"] == "Gate"
    session.frames()
    assert lab.is_safe()


def test_the_gate_is_not_asked_more_often_than_there_are_retakes(lab: Lab, session: Session):
    gate = Gate([1], [1], [1])
    session(take(lab, gate=gate, retakes=1))
    assert len(gate.asked) == 1
    assert len(session.events()) == 5


def test_the_beam_is_off_and_a_pause_works_while_the_gate_thinks(lab: Lab, session: Session):
    gate = Gate([3], delay=0.5)
    session.interrupt(take(lab, gate=gate), lambda: bool(gate.asked))
    assert session.RE.state == "paused"
    assert lab.text("SCOPE:Blank_RBV") == "On"
    session.RE.resume()
    check_documents(session.documents)
    assert [event["tile_index"] for event in session.events()] == [0, 1, 2, 3, 3]
    assert len(gate.asked) == 1


def test_a_gate_that_fails_does_not_cost_the_montage(lab: Lab, session: Session, caplog):
    class Broken:
        def failed(self, raw_uid: str, timeout: float) -> list[int]:
            raise ConnectionError("no processor")

    session(take(lab, gate=Broken()))
    assert session.one("stop")["exit_status"] == "success"
    assert "did not judge run" in caplog.text
    assert "no processor" in caplog.text


def test_make_safe_is_a_plan_of_its_own(lab: Lab, session: Session):
    lab.scope.stage()
    session(make_safe(lab.scope))
    assert lab.is_safe()


def test_a_montage_can_be_looked_at_without_running_it(lab: Lab):
    before = lab.stage.x.position
    text = StringIO()
    with redirect_stdout(text):
        summarize_plan(take(lab, focus="once"))
    assert text.getvalue().count("stage_x ->") == 4 + 9
    check_limits(take(lab))
    assert lab.stage.x.position == pytest.approx(before, abs=0.05)
