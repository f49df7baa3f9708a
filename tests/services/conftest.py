"""Fixtures for tests of processes."""

import psutil
import pytest


@pytest.fixture
def alive():
    """Tell whether a process lives; a zombie does not."""

    def is_alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return is_alive
