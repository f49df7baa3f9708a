"""Clients that lose their circuit, share control, order the queue; and those of a shell."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import uuid

import epics
import psutil
import pytest

from tests.commands import TEMLINE
from tests.services.supervisor.lab import TOKENS, SupervisorProcess
from tests.support import wait_until

SNAP = {"exposure": 0.02}
DROPS = 3  # of a circuit: libca waits 10 s before it looks for a server that it has lost


def drop_circuits(port: int) -> int:
    """Cut this process's connections to a port, as a network would; give how many there were."""
    cut = 0
    for one in psutil.Process().net_connections("tcp"):
        if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED:
            with socket.socket(fileno=os.dup(one.fd)) as own:
                own.shutdown(socket.SHUT_RDWR)
            cut += 1
    return cut


def test_a_circuit_that_drops_time_and_again_runs_no_command_twice(supervisor: SupervisorProcess):
    seen: list[str] = []
    drops: list[bool] = []
    pv = epics.PV(
        supervisor.pv("Command"),
        auto_monitor=True,  # as a GUI has it, whose callback runs again when it reconnects
        callback=lambda char_value=None, **_: seen.append(char_value),
        connection_callback=lambda conn=None, **_: drops.append(conn),
    )
    assert pv.wait_for_connection(10)
    before = supervisor.get("QueueChanged")
    ids = [uuid.uuid4().hex for _ in range(DROPS)]
    for number, id in enumerate(ids, start=1):
        text = json.dumps({"id": id, "function": "snap", "kwargs": SNAP})
        pv.put(text, wait=True, timeout=10)
        assert drop_circuits(supervisor.port) >= 1
        wait_until(lambda: drops.count(False) >= number, 20, "loss of the circuit")  # noqa: B023
        wait_until(lambda: pv.connected, 60, "new circuit")
        pv.put(text, wait=True, timeout=10)  # for all that a client knows, it was lost
        assert json.loads(supervisor.get("Reply"))["id"]
    pv.disconnect()
    for id in ids:
        assert supervisor.until_ended(id)["state"] == "done"
        assert [one["new"] for one in supervisor.request(id)["transitions"]] == [
            "queued",
            "running",
            "done",
        ]
    ran = [one["id"] for one in supervisor.http("GET", "/history?limit=200").json()["requests"]]
    assert sorted(set(ran) & set(ids)) == sorted(ids)
    assert supervisor.get("QueueChanged") - before < DROPS * 8  # no more requests than that
    assert set(seen) <= {""}


class TestControl:
    def test_is_handed_over_by_process_variables(self, supervisor: SupervisorProcess):
        gui = {"client": "gui", "token": TOKENS["gui"]}
        ann = {"client": "ann", "token": TOKENS["ann"]}
        supervisor.immediate("ask_control", **gui)
        assert supervisor.get("Controller").startswith("gui")
        try:
            supervisor.command("snap", kwargs=SNAP, **ann)
            reply = json.loads(supervisor.get("Reply"))
            assert reply["state"] == "rejected"
            assert "gui" in reply["message"]
            assert "take_control takes it" in reply["message"]
            id = supervisor.command("snap", kwargs=SNAP, **gui)
            assert supervisor.until_ended(id)["state"] == "done"
            supervisor.immediate("take_control", kwargs={"reason": "the beam drifts"}, **ann)
            assert supervisor.get("Controller").startswith("ann")
        finally:
            supervisor.immediate("take_control", **ann)
            supervisor.immediate("release_control", **ann)
        assert supervisor.get("Controller") == ""


def test_the_queue_is_ordered_edited_held_and_released(supervisor: SupervisorProcess):
    supervisor.immediate("hold_queue", kwargs={"reason": "the grid is changed"})
    assert "the grid is changed" in supervisor.get("QueueHeld")
    first, second, third = (supervisor.command("snap", kwargs=SNAP) for _ in range(3))
    urgent = supervisor.command("snap", kwargs=SNAP, priority=5, batch="night")
    supervisor.immediate("move", kwargs={"id": third, "before": first})
    supervisor.immediate("edit", kwargs={"id": second, "kwargs": {"exposure": 0.03}})
    supervisor.immediate("remove", kwargs={"id": first})

    def order() -> list[str]:
        return [one["id"] for one in json.loads(supervisor.get("Queue"))]

    wait_until(lambda: order() == [urgent, third, second], 5, "order")
    assert supervisor.get("QueueLength") == 3
    supervisor.immediate("hold_batch", kwargs={"batch": "night"})
    supervisor.immediate("release_queue")
    assert supervisor.until_ended(second)["arguments"] == {"exposure": 0.03}
    assert supervisor.request(first)["state"] == "removed"
    assert supervisor.request(urgent)["state"] == "queued"
    supervisor.immediate("release_batch", kwargs={"batch": "night"})
    assert supervisor.until_ended(urgent)["state"] == "done"
    third_ended, second_ended = (supervisor.request(id)["finished"] for id in (third, second))
    assert third_ended < second_ended


def test_what_is_resumed_may_run_at_once(supervisor: SupervisorProcess):
    id = supervisor.command("snap", kwargs=SNAP)
    supervisor.until_ended(id)
    for _ in range(10):
        supervisor.immediate("resume_request", kwargs={"id": id})
        reply = json.loads(supervisor.get("ImmediateReply"))
        assert reply["state"] == "done", reply
        assert supervisor.until_ended(reply["result"]["id"])["state"] == "done"


class TestShell:
    @pytest.fixture
    def temline(self, supervisor: SupervisorProcess):
        def run(*arguments: str, code: int = 0) -> str:
            done = subprocess.run(
                [TEMLINE, *arguments],
                env=os.environ | supervisor.environ | {"TEMLINE_TOKEN": TOKENS["gui"]},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        return run

    def test_submit_waits_and_names_the_run(self, supervisor: SupervisorProcess, temline):
        said = temline("submit", "snap", "exposure=0.02", "--wait", "--id", "by-shell")
        (run,) = supervisor.request("by-shell")["run_uids"]
        assert run in said

    def test_mistakes_have_a_reason(self, temline):
        said = temline("submit", "snap", "exposur=0.02", code=1)
        assert re.search(r"unknown argument 'exposur'.*'exposure'", said, re.DOTALL)

    def test_status_and_queue_are_shown(self, temline):
        assert "idle" in temline("status", "--once")
        assert json.loads(temline("status", "--json"))["state"] == "idle"
        temline("submit", "snap", "exposure=0.02", "--held", "--id", "waits")
        assert "waits" in temline("queue")
        temline("queue", "remove", "waits")
        assert "waits" in temline("queue", "--history")
