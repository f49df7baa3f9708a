"""The column: limits, the magnification table, vacuum and valve, the safe state."""

import pytest

from processing.geometry import FrameGeometry
from simulation import ColumnError, ColumnSettings, FaultSet, VirtualColumn
from simulation.clock import SimulationClock
from tests.simulation.instrument import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def faults():
    return FaultSet()


@pytest.fixture
def column(clock, faults):
    return VirtualColumn(ColumnSettings(), SimulationClock(clock, clock.sleep), faults)


def test_every_setting_is_read_back_as_it_was_set(column):
    for name, setting in column.settings.items():
        if setting.kind == "enum":
            values = setting.choices
        elif setting.kind == "int":
            values = setting.values or (int(setting.low), int(setting.high))
        else:
            values = (setting.low, setting.high)
        for value in values:
            column.set(name, value)
            assert column.get(name) == value
            assert column.read()[name] == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("defocus", 200.1, "defocus is 200.1 um; it must lie between -200 and 200 um"),
        ("defocus", float("nan"), "defocus is nan um"),
        ("defocus", "high", "defocus is 'high'; it must be a number"),
        ("spot_size", 2.5, "spot_size is 2.5; it must be a whole number"),
        ("spot_size", 9, "spot_size is 9; it must lie between 1 and 8"),
        ("magnification", 4000, "magnification is 4000; it must be 50, 125, 250"),
        ("screen", "Sideways", "screen is 'Sideways'; it must be Up or Down"),
        ("brightness", 1, "there is no setting 'brightness'; there are high_tension, mag_mode"),
    ],
)
def test_what_is_not_allowed_is_refused_and_changes_nothing(column, name, value, message):
    before = column.read()
    with pytest.raises(ColumnError, match=message):
        column.set(name, value)
    assert column.read() == before


def test_an_unknown_setting_cannot_be_read(column):
    with pytest.raises(ColumnError, match="no setting 'gun'"):
        column.get("gun")


def test_default_is_four_nanometres_a_few_degrees_and_120_kilovolts(column):
    assert column.geometry == FrameGeometry(4.0, 3.0)
    assert column.get("high_tension") == 120
    assert column.get("mag_mode") == "M"
    true = column.true_geometry(column.state())
    assert (true.pixel_size, true.angle) == pytest.approx((4.008, 3.1))


def test_the_mode_goes_with_the_magnification_and_is_remembered(column):
    column.set("magnification", 125)
    assert column.get("mag_mode") == "LM"
    assert column.geometry.pixel_size == 160
    column.set("mag_mode", "M")
    assert column.get("magnification") == 5000
    column.set("mag_mode", "LM")
    assert column.get("magnification") == 125
    column.set("mag_mode", "LM")
    assert column.get("magnification") == 125


def test_both_ranges_have_their_own_pixel_sizes_and_angles(column):
    table = column.magnifications
    for line in table:
        assert line.pixel_size * line.magnification == pytest.approx(20_000)
    assert {line.mode for line in table} == {"LM", "M"}
    assert len({line.rotation for line in table}) == len(table)


def test_current_follows_spot_size_blank_and_valve(column, faults):
    full = column.beam_current()
    assert full > 0
    column.set("spot_size", 2)
    assert column.beam_current() == pytest.approx(0.6 * full)
    column.set("blank", "On")
    assert column.beam_current() == 0
    column.set("blank", "Off")
    faults.set("beam_drop")
    assert column.beam_current() == 0


def test_make_safe_blanks_the_beam_and_lowers_the_screen(column):
    column.make_safe()
    assert (column.get("blank"), column.get("screen")) == ("On", "Down")
    assert column.beam_current() == 0


def test_a_vacuum_trip_closes_the_valve_until_it_is_opened_in_good_vacuum(column, faults, clock):
    assert column.vacuum() < 1e-4
    faults.set("vacuum_trip")
    assert column.get("column_valve") == "Closed"
    assert column.beam_current() == 0
    assert column.vacuum() == pytest.approx(0.05)
    with pytest.raises(ColumnError, match=r"cannot open at 0\.05 Pa; wait for the vacuum"):
        column.set("column_valve", "Open")
    faults.clear("vacuum_trip")
    clock.sleep(0.2)
    assert 1e-3 < column.vacuum() < 0.05, "pumps take some time"
    clock.sleep(3)
    assert column.get("column_valve") == "Closed"
    assert column.vacuum() == pytest.approx(2e-5)
    column.set("column_valve", "Open")
    assert column.beam_current() > 0


def test_a_single_vacuum_trip_recovers_by_itself(column, faults, clock):
    faults.set("vacuum_trip", count=1)
    assert column.get("column_valve") == "Closed"
    assert faults.active() == {}
    clock.sleep(5)
    column.set("column_valve", "Open")
    assert column.get("column_valve") == "Open"


def test_temperature_swings_little(column, clock):
    seen = []
    for _ in range(20):
        clock.sleep(100)
        seen.append(column.temperature())
    assert 20 < min(seen) < max(seen) < 22
