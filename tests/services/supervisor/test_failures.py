"""kill -9 of worker, server, Tiled and IOC, and a hang: safe, true, nothing lost, resumable."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from services.resume import tiles_of
from tests.callbacks.tiled import KEY, TiledProcess
from tests.services.supervisor.lab import SupervisorProcess
from tests.support import start_ioc, wait_until

MONTAGE = {
    "roi": {"centre": [0, 0], "width": 1.4, "height": 1.4},
    "exposure": 0.2,
    "settle": 0,
    "gate": False,
}
Make = Callable[..., SupervisorProcess]


def begin(supervisor: SupervisorProcess, plan: str = "montage", **changes) -> str:
    id = supervisor.command(plan, kwargs=MONTAGE | changes)
    wait_until(lambda: supervisor.get("CurrentRequest") == id, 20, "request")
    try:
        wait_until(lambda: 5 < supervisor.get("Progress") < 90, 30, "tiles")
    except AssertionError as error:
        raise AssertionError(f"{error}: {supervisor.status()}\n{supervisor.output()}") from None
    return id


@dataclass(frozen=True)
class Instrument:
    """A server with all that it works with, which most tests here share."""

    supervisor: SupervisorProcess
    tiled: TiledProcess


@pytest.fixture(scope="module")
def instrument(module_ioc, make_supervisors: Make, tmp_path_factory) -> Iterator[Instrument]:
    ioc = module_ioc(sensor=(128, 128))
    tiled = TiledProcess(tmp_path_factory.mktemp("tiled"), ioc.data_root)
    tiled.start()
    supervisor = make_supervisors(
        ioc=ioc,
        TEMLINE_TILED__URI=tiled.uri,
        TILED_API_KEY=KEY,
        TEMLINE_SUPERVISOR__HANG_TIMEOUT=6,
        TEMLINE_SUPERVISOR__DEADLINES__HALT=1,
    )
    yield Instrument(supervisor.start(), tiled)
    supervisor.stop()  # before Tiled, for which it would wait
    tiled.kill()


@pytest.fixture
def supervisor(instrument: Instrument) -> Iterator[SupervisorProcess]:
    """Give the shared server, idle and with an empty queue that is free."""
    shared = instrument.supervisor
    yield shared
    shared.until_state("idle", timeout=60)
    for request in shared.http("GET", "/queue").json()["queued"]:
        shared.immediate("remove", kwargs={"id": request["id"]})
    shared.immediate("release_queue")
    wait_until(lambda: shared.get("QueueHeld") == "", 5, "free queue")


@pytest.mark.parametrize("plan", ["montage", "fly_montage"])
def test_worker_is_killed_in_a_montage_which_is_resumed(
    instrument: Instrument, supervisor: SupervisorProcess, plan
):
    server = instrument.tiled
    id = begin(supervisor, plan)
    after = supervisor.command("snap")
    killed = supervisor.worker
    os.kill(killed, signal.SIGKILL)
    supervisor.until_state("fault")
    wait_until(lambda: supervisor.is_safe, 10, "safe hardware")
    interrupted = supervisor.until_ended(id)
    assert interrupted["state"] == "interrupted"
    assert "SIGKILL" in interrupted["message"]
    assert len(interrupted["run_uids"]) == 1

    supervisor.until_state("idle", timeout=60)
    assert supervisor.worker not in {0, killed}
    assert supervisor.request(after)["state"] == "queued"  # nothing goes on by itself
    assert id in supervisor.get("QueueHeld")

    reply = supervisor.http("POST", f"/requests/{id}/resume").json()
    resumed = supervisor.until_ended(reply["result"]["id"])
    assert resumed["state"] == "done", (resumed, supervisor.output())
    assert resumed["parent"] == id
    assert supervisor.until_ended(after)["state"] == "done"
    uids = interrupted["run_uids"] + resumed["run_uids"]
    wait_until(
        lambda: all(server.client()[uid].metadata.get("stop") for uid in uids), 30, "runs", 0.2
    )
    runs = [server.client()[uid] for uid in uids]
    assert runs[1].metadata["start"]["continues"] == runs[0].metadata["start"]["uid"]
    tiles = Counter(tiles_of(runs[0]) + tiles_of(runs[1]))
    assert tiles == dict.fromkeys(range(runs[0].metadata["start"]["montage"]["n_tiles"]), 1)


def test_server_is_killed_and_started_again(supervisor: SupervisorProcess):
    id = begin(supervisor)
    after = supervisor.command("snap", priority=7)
    worker = psutil.Process(supervisor.worker)
    supervisor.kill()
    wait_until(lambda: supervisor.is_safe, 10, "safe hardware")
    worker.wait(15)  # which does not outlive its server

    supervisor.start()
    assert supervisor.request(id)["state"] == "interrupted"
    assert supervisor.request(after)["state"] == "queued"
    assert id in supervisor.get("QueueHeld")
    assert supervisor.get("CurrentRequest") == ""
    supervisor.immediate("release_queue")
    assert supervisor.until_ended(after)["state"] == "done"
    assert supervisor.request(id)["state"] == "interrupted"


def test_tiled_is_killed_and_nothing_waits_for_it(
    instrument: Instrument, supervisor: SupervisorProcess
):
    id = begin(supervisor)
    instrument.tiled.kill()
    try:
        done = supervisor.until_ended(id)
        assert done["state"] == "done"
        assert (supervisor.folder / "backup" / f"{done['run_uids'][0]}.jsonl").exists()
        assert supervisor.until_ended(supervisor.command("snap"))["state"] == "done"
    finally:
        instrument.tiled.start()


def test_ioc_is_killed_and_comes_back(make_supervisors: Make, tmp_path: Path):
    ioc = start_ioc(tmp_path, sensor=(128, 128))
    supervisor = make_supervisors(ioc=ioc).start()
    try:
        id = begin(supervisor)
        after = supervisor.command("snap")
        ioc.kill()
        failed = supervisor.until_ended(id, 90)
        assert failed["state"] in {"failed", "interrupted"}
        supervisor.until_state("fault")
        assert "NOT SAFE" in supervisor.get("LastError")
        assert supervisor.request(after)["state"] == "queued"
        assert id in supervisor.get("QueueHeld")
        restart(ioc)
        supervisor.until_state("idle", timeout=60)
        assert supervisor.is_safe
        supervisor.immediate("release_queue")
        done = supervisor.until_ended(after, 60)
        assert done["state"] == "done", (done, supervisor.output())
        end_in_a_montage(supervisor)
    finally:
        ioc.stop()


def end_in_a_montage(supervisor: SupervisorProcess) -> None:
    """See that a server that is ended leaves no process, and the hardware safe."""
    begin(supervisor)
    worker = supervisor.worker
    assert supervisor.stop() == 0
    assert not psutil.pid_exists(worker)
    assert supervisor.is_safe


def restart(ioc) -> None:
    """Start an IOC again as it was, at its port."""
    import subprocess
    import sys

    from tests.support import REPOSITORY, _wait_until_ready

    with ioc.log.open("wb") as output:
        ioc.process = subprocess.Popen(
            [sys.executable, "-m", "ioc", "--settings", str(ioc.log.with_name("ioc.json"))],
            cwd=REPOSITORY,
            env={**os.environ, "EPICS_CA_SERVER_PORT": str(ioc.port)},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    _wait_until_ready(ioc)


def test_a_worker_that_hangs_is_replaced(supervisor: SupervisorProcess):
    id = begin(supervisor)
    hung = supervisor.worker
    os.kill(hung, signal.SIGSTOP)
    interrupted = supervisor.until_ended(id, 30)
    assert interrupted["state"] == "interrupted"
    wait_until(lambda: supervisor.is_safe, 10, "safe hardware")
    supervisor.until_state("idle", timeout=60)
    assert supervisor.worker != hung
    assert not psutil.pid_exists(hung)


def test_abort_and_halt_that_are_not_obeyed_kill_the_worker(supervisor: SupervisorProcess):
    id = begin(supervisor)
    os.kill(supervisor.worker, signal.SIGSTOP)
    supervisor.immediate("abort", kwargs={"deadline": 1})
    supervisor.immediate("abort")  # said again, it has no more time
    interrupted = supervisor.until_ended(id, 5)  # sooner than a hang is noticed
    assert interrupted["state"] == "interrupted"
    assert "SIGKILL" in interrupted["message"]
    wait_until(lambda: supervisor.is_safe, 10, "safe hardware")


def test_a_second_server_is_refused_and_told_by_whom(
    supervisor: SupervisorProcess, make_supervisors: Make
):
    second = make_supervisors(
        ioc=supervisor.ioc, TEMLINE_EPICS__ADDRESSES=f"[127.0.0.1:{supervisor.port}]"
    )
    second.start(until_ready=False)
    assert second.process.wait(60) == 1
    assert f"pid {supervisor.process.pid}" in second.output()
    assert supervisor.get("State") == "idle"
