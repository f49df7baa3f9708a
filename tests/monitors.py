"""What clients' monitors of process variables are sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import epics
import numpy as np

from tests.support import wait_until


@contextmanager
def monitored(*names: str) -> Iterator[list[list[tuple[float, object]]]]:
    """Collect what monitors of PVs send: lists of (time, value), in the order of the names."""
    logs: list[list[tuple[float, object]]] = [[] for _ in names]
    pvs = []
    for name, log in zip(names, logs, strict=True):
        pv = epics.PV(
            name,
            auto_monitor=True,
            callback=lambda value, log=log, **_: log.append((time.monotonic(), _plain(value))),
        )
        pvs.append(pv)
    wait_until(lambda: all(logs), 10, "first values of the monitors")
    try:
        yield logs
    finally:
        for pv in pvs:
            pv.clear_auto_monitor()
            pv.disconnect()


def _plain(value: object) -> object:
    """Give a value, and characters as text."""
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return value.tobytes().rstrip(b"\0").decode()
    return value
