"""Connecting: everything that matters is really there, or its absence is named."""

from __future__ import annotations

import time

import pytest
from ophyd import Component, Device, EpicsSignalRO

from devices import Camera, Microscope, NotConnectedError, Stage, connect
from devices.timeouts import CONNECTION_TIMEOUT, READ_TIMEOUT, WRITE_TIMEOUT
from tests.devices.lab import Lab


class HalfThere(Device):
    there = Component(EpicsSignalRO, "Model_RBV", string=True)
    absent = Component(EpicsSignalRO, "Absent_RBV", lazy=True)


def test_what_does_not_answer_is_named(lab: Lab):
    half = HalfThere(f"{lab.ioc.prefix}SCOPE:", name="half")
    with pytest.raises(NotConnectedError) as error:
        connect([lab.stage, half], timeout=1)
    assert error.value.missing == {"half": [f"{lab.ioc.prefix}SCOPE:Absent_RBV"]}
    assert "did not answer within 1 s" in str(error.value)
    assert "temline up" in str(error.value)


def test_with_no_ioc_everything_is_missing_and_the_time_out_holds():
    devices = [
        Microscope("NOBODY:SCOPE:", name="scope"),
        Stage("NOBODY:STAGE:", name="stage"),
        Camera("NOBODY:CAM:", name="camera", write_path_template="/tmp"),
    ]
    began = time.monotonic()
    with pytest.raises(NotConnectedError) as error:
        connect(devices, timeout=1)
    assert time.monotonic() - began < 4
    missing = error.value.missing
    assert set(missing) == {"scope", "stage", "camera"}
    assert "NOBODY:SCOPE:Defocus" in missing["scope"]
    assert "NOBODY:SCOPE:Defocus_RBV" in missing["scope"]
    assert "NOBODY:STAGE:X.RBV" in missing["stage"]
    for name in ("cam1:Acquire", "HDF1:NumCaptured_RBV", "Stats1:Sharpness_RBV"):
        assert f"NOBODY:CAM:{name}" in missing["camera"], "lazy signals count too"
    assert "and" in str(error.value)
    assert "more" in str(error.value), "a long list is cut"


def test_wait_for_connection_of_a_device_really_checks():
    camera = Camera("NOBODY:CAM:", name="camera", write_path_template="/tmp")
    with pytest.raises(NotConnectedError, match="camera: "):
        camera.wait_for_connection(timeout=0.5)


def test_no_signal_of_ours_waits_for_ever(lab: Lab):
    assert lab.scope.defocus.write_timeout == WRITE_TIMEOUT
    assert lab.camera.cam.acquire.timeout == READ_TIMEOUT
    assert lab.camera.hdf1.capture.connection_timeout == CONNECTION_TIMEOUT


def test_after_connecting_nothing_more_has_to_be_looked_for(lab: Lab):
    """All signals that reading, describing and staging use are there."""
    for device in lab.devices:
        names = {walk.item.name for walk in device.walk_signals()}
        device.read()
        device.describe()
        device.read_configuration()
        device.describe_configuration()
        lab_made = {walk.item.name for walk in device.walk_signals()} - names
        assert not lab_made, f"{device.name} made {lab_made} on its way"
