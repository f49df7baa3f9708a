"""The command PVs: clients write what they want done, and read how it stands with it.

The PVs only carry: whoever serves them decides. A command is acted on when it is written, by the
server that owns the PV, and is kept nowhere: a client that connects anew finds nothing to repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from caproto import AccessRights, AlarmSeverity, AlarmStatus, ChannelByte, ChannelType

from ioc.channel_access import Circuit, Context
from ioc.records import Group, clear_alarm, raise_alarm, show

STATES = ("idle", "running", "paused", "suspended", "aborting", "fault")
MAX_REPLY = 2**14
MAX_LISTING = 2**18
MAX_TEXT = 2**10
MAX_UNREAD = 16
"""Messages of one client that are read before those before them are dealt with."""

HEARTBEAT_PERIOD = 1.0  # s


class RefusedError(ValueError):
    """A command that is not carried out; the message goes to the client as its write error."""


@dataclass(frozen=True)
class Sender:
    """Who wrote to a PV, as Channel Access has it: names are what the client says of itself.

    Attributes
    ----------
    host, user : str
    address : str
        The IP address that it came from.
    """

    host: str
    user: str
    address: str


Handler = Callable[[bytes, Sender], Awaitable[None]]


class _Inbox(ChannelByte):
    """A PV that hands on what is written to it, in order, and stays empty.

    Parameters
    ----------
    name : str
    handle : callable
        Awaited with the bytes and their sender; it raises RefusedError to refuse.
    longest : int
        Bytes that can be written.
    in_turn : bool
        Whether a command waits for those before it, also of other clients.
    """

    def __init__(self, name: str, handle: Handler, longest: int, *, in_turn: bool) -> None:
        super().__init__(value=b"", max_length=longest, strip_null_terminator=False)
        self.pvname = name
        self.__doc__ = "JSON: {id, function, args, kwargs, client, token}"
        self._handle = handle
        self._turn: Any = asyncio.Lock() if in_turn else nullcontext()

    async def auth_write(
        self,
        hostname: str,
        username: str,
        data: Any,
        data_type: ChannelType,
        metadata: Any,
        *,
        flags: int = 0,
        user_address: tuple[str, int] | None = None,
    ) -> None:
        """Hand on what a client has written."""
        sender = Sender(hostname or "", username or "", user_address[0] if user_address else "")
        async with self._turn:
            await self._handle(_bytes_of(data, data_type), sender)

    def check_access(self, hostname: str, username: str) -> AccessRights:
        """Let everybody write: who may command what is decided command by command."""
        return AccessRights.READ | AccessRights.WRITE


def _bytes_of(data: Any, data_type: ChannelType) -> bytes:
    if data_type == ChannelType.CHAR:
        return data if isinstance(data, bytes) else np.asarray(data).tobytes()
    if data_type == ChannelType.STRING:
        texts = [one if isinstance(one, bytes) else str(one).encode("latin-1") for one in data]
        return b"".join(text.split(b"\0", 1)[0] for text in texts)
    raise RefusedError(
        f"the command was written as {data_type.name}; write text, for example by caput -S"
    )


class Commands(Group):
    """The PVs of a supervising server.

    To write: Command, Immediate; command_s, immediate_command_s (the names that LSDC's clients
    have for them).

    To read: State, Message, Progress (%), ETA (s left; -1 if unknown), CurrentRequest, RunUID,
    LastError, QueueLength, QueueChanged, QueueHeld, Queue (JSON), Controller, Reply and
    ImmediateReply (JSON), Registry (JSON), Heartbeat, InstanceID; program_state, message_string,
    pause_button_state, state_percent, live_q_change_flag (LSDC's).

    Parameters
    ----------
    prefix : str
        Such as "TEM:CMD:".
    command, immediate : callable
        Awaited with what is written to Command, one after the other, and to Immediate, at once.
    registry : str
        JSON that describes all commands.
    instance : str
        Tells this server from any other.
    longest : int
        Bytes of the longest command.
    """

    def __init__(
        self,
        prefix: str,
        *,
        command: Handler,
        immediate: Handler,
        registry: str,
        instance: str,
        longest: int,
    ) -> None:
        super().__init__(prefix)
        for name, handle, in_turn in (
            ("Command", command, True),
            ("Immediate", immediate, False),
        ):
            inbox = _Inbox(prefix + name, handle, longest, in_turn=in_turn)
            self.pvdb[prefix + name] = self.pvdb[prefix + LSDC_INBOXES[name]] = inbox
        if len(registry) >= MAX_LISTING:
            raise ValueError(f"the registry has {len(registry)} characters; {MAX_LISTING} is most")
        self.readback("Registry", registry, long=True, length=MAX_LISTING)
        self.readback("InstanceID", instance, long=True)
        self._heartbeat = self.readback("Heartbeat", 0, doc="Seconds that the server lives")
        self._pvs = {
            "State": self.readback("State", "fault", choices=STATES),
            "Message": self.readback("Message", "", long=True, length=MAX_TEXT),
            "Progress": self.readback("Progress", 0.0, units="%", precision=1, limits=(0, 100)),
            "ETA": self.readback("ETA", -1.0, units="s", precision=0),
            "CurrentRequest": self.readback("CurrentRequest", "", long=True),
            "RunUID": self.readback("RunUID", "", long=True),
            "LastError": self.readback("LastError", "", long=True, length=MAX_TEXT),
            "QueueLength": self.readback("QueueLength", 0),
            "QueueChanged": self.readback("QueueChanged", 0),
            "QueueHeld": self.readback("QueueHeld", "", long=True),
            "Queue": self.readback("Queue", "[]", long=True, length=MAX_LISTING),
            "Controller": self.readback("Controller", "", long=True),
            "Reply": self.readback("Reply", "{}", long=True, length=MAX_REPLY),
            "ImmediateReply": self.readback("ImmediateReply", "{}", long=True, length=MAX_LISTING),
        }
        self._lsdc = {
            "program_state": self.readback("program_state", "Program Busy"),
            "message_string": self.readback("message_string", "", long=True, length=MAX_TEXT),
            "pause_button_state": self.readback("pause_button_state", "Pause"),
            "state_percent": self.readback("state_percent", 0.0, units="%", precision=1),
            "live_q_change_flag": self.readback("live_q_change_flag", 0),
        }

    async def run(self) -> None:
        """Count the seconds, so that clients see that the server lives."""
        while True:
            await asyncio.sleep(HEARTBEAT_PERIOD)
            await show(self._heartbeat, self._heartbeat.value + 1)

    async def show(self, values: Mapping[str, Any]) -> None:
        """Publish how things stand.

        Parameters
        ----------
        values : mapping of str to value
            By the names of the PVs, such as ``{"State": "running", "Progress": 12.5}``. Texts that
            are too long are cut off.
        """
        for name, value in values.items():
            pv = self._pvs[name]
            if name == "State":
                await _mark(pv, value)
            await show(pv, value, always=name in {"Reply", "ImmediateReply"})
        for name, value in _for_lsdc(values).items():
            await show(self._lsdc[name], value)


class _CommandCircuit(Circuit):
    """One client, whose commands are handled one after the other, and read no faster than that.

    So a client that floods fills its own buffers, and not the server's memory or time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.command_queue = asyncio.Queue(MAX_UNREAD)

    async def _start_write_task(self, handle_write: Callable[[], Awaitable[None]]) -> None:
        await handle_write()
        await asyncio.sleep(0)  # the others' turn


class CommandContext(Context):
    """The server of command PVs."""

    CircuitClass = _CommandCircuit


LSDC_INBOXES = {"Command": "command_s", "Immediate": "immediate_command_s"}


async def _mark(pv: Any, state: str) -> None:
    """Give the PV of the state an alarm where somebody should look."""
    if state == "fault":
        await raise_alarm([pv], AlarmStatus.STATE, AlarmSeverity.MAJOR_ALARM)
    elif state in {"paused", "suspended"}:
        await raise_alarm([pv], AlarmStatus.STATE, AlarmSeverity.MINOR_ALARM)
    else:
        await clear_alarm([pv])


def _for_lsdc(values: Mapping[str, Any]) -> dict[str, Any]:
    """Say the same to clients of LSDC: it is ready when nothing runs, and only then."""
    told: dict[str, Any] = {}
    if "State" in values:
        state = values["State"]
        told["program_state"] = "Program Ready" if state == "idle" else "Program Busy"
        told["pause_button_state"] = "Continue" if state == "paused" else "Pause"
    if "Message" in values:
        told["message_string"] = values["Message"]
    if "Progress" in values:
        told["state_percent"] = values["Progress"]
    if "QueueChanged" in values:
        told["live_q_change_flag"] = values["QueueChanged"] % 2
    return told


def quiet_refusals() -> None:
    """Keep caproto from logging each refused command at length: its client is told."""
    logging.getLogger("caproto.circ").addFilter(_is_no_refusal)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], RefusedError))
