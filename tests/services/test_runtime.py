"""The lock, the key and the ports of a running temline."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

from services import runtime
from services.runtime import AlreadyRunningError, Instance, PortInUseError

HOLDER = """
import sys, time
from pathlib import Path
from services.runtime import Instance
with Instance(Path(sys.argv[1]), "temline up", {"epics": {"port": 6001}}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Run another process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_a_second_start_is_refused_and_names_the_first(holder, tmp_path):
    with (
        pytest.raises(AlreadyRunningError) as caught,
        Instance(tmp_path, "temline demo", {}),
    ):
        pytest.fail("two instances in one folder")
    message = str(caught.value)
    assert f"temline up runs here already (process {holder.pid}, folder {tmp_path})" in message
    assert "Ctrl-C" in message


def test_a_lock_left_by_a_killed_process_does_not_count(holder, tmp_path):
    assert runtime.running_overrides(tmp_path) == {"epics": {"port": 6001}}
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert runtime.running_overrides(tmp_path) == {}
    with Instance(tmp_path, "temline up", {"epics": {"port": 6002}}):
        assert json.loads((tmp_path / "running.json").read_text())["pid"] == os.getpid()


def test_others_join_a_running_instance_until_it_ends(tmp_path):
    assert runtime.running_overrides(tmp_path) == {}
    with Instance(tmp_path, "temline demo", {"tiled": {"port": 6003}}):
        assert runtime.running_overrides(tmp_path) == {"tiled": {"port": 6003}}
    assert runtime.running_overrides(tmp_path) == {}


def test_a_console_loads_the_configuration_of_what_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMLINE_FOLDER", str(tmp_path))
    with Instance(tmp_path, "temline demo", {"tiled": {"port": 6003}}):
        loaded = runtime.load_joined()
    assert loaded.config.tiled.port == 6003
    assert ("tiled.port", 6003, "the temline that runs here") in loaded.table()


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    folder = tmp_path / "new"
    key = runtime.tiled_key(folder, runtime.SERVER_KEY_VARIABLE, {})
    assert len(key) >= 32
    assert key.isalnum()  # Tiled allows no other characters
    assert runtime.tiled_key(folder, runtime.CLIENT_KEY_VARIABLE, {}) == key
    assert stat.S_IMODE((folder / "tiled.key").stat().st_mode) == 0o600


def test_a_key_of_the_environment_comes_first(tmp_path):
    both = {"TILED_API_KEY": "client", "TILED_SINGLE_USER_API_KEY": "server"}
    assert runtime.tiled_key(tmp_path, runtime.CLIENT_KEY_VARIABLE, both) == "client"
    assert runtime.tiled_key(tmp_path, runtime.SERVER_KEY_VARIABLE, both) == "server"
    assert not (tmp_path / "tiled.key").exists()


def test_free_ports_differ_and_serve_both_protocols():
    ports = runtime.free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as one:
                one.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"port {port} on .* or set tiled.port to"):
            runtime.require_free("127.0.0.1", port, "tiled.port")
    runtime.require_free("127.0.0.1", port, "tiled.port")
