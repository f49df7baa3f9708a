"""The Tiled server as a process: it serves with its key, refuses without, and keeps its data."""

import os
import subprocess
import sys

import numpy as np
import pytest

from services.launcher import Launcher, Service
from services.runtime import SERVER_KEY_VARIABLE, free_ports
from services.tiled_server import TiledSettings, answers

KEY = "secret123"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiled")


@pytest.fixture(scope="module")
def settings(folder):
    (port,) = free_ports(1)
    return TiledSettings("127.0.0.1", port, str(folder / "tiled"), (str(folder / "data"),))


@pytest.fixture(scope="module")
def service(folder, settings):
    settings.write(folder / "tiled.json")
    return Service(
        "tiled",
        "services.tiled_server",
        lambda: answers(settings.uri),
        (str(folder / "tiled.json"),),
        {SERVER_KEY_VARIABLE: KEY},
    )


@pytest.fixture(scope="module")
def launcher(folder, service):
    with Launcher(folder / "log") as launcher:
        launcher.start(service)
        launcher.wait()
        yield launcher


@pytest.fixture
def client(launcher, settings):
    from tiled.client import from_uri

    return from_uri(settings.uri, api_key=KEY)


def test_a_client_with_the_key_writes_and_reads(client):
    image = np.arange(1024 * 600, dtype=np.uint16).reshape(1024, 600)
    client.write_array(image, key="image")
    np.testing.assert_array_equal(client["image"][500:510, 3:5], image[500:510, 3:5])


def test_tables_are_kept_too(client):
    import pyarrow

    table = client.create_appendable_table(
        pyarrow.schema([("x", pyarrow.float64())]), key="positions"
    )
    table.append_partition(0, pyarrow.table({"x": [1.0, 2.0]}))
    table.append_partition(0, pyarrow.table({"x": [3.0]}))
    assert table.read()["x"].tolist() == [1.0, 2.0, 3.0]


def test_a_client_without_the_key_is_refused(launcher, settings, monkeypatch):
    import httpx

    monkeypatch.delenv("TILED_API_KEY", raising=False)
    address = f"{settings.uri}/api/v1/metadata/"
    assert httpx.get(address).status_code == 401
    assert httpx.get(address, params={"api_key": "wrong"}).status_code == 401
    assert httpx.get(address, params={"api_key": KEY}).status_code == 200


def test_its_web_page_is_served(launcher, settings):
    import httpx

    page = httpx.get(f"{settings.uri}/ui/", params={"api_key": KEY})
    assert page.status_code == 200
    assert "<html" in page.text


def test_it_binds_to_loopback_only(launcher):
    import psutil

    listening = [
        one.laddr.ip
        for one in psutil.Process(launcher.pids["tiled"]).net_connections()
        if one.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_a_restarted_server_has_what_was_written(folder, settings, launcher, service, client):
    client.write_array(np.ones(3), key="kept")
    launcher.stop()
    assert not answers(settings.uri)
    with Launcher(folder / "log") as again:
        again.start(service)
        again.wait()
        from tiled.client import from_uri

        assert from_uri(settings.uri, api_key=KEY)["kept"].read().sum() == 3


def test_without_a_key_it_does_not_start(folder, settings):
    environ = {name: value for name, value in os.environ.items() if name != SERVER_KEY_VARIABLE}
    settings.write(folder / "tiled.json")
    result = subprocess.run(
        [sys.executable, "-m", "services.tiled_server", folder / "tiled.json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "TILED_SINGLE_USER_API_KEY is not set" in result.stderr
