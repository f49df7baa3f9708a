"""Settings: what is refused before it is written, what the IOC refuses, what does not follow."""

from __future__ import annotations

import time

import pytest
from ophyd import Component, Device
from ophyd.utils import LimitError

from devices import Setting, SettingRefusedError
from tests.devices.lab import Lab


def test_a_setting_is_done_when_its_readback_shows_it(lab: Lab):
    lab.scope.defocus.set(-3.25).wait(10)
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(-3.25, abs=1e-3)
    assert lab.scope.defocus.get() == pytest.approx(-3.25, abs=1e-3)
    lab.scope.defocus.set(0).wait(10)


def test_a_menu_takes_its_entries_and_their_numbers(lab: Lab):
    lab.scope.blank.set("Off").wait(10)
    assert lab.scope.blank.get() == "Off" == lab.text("SCOPE:Blank_RBV")
    lab.scope.blank.set(1).wait(10)
    assert lab.scope.blank.get() == "On" == lab.text("SCOPE:Blank_RBV")


@pytest.mark.parametrize("value", [200.01, -1e6, float("nan"), float("inf")])
def test_a_value_out_of_range_is_refused_before_it_is_written(lab: Lab, value: float):
    before = lab.pv("SCOPE:Defocus")
    with pytest.raises(LimitError, match=r"scope_defocus: value .* outside of range: \[-200.0, 2"):
        lab.scope.defocus.set(value)
    assert lab.pv("SCOPE:Defocus") == before


def test_what_is_no_entry_of_a_menu_is_refused(lab: Lab):
    with pytest.raises(ValueError, match="scope_screen cannot be 'Sideways': choose one of Up, D"):
        lab.scope.screen.set("Sideways")
    with pytest.raises(ValueError, match="scope_screen cannot be 7: choose one of Up, Down"):
        lab.scope.screen.set(7)


def test_a_fraction_is_refused_where_whole_numbers_are_needed(lab: Lab):
    with pytest.raises(ValueError, match=r"spot_size cannot be 2[.]5: it takes whole numbers"):
        lab.scope.spot_size.set(2.5)


def test_a_value_that_the_ioc_refuses_is_an_error_and_not_a_success(lab: Lab):
    """4999 lies within the limits but in no table: only the IOC knows, and ophyd is not told."""
    began = time.monotonic()
    with pytest.raises(SettingRefusedError, match="Magnification refused 4999 and stays at 5000"):
        lab.scope.magnification.set(4999).wait(10)
    assert time.monotonic() - began < 5, "it should not have waited for a readback to follow"


def test_a_readback_that_does_not_follow_is_a_time_out_that_says_so(lab: Lab):
    class Stuck(Device):
        # The readback of one setting with the setpoint of another: it never follows.
        defocus = Component(Setting, "Defocus", auto_monitor=True)

    stuck = Stuck(f"{lab.ioc.prefix}SCOPE:", name="stuck")
    stuck.wait_for_connection(timeout=10)
    stuck.defocus._read_pv.clear_callbacks()  # of what follows nothing is heard
    stuck.defocus._read_pv = lab.scope.beam_x._read_pv
    with pytest.raises(TimeoutError, match=r"stuck_defocus was set to 7 but .* is its IOC alive"):
        stuck.defocus.set(7, timeout=0.5).wait(10)
    lab.scope.defocus.set(0).wait(10)


def test_settings_have_units_and_limits_in_their_description(lab: Lab):
    key = lab.scope.describe()["scope_defocus"]
    assert key["units"] == "um"
    assert (key["lower_ctrl_limit"], key["upper_ctrl_limit"]) == (-200, 200)
    assert key["dtype"] == "number"


def test_a_new_value_on_the_way_replaces_the_old_one(lab: Lab):
    first = lab.scope.defocus.set(4.0)
    again = lab.scope.defocus.set(4.0)
    assert again is first or first.done, "the same write, asked for twice"
    second = lab.scope.defocus.set(-4.0)
    second.wait(10)
    assert lab.pv("SCOPE:Defocus_RBV") == pytest.approx(-4.0, abs=1e-3)
    error = first.exception(timeout=10)
    assert error is None or "before it had reached 4.0" in str(error)
    lab.scope.defocus.set(0).wait(10)
