"""Asks the system to let the IOC go before what only computes: hardware does not wait.

A system grants that to root, or to whom it has been allowed; else all share alike.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICE = -10
AUTOGROUP = Path("/proc/self/autogroup")  # Linux weighs whole sessions against each other, too


def step_forward() -> None:
    """Ask for precedence, for this process and for its session."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with suppress(OSError):
        AUTOGROUP.write_text(str(NICE), encoding="ascii")
