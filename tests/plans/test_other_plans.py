"""Snap, bright and dark field, and plans that nobody runs."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky.simulators import check_limits, summarize_plan

from plans import brightfield, darkfield, make_safe, montage, snap
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
