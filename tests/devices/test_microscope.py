"""The microscope: kinds, and the safe state that it takes by itself."""

from __future__ import annotations

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp

from devices import NotSafeError
from tests.devices.lab import Lab, Session
from tests.support import wait_until


def test_events_hold_what_changes_and_the_configuration_the_rest(lab: Lab):
    assert set(lab.scope.read()) == {
        "scope_defocus",
        "scope_image_shift_x",
        "scope_image_shift_y",
        "scope_beam_current",
        "scope_vacuum",
        "scope_temperature",
    }
    assert lab.scope.hints == {"fields": ["scope_defocus"]}
    configuration = lab.scope.read_configuration()
    assert configuration["scope_magnification"]["value"] == 5000
    assert configuration["scope_pixel_size"]["value"] == pytest.approx(4.0)
    assert configuration["scope_mag_mode"]["value"] == "M"
    assert "scope_make_safe" not in configuration
    assert lab.scope.vacuum.describe()["scope_vacuum"]["units"] == "Pa"


def test_the_magnification_table_can_be_read(lab: Lab):
    table = dict(zip(lab.scope.magnifications.get(), lab.scope.pixel_sizes.get(), strict=True))
    assert table[5000] == pytest.approx(4.0)
    assert len(lab.scope.rotations.get()) == len(table)


def test_staged_it_illuminates_and_unstaged_it_is_safe(lab: Lab):
    lab.scope.stage()
    assert (lab.text("SCOPE:Screen_RBV"), lab.text("SCOPE:Blank_RBV")) == ("Up", "Off")
    lab.scope.unstage()
    assert lab.is_safe()


def test_it_is_made_safe_though_the_beam_was_on_before(lab: Lab, session: Session):
    session(bps.mv(lab.scope.screen, "Up", lab.scope.blank, "Off"))
    session(bp.scan([lab.camera], lab.scope.defocus, -2, 2, 3))
    assert lab.is_safe()
    np.testing.assert_allclose(
        [e["scope_defocus"] for e in session.events()], [-2, 0, 2], atol=1e-3
    )
    assert min(e["camera_stats1_mean_value"] for e in session.events()) > 1000, "the beam was on"


def test_the_command_makes_safe_too(lab: Lab):
    lab.scope.stage()
    lab.scope.make_safe.set(1).wait(10)
    wait_until(lab.is_safe, 10, "the safe state")
    lab.scope.unstage()


def test_the_beam_is_blanked_while_a_plan_is_paused(lab: Lab):
    lab.scope.stage()
    lab.scope.pause()
    assert lab.text("SCOPE:Blank_RBV") == "On"
    lab.scope.resume()
    assert lab.text("SCOPE:Blank_RBV") == "Off"
    lab.scope.unstage()
    lab.scope.pause()
    lab.scope.resume()
    assert lab.is_safe(), "what was blanked before a pause stays blanked after it"


def test_a_beam_that_cannot_be_blanked_is_an_error_that_says_what_to_do(start_ioc):
    lab = Lab.over(start_ioc(sensor=(64, 64)))
    lab.scope.stage()
    lab.ioc.kill()
    wait_until(lambda: not lab.scope.blank.connected, 20)
    with pytest.raises(NotSafeError, match=r"may still have its beam on the specimen.*Blank the"):
        lab.scope.unstage()
