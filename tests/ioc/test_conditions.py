"""The imperfections of the real world, as process variables: on from the start, and switched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ioc.drivers.protocol import connect
from simulation import CONDITIONS, FrameTruth
from tests.support import get, put, wait_until

NAMES = {
    "LensField", "MagnificationDrift", "TileDistortion", "UnevenLight", "Charging",
    "Contamination", "Fringes", "DarkCorners",
}  # fmt: skip


@pytest.fixture(scope="module")
def ioc(module_ioc, tmp_path_factory):
    truth = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    return module_ioc(world="real", sensor=(64, 64), specimen="points", truth_log=str(truth))


def conditions_of_a_frame(ioc):
    """Take a frame, and read what it had from the log of the truth."""
    put(f"{ioc.prefix}CAM:cam1:Acquire", 1)
    log = Path(ioc.options["driver_options"]["truth_log"])
    last = log.read_text().splitlines()[-1]
    return set(FrameTruth.from_dict(json.loads(last)).conditions)


def test_each_imperfection_of_the_real_world_has_a_switch_that_is_on(ioc):
    for name in NAMES:
        switch = f"{ioc.prefix}SIM:Fault:{name}_RBV"
        wait_until(lambda pv=switch: get(pv, text=True) == "On", 5, f"{name} is on")
    assert conditions_of_a_frame(ioc) == set(CONDITIONS)


def test_a_switch_takes_an_imperfection_from_the_next_frame_on(ioc):
    put(f"{ioc.prefix}SIM:Fault:DarkCorners", "Off")
    assert conditions_of_a_frame(ioc) == set(CONDITIONS) - {"dark_corners"}
    put(f"{ioc.prefix}SIM:Fault:DarkCorners:Count", 1)
    assert conditions_of_a_frame(ioc) == set(CONDITIONS)
    assert conditions_of_a_frame(ioc) == set(CONDITIONS) - {"dark_corners"}
    put(f"{ioc.prefix}SIM:Fault:DarkCorners", "On")
    assert conditions_of_a_frame(ioc) == set(CONDITIONS)


def test_strengths_are_options_of_the_driver_and_a_wrong_world_is_refused():
    options = {"specimen": "points", "camera": {"sensor": [64, 64]}}
    with pytest.raises(ValueError, match="world is 'unkind'; it must be kind or real"):
        connect("simulated", options | {"world": "unkind"})
    with pytest.raises(ValueError, match="FringeSettings has no setting 'perod'; did you mean"):
        connect("simulated", options | {"imperfections": {"fringes": {"perod": 5}}})
    instrument = connect(
        "simulated", options | {"imperfections": {"fringes": {"enabled": True, "period": 5}}}
    )
    assert instrument.faults.active() == {"fringes": None}
    instrument.faults.set("lost_frame", True, 2)
    assert instrument.faults.active() == {"fringes": None, "lost_frame": 2}
    instrument.close()
