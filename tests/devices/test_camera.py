"""The camera: frames that are on disk, and errors where they are not."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest
from bluesky import plans as bp
from bluesky.utils import FailedStatus
from epics.ca import ChannelAccessGetFailure
from ophyd.utils import DisconnectedError, WaitTimeoutError

from devices import CameraError
from devices.connection import ECA_DISCONN
from tests.devices.lab import Lab, Session, check_documents
from tests.support import wait_until

EXPOSURE = 0.02


@pytest.fixture
def camera(lab: Lab):
    lab.camera.cam.acquire_time.set(EXPOSURE).wait(10)
    lab.scope.stage()
    yield lab.camera
    lab.camera.unstage()
    lab.scope.unstage()


def test_each_trigger_puts_one_frame_on_disk(lab: Lab, camera, session: Session):
    session(bp.count([camera], 3))
    check_documents(session.documents)
    frames = session.frames()  # checks each frame's number too
    means = [event["camera_stats1_mean_value"] for event in session.events()]
    np.testing.assert_allclose([frame.mean() for frame in frames], means, rtol=1e-6)
    assert frames[0].shape == (128, 128)
    assert frames[0].dtype == np.uint16
    key = session.one("descriptor")["data_keys"]["camera_image"]
    assert list(key["shape"]) == [1, 128, 128]
    assert key["dtype_numpy"] == "<u2"
    shown = ["camera_stats1_mean_value", "camera_stats1_sharpness"]
    assert session.one("descriptor")["hints"]["camera"]["fields"] == shown


def test_a_plan_may_declare_its_stream_before_the_first_frame(
    lab: Lab, camera, session: Session, monkeypatch
):
    monkeypatch.setenv("BLUESKY_PREDECLARE", "1")
    session(bp.count([camera], 2))
    check_documents(session.documents)
    assert len(session.frames()) == 2


def test_the_exposure_ends_before_its_frame_is_written(lab: Lab, camera, monkeypatch):
    camera.stage()
    plain = camera._end

    def end(error: Exception | None) -> None:
        wait_until(lambda: camera.exposure_end.passed, 5, "the exposure's end before the frame's")
        plain(error)

    monkeypatch.setattr(camera, "_end", end)
    frame = camera.trigger()
    camera.exposure_end.trigger().wait(20)
    frame.wait(20)


def test_an_exposure_that_fails_is_over(lab: Lab, camera):
    camera.stage()
    lab.fault("CameraTimeout", 1)
    frame = camera.trigger()
    camera.exposure_end.trigger().wait(30)
    with pytest.raises(CameraError):
        frame.wait(30)


def test_a_plan_hears_of_a_failure_before_the_end_of_the_exposure(lab: Lab, camera):
    """Or it goes on, and reads what has no value, before the failure is thrown at it."""
    camera.stage()
    lab.fault("CameraTimeout", 1)
    frame = camera.trigger()
    ended_before = []

    def told(_) -> None:
        with suppress(WaitTimeoutError):
            over.wait(0.5)
        ended_before.append(over.done)

    frame.add_callback(told)
    over = camera.exposure_end.trigger()
    wait_until(lambda: over.done, 30)
    assert ended_before == [False]


def test_it_cannot_be_triggered_before_it_is_staged(lab: Lab):
    with pytest.raises(RuntimeError, match="camera is not ready to trigger: stage it first"):
        lab.camera.trigger()


def test_a_fault_of_the_camera_gives_its_own_message(lab: Lab, camera):
    camera.stage()
    lab.fault("CameraTimeout", 1)
    with pytest.raises(CameraError, match="camera failed to take a frame: ") as error:
        camera.trigger().wait(30)
    assert lab.text("CAM:cam1:StatusMessage_RBV") in str(error.value)


def test_after_a_lost_frame_events_still_point_at_their_own_frames(
    lab: Lab, camera, session: Session
):
    """Stock ophyd counts triggers here, and every later event would show its neighbour's frame."""
    camera.stage()
    camera.trigger().wait(30)
    lab.fault("LostFrame", 1)
    with pytest.raises(CameraError):
        camera.trigger().wait(30)
    camera.trigger().wait(30)
    documents = [document for name, document in camera.collect_asset_docs() if name == "datum"]
    assert [document["datum_kwargs"]["point_number"] for document in documents] == [0, 1]
    assert camera.hdf1.num_captured.get(use_monitor=False) == 2


def test_a_full_disk_is_an_error_that_says_so(lab: Lab, camera):
    camera.stage()
    lab.fault("DiskFull", 1)
    with pytest.raises(CameraError, match=r"(?i)no space left"):
        camera.trigger().wait(30)


def test_a_time_out_says_what_the_camera_says(lab: Lab, camera, monkeypatch):
    monkeypatch.setattr("devices.camera.EXPOSURE_MARGIN", -0.9)
    camera.cam.acquire_time.set(1.0).wait(10)
    camera.stage()
    with pytest.raises(
        TimeoutError, match="camera gave no frame for an exposure of 1 s; it says '"
    ):
        camera.trigger().wait(10)
    wait_until(lambda: not lab.pv("CAM:cam1:Acquire_RBV"), 10, "the exposure to be stopped")


def test_stopping_it_ends_the_exposure(lab: Lab, camera):
    camera.cam.acquire_time.set(5.0).wait(10)
    camera.stage()
    outcome = camera.trigger()
    wait_until(lambda: lab.pv("CAM:cam1:Acquire_RBV"), 10)
    camera.stop()
    with pytest.raises(CameraError, match="camera was stopped in mid-exposure"):
        outcome.wait(5)
    wait_until(lambda: not lab.pv("CAM:cam1:Acquire_RBV"), 5)


def test_a_pause_that_comes_with_the_trigger(lab: Lab, camera):
    """The camera may not have said yet that it began; the next frame is another exposure's."""
    camera.stage()
    for _ in range(20):
        given_up = camera.trigger()
        camera.pause()
        given_up.wait(1)
        camera.trigger().wait(10)


def test_an_ioc_that_dies_in_mid_exposure_is_an_error_at_once(start_ioc, session: Session):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    lab.camera.cam.acquire_time.set(10.0).wait(10)
    began = time.monotonic()
    with pytest.raises(FailedStatus, match="camera has lost its IOC") as error:
        session.interrupt(bp.count([lab.camera]), lab.camera.cam.detector_state.get, lab.ioc.kill)
    assert isinstance(error.value.__cause__, DisconnectedError)
    assert time.monotonic() - began < 30
    assert session.one("stop")["exit_status"] == "fail"
    assert "lost its IOC" in session.one("stop")["reason"]


def test_a_read_that_the_end_of_its_ioc_cuts_short_is_a_lost_ioc(
    lab: Lab, camera, monkeypatch: pytest.MonkeyPatch
):
    """The put may end and the read after it fail before any PV is told that it is gone."""

    def break_off(**_):
        raise ChannelAccessGetFailure("Get failed; status code: 192", chid=0, status=ECA_DISCONN)

    camera.stage()
    monkeypatch.setattr(camera, "_take_note_of_frame", break_off)
    with pytest.raises(DisconnectedError, match="camera has lost its IOC .* start it with"):
        camera.trigger().wait(10)


def test_the_exposure_has_limits(lab: Lab):
    low, high = lab.camera.cam.acquire_time.limits
    assert 0 < low < high
