"""The sequencer's PVs: a trajectory is loaded whole or not at all, and what came of it is told.

What a client needs to keep pace is one small array a point; whole arrays are made when asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from caproto import AlarmSeverity, AlarmStatus, ChannelData
from numpy.typing import NDArray

from ioc.records import Group, clear_alarm, raise_alarm, show
from ioc.sequence import STATES, Sequence, Status
from ioc.sequence_hardware import FOCUS, SHIFT_X, SHIFT_Y, SequenceHardware
from ioc.trajectory import Rules, Trajectory, check, time_left

MAX_POINTS = 32768
RECENT = 32  # points that a client may be late with before it has to read whole arrays
RECORD = (
    "load",
    "serial",
    "index",
    "x",
    "y",
    "settle",
    "start",
    "end",
    "frame",
    "place",
    "mean",
    "sharpness",
)
"""What a row of Recent_RBV holds: the number of the load, a count of the points done, from 1, …"""

ARRAYS = {
    "X": ("um", 3),
    "Y": ("um", 3),
    "FocusOffset": ("um", 3),
    "ShiftX": ("um", 3),
    "ShiftY": ("um", 3),
    "Exposure": ("s", 4),
}
"""The arrays of a trajectory, in the order of `Trajectory`."""

OPTIONAL = {"FocusOffset", "ShiftX", "ShiftY", "Exposure"}
"""Arrays of which a single value stands for all points."""

RESULTS = {
    "ReadbackX_RBV": "x",
    "ReadbackY_RBV": "y",
    "SettleTime_RBV": "settle",
    "ExposureStart_RBV": "start",
    "ExposureEnd_RBV": "end",
    "FrameNumber_RBV": "frame",
    "FramePlace_RBV": "place",
    "Mean_RBV": "mean",
    "Sharpness_RBV": "sharpness",
    "Fault_RBV": "fault",
    "Order_RBV": "order",
}
RESULT_UNITS = {
    "ReadbackX_RBV": "um",
    "ReadbackY_RBV": "um",
    "SettleTime_RBV": "s",
    "ExposureStart_RBV": "s",
    "ExposureEnd_RBV": "s",
    "Mean_RBV": "counts",
}
STATUS_PERIOD = 0.5  # s between updates of the time that is left
ABORT_PERIOD = 0.2  # s after which a running exposure is aborted once more


class Sequencer(Group):
    """The sequencer.

    PVs of a trajectory: X, Y (um, the stage), FocusOffset (um, added to Defocus), ShiftX, ShiftY
    (um, added to ImageShiftX and Y), Exposure (s); NumPoints, which of them count; Load, to which
    any new number is written, and which Load_RBV shows once the whole of it was taken in.

    How it is walked, each with _RBV: Settle, SettleTimeout, ShiftSettle (s), Tolerance, ShiftLimit
    (um), ShiftRotation (deg), ShiftScale, Interlocks, HoldAfter (a point, −1 for none), Watchdog
    (s). Commands: Start, Pause, Resume, Skip, Abort, Heartbeat.

    What it does: State_RBV, Message_RBV, Points_RBV, Index_RBV (the next point), Done_RBV,
    Failed_RBV (the point of a fault), Duration_RBV and TimeRemaining_RBV (s), Recent_RBV (the last
    32 points done, a row of `RECORD` each), and arrays with a value for each point, −1 or NaN where
    there is none: ReadbackX_RBV, ReadbackY_RBV (um), SettleTime_RBV, ExposureStart_RBV,
    ExposureEnd_RBV (s), FrameNumber_RBV, FramePlace_RBV, Mean_RBV (counts), Sharpness_RBV,
    Fault_RBV (see `ioc.sequence.FaultCode`); Order_RBV, the points in the order of their frames.

    Parameters
    ----------
    prefix : str
    hardware : SequenceHardware
    """

    def __init__(self, prefix: str, hardware: SequenceHardware) -> None:
        super().__init__(prefix)
        self._hardware = hardware
        self._sequence = Sequence(hardware, self._changed, self._done)
        self._rules = Rules()
        self._status = self._sequence.status
        self._told = asyncio.Condition()  # held while a status is shown, so that they keep order
        self._shown = 0.0
        self._loaded = 0
        self._time_left: NDArray[np.float64] = np.zeros(1)
        self._rows: deque[tuple[float, ...]] = deque(maxlen=RECENT)
        self._add_trajectory()
        self._add_rules()
        self._add_commands()
        self._add_status()

    # -- process variables ------------------------------------------------------------------------

    def _add_trajectory(self) -> None:
        self._arrays = {
            name: self.pair(
                name,
                [0.1 if name == "Exposure" else 0.0],
                length=MAX_POINTS,
                units=units,
                precision=precision,
            )
            for name, (units, precision) in ARRAYS.items()
        }
        self._num_points = self.pair("NumPoints", 0, limits=(0, MAX_POINTS))
        self._load_number = self.pair("Load", 0, limits=(0, 2**31 - 1), apply=self._load)

    def _add_rules(self) -> None:
        seconds: dict[str, Any] = {"units": "s", "precision": 4}
        rules = self._rules
        self.rule("Settle", "settle", rules.settle, (0.0, 60.0), **seconds)
        self.rule("SettleTimeout", "settle_timeout", rules.settle_timeout, (0.0, 60.0), **seconds)
        self.rule("ShiftSettle", "shift_settle", rules.shift_settle, (0.0, 10.0), **seconds)
        self.rule("Watchdog", "watchdog", rules.watchdog, (0.0, 3600.0), **seconds)
        microns: dict[str, Any] = {"units": "um", "precision": 3}
        self.rule("Tolerance", "tolerance", rules.tolerance, (0.001, 100.0), **microns)
        self.rule("ShiftLimit", "shift_limit", rules.shift_limit, (0.0, 10.0), **microns)
        self.pair(
            "ShiftRotation",
            0.0,
            limits=(-360.0, 360.0),
            units="deg",
            precision=3,
            apply=partial(self._tell_hardware, "rotation"),
        )
        self.pair(
            "ShiftScale",
            1.0,
            limits=(0.01, 100.0),
            precision=4,
            apply=partial(self._tell_hardware, "scale"),
        )
        self.pair("Interlocks", "Enable", choices=("Disable", "Enable"), apply=self._set_interlocks)
        self._hold_after = self.pair(
            "HoldAfter", -1, limits=(-1, MAX_POINTS), apply=self._set_hold_after
        )

    def rule(
        self, name: str, key: str, value: float, limits: tuple[float, float], **about: Any
    ) -> None:
        """Add a pair that sets one of the rules."""

        async def apply(wanted: float) -> None:
            self._rules = replace(self._rules, **{key: float(wanted)})
            self._sequence.rules = self._rules

        self.pair(name, value, limits=limits, apply=apply, **about)

    def _add_commands(self) -> None:
        self.command("Start", self._start, "Write 1: begin with the first point")
        self.command("Pause", self._pause, "Write 1: rest; done when the hardware is free")
        self.command("Resume", self._resume, "Write 1: go on, with the point that failed if any")
        self.command("Skip", self._skip, "Write 1: leave out the point that failed")
        self.command("Abort", self._abort, "Write 1: end at once; done when the hardware is free")
        self.command("Heartbeat", self._hear, "Write 1 within each Watchdog: somebody is there")

    def _add_status(self) -> None:
        self._state = self.readback("State_RBV", "Idle", choices=STATES)
        self._message = self.readback("Message_RBV", "", long=True)
        self._points = self.readback("Points_RBV", 0)
        self._index = self.readback("Index_RBV", 0)
        self._count = self.readback("Done_RBV", 0)
        self._failed = self.readback("Failed_RBV", -1)
        seconds: dict[str, Any] = {"units": "s", "precision": 2}
        self._duration = self.readback("Duration_RBV", 0.0, **seconds)
        self._remaining = self.readback("TimeRemaining_RBV", 0.0, **seconds)
        self._recent = self.readback("Recent_RBV", [0.0] * len(RECORD), length=RECENT * len(RECORD))
        for name, key in RESULTS.items():
            whole = key in {"frame", "place", "fault", "order"}
            self.readback(
                name,
                [-1] if whole else [float("nan")],
                length=MAX_POINTS,
                units=RESULT_UNITS.get(name, ""),
                get=partial(self._give, key),
            )

    async def _give(self, key: str, _: ChannelData) -> Any:
        """Give a whole array, as it is now."""
        values = getattr(self._sequence.results, key)
        return list(values) if len(values) else [-1]

    # -- what clients write -----------------------------------------------------------------------

    async def _load(self, number: int) -> None:
        """Take in the trajectory that stands in the arrays, or refuse the whole of it."""
        try:
            trajectory = self._trajectory()
            self._check(trajectory)
            self._sequence.load(trajectory)
        except ValueError as error:
            await show(self._message, f"not loaded: {error}")
            raise
        self._rows.clear()
        self._loaded = int(number)
        self._estimate(trajectory)
        await show(self._points, len(trajectory))
        await show(self._recent, [0.0] * len(RECORD), always=True)
        await self._show(self._sequence.status)

    def _trajectory(self) -> Trajectory:
        count = int(self._num_points.value)
        if not count:
            raise ValueError("NumPoints is 0; write how many points the arrays hold")
        columns = []
        for name, pair in self._arrays.items():
            values = np.atleast_1d(np.asarray(pair.value, dtype=float))
            if len(values) == 1 and (name in OPTIONAL or count == 1):
                values = np.repeat(values, count)
            if len(values) < count:
                raise ValueError(f"{name} holds {len(values)} values; NumPoints is {count}")
            columns.append(values[:count].copy())
        return Trajectory(*columns)

    def _check(self, trajectory: Trajectory) -> None:
        hardware = self._hardware
        x, y = hardware.axes
        check(
            trajectory,
            {
                "x": (x.low, x.high),
                "y": (y.low, y.high),
                "focus": hardware.room(FOCUS),
                "shift_x": hardware.room(SHIFT_X),
                "shift_y": hardware.room(SHIFT_Y),
                "exposure": hardware.exposure_limits,
            },
        )

    def _estimate(self, trajectory: Trajectory) -> None:
        """Work out how long each point takes from here on."""
        hardware = self._hardware
        self._time_left = time_left(
            trajectory, hardware.place(), hardware.axes, self._rules, hardware.readout_time
        )

    async def _tell_hardware(self, key: str, wanted: float) -> None:
        setattr(self._hardware, key, float(wanted))

    async def _set_interlocks(self, wanted: Any) -> None:
        self._hardware.interlocks = wanted in ("Enable", 1)

    async def _set_hold_after(self, point: int) -> None:
        self._sequence.hold(int(point))

    async def _start(self) -> None:
        await self._set_out(self._sequence.start)

    async def _pause(self) -> None:
        self._sequence.pause()
        await self._until_at_rest()

    async def _resume(self) -> None:
        await self._set_out(self._sequence.resume)

    async def _skip(self) -> None:
        self._sequence.skip()

    async def _abort(self) -> None:
        while self._sequence.running:
            self._sequence.abort()  # an exposure that is only about to begin does not notice
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until_at_rest(), ABORT_PERIOD)
        self._sequence.abort()
        await self._until_at_rest()

    async def _hear(self) -> None:
        self._sequence.heard()

    async def _set_out(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except Exception as error:  # Channel Access tells only the one who wrote
            await show(self._message, str(error))
            raise

    async def _until_at_rest(self) -> None:
        """Wait until it rests, and the PVs say so."""
        sequence = self._sequence
        async with self._told:
            await self._told.wait_for(
                lambda: not sequence.running and self._state.value == sequence.status.state
            )

    # -- what the sequence tells ------------------------------------------------------------------

    async def prepare(self) -> None:
        """Take note of the loop that the PVs live in."""
        self._loop = self._hardware.loop = asyncio.get_running_loop()

    def _changed(self, status: Status) -> None:
        self._on_loop(partial(self._show, status))

    def _done(self, index: int) -> None:
        results = self._sequence.results
        values = (float(getattr(results, key)[index]) for key in RECORD[3:])
        count = len(results.order)
        self._rows.append((float(self._loaded), float(count), float(index), *values))
        self._on_loop(self._show_done)

    def _on_loop(self, show_something: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(show_something(), self._loop)

    async def _show(self, status: Status) -> None:
        """Show a status, and where the sequence is."""
        sequence = self._sequence
        async with self._told:
            await show(self._index, sequence.index)
            if status.state != "Running" or time.monotonic() - self._shown > STATUS_PERIOD:
                self._shown = time.monotonic()
                left = self._time_left[min(sequence.index, len(self._time_left) - 1)]
                await show(self._remaining, float(left))
                await show(self._duration, float(self._time_left[0]))
            if status != self._status:
                self._status = status
                await self._show_status(status)
            self._told.notify_all()

    async def _show_status(self, status: Status) -> None:
        """Show a status; its state last, so that whoever sees that has all that belongs to it."""
        await self._show_done()
        await show(self._message, status.message)
        await show(self._failed, status.failed)
        await show(self._hold_after.readback, self._sequence.hold_after)
        if status.state == "Fault":
            await raise_alarm([self._state], AlarmStatus.STATE, AlarmSeverity.MAJOR_ALARM)
        else:
            await clear_alarm([self._state])
        await show(self._state, status.state)

    async def _show_done(self) -> None:
        """Show the points that were done since last."""
        rows = list(self._rows)
        count = int(rows[-1][1]) if rows else 0
        if count == self._count.value:
            return
        if rows:
            await show(self._recent, [value for row in rows for value in row], always=True)
        await show(self._count, count)

    async def close(self) -> None:
        """End what runs, so that its frames are on disk."""
        await self._abort()
