"""Clients in processes of their own: ``python -m tests.services.supervisor.clients WHAT PREFIX``.

``flood`` writes bad commands to Command until it is killed. ``immediate COUNT`` writes actions to
Immediate, and prints what each took from writing to its reply, in s, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import islice

import epics
import numpy as np

from tests.services.supervisor import hostile


def flood(prefix: str) -> None:
    """Write bad commands as fast as they are taken.

    As if from another machine: the processors of this one are left to the server.
    """
    os.nice(10)
    pv = epics.PV(f"{prefix}Command", auto_monitor=False)
    if not pv.wait_for_connection(10):
        sys.exit("not connected")
    texts = [np.frombuffer(one, np.uint8) for one in islice(hostile.commands(3), 34, 200)]
    print("flooding", flush=True)
    while True:
        for text in texts:
            pv.put(text)
        pv.put(texts[0], wait=True, timeout=10)  # so that what is sent is not kept here for ever


def immediate(prefix: str, count: int) -> None:
    """Measure how long actions take."""
    replies: dict[str, float] = {}

    def take(value=None, **_) -> None:
        text = bytes(np.asarray(value, np.uint8)).rstrip(b"\0")
        replies[json.loads(text).get("id", "")] = time.monotonic()

    reply = epics.PV(f"{prefix}ImmediateReply", auto_monitor=True, callback=take)
    pv = epics.PV(f"{prefix}Immediate", auto_monitor=False)
    if not (reply.wait_for_connection(10) and pv.wait_for_connection(10)):
        sys.exit("not connected")
    delays = []
    for number in range(count):
        id = f"i{time.monotonic_ns()}.{number}"
        text = json.dumps({"id": id, "function": "pause"}).encode()
        began = time.monotonic()
        pv.put(np.frombuffer(text, np.uint8))
        while id not in replies and time.monotonic() - began < 10:
            epics.poll(1e-4, 1e-3)
        delays.append(replies[id] - began)
        epics.poll(0.01, 0.02)
    print(json.dumps(delays))


if __name__ == "__main__":
    if sys.argv[1] == "flood":
        flood(sys.argv[2])
    else:
        immediate(sys.argv[2], int(sys.argv[3]))
