"""Commands that nobody should send: each is refused with a reason, and nothing comes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from itertools import islice

import epics
import numpy as np
import psutil
import pytest
from caproto import ChannelType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.supervisor.commands import CommandRefusedError, read_command
from tests.services.supervisor import hostile
from tests.services.supervisor.lab import SupervisorProcess
from tests.support import REPOSITORY, wait_until

COUNT = 1500
MOST_GROWTH = 8e6  # bytes, for what the allocator keeps
MOST_DELAY = 0.1  # s
KEYS = ("id", "args", "kwargs", "client", "session", "token", "priority", "batch")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Writer:
    """A pyepics client that writes bytes and sees the reply that each gets."""

    def __init__(self, supervisor: SupervisorProcess) -> None:
        self.replies = 0
        self.reply: dict[str, object] = {}
        self._reply = epics.PV(
            supervisor.pv("Reply"), auto_monitor=True, callback=self._take, count=0
        )
        self._command = epics.PV(supervisor.pv("Command"), auto_monitor=False)
        assert self._command.wait_for_connection(10)
        wait_until(lambda: self.replies, 10, "first reply")

    def _take(self, char_value=None, value=None, **_) -> None:
        text = bytes(np.asarray(value, np.uint8)).rstrip(b"\0").decode()
        self.reply = json.loads(text)
        self.replies += 1

    def write(self, sent: bytes) -> dict[str, object]:
        """Write, wait for the answer, and give the reply."""
        before = self.replies
        self._command.put(np.frombuffer(sent or b"\0", np.uint8), wait=True, timeout=10)
        wait_until(lambda: self.replies > before, 5, f"reply to {sent[:80]!r}", 0.0005)
        return self.reply

    def close(self) -> None:
        self._reply.disconnect()
        self._command.disconnect()


@pytest.fixture
def writer(supervisor: SupervisorProcess):
    writer = Writer(supervisor)
    yield writer
    writer.close()


def test_each_is_refused_with_a_reason_and_nothing_grows(supervisor: SupervisorProcess, writer):
    server = psutil.Process(supervisor.process.pid)
    for sent in islice(hostile.commands(1), 200):  # until all that is kept is made
        writer.write(sent)
    before, revision = server.memory_info().rss, supervisor.get("QueueChanged")
    for number, sent in enumerate(islice(hostile.commands(2), COUNT)):
        reply = writer.write(sent)
        assert reply["state"] == "rejected", sent[:200]
        assert 8 < len(reply["message"]) <= 400, (number, reply)
    assert server.memory_info().rss - before < MOST_GROWTH
    assert supervisor.get("QueueChanged") == revision
    assert supervisor.get("QueueLength") == 0
    assert supervisor.until_ended(supervisor.command("snap"))["state"] == "done"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_reading_a_command_raises_nothing_but_a_refusal(sent):
    with suppress(CommandRefusedError):
        assert read_command(sent).function


@given(st.fixed_dictionaries({"function": st.just("snap")}, optional=dict.fromkeys(KEYS, JSON)))
def test_what_is_read_keeps_to_its_types(content):
    try:
        command = read_command(json.dumps(content))
    except CommandRefusedError:
        return
    assert isinstance(command.args, list)
    assert isinstance(command.kwargs, dict)
    assert len(command.id) <= 64


def test_numbers_are_no_command(supervisor: SupervisorProcess):
    from caproto.sync import client

    with pytest.raises(Exception, match="write text"):
        client.write(
            supervisor.pv("Command"),
            [1, 2, 3],
            notify=True,
            data_type=ChannelType.LONG,
            timeout=5,
            repeater=False,
        )


def test_a_short_command_may_be_an_epics_string(supervisor: SupervisorProcess):
    from caproto.sync import client

    client.write(
        supervisor.pv("Immediate"),
        [b'{"function": "queue"}'],
        notify=True,
        data_type=ChannelType.STRING,
        timeout=5,
        repeater=False,
    )
    assert json.loads(supervisor.get("ImmediateReply"))["result"]["length"] == 0


def test_a_flood_of_commands_does_not_hold_up_an_immediate_one(supervisor: SupervisorProcess):
    flooders = [run_client("flood", supervisor) for _ in range(2)]
    try:
        for one in flooders:
            assert one.stdout.readline() == "flooding\n"
        client = run_client("immediate", supervisor, "40")
        delays = json.loads(client.communicate(timeout=60)[0])
    finally:
        for one in flooders:
            one.kill()
            one.communicate(timeout=10)
    assert len(delays) == 40
    assert sorted(delays)[-3] < MOST_DELAY, delays  # of 40: the machine has pauses of its own


def run_client(what: str, supervisor: SupervisorProcess, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.services.supervisor.clients", what, supervisor.prefix, *more],
        cwd=REPOSITORY,
        env=os.environ | supervisor.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
