"""Montages in blocks: one stage position a block, the rest by image shift, which is put back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bluesky import RunEngine

from plans import montage
from processing.geometry import ImageShift
from tests.devices.lab import Lab, Session, check_documents

ROI = {"centre": (0, 0), "width": 1.3, "height": 1.3}  # 3 × 3 tiles
TRUE = ImageShift(rotation=0.5, scale=1.008)  # what the virtual microscope's is really like


@pytest.fixture(autouse=True)
def _image_shift_as_before(lab: Lab):
    yield
    set_image_shift(lab, 0, 0)


def take(lab: Lab, **options):
    options = {"settle": 0, "pattern": "blocks", "block": 2, "image_shift": TRUE, **options}
    return montage(lab.camera, lab.stage, lab.scope, ROI, **options)


def set_image_shift(lab: Lab, x: float, y: float) -> None:
    lab.scope.image_shift_x.set(x).wait(10)
    lab.scope.image_shift_y.set(y).wait(10)


def image_shift(lab: Lab) -> tuple[float, float]:
    return lab.pv("SCOPE:ImageShiftX_RBV"), lab.pv("SCOPE:ImageShiftY_RBV")


def test_a_block_is_taken_from_one_stage_position(lab: Lab, session: Session):
    set_image_shift(lab, 0.25, -0.5)
    session(take(lab))
    check_documents(session.documents)
    start, events = session.one("start"), session.events()
    json.dumps(start)
    described = start["montage"]
    assert (described["pattern"], described["block"]) == ("blocks", 2)
    assert start["plan_args"]["image_shift"] == TRUE.to_dict()
    assert [[e["tile_row"], e["tile_column"], e["tile_x"], e["tile_y"]] for e in events] == (
        described["tiles"]
    )
    assert len({(e["tile_row"], e["tile_column"]) for e in events}) == 9
    sent = [(e["stage_x_user_setpoint"], e["stage_y_user_setpoint"]) for e in events]
    assert [sent.count(place) for place in dict.fromkeys(sent)] == [4, 2, 1, 2]
    nominal = np.array([(e["tile_x"], e["tile_y"]) for e in events])
    shifts = np.array(described["shifts_um"])
    np.testing.assert_allclose(np.add(sent, shifts), nominal, atol=1e-6)
    found = np.array([(e["scope_image_shift_x"], e["scope_image_shift_y"]) for e in events])
    np.testing.assert_allclose(found - (0.25, -0.5), TRUE.setting(shifts), atol=2e-4)
    assert image_shift(lab) == pytest.approx((0.25, -0.5), abs=1e-4)
    assert lab.is_safe()


def test_what_is_seen_moves_by_the_shift(lab: Lab, session: Session):
    session(take(lab))
    truth = lab.truth()
    frames = [truth[event["camera_cam_array_counter"]] for event in session.events()]
    seen = [(frame["image_shift_x"], frame["image_shift_y"]) for frame in frames]
    np.testing.assert_allclose(seen, session.one("start")["montage"]["shifts_um"], atol=5e-4)


def test_focus_by_rows_is_at_the_first_tile_of_each_row_of_blocks(lab: Lab, session: Session):
    session(take(lab, focus="row", focus_range=30, focus_steps=7))
    assert [fit["autofocus_tile"] for fit in session.events("autofocus")] == [0, 6]
    for event in session.events("focus"):
        tile = event["tile_x"], event["tile_y"]
        shift = TRUE.shift([event["scope_image_shift_x"], event["scope_image_shift_y"]])
        stage = event["stage_x_user_setpoint"], event["stage_y_user_setpoint"]
        assert np.add(stage, shift) == pytest.approx(tile, abs=1e-3)


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_the_image_shift_is_put_back_whatever_ends_it(lab: Lab, session: Session, how: str):
    set_image_shift(lab, 0.25, -0.5)
    RE: RunEngine = session.RE
    session.interrupt(take(lab), lambda: len(session.events()) >= 2, getattr(RE, how))
    assert len(session.events()) < 9
    check_documents(session.documents)
    assert image_shift(lab) == pytest.approx((0.25, -0.5), abs=1e-4)
    assert lab.is_safe()


def test_it_is_put_back_after_a_fault_too(lab: Lab, session: Session):
    lab.fault("LostFrame", 1)
    with pytest.raises(RuntimeError, match="tile 0 .* could not be taken in 1 attempts"):
        session(take(lab, retakes=0))
    assert image_shift(lab) == pytest.approx((0, 0), abs=1e-4)
    assert lab.is_safe()


def test_a_pause_in_a_block_repeats_its_image_shift(lab: Lab, session: Session):
    session.interrupt(take(lab), lambda: len(session.events()) == 2)
    set_image_shift(lab, 1.0, 1.0)  # someone has a look elsewhere
    session.RE.resume()
    check_documents(session.documents)
    events = session.events()
    assert [event["tile_index"] for event in events] == list(range(9))
    found = np.array([(e["scope_image_shift_x"], e["scope_image_shift_y"]) for e in events])
    shifts = session.one("start")["montage"]["shifts_um"]
    np.testing.assert_allclose(found, TRUE.setting(shifts), atol=2e-4)
