"""Connecting devices, for real.

Stock `wait_for_connection` skips every lazy signal, which is all of an area detector.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from epics.ca import ChannelAccessGetFailure
from ophyd import Device, Kind
from ophyd.device import do_not_wait_for_lazy_connection
from ophyd.signal import EpicsSignalBase

CONNECT_TIMEOUT = 10.0
_SHOWN = 8
ECA_DISCONN = 192
"""Of Channel Access (caerr.h): the circuit broke while an answer was awaited."""


def circuit_broke(error: Exception) -> bool:
    """Whether a read failed because its IOC is gone; that comes before any PV is told so."""
    return isinstance(error, ChannelAccessGetFailure) and error.status == ECA_DISCONN


class NotConnectedError(ConnectionError, TimeoutError):
    """Process variables that a device needs did not answer.

    Attributes
    ----------
    missing : dict of str to list of str
        Names of the missing PVs by the name of the device that needs them.
    """

    def __init__(self, message: str, missing: dict[str, list[str]]) -> None:
        super().__init__(message)
        self.missing = missing


class Connectable(Device):
    """A device whose `wait_for_connection` waits for every signal that matters.

    What matters is what is read or configured, what staging sets, and what is listed here.
    """

    essential: tuple[str, ...] = ()
    """Dotted names of further signals, such as commands."""

    def wait_for_connection(
        self, all_signals: bool = False, timeout: float | None = CONNECT_TIMEOUT
    ) -> None:
        """Wait until the device can be used.

        Parameters
        ----------
        all_signals : bool
            Wait for each and every component, used or not. Not useful with an area detector,
            whose classes name hundreds of PVs that few IOCs have.
        timeout : float, optional
            Seconds.

        Raises
        ------
        NotConnectedError
            If a PV did not answer; it names the missing ones.
        """
        if all_signals:
            super().wait_for_connection(all_signals=True, timeout=timeout)
        else:
            connect([self], CONNECT_TIMEOUT if timeout is None else timeout)


def connect(devices: Iterable[Device], timeout: float = CONNECT_TIMEOUT) -> None:
    """Connect devices, all signals that matter at once, and name what is missing.

    Parameters
    ----------
    devices : iterable of ophyd.Device
        Ours or stock ones.
    timeout : float
        Seconds for all of them together.

    Raises
    ------
    NotConnectedError
        If PVs did not answer in time. The message names them, device by device, and says where
        to look; the attribute `missing` holds all names.

    Examples
    --------
    >>> connect([scope, stage, camera], timeout=5)
    """
    deadline = time.monotonic() + timeout
    # Making a signal starts its search, so all of them are searched for in parallel.
    signals = {device: list(_signals_that_matter(device)) for device in devices}
    waiting = [signal for group in signals.values() for signal in group]
    while waiting := [signal for signal in waiting if not signal.connected]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if waiting:
        raise _not_connected(signals, timeout)
    for device in signals:
        # What is left is what ophyd does on connection, such as taking a motor's first position.
        Device.wait_for_connection(device, timeout=max(deadline - time.monotonic(), 1.0))


def _signals_that_matter(device: Device) -> Iterator[EpicsSignalBase]:
    """Give the signals that a device is of no use without, and make those that are lazy."""
    _make(device)
    for name in getattr(device, "essential", ()):
        _reach(device, name)
    for walk in device.walk_signals(include_lazy=False):
        if isinstance(walk.item, EpicsSignalBase):
            yield walk.item


def _make(device: Device, used: bool = True) -> None:
    """Make the signals that are read, configured or staged, without waiting for any."""
    for name in device.component_names:
        part_used = used and bool(device._get_kind(name) & (Kind.normal | Kind.config))
        if part_used or not device._sig_attrs[name].lazy:
            part = _reach(device, name)
            if isinstance(part, Device):
                _make(part, part_used)
    for signal in device.stage_sigs:
        if isinstance(signal, str):
            _reach(device, signal)


def _reach(device: Device, dotted_name: str) -> Any:
    part: Any = device
    for name in dotted_name.split("."):
        with do_not_wait_for_lazy_connection(part):
            part = getattr(part, name)
    return part


def _not_connected(
    signals: dict[Device, list[EpicsSignalBase]], timeout: float
) -> NotConnectedError:
    missing = {
        device.name: sorted(
            {name for signal in group if not signal.connected for name in _unanswered(signal)}
        )
        for device, group in signals.items()
    }
    lines = [f"process variables that did not answer within {timeout:g} s:"]
    for device, group in signals.items():
        if names := missing[device.name]:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(
                f"  {device.name}: {len(names)} PVs of {len(group)} signals: "
                f"{', '.join(names[:_SHOWN])}{more}"
            )
    addresses = os.environ.get("EPICS_CA_ADDR_LIST", "not set")
    lines.append(
        "Is the IOC up (`temline up` starts all of them)? Are the prefixes in the configuration "
        f"right? EPICS_CA_ADDR_LIST is {addresses}."
    )
    return NotConnectedError("\n".join(lines), {k: v for k, v in missing.items() if v})


def _unanswered(signal: EpicsSignalBase) -> list[str]:
    names = [name for name, connected in signal._connection_states.items() if not connected]
    return names or [signal.pvname]
