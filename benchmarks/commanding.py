"""How fast the supervising server takes commands, tells of changes, and refuses what is bad.

A server with its plan worker and a virtual microscope, all in processes of their own; the clients
are pyepics. The clock is that of the whole machine, so that moments of two processes compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from uuid import uuid4

import psutil

from benchmarks._report import Result, run
from tests import support  # first of all imports that read the EPICS environment
from tests.monitors import monitored
from tests.services.supervisor import hostile
from tests.services.supervisor.lab import SupervisorProcess

COMMANDS, QUICK_COMMANDS = 100_000, 3_000
STARTS, PAUSES, ACTIONS = 200, 60, 200
MOST = 50.0  # ms, from a command to the plan, and from a change to a monitor
MOST_BEHIND_FLOOD = 100.0  # ms
MOST_GROWTH = 10.0  # MB
SEEN = 2_000  # commands after which all that is kept is made

PLANS = """
import time
from bluesky import Msg

def first_message(path: str):
    '''Note when the first message is dealt with.

    Parameters
    ----------
    path : str
        Where to.
    '''
    yield Msg("null")
    with open(path, "w") as file:
        file.write(repr(time.monotonic()))

def wait_long():
    '''Wait, where it can be paused.'''
    while True:
        yield Msg("checkpoint")
        yield Msg("sleep", None, 0.005)
"""
ENTRY_POINTS = """[temline.plans]
first_message = benchmark_plans:first_message
wait_long = benchmark_plans:wait_long
"""


def site_with_plans(folder: Path) -> Path:
    """Make a package that brings its own plans, as a site does."""
    (folder / "benchmark_plans.py").write_text(PLANS)
    about = folder / "benchmark_plans-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark-plans\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def percentile(values: list[float], share: float) -> float:
    """Give the value that a share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def starts(server: SupervisorProcess, note: Path, count: int) -> list[float]:
    """Measure from the writing of a command to the first message of its plan, in ms."""
    delays = []
    support.put(server.pv("Command"), "{}")  # so that the client is connected
    for _ in range(count):
        note.unlink(missing_ok=True)
        began = time.monotonic()
        id = uuid4().hex
        support.put(
            server.pv("Command"),
            json.dumps({"id": id, "function": "first_message", "kwargs": {"path": str(note)}}),
        )
        support.wait_until(lambda: note.exists() and note.read_text(), 10, "plan", 0.001)
        delays.append(1e3 * (float(note.read_text()) - began))
        server.until_ended(id)
    return delays


def pauses(server: SupervisorProcess, count: int) -> list[float]:
    """Measure from the writing of pause and resume to the change of State at a monitor, in ms."""
    server.command("wait_long")
    server.until_state("running")
    delays = []
    names = ("idle", "running", "paused")
    with monitored(server.pv("State")) as (seen,):
        for _ in range(count):
            for action, wanted in (("pause", "paused"), ("resume", "running")):
                known = len(seen)
                began = time.monotonic()
                support.put(server.pv("Immediate"), json.dumps({"function": action}))

                def changed(known: int = known, wanted: str = wanted) -> bool:
                    return any(value == names.index(wanted) for _, value in seen[known:])

                support.wait_until(changed, 10, wanted, 0.0005)
                delays.append(1e3 * (seen[-1][0] - began))
    server.immediate("abort")
    server.until_state("idle")
    server.immediate("release_queue")
    return delays


def refusals(server: SupervisorProcess, count: int) -> Iterator[Result]:
    """Send bad commands, one after the other, and look at each reply."""
    from tests.services.supervisor.test_hostile import Writer

    process = psutil.Process(server.process.pid)
    writer = Writer(server)
    for sent in islice(hostile.commands(1), SEEN):
        writer.write(sent)
    before = process.memory_info().rss
    refused = 0
    began = time.monotonic()
    for sent in islice(hostile.commands(2), count):
        reply = writer.write(sent)
        refused += reply["state"] == "rejected" and bool(reply["message"])
    seconds = time.monotonic() - began
    grown = (process.memory_info().rss - before) / 1e6
    writer.close()
    yield Result(
        "bad commands refused with a reason",
        refused,
        "",
        "sent",
        count,
        goal=1.0,
        better="more",
        goal_is_ratio=True,
    )
    yield Result("answers to bad commands", count / seconds, "/s")
    yield Result(f"memory of the server, after {count}", grown, "MB", goal=MOST_GROWTH)
    done = server.until_ended(server.command("make_safe"))
    yield Result("and the next good command", float(done["state"] == "done"), "", goal=1.0,
                 better="more")  # fmt: skip


def actions(server: SupervisorProcess, count: int, flooders: int) -> list[float]:
    """Measure actions, from writing to reply, beside clients that flood Command, in ms."""
    with ExitStack() as stack:
        for _ in range(flooders):
            flooder = stack.enter_context(client(server, "flood"))
            if flooder.stdout.readline() != "flooding\n":
                raise RuntimeError("a flooding client did not start")
            stack.callback(flooder.kill)
        asking = stack.enter_context(client(server, "immediate", str(count)))
        text, _ = asking.communicate(timeout=300)
    return [1e3 * delay for delay in json.loads(text)]


def client(server: SupervisorProcess, *arguments: str) -> subprocess.Popen[str]:
    """Start a client in a process of its own."""
    what, *more = arguments
    return subprocess.Popen(
        [sys.executable, "-m", "tests.services.supervisor.clients", what, server.prefix, *more],
        cwd=support.REPOSITORY,
        env=os.environ | server.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def measure(quick: bool) -> Iterator[Result]:
    """Measure all, with one server."""
    share = 10 if quick else 1
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "site").mkdir()
        ioc = support.start_ioc(folder, sensor=(128, 128))
        stack.callback(ioc.stop)
        server = SupervisorProcess(
            folder / "server", ioc, PYTHONPATH=str(site_with_plans(folder / "site"))
        )
        stack.callback(server.stop)
        server.start()
        alone = actions(server, ACTIONS // share, flooders=0)
        yield Result("an action, p99", percentile(alone, 0.99), "ms")
        delays = starts(server, folder / "note", STARTS // share)
        yield Result("command to first message, p50", median(delays), "ms")
        yield Result(
            "command to first message, p99",
            percentile(delays, 0.99),
            "ms",
            "an action, p99",
            percentile(alone, 0.99),
            goal=MOST,
        )
        changes = pauses(server, PAUSES // share)
        yield Result("pause and resume to State at a monitor, p50", median(changes), "ms")
        yield Result(
            "pause and resume to State at a monitor, p99",
            percentile(changes, 0.99),
            "ms",
            "an action, p99",
            percentile(alone, 0.99),
            goal=MOST,
        )
        flooded = actions(server, ACTIONS // share, flooders=2)
        yield Result(
            "an action beside two that flood, p99",
            percentile(flooded, 0.99),
            "ms",
            "an action, p99",
            percentile(alone, 0.99),
            goal=MOST_BEHIND_FLOOD,
        )
        yield from refusals(server, QUICK_COMMANDS if quick else COMMANDS)


if __name__ == "__main__":
    run("commanding", __doc__ or "", measure)
