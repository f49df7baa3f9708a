"""Stage axes: moves that arrive, and all the ways in which they do not."""

from __future__ import annotations

import os
import signal
import time

import pytest
from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus
from ophyd.utils import DisconnectedError, LimitError

from devices import PositionError
from tests.devices.lab import Lab, Session
from tests.support import wait_until

SLOW = 20.0  # µm/s


@pytest.fixture
def slow(lab: Lab):
    """An x axis slow enough to be caught on its way."""
    lab.stage.x.set(0).wait(20)
    lab.stage.x.velocity.set(SLOW).wait(10)
    yield lab.stage.x
    lab.stage.x.velocity.set(1000).wait(10)
    lab.stage.x.set(0).wait(20)


def is_moving(lab: Lab) -> bool:
    return bool(lab.pv("STAGE:X.MOVN")) and abs(lab.stage.x.position) > 0.5


def test_a_move_ends_at_its_target(lab: Lab):
    for target in (12.5, -7, -7):  # the last is of no length
        lab.stage.x.set(target).wait(20)
        assert lab.pv("STAGE:X.RBV") == pytest.approx(target, abs=lab.stage.x.tolerance)
        assert lab.stage.x.position == pytest.approx(target, abs=lab.stage.x.tolerance)


def test_axes_have_units_limits_labels_and_names(lab: Lab):
    x = lab.stage.x
    assert (x.egu, x.limits, x.precision) == ("um", (-1000.0, 1000.0), 3)
    assert "motors" in x._ophyd_labels_
    assert list(lab.stage.read())[:2] == ["stage_x", "stage_x_user_setpoint"]
    assert lab.stage.hints["fields"] == ["stage_x", "stage_y", "stage_z", "stage_tilt"]
    assert lab.stage.describe()["stage_x"]["units"] == "um"
    assert lab.stage.tilt.egu == "deg"


def test_a_target_beyond_the_limits_is_refused_and_nothing_moves(lab: Lab):
    before = lab.stage.x.position
    with pytest.raises(LimitError, match=r"stage_x_user_setpoint: value 1000.5 outside"):
        lab.stage.x.set(1000.5)
    assert lab.stage.x.position == pytest.approx(before, abs=0.05)


def test_a_move_that_someone_stops_fails_and_says_where_it_ended(lab: Lab, slow):
    outcome = slow.set(40)
    wait_until(lambda: is_moving(lab), 10)
    lab.put("STAGE:X.STOP", 1, wait=False)
    with pytest.raises(PositionError) as error:
        outcome.wait(20)
    found = lab.pv("STAGE:X.RBV")
    assert 0.5 < found < 39
    text = str(error.value)
    assert "stage_x ended at" in text
    assert "not at its target 40.000 (tolerance 0.1)" in text
    told = float(text.partition("ended at ")[2].partition(" um")[0])
    assert told == pytest.approx(found, abs=0.05)
    assert ".STOP written?" in text
    assert str(FailedStatus(outcome)) == text, "what a stop document shows as the reason"


def test_a_move_stopped_by_the_run_engine_does_not_fail(lab: Lab, slow):
    outcome = slow.set(40)
    wait_until(lambda: is_moving(lab), 10)
    slow.stop(success=True)
    outcome.wait(10)
    assert slow.position < 39


def test_a_move_stopped_by_the_user_fails(lab: Lab, slow):
    outcome = slow.set(40)
    wait_until(lambda: is_moving(lab), 10)
    slow.stop()
    with pytest.raises(PositionError, match="stage_x was stopped on its way"):
        outcome.wait(10)


def test_a_new_target_on_the_way_replaces_the_old_one(lab: Lab, slow):
    first = slow.set(40)
    wait_until(lambda: is_moving(lab), 10)
    slow.velocity.set(1000).wait(10)
    second = slow.set(-5)
    with pytest.raises(PositionError, match="stage_x was sent to -5 before it had arrived"):
        first.wait(10)
    second.wait(20)
    assert slow.position == pytest.approx(-5, abs=slow.tolerance)


def test_an_axis_may_leave_before_anyone_waits_for_it(lab: Lab, slow):
    assert slow.departure.set(2).done
    outcome = slow.set(2)
    assert not outcome.done, "still on its way"
    outcome.wait(20)
    assert slow.position == pytest.approx(2, abs=slow.tolerance)
    assert 0 <= time.monotonic() - slow.arrived < 5


def test_an_axis_that_left_and_arrived_is_there(lab: Lab, slow):
    before = slow.arrived
    slow.departure.set(1)
    arrived = wait_until(lambda: slow.arrived > before and slow.arrived, 20)
    slow.set(1).wait(20)
    assert slow.arrived == arrived, "it did not move again"
    slow.departure.set(2)
    slow.set(2).wait(20)
    lab.put("STAGE:X.VAL", 0)  # someone has a look elsewhere
    wait_until(lambda: slow.position == pytest.approx(0, abs=0.05), 20)
    slow.set(2).wait(20)
    assert lab.pv("STAGE:X.RBV") == pytest.approx(2, abs=slow.tolerance)


def test_an_axis_that_left_may_be_wanted_elsewhere(lab: Lab, slow):
    slow.departure.set(40)
    wait_until(lambda: is_moving(lab), 10)
    slow.set(0).wait(20)
    assert lab.pv("STAGE:X.RBV") == pytest.approx(0, abs=slow.tolerance)


def test_a_stalled_axis_is_an_error(lab: Lab):
    lab.stage.x.set(0).wait(20)
    lab.fault("StageStall", 1)
    with pytest.raises(PositionError, match=r"stage_x ended at .*, not at its target 30"):
        lab.stage.x.set(30).wait(30)
    lab.clear_faults()
    lab.stage.x.set(0).wait(20)


def test_a_time_out_grows_with_the_distance(lab: Lab, slow):
    slow.set(0).wait(10)
    assert slow.travel_time(400) > 400 / SLOW
    assert slow.travel_time(400) - slow.travel_time(200) == pytest.approx(1.5 * 200 / SLOW, rel=0.1)


def test_an_ioc_that_hangs_in_mid_move_is_a_time_out(start_ioc):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    x = lab.stage.x
    x.velocity.set(SLOW).wait(10)
    outcome = x.move(100, wait=False, timeout=1.0)
    wait_until(lambda: x.position > 0.5, 10)
    os.kill(lab.ioc.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError, match=r"stage_x did not arrive: target 100, last seen at"):
            outcome.wait(20)
    finally:
        os.kill(lab.ioc.pid, signal.SIGCONT)


def test_an_ioc_that_dies_in_mid_move_ends_the_plan_at_once(start_ioc, session: Session):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    x = lab.stage.x
    x.velocity.set(SLOW).wait(10)
    longest = x.travel_time(500)
    began = time.monotonic()
    with pytest.raises(FailedStatus, match="stage_x has lost its IOC") as error:
        session.interrupt(bps.mv(x, 500), lambda: x.position > 0.5, lab.ioc.kill)
    assert time.monotonic() - began < longest / 2
    assert isinstance(error.value.__cause__, DisconnectedError)
    assert "on its way to 500" in str(error.value)
    with pytest.raises(DisconnectedError, match="cannot be moved"):
        x.set(1)
