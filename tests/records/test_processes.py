"""Many processes on one queue, and processes that are killed: nothing is lost or done twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select

from records.models import TransitionRow
from tests.support import REPOSITORY

WORKER = [sys.executable, "-m", "tests.records.worker"]


@pytest.fixture
def start(url: str) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start processes that are gone after the test."""
    started: list[subprocess.Popen] = []

    def start_one(command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*WORKER, command, url], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def next_word(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def together(command: str, url: str, many: int) -> list[list[str]]:
    """Run processes that begin together; gives the lines that they say."""
    run = [*WORKER, command, url, str(many)]
    done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_eight_processes_claim_each_request_once_and_in_order(queue, engine, url, new):
    priorities = random.Random(7).choices(range(4), k=200)
    queue.add(*(new(f"r{number}", priority=p) for number, p in enumerate(priorities)))
    order = [request.id for request in queue.queued()]

    claimed = together("claim_all", url, many=8)

    assert sorted(id for id, _ in claimed) == sorted(order)
    assert len({worker for _, worker in claimed}) > 1, "one had them all: nothing was tested"
    assert {request.id: request.worker for request in queue.running()} == dict(claimed)
    steps = select(TransitionRow.request).where(TransitionRow.new == "running")
    with engine.connect() as connection:
        assert connection.scalars(steps.order_by(TransitionRow.number)).all() == order


def test_a_process_that_is_killed_leaves_its_request_running_until_it_is_reconciled(
    queue, new, start
):
    queue.add(new("a"), new("b"))
    process = start("claim_and_stop")
    assert next_word(process) == "a"
    process.kill()
    process.wait()

    assert queue.get("a").state == "running"
    assert queue.reconcile("another") == ()
    (request,) = queue.reconcile("dying")
    assert (request.id, request.state) == ("a", "interrupted")
    assert [step.new for step in queue.transitions("a")] == ["queued", "running", "interrupted"]
    assert queue.claim("living").id == "b"


def test_a_process_that_is_killed_amid_a_claim_has_not_claimed(queue, new, start):
    queue.add(new("a"))
    before = queue.revision
    process = start("stop_amid_claim")
    assert next_word(process) == "stopped"
    process.kill()
    process.wait()

    assert queue.claim("living").id == "a"
    assert [step.new for step in queue.transitions("a")] == ["queued", "running"]
    assert queue.revision == before + 1


def test_what_was_accepted_is_there_after_a_kill(queue, start):
    process = start("add_for_ever")
    accepted = [next_word(process) for _ in range(50)]
    process.kill()
    accepted += process.communicate()[0].split()

    found = [request.id for request in queue.queued()]
    assert found[: len(accepted)] == accepted
    assert len(found) <= len(accepted) + 1, "one may have been cut off before it was answered"


def test_processes_open_an_empty_database_at_once(empty_url):
    assert together("open_it", empty_url, many=4) == [["opened"]] * 4
