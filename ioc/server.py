"""Builds the groups of PVs over a driver and serves them until a signal says stop.

The server binds to loopback unless told otherwise: Channel Access knows no passwords.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import cv2
from caproto import ChannelData
from threadpoolctl import threadpool_limits

from ioc.camera import camera_groups
from ioc.channel_access import Context
from ioc.drivers.protocol import Instrument, connect
from ioc.faults import Faults
from ioc.memory import keep_memory
from ioc.microscope import Microscope
from ioc.records import Group
from ioc.sequence_hardware import SequenceHardware
from ioc.sequencer import Sequencer
from ioc.stage import Stage

GROUPS = ("scope", "stage", "camera", "sequencer", "faults")
LOOPBACK = "127.0.0.1"
CLOSE_TIMEOUT = 1.5  # s
SWITCH_INTERVAL = 0.0002  # s that one thread may keep another waiting: sequences are in a hurry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IocSettings:
    """What an IOC serves, and how.

    Parameters
    ----------
    prefix : str
        What all PVs begin with.
    driver : str
        "simulated", "replay", or "package.module:factory".
    driver_options : mapping
        What the driver's factory is called with.
    groups : sequence of str
        Which of scope, stage, camera, sequencer (which needs these three) and faults to serve.
    interfaces : sequence of str
        Addresses to listen on; anything but 127.0.0.1 lets others drive the microscope.
    data_root : path
        The folder that frames are written below.
    driver_timeout : float
        What a call of the driver may take until its subsystem counts as not answering, in s.

    Raises
    ------
    ValueError
        If a group is unknown or there is none, or the time-out is not positive.
    """

    prefix: str = "TEM:"
    driver: str = "simulated"
    driver_options: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[str] = GROUPS
    interfaces: Sequence[str] = (LOOPBACK,)
    data_root: Path | str = ".temline/data"
    driver_timeout: float = 5.0

    def __post_init__(self) -> None:
        unknown = set(self.groups) - set(GROUPS)
        if unknown or not self.groups:
            raise ValueError(
                f"groups is {list(self.groups)}; it must be some of {', '.join(GROUPS)}"
            )
        if "sequencer" in self.groups and not {"scope", "stage", "camera"} <= set(self.groups):
            raise ValueError(
                f"groups is {list(self.groups)}; the sequencer needs scope, stage and camera too"
            )
        if not self.driver_timeout > 0:
            raise ValueError(f"driver_timeout is {self.driver_timeout}; it must be above 0 s")

    @classmethod
    def load(cls, path: Path | str) -> IocSettings:
        """Read settings from a JSON file.

        Raises
        ------
        ValueError
            If the file is not JSON, or has a key that is unknown; the message names the nearest.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        known = [each.name for each in fields(cls)]
        for key in content:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"; do you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{path}: unknown key {key!r}{hint} (known: {', '.join(known)})")
        return cls(**content)


def build(settings: IocSettings, instrument: Instrument) -> list[Group]:
    """Make the groups that the settings ask for, over an instrument.

    Parameters
    ----------
    settings : IocSettings
    instrument : Instrument
    """
    prefix, faults, timeout = settings.prefix, instrument.faults, settings.driver_timeout
    wanted = settings.groups
    groups: list[Group] = []
    if "scope" in wanted:
        scope = Microscope(f"{prefix}SCOPE:", instrument.column, timeout)
        groups.append(scope)
    if "stage" in wanted:
        stage = Stage(f"{prefix}STAGE:", instrument.stage, timeout)
        groups.append(stage)
    if "camera" in wanted:
        check = faults.check_storage if faults is not None else lambda: None
        root = Path(settings.data_root).absolute()
        camera = camera_groups(f"{prefix}CAM:", instrument.camera, root, check, timeout)
        groups += camera
    if "sequencer" in wanted:
        hardware = SequenceHardware(stage, camera.cam, camera.hdf, camera.stats, scope)
        groups.append(Sequencer(f"{prefix}SEQ:", hardware))
    if "faults" in wanted and faults is not None:
        groups.append(Faults(f"{prefix}SIM:", faults))
    return groups


def database(groups: Sequence[Group]) -> dict[str, ChannelData]:
    """Give all PVs of some groups by name."""
    return {name: pv for group in groups for name, pv in group.pvdb.items()}


def serve(settings: IocSettings) -> None:
    """Serve until SIGINT or SIGTERM, then close files and driver and return.

    Parameters
    ----------
    settings : IocSettings

    Raises
    ------
    OSError
        If the port is in use; the message says what to do.
    """
    _use_loopback(settings.interfaces)
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_memory()
    # More would fight the writer and the clients for the cores.
    cv2.setNumThreads(1)
    threadpool_limits(1)
    instrument = connect(settings.driver, settings.driver_options)
    try:
        asyncio.run(_serve(settings, instrument))
    finally:
        instrument.close()


def _use_loopback(interfaces: Sequence[str]) -> None:
    """Keep beacons on this machine too, unless the site says where they go."""
    if set(interfaces) == {LOOPBACK}:
        os.environ.setdefault("EPICS_CAS_AUTO_BEACON_ADDR_LIST", "NO")
        os.environ.setdefault("EPICS_CAS_BEACON_ADDR_LIST", LOOPBACK)


def _check_port(interfaces: Sequence[str], port: int) -> None:
    """Refuse a port that another server has; caproto would take another, which nobody finds."""
    for interface in interfaces:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((interface, port))
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"port {port} on {interface} cannot be had ({error.strerror}): another IOC may "
                    "run; stop it, or set EPICS_CA_SERVER_PORT to a free one",
                ) from error


async def _serve(settings: IocSettings, instrument: Instrument) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    groups = build(settings, instrument)
    for group in groups:
        await group.prepare()
    pvdb = database(groups)
    context = Context(pvdb, list(settings.interfaces))
    _check_port(settings.interfaces, context.ca_server_port)
    tasks = [asyncio.create_task(group.run(), name=group.prefix) for group in groups]
    server = asyncio.create_task(context.run(), name="server")
    logger.info(
        "serving %d PVs as %s* on %s, port %d",
        len(pvdb),
        settings.prefix,
        ", ".join(settings.interfaces),
        context.ca_server_port,
    )
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await _until_one_ends([stopped, server, *tasks])
    logger.info("stopping")
    for group in groups:
        try:
            await asyncio.wait_for(group.close(), CLOSE_TIMEOUT)
        except Exception as error:
            logger.error("%s could not be closed: %s", group.prefix, error)
    for task in (server, *tasks):
        task.cancel()
    await asyncio.wait([server, *tasks], timeout=CLOSE_TIMEOUT)


async def _until_one_ends(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for the signal, or for a task that should not have ended; log why it did."""
    pending = set(tasks)
    while tasks[0] in pending and tasks[1] in pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                logger.error("%s ended", task.get_name(), exc_info=task.exception())
