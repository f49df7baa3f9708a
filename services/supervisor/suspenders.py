"""Holds plans up while something is not as it must be, such as the vacuum, and lets them go on.

bluesky's own suspenders, made from the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluesky import RunEngine
from bluesky.suspenders import SuspendCeil, SuspendFloor

from config import Config
from services.engine import find_part


def add_suspenders(RE: RunEngine, config: Config, devices: Mapping[str, Any]) -> list[str]:
    """Have plans suspended as the configuration says.

    Parameters
    ----------
    RE : RunEngine
    config : Config
    devices : mapping
        Those that are connected.

    Returns
    -------
    list of str
        What is watched.
    """
    watched = []
    for rule in config.supervisor.suspend:
        if rule.signal.partition(".")[0] not in devices:
            continue
        signal = find_part(devices, rule.signal)
        kind, threshold = (
            (SuspendFloor, rule.below) if rule.above is None else (SuspendCeil, rule.above)
        )
        suspender = kind(signal, threshold, sleep=rule.sleep, resume_thresh=rule.resume)
        RE.install_suspender(suspender)
        watched.append(rule.signal)
    return watched
