"""How long a device waits for Channel Access, in one place.

Every wait of this package ends by one of these, so that a dead IOC is an error and never a hang.
"""

from __future__ import annotations

import logging

from ophyd.signal import EpicsSignalBase

CONNECTION_TIMEOUT = 5.0
"""Seconds that a signal may take to connect when it is first used."""

READ_TIMEOUT = 5.0
"""Seconds that a connected PV may take to answer a read."""

WRITE_TIMEOUT = 10.0
"""Seconds that a setting may take to reach its value."""

MOVE_MARGIN = 5.0
"""Seconds that a move may take over what its distance and speed explain."""

EXPOSURE_MARGIN = 30.0
"""Seconds that a frame may take over its exposure, to be read out and written."""

_log = logging.getLogger(__name__)


def set_defaults() -> None:
    """Make these the defaults of every EPICS signal, ours or stock.

    ophyd takes them only before its first EPICS signal is made; where one was, the defaults stay
    as they are and the log says so.
    """
    try:
        EpicsSignalBase.set_defaults(
            timeout=READ_TIMEOUT,
            connection_timeout=CONNECTION_TIMEOUT,
            write_timeout=WRITE_TIMEOUT,
        )
    except RuntimeError:
        _log.warning(
            "an EPICS signal was made before `devices` was imported, so ophyd keeps its own "
            "time-outs: import `devices` first"
        )
