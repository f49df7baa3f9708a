"""Pause, resume, stop, abort, halt: at any moment, from anybody, and what follows if they fail."""

from __future__ import annotations

import json

import pytest

from tests.services.supervisor.lab import SupervisorProcess
from tests.support import get, put, wait_until

LONG = {
    "roi": {"centre": [0, 0], "width": 3, "height": 3},
    "exposure": 0.3,
    "settle": 0,
    "gate": False,
}


@pytest.fixture(autouse=True)
def free(supervisor: SupervisorProcess):
    """Leave the server idle and its queue free."""
    yield
    supervisor.immediate("abort")
    supervisor.until_state("idle")
    wait_until(lambda: supervisor.get("CurrentRequest") == "", 20, "end")
    for request in supervisor.http("GET", "/queue").json()["queued"]:
        supervisor.immediate("remove", kwargs={"id": request["id"]})
    supervisor.immediate("release_queue")
    wait_until(lambda: supervisor.get("QueueHeld") == "", 5, "free queue")


def begin(supervisor: SupervisorProcess, plan: str = "montage", **changes) -> str:
    """Start a long montage and wait for its first tile."""
    id = supervisor.command(plan, kwargs=LONG | changes)
    supervisor.until_state("running")
    wait_until(lambda: supervisor.get("CurrentRequest") == id, 10, "request")
    wait_until(lambda: 0 < supervisor.get("Progress") < 100, 30, "first tile")
    return id


@pytest.mark.parametrize("plan", ["montage", "fly_montage"])
class TestOneThatRuns:
    def test_pause_and_resume(self, supervisor: SupervisorProcess, plan):
        id = begin(supervisor, plan, roi={"centre": [0, 0], "width": 1.4, "height": 1.4})
        supervisor.immediate("pause")
        supervisor.until_state("paused")
        assert supervisor.get("program_state") == "Program Busy"
        assert supervisor.get("pause_button_state") == "Continue"
        assert get(f"{supervisor.ioc.prefix}SCOPE:Blank_RBV", text=True) == "On"
        supervisor.immediate("resume")
        supervisor.until_state("running")
        assert supervisor.until_ended(id)["state"] == "done"

    def test_abort(self, supervisor: SupervisorProcess, plan):
        id = begin(supervisor, plan)
        supervisor.immediate("abort", client="the night shift")
        ended = supervisor.until_ended(id)
        assert ended["state"] == "aborted"
        assert "aborted by the night shift" in ended["message"]
        assert supervisor.is_spared
        assert id in supervisor.get("QueueHeld")

    def test_stop_after_this_tile(self, supervisor: SupervisorProcess, plan):
        id = begin(supervisor, plan)
        supervisor.immediate("stop_after_tile")
        ended = supervisor.until_ended(id)
        assert ended["state"] == "aborted"
        assert "stopped after a tile" in ended["message"]
        assert supervisor.is_spared

    def test_halt(self, supervisor: SupervisorProcess, plan):
        id = begin(supervisor, plan)
        supervisor.immediate("halt")
        assert supervisor.until_ended(id)["state"] == "aborted"
        wait_until(lambda: supervisor.is_spared, 10, "safe microscope")


class TestAbort:
    def test_before_motion(self, supervisor: SupervisorProcess):
        for _ in range(5):
            id = supervisor.command("montage", kwargs=LONG)
            supervisor.immediate("abort")
            assert supervisor.until_ended(id)["state"] == "aborted"
            supervisor.immediate("release_queue")
        assert supervisor.is_spared

    def test_in_motion(self, supervisor: SupervisorProcess):
        put(f"{supervisor.ioc.prefix}STAGE:X", -900)
        id = supervisor.command(
            "montage", kwargs=LONG | {"roi": {**LONG["roi"], "centre": [900, 0]}}
        )
        moving = f"{supervisor.ioc.prefix}STAGE:Moving_RBV"
        wait_until(lambda: get(moving) == 1, 20, "motion", 0.005)
        supervisor.immediate("abort")
        assert supervisor.until_ended(id)["state"] == "aborted"
        wait_until(lambda: get(moving) == 0, 5, "end of the motion")  # it has to slow down
        assert get(f"{supervisor.ioc.prefix}STAGE:X.RBV") < 800
        assert supervisor.is_spared

    def test_in_exposure(self, supervisor: SupervisorProcess):
        id = supervisor.command("snap", kwargs={"exposure": 20})
        acquiring = f"{supervisor.ioc.prefix}CAM:cam1:Acquire_RBV"
        wait_until(lambda: get(acquiring) == 1, 20, "exposure", 0.005)
        supervisor.immediate("abort")
        assert supervisor.until_ended(id, 10)["state"] == "aborted"
        assert get(acquiring) == 0
        assert supervisor.is_spared

    def test_while_paused(self, supervisor: SupervisorProcess):
        id = begin(supervisor)
        supervisor.immediate("pause")
        supervisor.until_state("paused")
        supervisor.immediate("abort")
        assert supervisor.until_ended(id)["state"] == "aborted"
        assert supervisor.is_spared

    def test_while_suspended(self, supervisor: SupervisorProcess):
        id = begin(supervisor)
        fault = f"{supervisor.ioc.prefix}SIM:Fault:VacuumTrip"
        put(fault, 1)
        try:
            supervisor.until_state("suspended")
            supervisor.immediate("abort")
            assert supervisor.until_ended(id)["state"] == "aborted"
        finally:
            put(fault, 0)
        assert supervisor.is_spared

    def test_by_whoever_whatever_token(self, supervisor: SupervisorProcess):
        id = begin(supervisor)
        supervisor.immediate("abort", client="gui", token="a token that nobody has")
        assert supervisor.until_ended(id)["state"] == "aborted"


def test_bad_vacuum_suspends_and_good_vacuum_goes_on(supervisor: SupervisorProcess):
    id = begin(supervisor, roi={"centre": [0, 0], "width": 1.4, "height": 1.4})
    fault = f"{supervisor.ioc.prefix}SIM:Fault:VacuumTrip"
    put(fault, 1)
    try:
        supervisor.until_state("suspended")
        assert supervisor.get("program_state") == "Program Busy"
    finally:
        put(fault, 0)
    supervisor.until_state("running")
    assert supervisor.until_ended(id)["state"] == "done"


def test_pause_and_resume_may_be_said_twice(supervisor: SupervisorProcess):
    id = begin(supervisor, roi={"centre": [0, 0], "width": 1.4, "height": 1.4})
    for _ in range(2):
        supervisor.immediate("pause")
        supervisor.until_state("paused")
    for _ in range(2):
        supervisor.immediate("resume")
    supervisor.until_state("running")
    supervisor.immediate("pause")  # is not undone by the second resume
    supervisor.until_state("paused")
    with pytest.raises(AssertionError, match="not within"):
        wait_until(lambda: supervisor.get("State") != "paused", 1.5)
    supervisor.immediate("resume")
    assert supervisor.until_ended(id)["state"] == "done"


def test_stop_after_this_request(supervisor: SupervisorProcess):
    first = begin(supervisor, roi={"centre": [0, 0], "width": 0.9, "height": 0.9})
    second = supervisor.command("snap")
    supervisor.immediate("stop_after_request")
    assert supervisor.until_ended(first)["state"] == "done"
    supervisor.until_state("idle")
    assert supervisor.request(second)["state"] == "queued"
    supervisor.immediate("release_queue")
    assert supervisor.until_ended(second)["state"] == "done"


def test_nothing_runs_is_said(supervisor: SupervisorProcess):
    supervisor.immediate("pause")
    reply = json.loads(supervisor.get("ImmediateReply"))
    assert (reply["state"], reply["message"]) == ("done", "nothing runs")


def test_what_is_not_obeyed_is_followed_by_something_harsher(supervisor: SupervisorProcess):
    id = begin(supervisor)
    supervisor.immediate("stop_after_tile", kwargs={"deadline": 0.001})
    ended = supervisor.until_ended(id)
    assert ended["state"] == "aborted"
    assert supervisor.is_spared
