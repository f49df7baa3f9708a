"""A montage that nothing disturbs: its tiles, its documents, its end."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest
from bluesky import Msg
from bluesky.preprocessors import SupplementalData

from plans import MontageResult, montage
from processing.geometry import FrameGeometry, Region, plan_grid
from tests.devices.lab import Lab, Session, check_documents

ROI = {"centre": (0, 0), "width": 1.3, "height": 1.3}


def take(lab: Lab, roi=ROI, **options):
    options = {"settle": 0, **options}
    return montage(lab.camera, lab.stage, lab.scope, roi, **options)


def test_one_event_a_tile_in_serpentine_order(lab: Lab, session: Session):
    taken = session(take(lab))
    check_documents(session.documents)
    start = session.one("start")
    assert taken == MontageResult(start["uid"], 9, retaken=0, failed=(), stop="", reason="")
    events = session.events()
    places = [(event["tile_row"], event["tile_column"]) for event in events]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert [event["tile_index"] for event in events] == list(range(9))
    assert {event["tile_attempt"] for event in events} == {1}
    tiles = [[e["tile_row"], e["tile_column"], e["tile_x"], e["tile_y"]] for e in events]
    assert tiles == start["montage"]["tiles"]
    numbers = [event["camera_cam_array_counter"] for event in events]
    assert np.diff(numbers).tolist() == [1] * 8
    stop = session.one("stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": 9}
    assert lab.is_safe()


def test_the_stage_is_where_the_tile_is_meant_to_be(lab: Lab, session: Session):
    session(take(lab, settle=0.15))
    truth = lab.truth()
    for event in session.events():
        nominal = np.array([event["tile_x"], event["tile_y"]])
        found = np.array([event["stage_x"], event["stage_y"]])
        np.testing.assert_allclose(found, nominal, atol=lab.stage.x.tolerance)
        frame = truth[event["camera_cam_array_counter"]]
        # The simulated stage is wrong by up to 255 px of 4 nm on each axis, and drifts.
        np.testing.assert_allclose([frame["x"], frame["y"]], nominal, atol=1.3)


def test_each_event_has_its_own_frame_on_disk(lab: Lab, session: Session):
    session(take(lab))
    frames = session.frames()  # checks the number of each
    means = [event["camera_stats1_mean_value"] for event in session.events()]
    np.testing.assert_allclose([frame.mean() for frame in frames], means, rtol=1e-6)
    assert min(means) > 500, "the beam was on"


def test_a_raster_runs_every_row_the_same_way(lab: Lab, session: Session):
    session(take(lab, pattern="raster"))
    columns = [event["tile_column"] for event in session.events()]
    assert columns == [0, 1, 2] * 3


def test_tiles_that_the_region_does_not_touch_are_skipped(lab: Lab, session: Session):
    diamond = {"vertices": [(0, -0.8), (0.8, 0), (0, 0.8), (-0.8, 0)]}
    session(take(lab, diamond))
    described = session.one("start")["montage"]
    assert described["skipped"], "a diamond leaves the corners of its grid out"
    taken = {(event["tile_row"], event["tile_column"]) for event in session.events()}
    skipped = {tuple(place) for place in described["skipped"]}
    assert not taken & skipped
    assert len(taken) + len(skipped) == described["rows"] * described["columns"]
    assert described["n_tiles"] == len(session.events()) == len(taken)


def test_the_start_document_describes_the_montage(lab: Lab, session: Session):
    references = {"bright": "b-uid", "lens": "l-uid"}
    session(
        take(
            lab,
            Region.rectangle((1, 2), 1.0, 0.6, 20),
            overlap=15,
            min_overlap=0.05,
            exposure=0.02,
            references=references,
            sample={"name": "M21", "section": 42},
            operator="ada",
            md={"purpose": "test", "operator": "grace"},
        )
    )
    start = session.one("start")
    json.dumps(start)
    assert start["plan_name"] == "montage"
    assert start["temline_version"] == version("temline")
    assert start["sample"] == {"name": "M21", "section": 42}
    assert (start["operator"], start["purpose"]) == ("grace", "test"), "md comes last"
    assert start["references"] == {**references, "dark": None}
    assert start["roi"] == Region.rectangle((1, 2), 1.0, 0.6, 20).to_dict()
    assert start["calibration"] == {
        "pixel_size": lab.pv("SCOPE:PixelSize_RBV"),
        "angle": lab.pv("SCOPE:Rotation_RBV"),
        "flip_columns": False,
        "flip_rows": False,
        "magnification": 5000,
    }
    arguments = start["plan_args"]
    assert (arguments["camera"], arguments["stage"], arguments["scope"]) == (
        "camera",
        "stage",
        "scope",
    )
    assert (arguments["overlap"], arguments["exposure"], arguments["gate"]) == (15, 0.02, None)
    described = start["montage"]
    grid = plan_grid(
        Region.rectangle((1, 2), 1.0, 0.6, 20),
        FrameGeometry(start["calibration"]["pixel_size"], start["calibration"]["angle"]),
        (128, 128),
        overlap=15,
        min_overlap=0.05,
    )
    assert described["tile_shape"] == [128, 128]
    assert described["pitch_px"] == list(grid.pitch)
    assert (described["rows"], described["columns"]) == (grid.rows, grid.columns)
    assert (described["overlap_percent"], described["min_overlap_um"]) == (15, 0.05)
    configuration = session.one("descriptor")["configuration"]
    assert configuration["camera"]["data"]["camera_cam_acquire_time"] == pytest.approx(0.02)
    assert configuration["scope"]["data"]["scope_magnification"] == 5000


def test_binned_pixels_are_larger(lab: Lab, session: Session):
    lab.camera.cam.bin_x.set(2).wait(10)
    lab.camera.cam.bin_y.set(2).wait(10)
    try:
        session(take(lab))
        start = session.one("start")
        assert start["calibration"]["pixel_size"] == 2 * lab.pv("SCOPE:PixelSize_RBV")
        assert start["montage"]["tile_shape"] == [64, 64]
        assert start["montage"]["rows"] == 3
        assert session.frames()[0].shape == (64, 64)
    finally:
        lab.camera.cam.bin_x.set(1).wait(10)
        lab.camera.cam.bin_y.set(1).wait(10)


def test_a_baseline_and_a_second_montage_in_one_session(lab: Lab, session: Session):
    session.RE.preprocessors.append(
        SupplementalData(baseline=[lab.scope, lab.stage, lab.camera.cam.temperature])
    )
    roi = {"centre": (0, 0), "width": 0.5, "height": 0.5}
    first, second = session(take(lab, roi)), session(take(lab, roi))
    check_documents(session.documents)
    assert first.uid != second.uid
    baseline = session.events("baseline")
    assert len(baseline) == 4
    assert "scope_vacuum" in baseline[0]
    assert "camera_cam_temperature" in baseline[0]


def test_nothing_happens_in_an_exposure_but_the_stage_leaves_before_the_frame_is_written(
    lab: Lab, session: Session
):
    """The beam is on for all exposures."""
    messages: list[Msg] = []
    session.RE.msg_hook = messages.append
    session(take(lab))
    exposures = [
        number
        for number, message in enumerate(messages)
        if message.command == "trigger" and message.obj is lab.camera
    ]
    assert len(exposures) == 9
    for number in exposures[:-1]:
        over, wait = messages[number + 1 : number + 3]
        assert (over.command, over.obj) == ("trigger", lab.camera.exposure_end)
        assert (wait.command, wait.kwargs["group"]) == ("wait", over.kwargs["group"])
        group = messages[number].kwargs["group"]
        written = next(
            later
            for later in range(number, len(messages))
            if (messages[later].command, messages[later].kwargs.get("group")) == ("wait", group)
        )
        left = {message.obj for message in messages[number:written] if message.command == "set"}
        assert left & {lab.stage.x.departure, lab.stage.y.departure}
    assert messages[exposures[-1] + 1].command == "wait", "there is nowhere to go after the last"
    commands = [(message.command, getattr(message.obj, "name", None)) for message in messages]
    on, off = commands.index(("stage", "scope")), commands.index(("unstage", "scope"))
    assert on < min(exposures)
    assert max(exposures) < off
