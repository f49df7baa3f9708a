"""Process variables and groups of them, made from what a driver says about its hardware.

Limits, units, precision, alarms and the pair of setting and readback are here, once for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from caproto import (
    AlarmSeverity,
    AlarmStatus,
    CaprotoConversionError,
    ChannelAlarm,
    ChannelData,
    ChannelEnum,
    ChannelString,
    ChannelType,
    SkipWrite,
)
from caproto._data import CannotExceedLimits, ChannelNumeric
from caproto.server import PVSpec
from caproto.server.server import PvpropertyDouble, PvpropertyEnum, PvpropertyInteger

from ioc.drivers.protocol import Setting, Value

BIG_ARRAY = 2**13
"""Length from which an array is so large that a slow client gets the last ones only."""

LONG_STRING = 256
"""Length of strings longer than the 40 characters of an EPICS string, if none is given."""

SHORT_STRING = 39
"""The most characters of an EPICS string."""

_ASCII = str.maketrans({"µ": "u", "°": "deg ", "−": "-", "×": "x", "Å": "A", "…": "..."})

Apply = Callable[[Any], Awaitable[Any]]


class Alarm(ChannelAlarm):
    """An alarm that tells of the hardware only.

    caproto raises a WRITE alarm when it refuses a value. That is the client's mistake, which the
    client is told of; the value has not changed, so there is nothing wrong with it.
    """

    async def write(self, *, status: AlarmStatus | None = None, **kwargs: Any) -> None:
        """Write all but the alarm of a refused write."""
        if status != AlarmStatus.WRITE:
            await super().write(status=status, **kwargs)


class _Limited(ChannelNumeric):
    """A number that names itself and its units when it refuses a value, as caproto's does not."""

    async def verify_value(self, value: Any) -> Any:
        low, high = self.lower_ctrl_limit, self.upper_ctrl_limit
        if low != high and not low <= value <= high:
            units = f" {self.units}" if self.units else ""
            raise CannotExceedLimits(
                f"{self.pvname} is {value:g}{units}; "
                f"it must lie between {low:g} and {high:g}{units}"
            )
        return await super().verify_value(value)


class Real(_Limited, PvpropertyDouble):
    """A double that clients may write."""


class Whole(_Limited, PvpropertyInteger):
    """A long that clients may write."""


class Choice(PvpropertyEnum):
    """An enum that names its choices when it refuses one."""

    async def write_from_dbr(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Write what a client sent."""
        try:
            return await super().write_from_dbr(data, *args, **kwargs)
        except CaprotoConversionError as error:
            sent = data[0] if len(data) else ""
            text = sent.decode(errors="replace") if isinstance(sent, bytes) else str(sent)
            raise ValueError(self._refusal(text)) from error

    async def verify_value(self, value: Any) -> Any:
        """Refuse an index that does not exist; caproto lets it pass if it came as a number."""
        if value not in self.enum_strings and value not in range(len(self.enum_strings)):
            raise ValueError(self._refusal(str(value)))
        return await super().verify_value(value)

    def _refusal(self, sent: str) -> str:
        near = get_close_matches(sent, self.enum_strings, n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        choices = ", ".join(map(repr, self.enum_strings))
        return f"{self.pvname} is {sent!r}; it must be one of {choices}{hint}"


def plain(text: str, length: int) -> str:
    """Make a text fit for Channel Access: its bytes have no encoding, and there are not many."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()[:length]


async def show(pv: ChannelData, value: Any, *, always: bool = False) -> None:
    """Publish the value of a PV, if it is another one or has to be repeated.

    Nothing is refused here: what the hardware has is shown, also beyond its limits.
    """
    if isinstance(value, str) and not isinstance(pv, ChannelEnum):
        # The fields of records call themselves short, and are not.
        length = (
            SHORT_STRING if isinstance(pv, ChannelString) else max(pv.max_length, LONG_STRING) - 1
        )
        value = plain(value, length)
    if not always and _same(pv.value, value):
        return
    has_alarms = getattr(pv, "lower_alarm_limit", 0) != getattr(
        pv, "upper_alarm_limit", 0
    ) or getattr(pv, "lower_warning_limit", 0) != getattr(pv, "upper_warning_limit", 0)
    await pv.write(value, verify_value=has_alarms, update_fields=False)


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(b, list | np.ndarray) else bool(a == b)


async def raise_alarm(
    pvs: Sequence[ChannelData],
    status: AlarmStatus = AlarmStatus.COMM,
    severity: AlarmSeverity = AlarmSeverity.INVALID_ALARM,
) -> None:
    """Put PVs into an alarm state and publish it."""
    for pv in pvs:
        if (pv.alarm.status, pv.alarm.severity) != (status, severity):
            await pv.alarm.write(status=status, severity=severity)


async def clear_alarm(pvs: Sequence[ChannelData]) -> None:
    """Take PVs out of any alarm state and publish it."""
    await raise_alarm(pvs, AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM)


@dataclass(frozen=True)
class Pair:
    """A setting `Name` and its readback `Name_RBV`."""

    setpoint: ChannelData
    readback: ChannelData

    @property
    def value(self) -> Any:
        """What the readback says."""
        return self.readback.value

    @property
    def index(self) -> int:
        """The index of an enum's readback."""
        return self.readback.enum_strings.index(self.readback.value)

    async def show(self, value: Any) -> None:
        """Publish a value that the IOC itself has set, on both."""
        await show(self.setpoint, value)
        await show(self.readback, value)


class Group:
    """PVs with one prefix, and what belongs to them.

    The PVs come from a driver's description at run time, which is why they are made from
    caproto's `PVSpec` and not declared in a class.

    Parameters
    ----------
    prefix : str
        What all names begin with, such as "TEM:SCOPE:".

    Attributes
    ----------
    pvdb : dict of str to ChannelData
        The PVs by full name.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.pvdb: dict[str, ChannelData] = {}

    async def prepare(self) -> None:
        """Bring the PVs to their first state, before any client can see them."""

    async def run(self) -> None:
        """Keep the PVs up to date until cancelled; by default there is nothing to do."""

    async def close(self) -> None:
        """Bring to an end what is still open."""

    def add(
        self,
        name: str,
        value: Any,
        *,
        put: Callable[[ChannelData, Any], Awaitable[Any]] | None = None,
        get: Callable[[ChannelData], Awaitable[Any]] | None = None,
        read_only: bool = False,
        choices: Sequence[str] = (),
        long: bool = False,
        length: int | None = None,
        units: str = "",
        precision: int = 0,
        limits: tuple[float, float] = (0, 0),
        warning: tuple[float, float] = (0, 0),
        alarm: tuple[float, float] = (0, 0),
        record: str | None = None,
        dtype: Any = None,
        doc: str = "",
    ) -> Any:
        """Add one PV.

        Parameters
        ----------
        name : str
            Without the prefix.
        value : bool, int, float, str, bytes or sequence of numbers
            The first value, which also gives the type; a str is an EPICS string of 40 characters.
        put : callable, optional
            Awaited with the PV and the value when a client writes; it raises to refuse, and gives
            back what to keep.
        get : callable, optional
            Awaited with the PV when a client reads; gives the value, for what is dear to keep up.
        read_only : bool
        choices : sequence of str
            Makes it an enum.
        long : bool
            Makes a str an array of characters, up to 256 or `length`.
        length : int, optional
            The most elements of an array, or characters of a long str.
        units, precision, limits, warning, alarm
            As EPICS has them: EGU, PREC, control and display limits, HIGH/LOW and HIHI/LOLO.
        record : str, optional
            The record type whose fields it has.
        dtype : subclass of ChannelData, optional
            The class of the PV, if not the one for the type of `value`.
        doc : str
        """
        extra: dict[str, Any] = {}
        kind: Any = type(value)
        if choices:
            kind = ChannelType.ENUM if read_only else Choice
            extra["enum_strings"] = list(choices)
        elif isinstance(value, str):
            length = (length or LONG_STRING) if long else None
            value = plain(value, length - 1 if length else SHORT_STRING)
            kind = str if long else ChannelType.STRING
        elif isinstance(value, bytes):
            extra["strip_null_terminator"] = False
        else:
            if not isinstance(value, int | float):
                kind = type(value[0])
            elif not read_only:
                dtype = dtype or {float: Real, int: Whole}[kind]
            extra = {
                "units": units,
                "lower_ctrl_limit": limits[0],
                "upper_ctrl_limit": limits[1],
                "lower_disp_limit": limits[0],
                "upper_disp_limit": limits[1],
                "lower_warning_limit": warning[0],
                "upper_warning_limit": warning[1],
                "lower_alarm_limit": alarm[0],
                "upper_alarm_limit": alarm[1],
            }
            if kind is float:
                extra["precision"] = precision
        if length is not None and length >= BIG_ARRAY:
            extra["max_subscription_backlog"] = 4
        spec = PVSpec(
            name=self.prefix + name,
            attr=name,
            dtype=dtype or kind,
            value=value,
            max_length=length,
            alarm_group=Alarm(),
            read_only=read_only,
            put=put,
            get=get,
            record=record,
            doc=doc,
            cls_kwargs=extra,
        )
        pv = spec.create(None)
        if pv.pvname in self.pvdb:
            raise ValueError(f"{pv.pvname} is defined twice")
        self.pvdb[pv.pvname] = pv
        return pv

    def readback(self, name: str, value: Any, **kwargs: Any) -> Any:
        """Add a PV that clients can only read; see `add`."""
        return self.add(name, value, read_only=True, **kwargs)

    def pair(self, name: str, value: Any, *, apply: Apply | None = None, **kwargs: Any) -> Pair:
        """Add a setting and its readback, which follows it.

        Parameters
        ----------
        name : str
            Of the setting; the readback is `name` + "_RBV".
        value
            The first value of both.
        apply : callable, optional
            Awaited with a value that a client has written and that is within the limits. It
            raises to refuse, and gives back what the readback is to show: None for the value
            itself.
        **kwargs
            As for `add`.
        """
        readback = self.readback(f"{name}_RBV", value, **kwargs)

        async def put(pv: ChannelData, wanted: Any) -> Any:
            actual = await apply(wanted) if apply is not None else None
            await show(readback, wanted if actual is None else actual)
            return wanted

        return Pair(self.add(name, value, put=put, **kwargs), readback)

    def command(self, name: str, act: Callable[[], Awaitable[None]], doc: str = "") -> Any:
        """Add a PV that does something when 1 is written to it, and is 0 again after that."""

        async def put(pv: ChannelData, wanted: int) -> Any:
            if wanted:
                await act()
            raise SkipWrite

        return self.add(name, 0, put=put, limits=(0, 1), doc=doc)

    def setting(self, name: str, setting: Setting, value: Value, apply: Apply) -> Pair:
        """Add the pair of a driver's setting."""
        if setting.kind == "enum":
            return self.pair(name, value, choices=setting.choices, apply=apply, doc=setting.doc)
        number = float(value) if setting.kind == "float" else int(value)
        limits = (setting.low, setting.high)
        return self.pair(
            name,
            number,
            apply=apply,
            units=setting.units,
            precision=setting.precision,
            limits=limits if setting.kind == "float" else (int(limits[0]), int(limits[1])),
            doc=setting.doc,
        )
