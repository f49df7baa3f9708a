"""Who waits for whom when processors are short: what can wait stands back for the hardware.

An exposure that ends while a mosaic is drawn must be read at once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

NICE = 5
AUTOGROUP = Path("/proc/self/autogroup")  # Linux weighs whole sessions against each other, too


def stand_back(*, with_session: bool = False) -> None:
    """Have this thread, and threads that it starts, stand back for others.

    On other systems than Linux it is the whole process, if the system has priorities.

    Parameters
    ----------
    with_session : bool
        Whether its whole session stands back, too: Linux weighs sessions against each other.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    if with_session:
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(NICE), encoding="ascii")
