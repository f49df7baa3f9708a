"""The aperture changer: a positioner that counts from one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bluesky import plan_stubs as bps
from ophyd.utils import LimitError

from devices import PositionError
from tests.devices.lab import Lab, Session
from tests.support import IocProcess, wait_until


@pytest.fixture(scope="module")
def shared_lab(module_ioc: Callable[..., IocProcess]) -> Lab:
    return Lab.over(module_ioc(specimen="tape", apertures=4, sensor=(64, 64)))


def test_it_brings_an_aperture_under_the_beam(lab: Lab, session: Session):
    for target in (2, 1, 1):
        session(bps.mv(lab.aperture, target))
        assert lab.pv("STAGE:Aperture_RBV") == target == lab.aperture.position
        assert not lab.pv("STAGE:ApertureMoving_RBV")


@pytest.mark.parametrize("value", [0, 5, 1.5, -1])
def test_an_aperture_that_is_not_there_is_refused(lab: Lab, value: float):
    with pytest.raises(
        LimitError, match=f"aperture cannot be {value}: apertures are whole numb.*1 to 4"
    ):
        lab.aperture.set(value)


def test_a_change_that_is_stopped_fails_and_says_where_it_is(lab: Lab):
    lab.aperture.set(1).wait(60)
    outcome = lab.aperture.set(4)
    wait_until(lambda: lab.pv("STAGE:ApertureMoving_RBV"), 10)
    lab.put("STAGE:StopAll", 1, wait=False)
    with pytest.raises(PositionError, match="aperture did not reach aperture 4, it is at"):
        outcome.wait(30)
    lab.aperture.set(1).wait(60)


def test_its_reading_names_the_aperture(lab: Lab):
    lab.aperture.set(2).wait(60)
    reading = lab.aperture.read()
    assert reading["aperture"]["value"] == 2
    assert reading["aperture_identity"]["value"] == "A0002"
    assert lab.aperture.hints["fields"] == ["aperture"]
    lab.aperture.set(1).wait(60)


def test_a_change_whose_ioc_dies_ends_in_time_and_says_where_it_was(
    start_ioc: Callable[..., IocProcess],
):
    lab = Lab.over(start_ioc(specimen="tape", apertures=4, sensor=(64, 64)))
    outcome = lab.aperture.move(4, wait=False, timeout=5.0)
    wait_until(lambda: lab.pv("STAGE:ApertureMoving_RBV"), 4)
    lab.ioc.kill()
    with pytest.raises(TimeoutError, match=r"did not reach aperture 4, it is at \d.*IOC alive"):
        outcome.wait(30)
