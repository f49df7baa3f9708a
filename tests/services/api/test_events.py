"""Server-sent events: what clients are told, and what becomes of those that are slow or go."""

import contextlib
import socket
import time

import httpx
import pytest

from services.api import events
from services.client import read_events
from services.supervisor.status import Reply
from tests.services.api.lab import TOKENS, Server
from tests.support import wait_until


@contextlib.contextmanager
def watching(server: Server, name: str = "gui"):
    """Give the events of a client."""
    with server.client(name).stream("GET", "/events") as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield read_events(response.iter_lines())


@contextlib.contextmanager
def not_reading(server: Server):
    """Give the connection of a client that asks for events, and reads none."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(
            f"GET /events HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['gui']}"
            "\r\n\r\n".encode()
        )
        yield connection


def until_streams(server: Server, number: int) -> None:
    wait_until(lambda: server.streams == number, 10.0, f"{number} streams are open")


def test_a_stream_begins_with_the_whole_status_and_goes_on_with_what_changes(server):
    with watching(server) as told:
        assert next(told) == ("status", server.board.status.as_json())
        server.run(server.board.set(message="a tile", progress=12.5))
        assert next(told) == ("status", {"message": "a tile", "progress": 12.5})
        server.run(server.board.set(message="a tile"))  # nothing new
        server.run(server.board.reply(Reply("r1", "snap", "done", runs=("uid",))))
        content = {"id": "r1", "function": "snap", "state": "done", "message": "", "runs": ["uid"]}
        assert next(told) == ("reply", content)
        server.run(server.board.reply(Reply("a1", "queue", "done", result=1), to_action=True))
        assert next(told)[0] == "action"


def test_what_is_commanded_by_http_is_told(server, http):
    with watching(server, "bob") as told:
        next(told)
        http.post("/commands", json={"id": "told", "function": "snap"})
        by_topic = dict([next(told), next(told)])
        assert by_topic["reply"]["state"] == "accepted"
        assert by_topic["status"]["queue_length"] == 1
        http.post("/commands", json={"id": "told", "function": "snap"})
        topic, content = next(told)
        assert (topic, content["id"], content["state"]) == ("reply", "told", "rejected")
        http.delete("/requests/told")
        topics = {next(told)[0], next(told)[0]}
        assert topics == {"status", "action"}


def test_the_ids_increase(server):
    with server.client().stream("GET", "/events") as response:
        lines = response.iter_lines()
        ids = []
        for number in range(5):
            ids.append(int(next(line for line in lines if line.startswith("id: "))[4:]))
            server.run(server.board.set(message=f"number {number}"))
    assert ids == list(range(ids[0], ids[0] + 5))


def test_two_clients_are_told_the_same(server):
    with watching(server) as one, watching(server, "ann") as other:
        assert next(one) == next(other)
        server.run(server.board.set(message="for both"))
        assert next(one) == next(other) == ("status", {"message": "for both"})


def test_texts_of_all_kinds_arrive_as_they_are(server):
    text = "µm\n\ndata: x\r\n\u2028id: 7 \x85 {}"
    with watching(server) as told:
        next(told)
        server.run(server.board.set(message=text))
        assert next(told) == ("status", {"message": text})


def test_a_silent_stream_is_kept_alive(server, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    with server.client().stream("GET", "/events") as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":"))


def test_a_client_that_goes_is_forgotten(server):
    until_streams(server, 0)
    with watching(server) as told:
        next(told)
        until_streams(server, 1)
    until_streams(server, 0)


def test_a_client_that_does_not_read_is_dropped_and_the_others_are_not(server):
    announced = 300
    with not_reading(server) as slow, watching(server) as told:
        next(told)
        until_streams(server, 2)
        for number in range(announced):
            server.run(server.board.reply(Reply(str(number), "x", "done", "y" * 2**15)))
            assert next(told)[1]["id"] == str(number)
        # All that is kept of 10 MB is the last event; the first megabytes are in sockets' buffers.
        waiting = [len(stream._waiting) for stream in server.app.state.events._streams]
        assert sorted(waiting) == [0, 1]
        received = b""
        while part := slow.recv(2**16):
            received += part
        last = list(read_events(received.decode().split("\r\n\r\n", 1)[1].splitlines()))
        assert last[-1] == ("end", {"reason": "this client reads too slowly"})
        assert 1 < len(last) < announced
        until_streams(server, 1)
        server.run(server.board.set(message="after that"))
        assert next(told) == ("status", {"message": "after that"})


def test_there_are_not_more_streams_than_a_limit(server, monkeypatch):
    monkeypatch.setattr(events, "MOST_STREAMS", 2)
    with watching(server), watching(server, "ann"):
        until_streams(server, 2)
        answer = server.client().get("/events")
        assert answer.status_code == 429
        assert "2 clients" in answer.json()["message"]
    until_streams(server, 0)
    with watching(server) as told:
        assert next(told)[0] == "status"


def test_a_server_that_ends_tells_and_does_not_wait(make_server):
    server = make_server()
    with watching(server) as told, not_reading(server):
        next(told)
        until_streams(server, 2)
        before = time.monotonic()
        server.http.should_exit = True
        assert next(told) == ("end", {"reason": "the server ends"})
        assert next(told, None) is None
        server._thread.join(5.0)
        assert not server._thread.is_alive()
        assert time.monotonic() - before < 4.0


def test_a_server_that_ends_drops_even_a_client_that_reads_nothing(make_server):
    server = make_server()
    with not_reading(server):
        until_streams(server, 1)
        for number in range(200):
            server.run(server.board.reply(Reply(str(number), "x", "done", "y" * 2**15)))
        server.http.should_exit = True
        server._thread.join(6.0)
        assert not server._thread.is_alive()


def test_a_stream_needs_a_token_before_anything_is_told(server):
    answer = httpx.get(f"{server.uri}/events")
    assert answer.status_code == 401
    assert "status" not in answer.json()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["event: status", 'data: {"a": 1}', "id: 3", ""], [("status", {"a": 1})]),
        ([": ping", "", "event: end", "data: 1", ""], [("end", 1)]),
        (["event: status", "data: [1,", "data: 2]", ""], [("status", [1, 2])]),
        (["event: status", "data: 1"], []),
        ([], []),
    ],
)
def test_events_are_read(lines, expected):
    assert list(read_events(lines)) == expected
