"""The plan of a lens correction: nine tiles about a place, and what they say of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from plans import lens_correction, montage
from processing.geometry import FrameGeometry
from tests.devices.lab import Lab, Session, check_documents


def take(lab: Lab, **options):
    where = options.pop("centre", (2.0, -1.0))
    return lens_correction(lab.camera, lab.stage, lab.scope, where, **{"settle": 0, **options})


def test_nine_tiles_lie_about_the_place_with_the_overlap(lab: Lab, session: Session):
    uid = session(take(lab, sample="M21", references={"bright": "some-uid"}))
    check_documents(session.documents)
    start = session.one("start")
    assert (start["uid"], start["plan_name"], start["sample"]) == (uid, "lens_correction", "M21")
    assert start["plan_args"]["overlap"] == 60
    assert start["references"] == {"bright": "some-uid", "dark": None, "lens": None}
    grid = start["grid"]
    assert "montage" not in start  # it is not to be stitched and judged
    assert (grid["rows"], grid["columns"], grid["n_tiles"]) == (3, 3, 9)
    assert grid["pitch_px"] == pytest.approx([0.4 * side for side in grid["tile_shape"]])

    places = {(row, column): (x, y) for row, column, x, y in grid["tiles"]}
    assert places[1, 1] == pytest.approx((2.0, -1.0))
    geometry = FrameGeometry(
        *(start["calibration"][key] for key in ("pixel_size", "angle", "flip_columns", "flip_rows"))
    )
    for (row, column), place in places.items():
        offset = geometry.pixel_vector(np.subtract(place, places[1, 1]))
        expected = (np.array([row, column]) - 1) * grid["pitch_px"]
        np.testing.assert_allclose(offset, expected, atol=1e-6)

    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(9))
    for event, (row, column, x, y) in zip(events, grid["tiles"], strict=True):
        assert (event["tile_row"], event["tile_column"]) == (row, column)
        assert (event["stage_x"], event["stage_y"]) == pytest.approx((x, y), abs=0.1)
    assert len(session.frames()) == 9
    assert lab.is_safe()


def test_another_side_and_overlap_are_taken(lab: Lab, session: Session):
    session(take(lab, side=2, overlap=40))
    grid = session.one("start")["grid"]
    assert (grid["rows"], grid["columns"]) == (2, 2)
    assert grid["pitch_px"] == pytest.approx([0.6 * side for side in grid["tile_shape"]])


def test_a_pause_costs_no_tile(lab: Lab, session: Session):
    session.interrupt(take(lab), lambda: len(session.events()) >= 3)
    assert session.RE.state == "paused"
    assert lab.text("SCOPE:Blank_RBV") == "On"
    session.RE.resume()
    check_documents(session.documents)
    assert [event["tile_index"] for event in session.events()] == list(range(9))
    assert lab.is_safe()


def test_a_montage_names_the_correction(lab: Lab, session: Session):
    roi = {"centre": (0, 0), "width": 0.3, "height": 0.3}
    session(
        montage(
            lab.camera, lab.stage, lab.scope, roi, settle=0, references={"lens": "lens-run-uid"}
        )
    )
    assert session.one("start")["references"]["lens"] == "lens-run-uid"
