"""Faults: on until cleared, or for the next events."""

import pytest

from simulation import FAULTS, FaultSet, SettingsError


def test_there_are_the_six_faults_of_the_contract():
    assert set(FaultSet().names) == set(FAULTS)
    assert set(FAULTS) == {
        "beam_drop", "camera_timeout", "stage_stall", "lost_frame", "vacuum_trip", "disk_full",
    }  # fmt: skip


def test_a_fault_is_on_until_it_is_cleared():
    faults = FaultSet()
    assert not faults.strikes("disk_full")
    faults.set("disk_full")
    assert [faults.strikes("disk_full") for _ in range(5)] == [True] * 5
    assert faults.active() == {"disk_full": None}
    faults.clear("disk_full")
    assert not faults.strikes("disk_full")
    assert faults.active() == {}


def test_a_fault_with_a_count_goes_off_by_itself():
    faults = FaultSet()
    faults.set("lost_frame", count=2)
    assert faults.is_on("lost_frame")
    assert faults.active() == {"lost_frame": 2}
    assert [faults.strikes("lost_frame") for _ in range(3)] == [True, True, False]
    assert not faults.is_on("lost_frame")


def test_all_faults_are_cleared_at_once():
    faults = FaultSet()
    for name in faults.names:
        faults.set(name)
    faults.clear()
    assert faults.active() == {}


@pytest.mark.parametrize("call", ["set", "is_on", "strikes", "clear"])
def test_an_unknown_fault_is_refused_and_the_known_ones_are_named(call):
    with pytest.raises(SettingsError, match="no fault 'fire'; there are beam_drop, camera_timeout"):
        getattr(FaultSet(), call)("fire")


def test_a_count_must_be_positive():
    with pytest.raises(SettingsError, match="count of beam_drop is 0; it must be 1 or more"):
        FaultSet().set("beam_drop", count=0)
