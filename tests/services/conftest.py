"""Helpers of the tests of processes: poll conditions, and tell what is alive."""

import time
from collections.abc import Callable

import psutil
import pytest


@pytest.fixture
def eventually():
    """Poll a condition until it holds, or fail with what it was to be."""

    def poll(condition: Callable[[], object], what: str, timeout: float = 20.0):
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, f"after {timeout:g} s there was still no {what}"
            time.sleep(0.02)
        return value

    return poll


@pytest.fixture
def alive():
    """Tell whether a process lives; a zombie does not."""

    def is_alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return is_alive
