"""Executors: threads, processes and a Dask cluster; what becomes of jobs whose worker dies."""

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial

import dask
import psutil
import pytest

from config import load
from services.errors import PlainError
from services.workers import RETRIES, make_executor
from tests.support import free_port, wait_until

WAIT = 60
JOB_TIMEOUT = 1.5


def settings(kind, **environ):
    environ = {"TEMLINE_PROCESSING__EXECUTOR": kind, **environ}
    return load(environ=environ).config


@pytest.fixture
def _quiet_dask():
    """Keep Dask's own log of dying workers out of the tests'."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def make(_quiet_dask):
    """Make executors that are shut down after the test."""
    made = []

    def make_one(kind, **environ):
        made.append(make_executor(settings(kind, **environ)))
        return made[-1]

    yield make_one
    for executor in made:
        executor.shutdown(cancel_futures=True)


KINDS = ["processes", "dask"]


@pytest.mark.parametrize("kind", ["threads", *KINDS])
def test_an_executor_works_and_gives_errors_back(make, kind):
    executor = make(kind)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    assert (executor.submit(os.getpid).result(WAIT) == os.getpid()) == (kind == "threads")
    with pytest.raises(ValueError, match="invalid literal"):
        executor.submit(int, "tile").result(WAIT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_jobs_of_a_worker_that_is_killed_are_done_by_another(make, kind):
    executor = make(kind)
    pid = executor.submit(os.getpid).result(WAIT)
    jobs = [executor.submit(_slowly, number) for number in range(8)]
    os.kill(pid, signal.SIGKILL)
    assert [job.result(WAIT) for job in jobs] == list(range(8))
    assert executor.submit(os.getpid).result(WAIT) != pid


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_kills_or_hangs_each_worker_is_given_up_and_no_other(make, kind, tmp_path):
    executor = make(
        kind, TEMLINE_PROCESSING__JOB_TIMEOUT=str(JOB_TIMEOUT), TEMLINE_PROCESSING__WORKERS="2"
    )
    tries = tmp_path / "tries"
    began = time.monotonic()
    bad = executor.submit(_hang, str(tries))
    good = [executor.submit(_slowly, number) for number in range(4)]
    error = bad.exception(WAIT)
    assert time.monotonic() - began >= (RETRIES + 1) * JOB_TIMEOUT
    assert type(error).__name__ in {"WorkerDiedError", "KilledWorker"}
    assert "died" in str(error)
    assert len(tries.read_text()) == RETRIES + 1
    assert [job.result(WAIT) for job in good] == list(range(4))


def test_a_process_that_dies_costs_its_own_job_only(make, caplog, tmp_path):
    executor = make("processes", TEMLINE_PROCESSING__WORKERS="2")
    told = tmp_path / "told"
    other = executor.submit(_wait_for, str(told))
    assert executor.submit(os._exit, 1).exception(WAIT) is not None
    assert not other.done(), "the other process is at its first job still"
    told.touch()
    assert other.result(WAIT) == 1
    assert caplog.text.count("a worker process died") == RETRIES + 1


@pytest.mark.usefixtures("_quiet_dask")
@pytest.mark.parametrize("kind", ["threads", *KINDS])
def test_each_process_is_warm_before_its_first_job(kind, tmp_path):
    warm = partial(_touch, str(tmp_path))
    executor = make_executor(settings(kind, TEMLINE_PROCESSING__WORKERS="1"), warm)
    with executor:
        pid = executor.submit(os.getpid).result(WAIT)
        assert [path.name for path in tmp_path.iterdir()] == [str(pid)]


def test_workers_that_cannot_be_warmed_up_work_all_the_same(tmp_path):
    warm = partial(_touch, str(tmp_path / "missing"))
    with make_executor(settings("processes", TEMLINE_PROCESSING__WORKERS="1"), warm) as executor:
        assert executor.submit(abs, -1).result(WAIT) == 1


def test_ctrl_c_is_not_the_workers_business(make):
    executor = make("dask", TEMLINE_PROCESSING__WORKERS="1")
    pid = executor.submit(os.getpid).result(WAIT)
    os.kill(pid, signal.SIGINT)
    assert executor.submit(os.getpid).result(WAIT) == pid


def test_what_else_computes_with_dask_is_left_alone(make):
    """Tiled's clients do, in the same process: before and after the cluster has ended."""
    executor = make("dask", TEMLINE_PROCESSING__WORKERS="1")
    assert executor.submit(abs, -1).result(WAIT) == 1
    here = dask.delayed(os.getpid)
    assert here().compute() == os.getpid()
    executor.shutdown()
    assert here().compute() == os.getpid()


@pytest.mark.usefixtures("_quiet_dask")
def test_clusters_stand_side_by_side_and_listen_to_this_machine_only(make):
    for executor in (make("dask"), make("dask")):
        assert executor.submit(abs, -1).result(WAIT) == 1
    here = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_scheduler_that_does_not_answer_is_named():
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(PlainError) as caught:
        make_executor(
            settings(
                "dask",
                TEMLINE_PROCESSING__DASK__ADDRESS=address,
                TEMLINE_PROCESSING__DASK__TIMEOUT="0.5",
            )
        )
    assert f"no Dask scheduler answers at {address} within 0.5 s" in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PlainError, match=r"pip install 'temline\[dask\]'"):
        make_executor(settings("dask"))


OWNER = """
import os, sys
from config import load
from services.workers import make_executor

if __name__ == "__main__":
    executor = make_executor(load(environ={"TEMLINE_PROCESSING__EXECUTOR": sys.argv[1]}).config)
    print(executor.submit(os.getpid).result(60), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_worker_processes_end_when_their_owner_is_killed(tmp_path, alive, kind):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, script, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # of the semaphores that a killed process leaves
        text=True,
    )
    try:
        worker = int(owner.stdout.readline())
        assert alive(worker)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        owner.stdin.close()
        owner.stdout.close()
    wait_until(lambda: not alive(worker), 20, "end of the worker")


def _slowly(number):
    time.sleep(0.05)
    return number


def _touch(folder):
    open(os.path.join(folder, str(os.getpid())), "x").close()


def _wait_for(path):
    """Give the number of times that it was called."""
    with open(f"{path}-tries", "a+") as file:
        file.write("x")
    wait_until(lambda: os.path.exists(path), WAIT)
    return os.path.getsize(f"{path}-tries")


def _hang(path):
    with open(path, "a") as file:
        file.write("x")
    time.sleep(WAIT)
