"""Plans that are commanded by process variables: how they run, and what is told of them."""

from __future__ import annotations

import json

import pytest

from tests.monitors import monitored
from tests.services.supervisor.lab import SupervisorProcess
from tests.support import put, wait_until

ROI = {"centre": [0, 0], "width": 0.9, "height": 0.9}
MONTAGE = {"roi": ROI, "exposure": 0.05, "settle": 0, "overlap": 12, "gate": False}


class TestMontage:
    def test_it_runs_reports_and_replies_with_its_run(self, supervisor: SupervisorProcess):
        with monitored(*map(supervisor.pv, ("State", "Progress", "Reply"))) as (
            states,
            progress,
            replies,
        ):
            id = supervisor.command("montage", kwargs=MONTAGE, client="gui", token=GUI)
            done = supervisor.until_ended(id)
            wait_until(lambda: '"done"' in replies[-1][1], 5, "reply")
        assert done["state"] == "done", supervisor.output()
        assert done["message"].endswith("tiles")
        told = [json.loads(text) for _, text in replies]
        mine = [one for one in told if one.get("id") == id]
        assert next(one["state"] for one in mine) == "accepted"
        assert {"running", "done"} <= {one["state"] for one in mine}
        assert mine[-1]["runs"] == done["run_uids"]
        assert len(done["run_uids"]) == 1
        assert supervisor.get("RunUID") == done["run_uids"][0]
        shares = [value for _, value in progress]
        assert shares == sorted(shares) or shares[0] == 100  # of the request before
        assert shares[-1] == 100
        assert len(set(shares)) > 3
        names = ["idle", "running", "paused", "suspended", "aborting", "fault"]
        assert [names[int(value)] for _, value in states][-2:] == ["running", "idle"]

    def test_lsdcs_bare_form_by_lsdcs_names(self, supervisor: SupervisorProcess):
        before = supervisor.get("QueueChanged")
        put(
            supervisor.pv("command_s"),
            json.dumps({"function": "snap", "args": [], "kwargs": {"exposure": 0.02}}),
        )
        wait_until(lambda: supervisor.get("QueueChanged") > before, 5, "request")
        wait_until(lambda: json.loads(supervisor.get("Reply"))["state"] == "done", 20, "end")
        assert supervisor.get("program_state") == "Program Ready"
        assert supervisor.get("pause_button_state") == "Pause"
        assert supervisor.get("state_percent") == 100
        assert supervisor.get("message_string") == supervisor.get("Message")


GUI = "gui-token-0123456789"


class TestRefusals:
    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            ("", "empty"),
            ("{", "not JSON"),
            ("[]", "must be an object"),
            ('{"function": "montag"}', "'montage'"),
            ('{"function": "abort"}', "write it to Immediate"),
            ('{"function": "montage"}', "roi"),
            ('{"function": "snap", "kwargs": {"exposur": 1}}', "'exposure'"),
            ('{"function": "snap", "kwargs": {"exposure": "1"}}', "exposure"),
            ('{"function": "__import__", "args": ["os"]}', "__import__"),
            ('{"function": "snap", "directory": "../../etc"}', "directory"),
            ('{"function": "snap", "token": "not-the-one-that-it-is"}', "token"),
            ('{"function": "snap", "client": "gui"}', "needs its token"),
        ],
    )
    def test_each_has_its_reason(self, supervisor: SupervisorProcess, sent, reason):
        from tests.ioc.clients import refusal

        before = supervisor.get("QueueChanged")
        assert reason in refusal(supervisor.pv("Command"), list(sent.encode() or b"\0"))
        reply = json.loads(supervisor.get("Reply"))
        assert reply["state"] == "rejected"
        assert reason in reply["message"]
        assert supervisor.get("QueueChanged") == before

    def test_an_id_is_good_for_one_command(self, supervisor: SupervisorProcess):
        id = supervisor.command("snap", kwargs={"exposure": 0.02})
        supervisor.until_ended(id)
        supervisor.command("snap", kwargs={"exposure": 0.02}, id=id)
        reply = json.loads(supervisor.get("Reply"))
        assert (reply["id"], reply["state"]) == (id, "rejected")
        assert supervisor.request(id)["state"] == "done"

    def test_what_a_plan_refuses_fails_and_holds_nothing_up(self, supervisor: SupervisorProcess):
        id = supervisor.command("snap", kwargs={"exposure": 5000})
        failed = supervisor.until_ended(id)
        assert failed["state"] == "failed"
        assert "must lie between" in failed["message"]
        assert supervisor.get("QueueHeld") == ""
        assert "must lie between" in supervisor.get("LastError")
        assert supervisor.until_ended(supervisor.command("snap"))["state"] == "done"


def test_a_long_command_fits(supervisor: SupervisorProcess):
    id = supervisor.command("snap", kwargs={"exposure": 0.02, "md": {"note": "x" * 70_000}})
    assert supervisor.until_ended(id)["state"] == "done"


def test_the_registry_describes_every_command(supervisor: SupervisorProcess):
    registry = json.loads(supervisor.get("Registry"))
    plans = {one["name"]: one for one in registry["plans"]}
    assert {"montage", "fly_montage", "snap", "autofocus", "resume_montage"} <= plans.keys()
    assert plans["montage"]["parameters"]["properties"]["overlap"]["type"] == "number"
    assert {"pause", "abort", "move", "take_control"} <= {
        one["name"] for one in registry["actions"]
    }


def test_frames_go_to_the_proposals_folder(supervisor: SupervisorProcess):
    id = supervisor.command("snap", proposal="GU-17", directory="GU-17/grid-3")
    assert supervisor.until_ended(id)["state"] == "done"
    files = list((supervisor.ioc.data_root / "GU-17" / "grid-3").rglob("*.h5"))
    assert len(files) == 1
    assert supervisor.until_ended(supervisor.command("snap"))["state"] == "done"
    assert len(list((supervisor.ioc.data_root / "GU-17").rglob("*.h5"))) == 1
