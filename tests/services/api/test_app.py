"""The HTTP interface: who gets in, that all goes through the desk, and how refusals are told."""

import json
import socket

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from records import DatabaseError
from services.api.app import commanding, looking
from services.api.shortcuts import SHORTCUTS
from services.supervisor.commands import MAX_BYTES, CommandRefusedError, read_command
from tests.services.api.lab import TOKENS

ROUTES = sorted(
    {
        *(
            (method, route.path)
            for r in (looking, commanding)
            for route in r.routes
            for method in route.methods
        ),
        *SHORTCUTS,
    }
)
CREDENTIALS = {
    "no token": {},
    "a wrong token": {"Authorization": "Bearer wrong-token-0123456789"},
    "an empty token": {"Authorization": "Bearer"},
    "another scheme": {"Authorization": f"Basic {TOKENS['gui']}"},
    "the token as it is": {"Authorization": TOKENS["gui"]},
    "a token with more": {"Authorization": f"Bearer {TOKENS['gui']}x"},
    "a token that is not ASCII": {
        "Authorization": "Bearer \xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9".encode("latin-1")
    },
}
"""What does not let anybody in."""


def submit(http: httpx.Client, id: str, function: str = "snap", **more) -> httpx.Response:
    return http.post("/commands", json={"id": id, "function": function, **more})


def message(answer: httpx.Response) -> str:
    """Give the reason of a refusal, whose form is always the same."""
    content = answer.json()
    assert set(content) == {"id", "state", "message"}
    assert content["state"] == "rejected"
    return content["message"]


# Who gets in


def routes_of(router):
    """Give all routes, those of included routers, too."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        yield from routes_of(included) if included else [route]


def test_the_routes_that_need_a_token_are_all_but_one(server):
    every = {(method, route.path) for route in routes_of(server.app) for method in route.methods}
    assert every == {*ROUTES, ("GET", "/health")}


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_gets_in_without_a_known_token(nobody, method, path, credentials):
    answer = nobody.request(
        method, path.replace("{id}", "any"), headers=CREDENTIALS[credentials], content=b"{}"
    )
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "token" in message(answer)
    assert all(token not in answer.text for token in TOKENS.values())


def test_a_token_in_the_address_lets_nobody_in(nobody):
    assert nobody.get("/status", params={"token": TOKENS["gui"]}).status_code == 401


def test_health_needs_none_and_tells_little(nobody):
    answer = nobody.get("/health")
    assert answer.status_code == 200
    assert set(answer.json()) == {"service", "version"}


def test_a_wrong_token_within_the_command_is_refused_as_well(http):
    answer = submit(http, "inner", token="wrong-token-0123456789")
    assert answer.status_code == 401
    assert message(answer) == "the token is not known"
    assert submit(http, "inner", client="bob").status_code == 401


def test_the_token_within_the_command_comes_first(server, http):
    assert submit(http, "first", token=TOKENS["bob"]).status_code == 202
    assert server.queue.get("first").client == "bob"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_is_not_this_servers_is_refused(http, host):
    for path in ("/status", "/health", "/openapi.json"):
        answer = http.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "state" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8001", "[::1]:8001"])
def test_the_names_of_this_machine_are_all_right(http, host):
    assert http.get("/status", headers={"Host": host}).status_code == 200


def test_scripts_of_other_pages_get_no_permission(http):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert http.options("/commands", headers=asked).status_code == 405
    answer = http.get("/status", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_client_cannot_say_that_it_is_on_another_host(server, http):
    command = {"id": "forwarded", "function": "snap"}
    http.post("/commands", json=command, headers={"X-Forwarded-For": "10.1.2.3"})
    assert server.queue.get("forwarded").host == "127.0.0.1"


# To look


def test_the_status_is_that_of_the_board(server, http):
    assert http.get("/status").json() == server.board.status.as_json()


def test_the_registry_is_the_one_that_the_pvs_have(server, http):
    assert http.get("/registry").json() == json.loads(server.desk.registry.text())


def test_a_request_can_be_followed_from_the_queue_to_the_history(server, http):
    assert submit(http, "life", kwargs={"exposure": 0.2}, priority=900).status_code == 202
    queue = http.get("/queue").json()
    assert queue["queued"][0]["id"] == "life"
    assert queue["queued"][0]["arguments"] == {"exposure": 0.2}
    assert queue["length"] == len(queue["queued"])
    server.claim()
    assert [one["id"] for one in http.get("/queue").json()["running"]] == ["life"]
    server.queue.finish("life", "done", "all well", ["uid"])
    detail = http.get("/requests/life").json()
    assert detail["state"] == "done"
    assert detail["run_uids"] == ["uid"]
    assert [step["new"] for step in detail["transitions"]] == ["queued", "running", "done"]
    last = http.get("/history", params={"limit": 1}).json()["requests"]
    assert [one["id"] for one in last] == ["life"]
    before = http.get("/history", params={"before": last[0]["finished"]}).json()["requests"]
    assert "life" not in [one["id"] for one in before]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"limit": "0"}, "limit is '0'"),
        ({"limit": "many"}, "limit is 'many'"),
        ({"before": "yesterday"}, "before is 'yesterday'"),
        ({"before": "2026-11-27T10:00:00"}, "a time with its zone"),
        ({"before": "0001-01-01T00:00:00+14:00"}, "before is '0001-01-01"),
        ({"before": "9999-12-31T23:59:59-14:00"}, "before is '9999-12-31"),
    ],
)
def test_a_page_of_the_history_that_cannot_be_is_refused(http, parameters, reason):
    answer = http.get("/history", params=parameters)
    assert answer.status_code == 422
    assert reason in message(answer)


@pytest.mark.parametrize("id", ["nope", "%20", "%ed%a0%80", "a" * 2000, "..%2f..%2fstatus"])
def test_a_request_that_is_not_there_is_404(http, id):
    assert http.get(f"/requests/{id}").status_code == 404


def test_a_nul_is_refused_by_its_name(http):
    answer = http.get("/requests/a%00b")
    assert answer.status_code == 422
    assert "NUL" in message(answer)


def test_looking_is_announced_to_nobody(server, http):
    announced = []

    async def watch(topic, content):
        announced.append((topic, content))

    forget = server.board.watch(watch)
    for path in ("/queue", "/history", "/control", "/status", "/registry"):
        assert http.get(path).status_code == 200
    forget()
    assert [one for one in announced if one[0] != "status"] == []


# To command


def test_what_is_accepted_is_in_the_queue(server, http):
    answer = submit(http, "one", batch="b", held=True)
    assert answer.status_code == 202
    assert answer.json()["state"] == "accepted"
    request = server.queue.get("one")
    assert (request.client, request.batch, request.held) == ("gui", "b", True)


def test_an_id_is_made_up_if_there_is_none(server, http):
    answer = http.post("/commands", json={"function": "snap"})
    assert server.queue.get(answer.json()["id"]).function == "snap"


def test_an_id_is_not_taken_twice(http):
    assert submit(http, "twice").status_code == 202
    answer = submit(http, "twice")
    assert answer.status_code == 409
    assert answer.json()["id"] == "twice"
    assert "never used" in message(answer)


def test_a_full_queue_is_told_apart(make_server):
    http = make_server(most_queued=2).client()
    assert [submit(http, id).status_code for id in "abc"] == [202, 202, 429]


MALFORMED = {
    "nothing": b"",
    "blanks": b" \n ",
    "half": b'{"function": "snap"',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "a text": b'"snap"',
    "no function": b"{}",
    "no UTF-8": b'{"function": "\xff"}',
    "a NUL": b'{"function": "snap\\u0000"}',
    "a NUL within": b'{"function": "sn\0ap"}',
    "NaN": b'{"function": "snap", "kwargs": {"exposure": NaN}}',
    "a surrogate": b'{"function": "snap", "kwargs": {"sample": "\\ud800"}}',
    "a huge number": b'{"function": "snap", "args": [' + b"9" * 5000 + b"]}",
    "nested deeply": b'{"function": "snap", "args": ' + b"[" * 60000 + b"]" * 60000 + b"}",
    "nested too deeply": b'{"function": "snap", "args": ' + b"[" * 40 + b"]" * 40 + b"}",
    "an unknown key": b'{"function": "snap", "functoin": 1}',
    "a wrong type": b'{"function": "snap", "priority": "high"}',
    "a wrong id": b'{"function": "snap", "id": "../x"}',
    "a form": b"function=snap",
}


@pytest.mark.parametrize("path", ["/commands", "/immediate"])
@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_command_has_the_reason_that_channel_access_has(http, path, kind):
    with pytest.raises(CommandRefusedError) as caught:
        read_command(MALFORMED[kind])
    answer = http.post(path, content=MALFORMED[kind])
    assert answer.status_code == 422
    assert message(answer) == caught.value.reason


@pytest.mark.parametrize(
    ("path", "command", "reason"),
    [
        ("/commands", {"function": "snapp"}, "do you mean 'snap'"),
        ("/commands", {"function": "abort"}, "abort is an action"),
        ("/commands", {"function": "__import__", "args": ["os"]}, "there is no plan"),
        ("/commands", {"function": "snap", "kwargs": {"exposure": "long"}}, "exposure"),
        ("/commands", {"function": "snap", "kwargs": {"exposures": 1}}, "exposure"),
        ("/commands", {"function": "snap", "directory": "../../etc"}, "directory"),
        ("/immediate", {"function": "snap"}, "snap is a plan"),
        ("/immediate", {"function": "_begin"}, "there is no action"),
        ("/immediate", {"function": "move", "kwargs": {"id": "x"}}, "one of to, before, after"),
    ],
)
def test_what_cannot_be_commanded_is_refused_with_its_reason(http, path, command, reason):
    answer = http.post(path, json=command)
    assert answer.status_code == 422
    assert reason in message(answer)


def test_the_content_type_does_not_matter(server, http):
    sent = json.dumps({"id": "typed", "function": "snap"})
    answer = http.post("/commands", content=sent, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 202


def test_the_longest_command_is_taken_and_a_longer_one_is_not(http):
    def command(length):
        start = '{"function": "snap", "id": "long", "batch": "b"'
        return start + " " * (length - len(start) - 1) + "}"

    assert http.post("/commands", content=command(MAX_BYTES)).status_code == 202
    answer = http.post("/commands", content=command(MAX_BYTES + 1))
    assert answer.status_code == 413
    assert str(MAX_BYTES) in message(answer)


@pytest.mark.parametrize("path", ["/commands", "/immediate", "/queue/hold", "/requests/x/move"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_not_read_to_its_end(server, path, chunked):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n"
            f"Authorization: Bearer {TOKENS['gui']}\r\n\r\n".encode()
        )
        part = b"x" * (MAX_BYTES + 1)
        connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        answer = connection.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_nothing_of_a_body_is_read_without_a_token(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401 ")


def test_a_client_that_goes_before_it_has_sent_all_does_no_harm(server, http):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            f"POST /commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            f"Authorization: Bearer {TOKENS['gui']}\r\n\r\n{{".encode()
        )
    assert http.get("/status").status_code == 200


# Actions at addresses of their own


@pytest.mark.parametrize(("route", "function"), SHORTCUTS.items())
def test_a_shortcut_is_the_command_that_it_stands_for(server, http, monkeypatch, route, function):
    taken = []

    async def immediate(sent, origin):
        taken.append(read_command(sent))
        raise CommandRefusedError("only looked at")

    monkeypatch.setattr(server.desk, "immediate", immediate)
    method, path = route
    answer = http.request(method, path.replace("{id}", "r7"), params={"session": "A"})
    assert message(answer) == "only looked at"
    (command,) = taken
    assert command.function == function
    assert command.args == (["r7"] if "{id}" in path else [])
    assert (command.kwargs, command.session) == ({}, "A")
    http.request(method, path.replace("{id}", "r7"), json={"key": [1]})
    assert taken[-1].kwargs == {"key": [1]}


def test_the_schema_of_a_shortcut_is_that_of_its_action(server):
    paths = server.app.openapi()["paths"]
    for (method, path), function in SHORTCUTS.items():
        properties = dict(server.desk.registry[function].signature.parameters["properties"])
        if "{id}" in path:
            del properties["id"]
        body = paths[path][method.lower()].get("requestBody")
        described = body["content"]["application/json"]["schema"] if body else {"properties": {}}
        assert set(described["properties"]) == set(properties)
        assert "$defs" not in json.dumps(described)


def test_requests_are_moved_edited_held_and_removed(server, http):
    for id in ("m1", "m2"):
        assert submit(http, id, priority=-5).status_code == 202
    assert http.post("/requests/m2/move", json={"before": "m1"}).status_code == 200
    ids = [one.id for one in server.queue.queued()]
    assert ids.index("m2") == ids.index("m1") - 1
    edited = http.patch("/requests/m1", json={"kwargs": {"exposure": 0.5}, "priority": -7})
    assert edited.status_code == 200
    assert server.queue.get("m1").arguments == {"exposure": 0.5}
    assert server.queue.get("m1").priority == -7
    assert http.post("/requests/m1/hold").json()["message"] == "m1 is held"
    assert server.queue.get("m1").held
    assert http.post("/requests/m1/release").status_code == 200
    assert http.delete("/requests/m1").json()["message"] == "m1 is removed"
    assert http.delete("/requests/m1").status_code == 409


def test_what_has_ended_is_queued_again(server, http):
    assert submit(http, "again", priority=1000).status_code == 202
    assert http.post("/requests/again/retry").status_code == 409
    server.claim()
    server.queue.finish("again", "failed", "dim")
    new = http.post("/requests/again/retry").json()["result"]["id"]
    assert server.queue.get(new).parent == "again"
    resumed = http.post("/requests/again/resume", json={"release": False}).json()["result"]
    assert server.queue.get(resumed["id"]).parent == "again"


@pytest.mark.parametrize(("method", "path"), [route for route in SHORTCUTS if "{id}" in route[1]])
def test_a_shortcut_to_a_request_that_is_not_there_is_404(http, method, path):
    content = {"to": "last"} if path.endswith("move") else None
    answer = http.request(method, path.replace("{id}", "nope"), json=content)
    assert answer.status_code == 404
    assert "nope" in message(answer)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b'{"id": "b"}', "given twice"),
        (b"[]", "kwargs"),
        (b"null", "kwargs is null"),
        (b"\n", "empty"),
        (b"{", "not JSON"),
        (b'{"reason": NaN}', "NaN"),
        (b'{"to": "\\u0000"}', "NUL"),
        (b'{"to": "sideways"}', "to is"),
        (b'{"to": ' + b"[" * 60000 + b"]" * 60000 + b"}", ""),
    ],
)
def test_a_wrong_body_of_a_shortcut_is_refused(http, sent, reason):
    answer = http.post("/requests/a/move", content=sent)
    assert answer.status_code == 422
    assert reason in message(answer)


def test_the_queue_is_held_and_released(server, http):
    assert http.post("/queue/hold", json={"reason": "lunch"}).status_code == 200
    assert http.get("/queue").json()["held"] == "held by gui@127.0.0.1: lunch"
    assert submit(http, "while held").status_code == 422  # a blank in its id
    assert "held by gui" in submit(http, "while.held").json()["message"]
    assert http.post("/queue/release").status_code == 200
    assert http.get("/queue").json()["held"] == ""


@pytest.mark.parametrize("verb", ["pause", "resume", "stop_after_tile", "abort", "halt"])
def test_there_may_be_nothing_to_stop(http, verb):
    answer = http.post(f"/run/{verb}", json={"deadline": 5})
    assert answer.status_code == 200
    assert answer.json()["message"] == "nothing runs"


# Control


@pytest.fixture
def holder(server, http):
    """One who has control, until the test ends."""
    client = server.client("bob")
    assert client.post("/control/ask").status_code == 200
    yield client
    assert server.client("ann").post("/control/take").status_code == 200
    assert server.client("ann").post("/control/release").status_code == 200


def test_only_who_has_control_commands(http, holder):
    assert submit(holder, "his").status_code == 202
    answer = submit(http, "mine")
    assert answer.status_code == 403
    assert answer.json()["id"] == "mine"
    assert "bob@127.0.0.1 has control" in message(answer)
    assert http.delete("/requests/his").status_code == 403
    assert http.post("/queue/hold").status_code == 403
    assert http.get("/control").json()["holder"] == "bob@127.0.0.1"


def test_everybody_may_stop_and_look(http, holder):
    assert http.post("/run/abort").status_code == 200
    assert http.get("/queue").status_code == 200
    assert http.get("/status").json()["controller"] == "bob@127.0.0.1"


def test_control_is_asked_for_and_granted(http, holder):
    assert http.post("/control/ask").json()["result"]["asked_by"] == "gui@127.0.0.1"
    assert http.post("/control/grant").status_code == 403
    assert holder.post("/control/grant").json()["result"]["holder"] == "gui@127.0.0.1"
    assert submit(holder, "his.no.more").status_code == 403


def test_only_staff_takes_and_locks(server, http, holder):
    staff = server.client("ann")
    assert http.post("/control/take").status_code == 403
    assert http.post("/control/lock").status_code == 403
    assert staff.post("/control/lock", json={"reason": "service"}).status_code == 200
    assert "service" in message(submit(holder, "locked.out"))
    assert staff.post("/control/unlock").status_code == 200
    assert submit(holder, "in.again").status_code == 202


def test_a_session_tells_two_of_one_client_apart(server, http, holder):
    staff = server.client("ann")
    staff.post("/control/take")
    staff.post("/control/release")
    assert http.post("/control/ask", params={"session": "A"}).status_code == 200
    assert http.post("/queue/release", params={"session": "A"}).status_code == 200
    assert http.post("/queue/release").status_code == 403
    assert submit(http, "of.a", session="A").status_code == 202
    answer = http.post("/queue/release", params={"session": "\n"})
    assert answer.status_code == 422
    assert "session" in message(answer)


# What goes wrong


@pytest.mark.parametrize(
    "error",
    [DatabaseError("it is gone"), OperationalError("SELECT 1", {}, Exception("it is gone"))],
)
@pytest.mark.parametrize(
    ("method", "path", "broken"),
    [
        ("GET", "/queue", "queued"),
        ("POST", "/commands", "add"),
        ("POST", "/queue/hold", "hold_queue"),
        ("POST", "/run/stop_after_request", "hold_queue"),
        ("POST", "/queue/release", "release_queue"),
    ],
)
def test_a_database_that_does_not_answer_is_told(  # noqa: PLR0917
    server, http, monkeypatch, method, path, broken, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(server.queue, broken, fail)
    content = {"function": "snap"} if path == "/commands" else None
    answer = http.request(method, path, json=content)
    assert answer.status_code == 503
    assert "it is gone" in message(answer)
    assert "SELECT" not in answer.text


def test_what_was_done_is_so_though_the_queue_cannot_be_shown(server, http, monkeypatch):
    def fail() -> int:
        raise DatabaseError("it is gone")

    http.post("/queue/hold")
    assert server.queue.is_held is not None
    monkeypatch.setattr(server.queue, "count", fail)
    assert http.post("/queue/release").status_code == 200
    assert server.queue.is_held is None
    assert "it is gone" in http.get("/status").json()["last_error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/requests/a/b/c", 404),
        ("PUT", "/status", 405),
        ("GET", "/commands", 405),
        ("DELETE", "/control", 405),
    ],
)
def test_paths_and_methods_that_are_not_there_are_refused_in_the_same_form(
    http, method, path, status
):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert f"{method} {path}" in message(answer)


def test_every_route_describes_its_refusals(server):
    for path, operations in server.app.openapi()["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert "400" in statuses
            assert ("401" in statuses) == (path != "/health")
            assert (operation.get("security") == [{"token": []}]) == (path != "/health")
            assert ("413" in statuses) == (method != "get")


def test_routes_have_names_of_their_own(server):
    paths = server.app.openapi()["paths"].values()
    ids = [operation["operationId"] for operations in paths for operation in operations.values()]
    assert len(set(ids)) == len(ids) == len(ROUTES)
