"""`temline up`: what it starts, keeps up and stops; and the other commands beside it."""

import os
import re
import signal

import psutil
import pytest

from services.runtime import free_ports
from tests.commands import press_ctrl_c
from tests.support import wait_until


@pytest.fixture
def environ():
    """Give an instrument with a small camera on ports of its own."""
    epics, tiled, commands, http = free_ports(4)
    return {
        "TEMLINE_EPICS__PORT": str(epics),
        "TEMLINE_TILED__PORT": str(tiled),
        "TEMLINE_SUPERVISOR__PORT": str(commands),
        "TEMLINE_SUPERVISOR__HTTP_PORT": str(http),
        "TEMLINE_IOC__OPTIONS__SENSOR": "[256, 256]",
    }


def running(processes, module):
    """Give the pid of the process that runs a module."""
    return next((one.pid for one in processes if module in one.cmdline()), None)


def listening(pid):
    """Give the addresses that a process listens on."""
    return {
        (one.laddr.ip, one.laddr.port)
        for one in psutil.Process(pid).net_connections()
        if one.status == psutil.CONN_LISTEN
    }


@pytest.mark.timeout(300)
def test_up_keeps_the_instrument_up_and_ends_it_when_it_is_killed(temline, left_over, environ):
    up = temline("up", **environ)
    up.until_said("Join with `temline console`", 120)
    uri = re.search(r"(http://127\.0\.0\.1:\d+)/ui/\?api_key=\w+", up.output)[1]
    assert uri.endswith(environ["TEMLINE_TILED__PORT"])
    assert f"CMD:* on port {environ['TEMLINE_SUPERVISOR__PORT']}" in up.output
    for module in ("services.supervisor", "services.supervisor.worker"):
        assert running(left_over(), module) is not None

    second = temline("up", **environ)
    assert second.wait(60) == 1
    assert f"temline up runs here already (process {up.process.pid}" in second.output

    first_ioc = running(left_over(), "ioc")
    os.kill(first_ioc, signal.SIGKILL)
    up.until_said("ioc ended with signal SIGKILL; starting it again")
    up.until(lambda: running(left_over(), "ioc") not in (None, first_ioc), "new IOC")

    up.process.kill()
    up.process.wait(10)
    wait_until(lambda: left_over() == [], 20, "end of what it had started")


@pytest.mark.timeout(120)
def test_a_port_that_is_taken_is_named(temline, left_over, environ):
    from socket import create_server

    with create_server(("127.0.0.1", int(environ["TEMLINE_EPICS__PORT"]))):
        up = temline("up", **environ)
        assert up.wait(60) == 1
    assert f"port {environ['TEMLINE_EPICS__PORT']} on 127.0.0.1 cannot be used" in up.output
    assert "set epics.port to another port" in up.output
    assert left_over() == []


@pytest.mark.timeout(120)
def test_a_driver_that_cannot_start_is_told_with_its_log(temline, left_over, environ):
    up = temline("up", **environ | {"TEMLINE_IOC__OPTIONS__SENSOR": "[1, 1]"})
    assert up.wait(90) == 1
    assert "ioc ended with exit code 1 before it was ready" in up.output
    assert "CameraSettings.sensor is" in up.output
    assert left_over() == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["up", "ioc"])
def test_a_specimen_that_cannot_be_is_refused_before_anything_starts(
    temline, tmp_path, left_over, environ, command
):
    (tmp_path / "letter.tif").write_text("not an image")
    for name, reason in (
        ("nowhere.tif", "it must be neuropil, points, tape or the path of an image"),
        ("letter.tif", "letter.tif is no image that temline reads"),
    ):
        refused = temline(command, **environ | {"TEMLINE_IOC__OPTIONS__SPECIMEN": name})
        assert refused.wait(90) == 1
        (said,) = refused.lines
        assert reason in said
    assert left_over() == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("command", "words"), [("ioc", "serving"), ("tiled", "Uvicorn running")])
def test_a_server_alone_serves_until_ctrl_c(temline, left_over, environ, command, words):
    server = temline(command, **environ)
    server.until_said(words)
    port = environ["TEMLINE_EPICS__PORT" if command == "ioc" else "TEMLINE_TILED__PORT"]
    server.until(lambda: listening(server.process.pid), "port to listen on")
    assert listening(server.process.pid) == {("127.0.0.1", int(port))}
    press_ctrl_c(server.process, times=1)
    assert server.wait(30) in (0, 130), server.output
    assert left_over() == []
