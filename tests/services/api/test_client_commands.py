"""The commands of the command line that ask the server, against one without a plan worker."""

import json
import re
import signal
import threading
import time

import pytest
from typer.testing import CliRunner

from services.api.shortcuts import OF_CONTROL
from services.cli import app
from services.client import NoServerError, RefusedError
from services.client_commands import Verb
from services.queue_view import WAITING
from tests.services.api.lab import TOKENS
from tests.support import wait_until

COMMANDS = (
    *("submit", "status", "stop", "pause", "resume", "control", "queue"),
    *(f"queue {one}" for one in ("hold", "release", "move", "retry", "resume", "remove", "show")),
)


@pytest.fixture
def temline(server, tmp_path, monkeypatch):
    """Run a command; gives what it prints, and raises what it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TEMLINE_SUPERVISOR__HTTP_PORT", str(server.port))

    def run(*arguments: str, client: str = "gui", code: int = 0, input: str | None = None) -> str:
        result = CliRunner().invoke(
            app, arguments, env={"TEMLINE_TOKEN": TOKENS[client]}, input=input
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    yield run
    for verb in ("take", "release"):
        assert server.client("ann").post(f"/control/{verb}").status_code == 200
    assert server.client("ann").post("/queue/release").status_code == 200


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example(temline, command):
    first = command.split()[0] if command == "queue" else command
    assert re.search(rf"Example: .*temline {first}", temline(*command.split(), "--help"))


def test_a_request_is_submitted(server, temline):
    said = temline("submit", "snap", "exposure=0.25", "sample=S1", "--id", "s1", "--priority", "3")
    assert said == "s1 accepted\n"
    request = server.queue.get("s1")
    assert request.arguments == {"exposure": 0.25, "sample": "S1"}
    assert (request.client, request.priority, request.held) == ("gui", 3, False)


def test_all_that_a_request_can_have_is_sent(server, temline):
    roi = '{"centre": [0, 0], "width": 20, "height": 14}'
    more = ("--proposal", "GU-1", "--directory", "GU-1/a", "--batch", "grid 1", "--held")
    temline("submit", "montage", f"roi={roi}", "--id", "s2", *more)
    request = server.queue.get("s2")
    assert request.arguments == {"roi": json.loads(roi)}
    assert (request.proposal, request.directory) == ("GU-1", "GU-1/a")
    assert (request.batch, request.held) == ("grid 1", True)


def test_arguments_come_by_place_and_from_the_standard_input(server, temline):
    temline("submit", "resume_montage", "--arg", "some-run", "--id", "s3")
    assert server.queue.get("s3").arguments == {"run": "some-run"}
    temline("submit", "snap", "--json", "-", "--id", "s4", input='{"exposure": 0.5}')
    assert server.queue.get("s4").arguments == {"exposure": 0.5}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("snapp",), "do you mean 'snap'"),
        (("snap", "exposure=long"), 'exposure is "long"'),
        (("snap", "--id", "../x"), "id is"),
        (("snap", "--directory", "/etc"), "directory is"),
        (("abort",), "abort is an action"),
    ],
)
def test_a_mistake_ends_in_the_servers_reason(temline, arguments, reason):
    with pytest.raises(RefusedError) as caught:
        temline("submit", *arguments)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_queue_is_shown_and_changed(server, temline):
    for id in ("q1", "q2"):
        temline("submit", "snap", "--id", id, "--priority=-9")
    assert temline("queue", "move", "q2", "--before", "q1") == "q2 is moved\n"
    assert temline("queue", "hold", "q1") == "q1 is held\n"
    lines = temline("queue").splitlines()
    assert lines[0].split() == list(WAITING)
    rows = [line.split() for line in lines if re.search(r"\bq[12]\b", line)]
    assert [row[1] for row in rows] == ["q2", "q1"]
    assert rows[1][2:7] == ["snap", "gui", "-9", "held", "queued"]
    assert temline("queue", "release", "q1") == "q1 is released\n"
    assert temline("queue", "remove", "q1") == "q1 is removed\n"
    assert re.search(r"q1 +snap +gui +removed .*removed by gui", temline("queue", "--history"))
    shown = temline("queue", "show", "q1")
    assert re.search(r"state +removed", shown)
    assert re.search(r"\d\d:\d\d +removed removed by gui", shown)
    with pytest.raises(RefusedError, match="nope"):
        temline("queue", "show", "nope")


def test_the_whole_queue_is_held_and_released(server, temline):
    assert temline("queue", "hold", "--reason", "[lunch]") == "the queue is held\n"
    assert "The queue is held: held by gui@127.0.0.1: [lunch]" in temline("queue")
    assert "[lunch]" in temline("status", "--once")
    assert temline("queue", "release") == "the queue goes on\n"
    assert "held:" not in temline("queue")


@pytest.mark.parametrize("places", [(), ("--first", "--last"), ("--before", "a", "--after", "b")])
def test_a_move_has_one_place(temline, places):
    assert "one of --first, --last" in temline("queue", "move", "q1", *places, code=2)


def test_what_has_ended_is_tried_again(server, temline):
    temline("submit", "snap", "--id", "t1", "--priority", "1000")
    server.claim()
    server.queue.finish("t1", "failed", "dim")
    for verb in ("retry", "resume"):
        said = temline("queue", verb, "t1")
        id = re.fullmatch(r"(\w+) accepted: snap, after t1\n", said)[1]
        assert server.queue.get(id).parent == "t1"
        server.queue.remove(id)


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (("stop",), "abort"),
        (("stop", "--after-tile"), "stop_after_tile"),
        (("stop", "--after-request"), "stop_after_request"),
        (("stop", "--halt"), "halt"),
        (("pause",), "pause"),
        (("resume",), "resume"),
    ],
)
def test_what_runs_is_stopped(server, temline, arguments, function):
    replies = []

    async def watch(topic, content):
        replies.append((topic, content))

    forget = server.board.watch(watch)
    assert temline(*arguments, "--deadline", "5") == "nothing runs\n"
    forget()
    assert [content.function for topic, content in replies if topic == "action"] == [function]


def test_only_one_way_to_stop(temline):
    assert "only one of" in temline("stop", "--halt", "--after-tile", code=2)


def test_control_is_shown_asked_for_and_refused(temline):
    assert re.search(r"control +nobody", temline("control"))
    assert re.search(r"control +bob@127.0.0.1", temline("control", "ask", client="bob"))
    assert re.search(r"asked for by +gui@127.0.0.1", temline("control", "ask"))
    assert re.search(r"control +bob@127.0.0.1", temline("control", client="ann"))
    with pytest.raises(RefusedError, match="bob@127.0.0.1 has control"):
        temline("submit", "snap")
    temline("control", "lock", "--reason", "service", client="ann")
    assert re.search(r"locked by +ann@127.0.0.1: service", temline("control"))
    temline("control", "unlock", client="ann")


def test_the_verbs_of_control_are_those_of_the_server():
    assert tuple(Verb) == OF_CONTROL


def test_the_status_is_shown_once(server, temline):
    server.run(server.board.set(state="running", message="tile [3]", progress=40.0, eta=75.0))
    said = temline("status")  # no terminal
    assert re.search(r"state +running", said)
    assert re.search(r"message +tile \[3\]", said)
    assert re.search(r"40 % +1:15 left", said)
    assert json.loads(temline("status", "--json")) == server.board.status.as_json()


def test_the_status_is_shown_as_it_changes_until_ctrl_c(server, temline):
    def act():
        wait_until(lambda: server.streams == 1, 10, "it watches")
        server.run(server.board.set(message="something new"))
        time.sleep(0.5)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    acting = threading.Thread(target=act)
    acting.start()
    said = temline("status", "--live")
    acting.join()
    assert "something new" in said


def after(server, id, act):
    """Do something on a thread, once somebody waits for a request that is in the queue."""

    def run():
        wait_until(lambda: server.streams == 1, 10, "it waits")
        server.queue.get(id)
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_request_is_waited_for(server, temline):
    def work():
        assert server.claim().id == "w1"
        announce()
        server.run(server.board.set(progress=50.0, eta=10.0, message="half"))
        server.queue.finish("w1", "done", "", ["uid-1", "uid-2"])
        announce()

    def announce():
        server.run(server.desk.supervisor.queue_changed())

    working = after(server, "w1", work)
    said = temline("submit", "snap", "--id", "w1", "--priority", "1000", "--wait")
    working.join()
    lines = said.splitlines()
    assert lines[0] == "w1 accepted"
    assert lines[-3:] == ["w1 done", "w1 run: uid-1", "w1 run: uid-2"]


@pytest.mark.parametrize("outcome", ["failed", "aborted", "interrupted"])
def test_what_is_not_done_has_another_exit_code(server, temline, outcome):
    def work():
        server.claim()
        server.queue.finish(f"w-{outcome}", outcome, "because")
        server.run(server.desk.supervisor.queue_changed())

    working = after(server, f"w-{outcome}", work)
    said = temline("submit", "snap", "--id", f"w-{outcome}", "--priority=1000", "--wait", code=1)
    working.join()
    assert f"w-{outcome} {outcome}: because" in said


def test_a_request_that_is_removed_is_not_waited_for(server, temline):
    removing = after(server, "w3", lambda: server.client("bob").delete("/requests/w3"))
    said = temline("submit", "snap", "--id", "w3", "--wait", code=1)
    removing.join()
    assert "w3 removed: removed by bob" in said


def test_ctrl_c_ends_the_waiting_and_not_the_request(server, temline):
    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupting = after(server, "w4", interrupt)
    said = temline("submit", "snap", "--id", "w4", "--wait", code=130)
    interrupting.join()
    assert "w4 goes on: temline queue show w4" in said
    assert server.queue.get("w4").state == "queued"


def test_a_stream_that_ends_is_opened_again(server, temline):
    def work():
        server.run(drop())
        wait_until(lambda: server.streams == 1, 10, "it waits again")
        server.client("bob").delete("/requests/w5")

    async def drop():
        server.app.state.events.close()

    working = after(server, "w5", work)
    assert "w5 removed" in temline("submit", "snap", "--id", "w5", "--wait", code=1)
    working.join()


def test_a_server_that_is_gone_for_long_is_not_waited_for(make_server, temline, monkeypatch):
    monkeypatch.setattr("services.submit.MOST_OUTAGE", 1.0)
    server = make_server()
    monkeypatch.setenv("TEMLINE_SUPERVISOR__HTTP_PORT", str(server.port))

    def end():
        server.http.should_exit = True

    ending = after(server, "w6", end)
    with pytest.raises(NoServerError, match="w6 is kept in its queue"):
        temline("submit", "snap", "--id", "w6", "--wait")
    ending.join()
