"""The stage's PVs: a motor record for each axis, and the aperture changer.

Position is published fast while something moves, twice a second at rest, and at once on arrival.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from caproto import AccessRights, AlarmSeverity, AlarmStatus, ChannelData, SkipWrite
from caproto._data import CannotExceedLimits

from ioc.drivers.protocol import Axis, DriverError, DriverTimeoutError, StageDriver, StageReading
from ioc.records import Group, Real, clear_alarm, raise_alarm, show
from ioc.trajectory import travel_time
from ioc.worker import Worker

MOVING_PERIOD = 1 / 80  # s; 50 Hz are asked for in motion, and a busy machine is late at times
IDLE_PERIOD = 0.5  # s
REST_POLL = 0.002  # s between looks whether something has come to rest that should
LATE = 0.02  # s that a move may be late, and is still looked at so often
STALL_TIME = 3.0  # s without a change of position until an axis in motion counts as stalled

logger = logging.getLogger(__name__)


class _Target(Real):
    """The VAL field, which tells of a target beyond the soft limits also by LVIO."""

    async def verify_value(self, value: Any) -> Any:
        try:
            return await super().verify_value(value)
        except CannotExceedLimits:
            await show(self.field_inst.limit_violation, 1)
            raise


class Motor:
    """One axis as a motor record, with the fields that `ophyd.EpicsMotor` and screens use.

    Fields that the stage has nothing for (homing, jogging, offsets, …) can only be read.

    Parameters
    ----------
    stage : Stage
        What moves.
    name : str
        Of the axis, as the driver has it.
    axis : Axis
    position : float
        Where it is now.
    """

    def __init__(self, stage: Stage, name: str, axis: Axis, position: float) -> None:
        self.name = name
        self.axis = axis
        self.moving = False
        self.started, self.due = 0.0, -inf
        self.stopped = False
        self.published = 0.0
        self._stage = stage
        self._limits = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._progress = (position, 0.0)
        self.target = stage.add(
            name.capitalize(),
            float(position),
            put=self._put,
            record="motor",
            dtype=_Target,
            units=axis.units,
            precision=axis.precision,
            limits=(axis.low, axis.high),
            doc=f"Position of the stage along {name}",
        )
        self.fields = self.target.field_inst
        # In a record, all fields share one alarm; EpicsMotor looks for it at the readback.
        self.fields.user_readback_value.alarm = self.target.alarm
        self._take_over_fields()

    def _take_over_fields(self) -> None:
        fields = self.fields
        writable = {
            fields.stop: self._put_stop,
            fields.stop_pause_move_go: self._put_mode,
            fields.velocity: self._put_speed,
            fields.user_high_limit: partial(self._put_limit, high=True),
            fields.dial_high_limit: partial(self._put_limit, high=True),
            fields.user_low_limit: partial(self._put_limit, high=False),
            fields.dial_low_limit: partial(self._put_limit, high=False),
            fields.dial_desired_value: self._put_dial,
            fields.relative_value: self._put_relative,
            fields.tweak_step_size: None,
            fields.tweak_motor_forward: partial(self._put_tweak, sign=1),
            fields.tweak_motor_reverse: partial(self._put_tweak, sign=-1),
            fields.description: None,
        }
        for field in fields.pvdb.values():
            if field not in writable:
                field.check_access = lambda host, user: AccessRights.READ
            elif writable[field] is not None:
                field.putter = writable[field]

    async def prepare(self) -> None:
        """Fill the fields from the axis."""
        fields, axis = self.fields, self.axis
        metadata: dict[str, Any] = {"units": axis.units, "precision": axis.precision}
        for field in fields.pvdb.values():
            if hasattr(field, "precision"):
                await field.write_metadata(**metadata, publish=False)
        await show(fields.engineering_units, axis.units)
        await show(fields.motor_step_size, 10.0**-axis.precision)
        await show(fields.retry_deadband, self.deadband)
        await show(fields.tweak_step_size, 1.0)
        await show(fields.limit_violation, 0)
        await show(fields.velocity, axis.speed)
        await show(fields.seconds_to_velocity, axis.speed / axis.acceleration)
        await show(fields.max_speed, axis.max_speed)
        await show(fields.max_velocity, axis.max_speed)
        await fields.velocity.write_metadata(units=f"{axis.units}/s", publish=False)
        await fields.seconds_to_velocity.write_metadata(units="s", publish=False)
        await fields.velocity.write_metadata(lower_ctrl_limit=0, upper_ctrl_limit=axis.max_speed)
        await self._show_limits(axis.low, axis.high)
        await self.publish(self.target.value)

    async def _show_limits(self, low: float, high: float) -> None:
        """Show the soft limits: a client that is told by a field finds them at VAL already.

        As in EPICS' own record, only the fields tell. An update of VAL would carry what the client
        has as its limits, and ophyd might take that for newer than what it has just asked for.
        """
        fields = self.fields
        for pv in (self.target, fields.user_readback_value):
            await pv.write_metadata(
                lower_ctrl_limit=low,
                upper_ctrl_limit=high,
                lower_disp_limit=low,
                upper_disp_limit=high,
                publish=False,
            )
        for pv in (fields.user_low_limit, fields.dial_low_limit):
            await show(pv, low)
        for pv in (fields.user_high_limit, fields.dial_high_limit):
            await show(pv, high)

    async def _put_limit(self, field: ChannelData, value: float, *, high: bool) -> Any:
        async with self._limits:  # two clients may set one each: neither undoes the other's
            low_now, high_now = self.target.lower_ctrl_limit, self.target.upper_ctrl_limit
            least, most = (low_now, self.axis.high) if high else (self.axis.low, high_now)
            if not least <= value <= most:
                raise ValueError(
                    f"{self.target.pvname}.{field.pvname} is {value:g} {self.axis.units}; "
                    f"it must lie between {least:g} and {most:g} {self.axis.units}"
                )
            await self._show_limits(*((low_now, value) if high else (value, high_now)))
        raise SkipWrite

    async def _put_speed(self, field: ChannelData, value: float) -> float:
        if value <= 0:
            raise ValueError(f"{self.target.pvname}.VELO is {value:g}; it must be above 0")
        await self._stage.worker.call(self._stage.driver.set_speed, self.name, float(value))
        await show(self.fields.seconds_to_velocity, value / self.axis.acceleration)
        return value

    async def _put_stop(self, field: ChannelData, value: int) -> Any:
        if value:
            await self._stage.stop(self.name)
        raise SkipWrite

    async def _put_mode(self, field: ChannelData, value: Any) -> Any:
        mode = value if isinstance(value, str) else field.enum_strings[value]
        if mode in ("Stop", "Pause"):
            await self._stage.stop(self.name)
        return value

    async def _put_dial(self, field: ChannelData, value: float) -> Any:
        await self.target.write(value)  # the dial and the user coordinates are the same
        raise SkipWrite

    async def _put_relative(self, field: ChannelData, value: float) -> Any:
        await self.target.write(self.target.value + value)
        raise SkipWrite

    async def _put_tweak(self, field: ChannelData, value: int, *, sign: int) -> Any:
        if value:
            await self.target.write(self.target.value + sign * self.fields.tweak_step_size.value)
        raise SkipWrite

    async def _put(self, pv: ChannelData, value: float) -> Any:
        """Move, and return when it is over: this is what makes a put-completion wait."""
        if self.fields.stop_pause_move_go.value in ("Stop", "Pause"):
            raise DriverError(f"{self.target.pvname}.SPMG is not 'Go': it does not move")
        self._stage.check_free()
        await self._begin(float(value))
        try:
            started = await self._stage.start(self, float(value))
        except Exception as error:
            await self._fail(str(error))
            raise
        self._set_out(started, due=started + self._travel_time(float(value)))
        self._stage.wake()
        await self._arrived.wait()
        raise SkipWrite  # VAL was published at the start, and may have changed since

    async def begin(self, value: float, started: float) -> None:
        """Show a move that was begun at some time by somebody else than a client."""
        await self._begin(value)
        self._set_out(started)

    def _set_out(self, started: float, due: float = -inf) -> None:
        self.started, self.due = started, due
        self.moving = True
        self._progress = (self.fields.user_readback_value.value, started)

    def _travel_time(self, target: float) -> float:
        """Say how long a move from here should take, in s."""
        axis = self._stage.axis(self.name)
        away = target - self._stage.last_position(self.name)
        return travel_time(away, axis.speed, axis.acceleration)

    async def _begin(self, value: float) -> None:
        """Say that a move begins, even if it turns out to be one of no length."""
        fields = self.fields
        self._arrived.clear()
        self.started = inf  # what is read from now on is of the move before
        self.stopped = False
        await clear_alarm([self.target])
        await show(fields.ran_out_of_retries, 0)
        await show(fields.limit_violation, 0)
        await show(fields.direction_of_travel, int(value >= fields.user_readback_value.value))
        await show(self.target, value, always=True)
        await show(fields.dial_desired_value, value)
        await show(fields.done_moving_to_value, 0)
        await show(fields.motor_is_moving, 1)

    async def publish(self, position: float) -> None:
        """Publish where the axis is."""
        fields = self.fields
        self.published = time.monotonic()
        await show(fields.user_readback_value, position, always=True)
        await show(fields.dial_readback_value, position)
        await show(fields.difference_dval_drbv, self.target.value - position)

    @property
    def deadband(self) -> float:
        """What counts as no change of position: ten of the last digit, for encoders have noise."""
        return 10.0 ** (1 - self.axis.precision)

    def has_stalled(self, position: float, now: float) -> bool:
        """Tell whether the axis in motion has not moved for too long."""
        if abs(position - self._progress[0]) > self.deadband:
            self._progress = (position, now)
        return now - self._progress[1] > STALL_TIME

    async def finish(self, reason: str = "") -> None:
        """Say that the move is over, with a reason if it did not get where it was to go."""
        if self.stopped:  # as a motor record does: the target of a stopped axis is where it is
            await show(self.target, self.fields.user_readback_value.value)
            await show(self.fields.dial_desired_value, self.target.value)
        if reason:
            await self._fail(reason)
            return
        await self._end()

    async def _fail(self, reason: str) -> None:
        logger.error("%s: %s", self.target.pvname, reason)
        await show(self._stage.error, f"{self.name}: {reason}")
        await show(self.fields.ran_out_of_retries, 1)
        await raise_alarm([self.target], AlarmStatus.STATE, AlarmSeverity.MAJOR_ALARM)
        await self._end()

    async def _end(self) -> None:
        self.moving = False
        await show(self.fields.motor_is_moving, 0)
        await show(self.fields.done_moving_to_value, 1)
        self._arrived.set()


class Stage(Group):
    """The stage.

    PVs: a motor record for each axis of the driver (X, Y, Z in um, Tilt in deg); Aperture (counted
    from 1), Aperture_RBV, ApertureCount_RBV, ApertureId_RBV, ApertureMoving_RBV; Moving_RBV,
    StopAll, Error_RBV.

    Parameters
    ----------
    prefix : str
    driver : StageDriver
    timeout : float
        What a call of the driver may take, in s.
    """

    def __init__(self, prefix: str, driver: StageDriver, timeout: float) -> None:
        super().__init__(prefix)
        self.driver = driver
        self.worker = Worker("stage", timeout)
        self._wake = asyncio.Event()
        self._answers = True
        self._claim = ""
        self._following = asyncio.Lock()
        self._aperture_started: float | None = None
        self._aperture_published = 0.0
        self._aperture_done = asyncio.Event()
        reading = driver.read()
        self.motors = {
            name: Motor(self, name, axis, reading.position[name])
            for name, axis in driver.axes.items()
        }
        self._aperture = self.pair(
            "Aperture",
            int(reading.aperture),
            apply=self._go_to_aperture,
            limits=(1, driver.aperture_count),
            doc="Aperture under the beam",
        )
        self._aperture_id = self.readback("ApertureId_RBV", reading.aperture_id)
        self._aperture_moving = self.readback("ApertureMoving_RBV", "No", choices=("No", "Yes"))
        self.readback("ApertureCount_RBV", int(driver.aperture_count))
        self._moving = self.readback("Moving_RBV", "No", choices=("No", "Yes"))
        self.command("StopAll", self._stop_all, "Write 1: stop all axes and the aperture changer")
        self.error = self.readback("Error_RBV", "", long=True, doc="What went wrong last")

    async def prepare(self) -> None:
        """Fill the fields of the motor records."""
        for motor in self.motors.values():
            await motor.prepare()

    def check_free(self) -> None:
        """Refuse to begin something with hardware that does not answer, or that another uses."""
        if not self._answers:
            raise DriverTimeoutError(self.error.value)
        if self._claim:
            raise DriverError(self._claim)

    def wake(self) -> None:
        """Read the hardware at once, and often while something moves."""
        self._wake.set()

    async def start(self, motor: Motor, target: float) -> float:
        """Set an axis in motion; give the time from which a reading knows of it."""
        return await self.worker.call(self.send, {motor.name: target})

    # -- for a sequence, which moves the stage by itself -------------------------------------------

    def claim(self, why: str) -> None:
        """Let nobody else move the stage from now on; they are told why.

        Raises
        ------
        DriverError
            If it does not answer, is in motion, or is claimed.
        """
        self.check_free()
        if self._in_motion:
            raise DriverError("the stage is moving: wait for it, or stop it")
        self._claim = why

    def release(self) -> None:
        """Let others move the stage again."""
        self._claim = ""

    def axis(self, name: str) -> Axis:
        """Give an axis with the speed and the soft limits that are set."""
        motor = self.motors[name]
        return replace(
            motor.axis,
            speed=float(motor.fields.velocity.value),
            low=float(motor.target.lower_ctrl_limit),
            high=float(motor.target.upper_ctrl_limit),
        )

    def last_position(self, name: str) -> float:
        """Give where an axis was when it was read last."""
        return float(self.motors[name].fields.user_readback_value.value)

    def send(self, targets: Mapping[str, float]) -> float:
        """Set axes in motion, on the stage's thread; give the time from which readings know it."""
        self.driver.move(targets)
        return time.monotonic()

    async def follow(self, targets: Mapping[str, float], started: float) -> None:
        """Show a motion that `send` began, until it ends."""
        async with self._following:  # one after the other, so that the last target is shown last
            for name, target in targets.items():
                motor = self.motors[name]
                if abs(target - motor.target.value) < motor.deadband and not motor.moving:
                    continue  # an axis that stays where it is
                await motor.begin(target, started)
        self.wake()

    async def at_rest(self) -> None:
        """Wait until the PVs show that nothing moves."""
        async with self._following:  # what was sent is shown as motion by then
            while self._in_motion:
                self.wake()
                await asyncio.sleep(REST_POLL)

    async def stop(self, *names: str) -> None:
        """Stop some axes."""
        self._expect_stop(*names)
        await self.worker.call(self.driver.stop, names)
        self.wake()

    async def _stop_all(self) -> None:
        self._expect_stop(*self.motors)
        await self.worker.call(self.driver.stop)
        self.wake()

    def _expect_stop(self, *names: str) -> None:
        for name in names:
            motor = self.motors[name]
            motor.stopped = motor.moving

    async def _go_to_aperture(self, number: int) -> int:
        def go() -> float:
            self.driver.go_to_aperture(number)
            return time.monotonic()

        self.check_free()
        self._aperture_done.clear()
        self._aperture_started = inf  # what is read from now on is of before the change
        try:
            self._aperture_started = await self.worker.call(go)
        except Exception:
            self._aperture_started = None
            raise
        await show(self._aperture.setpoint, number)
        await show(self._aperture_moving, "Yes")
        self.wake()
        await self._aperture_done.wait()
        arrived = self._aperture.value
        if arrived != number:
            raise DriverError(f"the changer is at aperture {arrived}; {number} was asked for")
        return arrived

    async def run(self) -> None:
        """Read the hardware: often while something moves, else twice a second."""
        while True:
            self._wake.clear()
            began = time.monotonic()
            await self._refresh()
            try:
                rest = max(self._period(began) - (time.monotonic() - began), 0.001)
                await asyncio.wait_for(self._wake.wait(), rest)
            except TimeoutError:
                continue

    def _period(self, now: float) -> float:
        """Say when to read next: just when a move should end, for somebody waits for that."""
        if not self._in_motion:
            return IDLE_PERIOD
        due = [motor.due - now for motor in self.motors.values() if motor.moving]
        return min([MOVING_PERIOD, *(max(left, REST_POLL) for left in due if left > -LATE)])

    @property
    def _in_motion(self) -> bool:
        return self._aperture_started is not None or any(m.moving for m in self.motors.values())

    async def _refresh(self) -> None:
        def read() -> tuple[float, StageReading]:
            asked = time.monotonic()
            return asked, self.driver.read()

        try:
            asked, reading = await self.worker.call(read)
        except Exception as error:
            await self._failed(error)
            return
        if not self._answers:
            self._answers = True
            logger.info("the stage answers again")
            await show(self.error, "")
            await clear_alarm(self._readbacks)
        await self._publish_axes(asked, reading)
        await self._publish_aperture(asked, reading)
        await show(self._moving, "Yes" if self._in_motion or reading.moving else "No")

    async def _publish_axes(self, asked: float, reading: StageReading) -> None:
        for name, motor in self.motors.items():
            position = float(reading.position[name])
            if motor.moving or asked - motor.published > IDLE_PERIOD / 2:
                await motor.publish(position)
            if not motor.moving or asked < motor.started:
                continue
            if name in reading.stalled:
                await motor.finish(reading.stalled[name])
            elif name not in reading.moving:
                await motor.finish()
            elif motor.has_stalled(position, asked):
                await self.worker.call(self.driver.stop, [name])
                await motor.finish(
                    f"stalled at {position:.{motor.axis.precision}f} {motor.axis.units} "
                    f"on the way to {motor.target.value:g}"
                )

    async def _publish_aperture(self, asked: float, reading: StageReading) -> None:
        due = reading.aperture_moving or asked - self._aperture_published > IDLE_PERIOD / 2
        if due:
            self._aperture_published = asked
        await show(self._aperture.readback, reading.aperture, always=due)
        await show(self._aperture_id, reading.aperture_id)
        started = self._aperture_started
        if started is not None and asked < started:
            return  # this was read before the change that is under way had begun
        await show(self._aperture_moving, "Yes" if reading.aperture_moving else "No")
        if started is not None and not reading.aperture_moving:
            self._aperture_started = None
            self._aperture_done.set()

    @property
    def _readbacks(self) -> list[ChannelData]:
        return [motor.target for motor in self.motors.values()] + [self._aperture.readback]

    async def _failed(self, error: Exception) -> None:
        if self._answers:
            logger.error("stage: %s", error)
        self._answers = False
        await show(self.error, str(error))
        await raise_alarm(self._readbacks)
