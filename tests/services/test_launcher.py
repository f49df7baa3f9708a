"""The launcher with real child processes: start, restart, limit, stop, and a killed parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.launcher import Launcher, LaunchError, Service, tail
from tests.support import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sleeper is a module of the tests


@pytest.fixture
def sleeper(tmp_path):
    """Describe a sleeper that behaves in the ways given."""

    def describe(*ways: str, name: str = "sleeper", **more) -> Service:
        pid_file = tmp_path / f"{name}.pid"
        return Service(
            name, "tests.services.sleeper", pid_file.exists, (str(pid_file), *ways), **more
        )

    return describe


def test_processes_start_side_by_side_with_a_log_each_and_stop_at_once(sleeper, tmp_path, alive):
    with Launcher(tmp_path / "log") as launcher:
        launcher.start(sleeper(name="one"), sleeper(name="two"))
        launcher.wait()
        pids = launcher.pids
        assert set(pids) == {"one", "two"}
        assert all(alive(pid) for pid in pids.values())
        assert pids["one"] == int((tmp_path / "one.pid").read_text())
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    assert not any(alive(pid) for pid in pids.values())
    assert "sleeper starts" in (tmp_path / "log" / "two.log").read_text()
    assert launcher.pids == {}


def test_a_deaf_process_and_what_it_started_are_killed(sleeper, tmp_path, alive, monkeypatch):
    monkeypatch.setattr(
        "services.launcher.STOP_SIGNALS",
        ((signal.SIGINT, 0.3), (signal.SIGTERM, 0.3), (signal.SIGKILL, 5.0)),
    )
    with Launcher(tmp_path / "log") as launcher:
        launcher.start(sleeper("deaf", "child"))
        launcher.wait()
        pid = launcher.pids["sleeper"]
        child = int((tmp_path / "sleeper.pid.child").read_text())
        assert alive(child)
    assert not alive(pid)
    assert not alive(child)


def test_a_process_that_ends_before_it_is_ready_is_an_error_with_its_log(sleeper, tmp_path):
    with Launcher(tmp_path / "log") as launcher:
        launcher.start(sleeper("fail"))
        with pytest.raises(LaunchError) as caught:
            launcher.wait()
    message = str(caught.value)
    assert "sleeper ended with exit code 1 before it was ready" in message
    assert "the sleeper fails, as it was told" in message
    assert str(tmp_path / "log" / "sleeper.log") in message


def test_a_process_that_is_never_ready_is_an_error_and_is_stopped(sleeper, tmp_path, alive):
    never = Service(
        "sleeper",
        "tests.services.sleeper",
        lambda: False,
        (str(tmp_path / "pid"),),
        start_timeout=1.0,
    )
    with Launcher(tmp_path / "log") as launcher:
        launcher.start(never)
        with pytest.raises(LaunchError, match="was not ready after 1 s"):
            launcher.wait()
        pid = launcher.pids["sleeper"]
    assert not alive(pid)


def test_a_process_that_died_is_started_again_up_to_a_limit(sleeper, tmp_path, alive, caplog):
    with Launcher(tmp_path / "log", restarts=2, within=60) as launcher:
        launcher.start(sleeper())
        launcher.wait()
        seen = {launcher.pids["sleeper"]}
        for _ in range(2):
            (tmp_path / "sleeper.pid").unlink()
            os.kill(launcher.pids["sleeper"], signal.SIGKILL)
            wait_until((tmp_path / "sleeper.pid").exists, 20, "restarted sleeper")
            seen.add(launcher.pids["sleeper"])
        os.kill(launcher.pids["sleeper"], signal.SIGKILL)
        wait_until(lambda: "is left alone" in caplog.text, 20, "message that it is left alone")
        assert launcher.pids == {}
    assert len(seen) == 3
    assert "sleeper ended with signal SIGKILL; starting it again" in caplog.text
    assert "it was restarted 2 times in 60 s already" in caplog.text
    assert (tmp_path / "log" / "sleeper.log").read_text().count("sleeper starts") == 3


def test_old_deaths_do_not_count(sleeper, tmp_path):
    with Launcher(tmp_path / "log", restarts=1, within=0.2) as launcher:
        launcher.start(sleeper())
        launcher.wait()
        for _ in range(2):
            time.sleep(0.25)  # the time within which deaths count
            (tmp_path / "sleeper.pid").unlink()
            os.kill(launcher.pids["sleeper"], signal.SIGKILL)
            wait_until((tmp_path / "sleeper.pid").exists, 20, "restarted sleeper")


def test_the_log_of_the_time_before_is_kept(sleeper, tmp_path):
    for name in ("first", "second"):
        with Launcher(tmp_path / "log") as launcher:
            launcher.start(sleeper(name))
            launcher.wait()
        (tmp_path / "sleeper.pid").unlink()
    assert "second" in (tmp_path / "log" / "sleeper.log").read_text()
    assert "first" in (tmp_path / "log" / "sleeper.log.1").read_text()


def test_keys_reach_a_process_by_its_environment_only(sleeper, tmp_path):
    with Launcher(tmp_path / "log") as launcher:
        launcher.start(sleeper(environment={"A_KEY": "hush"}))
        launcher.wait()
        process = psutil.Process(launcher.pids["sleeper"])
        assert process.environ()["A_KEY"] == "hush"
        assert "hush" not in " ".join(process.cmdline())


@pytest.mark.parametrize("ways", [(), ("deaf", "child")])
def test_when_the_parent_is_killed_its_children_end(tmp_path, alive, ways):
    parent = subprocess.Popen([sys.executable, "-m", "tests.services.owner", tmp_path, *ways])
    pids = []
    try:
        wait_until((tmp_path / "up").exists, 20, "child")
        pids = [int(file.read_text()) for file in tmp_path.glob("pid*")]
        assert len(pids) == 1 + ("child" in ways)
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait(10)
    wait_until(lambda: not any(map(alive, pids)), 20, "end of the children")


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    file = tmp_path / "a.log"
    file.write_text("".join(f"line {i}\n" for i in range(100)))
    lines = tail(file, 3).splitlines()
    assert lines[0].endswith("a.log:")
    assert [line.strip() for line in lines[1:]] == ["line 97", "line 98", "line 99"]
    assert "it is empty" in tail(Path(os.devnull))
    assert "cannot be read" in tail(tmp_path / "none.log")
