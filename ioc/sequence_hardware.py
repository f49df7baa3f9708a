"""Stage, camera and column as a sequence uses them, while their own PVs go on telling the truth.

Each call is made on the thread of its subsystem, as drivers ask for; the PVs follow by the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from math import cos, nan, radians, sin
from typing import Any, TypeVar

from ioc.camera.cam import Cam
from ioc.camera.hdf import HdfPlugin
from ioc.camera.stats import StatsPlugin
from ioc.drivers.protocol import (
    Axis,
    DriverError,
    DriverTimeoutError,
    Frame,
    Readout,
    StageReading,
)
from ioc.microscope import Microscope
from ioc.sequence_protocol import FaultCode, SequenceError, Written
from ioc.stage import Stage
from ioc.trajectory import travel_time

OWNER = "the sequencer is running: pause or abort it first"
FOCUS, SHIFT_X, SHIFT_Y = "defocus", "image_shift_x", "image_shift_y"
LIGHT = {"column_valve": "Open", "screen": "Up", "blank": "Off"}  # what it takes to see anything
SET_TIMEOUT = 10.0  # s
LEAST_TRAVEL = 1e-4  # s

T = TypeVar("T")


class SequenceHardware:
    """What a sequence asks of the instrument, over the groups of PVs that serve it.

    Parameters
    ----------
    stage : Stage
    camera : Cam
    hdf : HdfPlugin
    stats : StatsPlugin
    microscope : Microscope

    Attributes
    ----------
    loop : asyncio.AbstractEventLoop
        Of the server; to be set before the first call.
    interlocks : bool
        Whether an exposure needs light.
    rotation : float
        From the axes of the image shift to those of the stage, in degrees, counter-clockwise.
    scale : float
        How far the picture goes for 1 µm of the setting, in µm.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self, stage: Stage, camera: Cam, hdf: HdfPlugin, stats: StatsPlugin, microscope: Microscope
    ) -> None:
        self._stage, self._camera, self._microscope = stage, camera, microscope
        self._hdf, self._stats = hdf, stats
        self._delivering = asyncio.Lock()
        self._base: dict[str, float] = {}
        self._optics: dict[str, float] = {}
        self._target: tuple[float, float] | None = None
        self._correction = {SHIFT_X: 0.0, SHIFT_Y: 0.0}  # of the stage, by the image shift
        self._readout: Readout | None = None
        self.interlocks = True
        self.rotation, self.scale = 0.0, 1.0

    # -- what the sequencer asks before it runs ---------------------------------------------------

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The axes x and y, with their speeds and soft limits as they are set."""
        return self._stage.axis("x"), self._stage.axis("y")

    @property
    def readout_time(self) -> float:
        """How long a frame takes to be read out, in s."""
        return float(self._camera.driver.readout_time(self._camera.readout))

    @property
    def exposure_limits(self) -> tuple[float, float]:
        """The shortest and the longest exposure, in s."""
        return self._camera.driver.exposure_limits

    def room(self, name: str) -> tuple[float, float]:
        """Give what may be added to a setting of the column; nothing if it has no such setting."""
        setting = self._microscope.settings.get(name)
        if setting is None:
            return 0.0, 0.0
        now = self._base.get(name, self._microscope.value(name))
        return setting.low - now, setting.high - now

    def place(self) -> tuple[float, float]:
        """Give where the stage was when it was read last, in µm."""
        return self._stage.last_position("x"), self._stage.last_position("y")

    # -- what a sequence asks ---------------------------------------------------------------------

    def begin(self) -> None:
        """Take stage and camera, so that nobody else moves or exposes."""
        if not self._hdf.is_capturing:
            raise DriverError(
                "HDF1 is not capturing, and a frame that is not written is lost: "
                "write HDF1:Capture=1 first"
            )
        self._stage.claim(OWNER)
        try:
            self._camera.claim(OWNER)
        except Exception:
            self._stage.release()
            raise
        self._hdf.claim(OWNER)
        self._readout = self._camera.readout
        self._base = {
            name: float(self._microscope.value(name))
            for name in (FOCUS, SHIFT_X, SHIFT_Y)
            if name in self._microscope.settings
        }
        self._optics = dict(self._base)
        self._target = None

    def release(self) -> None:
        """Bring the optics back to where they were, and let others use stage and camera."""
        try:
            self._restore_optics()
        finally:
            self._base = {}
            with suppress(Exception):  # its own PVs say that it does not answer
                self._await(self._stage.at_rest())
            self._stage.release()
            self._camera.release()
            self._hdf.release()

    def _restore_optics(self) -> None:
        """Bring back what can be brought back, and raise if some of it cannot."""
        errors = []
        for name, value in self._base.items():
            try:
                self._set({name: value})
            except Exception as error:
                errors.append(f"{name}: {error}")
        if errors:
            raise DriverError(", ".join(errors))

    def move(self, x: float, y: float) -> float:
        """Set the stage in motion; give the time that it will take, in s; 0 if it is there."""
        target = x, y
        if target == self._target:
            return 0.0
        before = self._target or self.place()
        travel = max(
            travel_time(b - a, axis.speed, axis.acceleration)
            for a, b, axis in zip(before, target, self.axes, strict=True)
        )
        started = self._stage.worker.wait(partial(self._stage.send, {"x": x, "y": y}))
        self._target = target
        self._correction = dict.fromkeys(self._correction, 0.0)
        asyncio.run_coroutine_threadsafe(self._stage.follow({"x": x, "y": y}, started), self.loop)
        return max(travel, LEAST_TRAVEL)

    def stop(self) -> None:
        """Stop the stage."""
        self._await(self._stage.stop("x", "y"))

    def position(self) -> StageReading:
        """Read the stage."""
        return self._stage.worker.wait(self._stage.driver.read)

    def set_optics(self, focus: float, shift_x: float, shift_y: float) -> bool:
        """Set what is added to defocus and image shift; tell whether the image shift changed."""
        added = {
            FOCUS: focus,
            SHIFT_X: shift_x + self._correction[SHIFT_X],
            SHIFT_Y: shift_y + self._correction[SHIFT_Y],
        }
        changed = self._set({name: base + added[name] for name, base in self._base.items()})
        return bool(changed & {SHIFT_X, SHIFT_Y})

    def shift_by(self, x: float, y: float) -> None:
        """Move the picture's place by some µm of the stage, as long as that stays there."""
        if not {SHIFT_X, SHIFT_Y} <= set(self._base):
            raise DriverError("this column has no image shift, to make up for the stage")
        c, s = cos(radians(self.rotation)), sin(radians(self.rotation))
        self._correction = {
            SHIFT_X: (c * x + s * y) / self.scale,
            SHIFT_Y: (c * y - s * x) / self.scale,
        }
        self._set({name: self._optics[name] + value for name, value in self._correction.items()})

    def expose(self, exposure: float) -> None:
        """Expose, and return when the light is in."""
        self._check_light()
        camera = self._camera
        try:
            camera.worker.wait(
                camera.driver.expose, exposure, self._readout, timeout=exposure + camera.timeout
            )
        except Exception as error:
            with suppress(Exception):  # the sensor must not stay busy
                camera.control.wait(camera.driver.abort)
            raise SequenceError(FaultCode.CAMERA, str(error)) from error
        try:
            self._check_light()
        except SequenceError:
            camera.worker.submit(camera.driver.read_frame)  # and nobody wants it
            raise

    def _check_light(self) -> None:
        """Raise SequenceError if there is no light, or the column does not answer."""
        if not self.interlocks:
            return
        if not self._microscope.answers:
            raise SequenceError(FaultCode.INTERLOCK, "the column does not answer")
        for name, wanted in LIGHT.items():
            if name in self._microscope.settings:
                found = self._microscope.value(name)
                if found != wanted:
                    raise SequenceError(
                        FaultCode.INTERLOCK, f"{name} is {found!r}; it must be {wanted!r} for light"
                    )

    def read(self) -> tuple[Future[Frame], Future[Written]]:
        """Have the frame of the last exposure read out and written; wait for neither."""
        readout = self._camera.worker.submit(self._camera.driver.read_frame)
        written: Future[Written] = Future()
        readout.add_done_callback(partial(self._have_written, written))
        return readout, written

    def abort_exposure(self) -> None:
        """Have a running exposure return early."""
        self._camera.control.submit(self._camera.driver.abort)

    def blank(self) -> None:
        """Blank the beam, if the column can."""
        if "blank" in self._microscope.settings:
            self._await(self._microscope.set("blank", "On"))

    # -- how ----------------------------------------------------------------------------------

    def _have_written(self, written: Future[Written], readout: Future[Frame]) -> None:
        """Hand a frame that was read out to the plugins; called on the camera's thread."""
        if (error := readout.exception()) is not None:
            written.set_exception(error)
            return
        delivery = asyncio.run_coroutine_threadsafe(self._deliver(readout.result()), self.loop)
        delivery.add_done_callback(partial(_pass_on, written))

    async def _deliver(self, frame: Frame) -> Written:
        async with self._delivering:
            before = self._hdf.captured
            try:
                await self._camera.deliver(frame)
            except Exception as error:
                raise SequenceError(FaultCode.NOT_WRITTEN, str(error)) from error
            if self._hdf.captured == before:
                raise SequenceError(
                    FaultCode.NOT_WRITTEN,
                    f"frame {frame.number} was not written: somebody ended the capture of HDF1",
                )
            await self._stats.settle()  # it may have let the frame pass, as too soon after the last
            mean, sharpness = self._stats.of(frame.number) or (nan, nan)
            return Written(frame.number, before, mean, sharpness)

    def _set(self, values: Mapping[str, float]) -> set[str]:
        """Set what of the column is not so already, on one way there; tell what was changed."""
        changed = {name: v for name, v in values.items() if self._optics.get(name) != v}
        if changed:
            self._await(self._set_column(changed))
        return set(changed)

    async def _set_column(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            await self._microscope.set(name, value)
            self._optics[name] = value

    def _await(self, what: Coroutine[Any, Any, T]) -> T:
        """Have the server's loop do something, and wait for it; not to be called there."""
        made = asyncio.run_coroutine_threadsafe(what, self.loop)
        try:
            return made.result(SET_TIMEOUT)
        except TimeoutError as error:
            made.cancel()
            raise DriverTimeoutError(
                f"{what.__qualname__} did not return within {SET_TIMEOUT:g} s"
            ) from error


def _pass_on(target: Future[T], source: Future[T]) -> None:
    """Give one future the outcome of another."""
    if source.cancelled():
        target.set_exception(DriverError("the server was stopped"))
    elif (error := source.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())
