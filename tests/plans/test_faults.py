"""What goes wrong in a montage: what is taken again, what ends it, and how it says so."""

from __future__ import annotations

import time

import pytest
from bluesky.utils import FailedStatus

from devices import PositionError
from plans import TileError, montage
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

ROI = {"centre": (0, 0), "width": 0.9, "height": 0.9}  # 2 × 2 tiles


def take(lab: Lab, **options):
    return montage(lab.camera, lab.stage, lab.scope, ROI, **{"settle": 0, **options})


@pytest.mark.parametrize("fault", ["CameraTimeout", "LostFrame"])
def test_a_camera_fault_has_the_tile_taken_again_at_once(lab: Lab, session: Session, fault: str):
    lab.fault(fault, 1)
    session(take(lab, retakes=1))
    check_documents(session.documents)
    events = session.events()
    assert [event["tile_index"] for event in events] == [0, 1, 2, 3]
    assert len(session.frames()) == 4, "each event leads to its own frame, though one was lost"
    assert lab.is_safe()


def test_a_camera_that_stays_faulty_ends_the_montage_with_a_clear_message(
    lab: Lab, session: Session
):
    lab.fault("CameraTimeout", 5)
    with pytest.raises(TileError) as error:
        session(take(lab, retakes=1))
    text = str(error.value)
    assert "tile 0 (row 0, column 0) could not be taken in 2 attempts: camera failed" in text
    assert "0 of 4 tiles are on disk" in text
    check_documents(session.documents)
    stop = session.one("stop")
    assert (stop["exit_status"], stop["reason"]) == ("fail", text)
    assert lab.is_safe()


def test_a_full_disk_ends_the_montage(lab: Lab, session: Session):
    lab.fault("DiskFull", 100)
    with pytest.raises(TileError, match=r"(?i)no space left"):
        session(take(lab))
    assert lab.is_safe()


def test_with_no_retakes_the_first_fault_ends_it(lab: Lab, session: Session):
    lab.fault("LostFrame", 1)
    with pytest.raises(TileError, match="could not be taken in 1 attempts"):
        session(take(lab, retakes=0))
    assert not session.events()
    assert lab.is_safe()


def test_a_motor_that_someone_stops_ends_the_montage(lab: Lab, session: Session):
    lab.stage.x.velocity.set(1.0).wait(10)
    try:
        with pytest.raises(FailedStatus, match=r"stage_x ended at .* not at its target") as error:
            session.interrupt(
                take(lab),
                lambda: session.events() and lab.stage.x.motor_is_moving.get(),
                lambda: lab.put("STAGE:X.STOP", 1, wait=False),
            )
        assert isinstance(error.value.__cause__, PositionError)
        check_documents(session.documents)
        assert "not at its target" in session.one("stop")["reason"]
        assert lab.is_safe()
    finally:
        lab.stage.x.velocity.set(1000).wait(10)


def test_a_stalled_stage_ends_the_montage(lab: Lab, session: Session):
    lab.stage.x.set(30).wait(20)
    lab.fault("StageStall", 1)
    with pytest.raises(FailedStatus, match=r"stage_[xy] ended at .*, not at its target"):
        session(take(lab))
    assert lab.is_safe()


def test_an_ioc_that_dies_in_mid_move_ends_the_montage_and_says_that_the_beam_may_be_on(
    start_ioc, session: Session
):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    lab.stage.x.velocity.set(0.5).wait(10)
    began = time.monotonic()
    with pytest.raises(FailedStatus, match=r"stage_[xy] has lost its IOC .* on its way") as error:
        session.interrupt(
            take(lab),
            lambda: session.events() and lab.stage.x.motor_is_moving.get(),
            lab.ioc.kill,
        )
    assert time.monotonic() - began < 30
    notes = " ".join(error.value.__notes__)
    assert "scope may still have its beam on the specimen" in notes
    assert "Blank the beam at the microscope" in notes
    assert session.RE.state == "idle"
    check_documents(session.documents)
    assert "has lost its IOC" in session.one("stop")["reason"]


def test_an_ioc_that_comes_back_can_be_used_again(start_ioc, session: Session):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    lab.camera.cam.acquire_time.set(5.0).wait(10)
    with pytest.raises(TileError, match="camera has lost its IOC"):
        session.interrupt(take(lab, retakes=0), lab.camera.cam.acquire.get, lab.ioc.kill)
    wait_until(lambda: not lab.camera.cam.acquire.connected, 10)
    assert lab.camera.unstage() is None, "there is nothing left to restore"
