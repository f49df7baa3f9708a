"""All PVs of an IOC: limits, units, precision, and that nothing out of range is ever taken."""

from __future__ import annotations

import subprocess
import sys

import epics
import pytest

from tests.ioc.clients import refusal
from tests.support import REPOSITORY, get, put, wait_until

# Numbers that a client may write and that have no limits by their nature.
WITHOUT_LIMITS = {"ArrayCounter", "DroppedArrays"}
# Numbers without a unit.
COUNTS = {
    "Acquire", "ArrayCounter", "ArrayCount", "Aperture", "ApertureCount", "BinX", "BinY", "Count",
    "CreateDirectory", "DroppedArrays", "FileNumber", "HistEntropy", "HistSize", "Magnification",
    "Magnifications", "MakeSafe", "NDArrayAddress", "NDimensions", "NumCapture", "NumCaptured",
    "NumExposures", "NumExposuresCounter", "NumImages", "NumImagesCounter", "Sharpness", "SpotSize",
    "StigmatorX", "StigmatorY", "CondenserStigmatorX", "CondenserStigmatorY", "StopAll", "UniqueId",
    "ArraySizeZ", "ArrayData",
    "NumPoints", "Load", "ShiftScale", "HoldAfter", "Points", "Index", "Done", "Failed",
    "Start", "Pause", "Resume", "Skip", "Abort", "Heartbeat",
}  # fmt: skip


@pytest.fixture(scope="module")
def pvs(instrument):
    """All PVs of the simulated instrument, connected, by name without the prefix."""
    settings = instrument.log.with_name("ioc.json")
    names = subprocess.run(
        [sys.executable, "-m", "ioc", "--settings", str(settings), "--list-pvs"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert len(names) > 200
    found = {name: epics.PV(name, form="ctrl", auto_monitor=False) for name in names}
    wait_until(lambda: all(pv.connected for pv in found.values()), 20, "all PVs connect")
    yield {name.removeprefix(instrument.prefix): pv for name, pv in found.items()}
    for pv in found.values():
        pv.disconnect()


def _name(pv: str) -> str:
    return pv.rsplit(":", maxsplit=1)[-1].removesuffix("_RBV")


def _numbers(pvs):
    """PVs of a single number, with their control information."""
    for name, pv in pvs.items():
        if pv.type in ("ctrl_double", "ctrl_long") and pv.count == 1:
            yield name, pv, pv.get_ctrlvars(timeout=5)


def test_every_setting_has_a_readback_alike(pvs):
    pairs = [name for name in pvs if f"{name}_RBV" in pvs]
    assert len(pairs) > 80
    for name in pairs:
        setpoint, readback = pvs[name], pvs[f"{name}_RBV"]
        assert setpoint.write_access, name
        assert not readback.write_access, name
        assert setpoint.type == readback.type, name
        wanted, shown = setpoint.get_ctrlvars(timeout=5), readback.get_ctrlvars(timeout=5)
        for field in ("units", "precision", "lower_ctrl_limit", "upper_ctrl_limit", "enum_strs"):
            assert wanted.get(field) == shown.get(field), f"{name}.{field}"


def test_every_number_has_units_and_precision(pvs):
    checked = 0
    for name, pv, control in _numbers(pvs):
        if _name(name) not in COUNTS:
            assert control["units"], f"{name} has no units"
            assert control["units"].isascii(), name
        if pv.type == "ctrl_double":
            assert 1 <= control["precision"] <= 8 or control["units"] == "counts", name
        checked += 1
    assert checked > 100


def test_every_number_that_can_be_set_has_limits(pvs):
    for name, pv, control in _numbers(pvs):
        if pv.write_access and _name(name) not in WITHOUT_LIMITS and not name.startswith("STAGE:"):
            low, high = control["lower_ctrl_limit"], control["upper_ctrl_limit"]
            if name != "CAM:cam1:NumExposures":
                assert low < high, f"{name} has no limits"
            assert (control["lower_disp_limit"], control["upper_disp_limit"]) == (low, high)


def test_every_number_out_of_range_is_refused_and_nothing_changes(pvs, instrument):
    checked = 0
    for name, pv, control in _numbers(pvs):
        low, high = control["lower_ctrl_limit"], control["upper_ctrl_limit"]
        if not pv.write_access or low == high:
            continue
        step = max((high - low) * 0.01, 1)
        before = pv.get(use_monitor=False)
        for wrong in (low - step, high + step):
            if pv.type == "ctrl_long" and not -(2**31) <= wrong < 2**31:
                continue
            message = refusal(f"{instrument.prefix}{name}", type(before)(wrong))
            assert f"must lie between {low:g} and {high:g}" in message, message
            assert pv.get(use_monitor=False) == before, name
            if f"{name}_RBV" in pvs and "Temperature" not in name:
                assert pvs[f"{name}_RBV"].get(use_monitor=False) == before, name
            checked += 1
    assert checked > 60


def test_every_enum_refuses_what_it_has_not(pvs, instrument):
    for name, pv in pvs.items():
        if pv.type != "ctrl_enum" or not pv.write_access:
            continue
        before = pv.get(use_monitor=False)
        choices = pv.get_ctrlvars(timeout=5)["enum_strs"]
        for wrong in ("Nonsense", len(choices)):
            message = refusal(f"{instrument.prefix}{name}", wrong)
            assert all(choice in message for choice in choices), message
        assert pv.get(use_monitor=False) == before, name


def test_refused_write_raises_no_alarm(instrument):
    name = f"{instrument.prefix}SCOPE:Defocus"
    refusal(name, 1e6)
    pv = epics.PV(name, form="time")
    assert pv.wait_for_connection(5)
    pv.get()
    assert pv.severity == 0


def test_readbacks_cannot_be_written(pvs):
    readbacks = [pv for name, pv in pvs.items() if name.endswith("_RBV")]
    assert not any(pv.write_access for pv in readbacks)


class TestColumn:
    @pytest.fixture
    def scope(self, instrument):
        prefix = f"{instrument.prefix}SCOPE:"
        before = get(f"{prefix}Magnification")
        yield prefix
        put(f"{prefix}Magnification", before)
        put(f"{prefix}Blank", "Off")
        put(f"{prefix}Screen", "Up")

    def test_unknown_magnification_names_the_nearest(self, scope):
        message = refusal(f"{scope}Magnification", 4900)
        assert "nearest that exists is 5000" in message
        assert get(f"{scope}Magnification_RBV") == 5000

    def test_unknown_word_names_the_nearest(self, scope):
        assert "nearest is 'Down'" in refusal(f"{scope}Screen", "Dwn")

    def test_geometry_follows_the_magnification(self, scope):
        table = zip(
            get(f"{scope}Magnifications_RBV"),
            get(f"{scope}PixelSizes_RBV"),
            get(f"{scope}Rotations_RBV"),
            strict=True,
        )
        for magnification, pixel_size, rotation in list(table)[::3]:
            put(f"{scope}Magnification", int(magnification))
            assert get(f"{scope}Magnification_RBV") == magnification
            assert get(f"{scope}PixelSize_RBV") == pixel_size
            assert get(f"{scope}Rotation_RBV") == rotation

    def test_setpoints_follow_what_a_mode_changes(self, scope):
        put(f"{scope}MagMode", "LM")
        assert get(f"{scope}Magnification_RBV") == get(f"{scope}Magnification") <= 500
        put(f"{scope}MagMode", "M")

    def test_readback_has_the_value_when_the_put_completes(self, scope):
        for value in (-3.5, 2.25, 0.0):
            put(f"{scope}Defocus", value)
            assert get(f"{scope}Defocus_RBV") == pytest.approx(value, abs=1e-6)

    def test_make_safe(self, scope):
        put(f"{scope}MakeSafe", 1)
        assert get(f"{scope}Blank_RBV", text=True) == get(f"{scope}Blank", text=True) == "On"
        assert get(f"{scope}Screen_RBV", text=True) == "Down"
        assert get(f"{scope}BeamCurrent_RBV") == pytest.approx(0, abs=1e-6)


def test_vacuum_trip_shows_as_an_alarm_and_goes(start_ioc):
    prefix = start_ioc(specimen="points").prefix
    vacuum = epics.PV(f"{prefix}SCOPE:Vacuum_RBV", form="time", auto_monitor=True)
    assert vacuum.wait_for_connection(5)
    wait_until(lambda: vacuum.get() is not None and vacuum.severity == 0, 5, "a good vacuum")
    put(f"{prefix}SIM:Fault:VacuumTrip", "On")
    wait_until(lambda: vacuum.severity == 2, 5, "a major alarm")
    assert vacuum.get() > 1e-3
    wait_until(lambda: get(f"{prefix}SCOPE:ColumnValve_RBV", text=True) == "Closed", 5, "the valve")
    put(f"{prefix}SIM:Fault:VacuumTrip", "Off")
    wait_until(lambda: vacuum.severity == 0, 20, "the alarm goes")


def test_a_motor_tells_in_what_time_it_is_at_its_speed(instrument):
    motor = f"{instrument.prefix}STAGE:Z"
    assert get(f"{motor}.VELO") == 50
    assert get(f"{motor}.ACCL") == pytest.approx(50 / 500)
    put(f"{motor}.VELO", 20)
    try:
        assert get(f"{motor}.ACCL") == pytest.approx(20 / 500)
    finally:
        put(f"{motor}.VELO", 50)
