"""The client of the supervising server, where something is wrong between the two."""

import httpx
import pytest

from config import load
from services.client import Client, NoServerError, RefusedError
from services.errors import PlainError
from tests.support import free_port


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMLINE_FOLDER", str(tmp_path))
    monkeypatch.setenv("TEMLINE_SUPERVISOR__HTTP_PORT", str(free_port()))
    monkeypatch.setenv("TEMLINE_TOKEN", "a-token-0123456789")
    return load(None).config


def answering(config, *args, **kwargs):
    """Give a client that gets one answer to everything."""
    return Client(config, httpx.MockTransport(lambda _: httpx.Response(*args, **kwargs)))


def test_where_no_server_is_it_says_where_it_looked_and_how_to_start_one(config):
    with Client(config) as client, pytest.raises(NoServerError) as caught:
        client.get("/status")
    assert str(caught.value) == (
        f"no supervising server answers at http://127.0.0.1:{config.supervisor.http_port}: "
        "start one by `temline up` or `temline supervisor`"
    )


def test_a_refusal_is_the_servers_reason(config):
    answer = {"id": "a", "state": "rejected", "message": "the queue is full"}
    with answering(config, 429, json=answer) as client:
        with pytest.raises(RefusedError, match="^the queue is full$"):
            client.send("POST", "/commands", {})
        with pytest.raises(RefusedError), client.events():
            pass


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_another_server_at_that_port_is_recognized(config, status):
    client = answering(config, status, html="<p>Hello")
    with client, pytest.raises(NoServerError, match="is another server's"):
        client.get("/status")


def test_a_server_that_does_not_answer_in_time_is_gone(config):
    def wait(request):
        raise httpx.ReadTimeout("", request=request)

    client = Client(config, httpx.MockTransport(wait))
    with client, pytest.raises(NoServerError, match="is gone: ReadTimeout"):
        client.get("/status")


def test_the_token_is_sent_and_shown_nowhere(config):
    seen = []

    def answer(request):
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={})

    with Client(config, httpx.MockTransport(answer)) as client:
        client.get("/status")
        assert "a-token" not in repr(client)
    assert seen == ["Bearer a-token-0123456789"]


def test_the_token_of_the_folder_is_used_if_there_is_no_other(config, tmp_path, monkeypatch):
    monkeypatch.delenv("TEMLINE_TOKEN")
    (tmp_path / "command.key").write_text("kept-token-0123456789\n")
    request = []
    with Client(
        config, httpx.MockTransport(lambda r: request.append(r) or httpx.Response(200, json=1))
    ) as client:
        client.get("/status")
    assert request[0].headers["Authorization"] == "Bearer kept-token-0123456789"


def test_a_token_that_cannot_be_one_is_told_without_showing_it(config, monkeypatch):
    monkeypatch.setenv("TEMLINE_TOKEN", "secret\u00e9\nsecret")
    with pytest.raises(PlainError) as caught:
        Client(config)
    assert "TEMLINE_TOKEN" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(config, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(config) as client, pytest.raises(NoServerError, match="no supervising server"):
        client.get("/status")
