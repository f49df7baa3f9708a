"""The camera's own PVs, and acquisition: expose, read, hand the frame to the plugins, repeat.

Acquire falls only when the plugins have dealt with the last frame, so that what a client reads
after that belongs to it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, SkipWrite

from ioc.camera.plugin import CAMERA_PORT, DATA_TYPES, Plugin
from ioc.drivers.protocol import CameraDriver, DriverError, Frame, Readout
from ioc.records import Group, clear_alarm, raise_alarm, show
from ioc.worker import Worker

READ_TIMEOUT = 30.0  # s; the first frame of a simulation waits for its compiler
TEMPERATURE_PERIOD = 1.0  # s
SHORTEST = 0.05  # s that Acquire stays up: a stock SingleTrigger, which reads PVs after it has
# started the camera and only then hands out its status, loses that if Acquire falls before
SERIES = ("Acquire", "Readout", "Waiting")  # states between which a series goes
STATUS_PERIOD = 0.05  # s between updates of the counters in a fast series
STATES = (
    "Idle",
    "Acquire",
    "Readout",
    "Correct",
    "Saving",
    "Aborting",
    "Error",
    "Waiting",
    "Initializing",
    "Disconnected",
    "Aborted",
)

logger = logging.getLogger(__name__)


class Cam(Group):
    """The driver of an areaDetector.

    PVs (each with _RBV): Acquire, AcquireTime, AcquirePeriod (s), ImageMode, NumImages,
    NumExposures, TriggerMode, ArrayCallbacks, DataType, ColorMode, BinX, BinY, MinX, MinY, SizeX,
    SizeY (unbinned px), Temperature (degC), ArrayCounter (the number of the last frame: unique
    and rising, which is why it cannot be set). Read only: PortName_RBV, Manufacturer_RBV,
    Model_RBV, MaxSizeX_RBV, MaxSizeY_RBV, ArraySizeX_RBV, ArraySizeY_RBV, ArraySizeZ_RBV,
    ArraySize_RBV (bytes), NumImagesCounter_RBV, NumExposuresCounter_RBV, ArrayRate_RBV (Hz),
    TimeRemaining_RBV (s), DetectorState_RBV, StatusMessage_RBV, TemperatureActual (degC).

    A failed exposure adds no frame to a capture: Acquire falls, DetectorState_RBV is Error, and
    StatusMessage_RBV says why. HDF1:NumCaptured_RBV tells how many frames there are.

    Parameters
    ----------
    prefix : str
    driver : CameraDriver
    plugins : sequence of Plugin
        What each frame is given to.
    timeout : float
        What a call of the driver may take, and an exposure over its time, in s.
    """

    def __init__(
        self, prefix: str, driver: CameraDriver, plugins: Sequence[Plugin], timeout: float
    ) -> None:
        super().__init__(prefix)
        self.driver = driver
        self._plugins = plugins
        self.timeout = timeout
        self.worker = Worker("camera", timeout)
        self.control = Worker("camera control", timeout)
        self._task: asyncio.Task[None] | None = None
        self._claim = ""
        self._sequence_began = 0.0
        self._taken = 0
        self._aborting = False
        self._turn = asyncio.Lock()
        self._stops = 0  # how often it was to stop
        self._shown = 0.0
        self._add_timing()
        self._add_readout()
        self._add_status()

    # -- process variables ------------------------------------------------------------------------

    def _add_timing(self) -> None:
        low, high = self.driver.exposure_limits
        seconds: dict[str, Any] = {"units": "s", "precision": 4}
        self._acquire = self.pair(
            "Acquire", "Done", choices=("Done", "Acquire"), apply=self._set_acquire
        )
        self._time = self.pair(
            "AcquireTime", min(max(0.1, low), high), limits=(low, high), **seconds
        )
        self._period = self.pair("AcquirePeriod", 0.0, limits=(0.0, 3600.0), **seconds)
        self._mode = self.pair("ImageMode", "Single", choices=("Single", "Multiple", "Continuous"))
        self._num_images = self.pair("NumImages", 1, limits=(1, 1_000_000))
        self.pair("NumExposures", 1, limits=(1, 1))
        self.readback("NumExposuresCounter_RBV", 1)
        self.pair("TriggerMode", "Internal", choices=("Internal",))
        self._callbacks = self.pair("ArrayCallbacks", "Enable", choices=("Disable", "Enable"))

    def _add_readout(self) -> None:
        driver = self.driver
        height, width = driver.sensor_shape
        bins: dict[str, Any] = {
            "limits": (min(driver.binnings), max(driver.binnings)),
            "apply": self._set_binning,
        }
        self._bin_x = self.pair("BinX", 1, **bins)
        self._bin_y = self.pair("BinY", 1, **bins)
        px: dict[str, Any] = {"units": "px"}
        self._min_x = self.pair("MinX", 0, limits=(0, width - 1), apply=self._set_min_x, **px)
        self._min_y = self.pair("MinY", 0, limits=(0, height - 1), apply=self._set_min_y, **px)
        self._size_x = self.pair("SizeX", width, limits=(1, width), apply=self._set_size_x, **px)
        self._size_y = self.pair("SizeY", height, limits=(1, height), apply=self._set_size_y, **px)
        self.readback("MaxSizeX_RBV", width, **px)
        self.readback("MaxSizeY_RBV", height, **px)
        # The readback is a record, for ophyd asks for its DISA field.
        self._data_type = self.pair(
            "DataType",
            driver.pixel_types[-1],
            choices=DATA_TYPES,
            apply=self._set_data_type,
            record="mbbi",
        )
        self.pair("ColorMode", "Mono", choices=("Mono",))
        self._array_x = self.readback("ArraySizeX_RBV", width, **px)
        self._array_y = self.readback("ArraySizeY_RBV", height, **px)
        self.readback("ArraySizeZ_RBV", 0, **px)
        self._array_bytes = self.readback(
            "ArraySize_RBV", height * width * self.readout.dtype.itemsize, units="B"
        )

    def _add_status(self) -> None:
        driver = self.driver
        self.readback("PortName_RBV", CAMERA_PORT)
        self.readback("Manufacturer_RBV", driver.manufacturer)
        self.readback("Model_RBV", driver.model)
        self._counter = self.pair("ArrayCounter", 0, apply=self._refuse_counter)
        self._images = self.readback("NumImagesCounter_RBV", 0)
        self._rate = self.readback("ArrayRate_RBV", 0.0, units="Hz", precision=2)
        self._remaining = self.readback("TimeRemaining_RBV", 0.0, units="s", precision=2)
        self._state = self.readback("DetectorState_RBV", "Idle", choices=STATES)
        self._message = self.readback("StatusMessage_RBV", "Idle", long=True)
        celsius: dict[str, Any] = {"units": "degC", "precision": 2}
        now = float(driver.temperature())
        limits = driver.temperature_limits
        self._temperature = self.pair(
            "Temperature", now, limits=limits, apply=self._set_temperature, **celsius
        )
        self._temperature_actual = self.readback("TemperatureActual", now, **celsius)

    # -- what clients write -----------------------------------------------------------------------

    @property
    def readout(self) -> Readout:
        """How frames are read, as it is set."""
        sides = (self._min_y, self._min_x, self._size_y, self._size_x)
        top, left, height, width = (int(side.value) for side in sides)  # CA gives numpy's integers
        return Readout(int(self._bin_x.value), self._data_type.value, (top, left, height, width))

    def _check_still(self) -> None:
        if self._claim:
            raise ValueError(self._claim)
        if self._task is not None:
            raise ValueError("the camera is acquiring: write Acquire=0 first")

    async def _set_binning(self, wanted: int) -> None:
        self._check_still()
        if wanted not in self.driver.binnings:
            known = self.driver.binnings
            nearest = min(known, key=lambda one: abs(one - wanted))
            raise ValueError(
                f"binning is {wanted}; the nearest that exists is {nearest} "
                f"(all: {', '.join(map(str, known))})"
            )
        await self._bin_x.show(wanted)  # the sensor bins both ways alike
        await self._bin_y.show(wanted)
        await self._resize()

    async def _set_min_x(self, wanted: int) -> None:
        self._check_region("MinX", wanted, wanted + self._size_x.value, self._size_x)
        await show(self._min_x.readback, wanted)

    async def _set_min_y(self, wanted: int) -> None:
        self._check_region("MinY", wanted, wanted + self._size_y.value, self._size_y)
        await show(self._min_y.readback, wanted)

    async def _set_size_x(self, wanted: int) -> None:
        self._check_region("SizeX", wanted, wanted + self._min_x.value, self._size_x)
        await show(self._size_x.readback, wanted)
        await self._resize()

    async def _set_size_y(self, wanted: int) -> None:
        self._check_region("SizeY", wanted, wanted + self._min_y.value, self._size_y)
        await show(self._size_y.readback, wanted)
        await self._resize()

    def _check_region(self, name: str, wanted: int, end: int, size: Any) -> None:
        self._check_still()
        most = size.setpoint.upper_ctrl_limit
        if end > most:
            raise ValueError(f"{name} is {wanted}: the region would end at {end}, beyond {most} px")

    async def _set_data_type(self, wanted: Any) -> None:
        self._check_still()
        label = wanted if isinstance(wanted, str) else DATA_TYPES[wanted]
        if label not in self.driver.pixel_types:
            raise ValueError(
                f"DataType is {label}; this camera has {', '.join(self.driver.pixel_types)}"
            )
        await show(self._data_type.readback, label)
        await self._resize()

    async def _resize(self) -> None:
        readout = self.readout
        height, width = readout.shape
        await show(self._array_x, width)
        await show(self._array_y, height)
        await show(self._array_bytes, height * width * readout.dtype.itemsize)
        for plugin in self._plugins:
            await plugin.resize(readout.shape, readout.pixel_type)

    async def _refuse_counter(self, _: int) -> None:
        raise ValueError("ArrayCounter numbers the frames for good and cannot be set")

    async def _set_temperature(self, wanted: float) -> None:
        await self.control.call(self.driver.set_temperature, float(wanted))

    async def _set_acquire(self, wanted: Any) -> Any:
        """Start or stop; either way a put-completion comes when the camera is still again."""
        starting = wanted in ("Acquire", 1)
        if not starting:
            self._stops += 1
        stops = self._stops
        async with self._turn:  # what is started while the camera stops, begins after that
            if not starting:
                await self._stop()
            elif stops == self._stops:  # and not at all, if it was stopped again meanwhile
                await self._start()
        await self._still()
        raise SkipWrite

    async def _start(self) -> None:
        if self._claim:
            raise ValueError(self._claim)
        if self._task is None:
            self._aborting = False
            self._task = asyncio.create_task(self._acquisition())
        await self._acquire.show("Acquire")

    async def _stop(self) -> None:
        if self._task is not None and not self._claim:  # the sequencer stops what it began
            await self._abort()
            await self._still()

    async def _still(self) -> None:
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _abort(self) -> None:
        self._aborting = True
        await self._say("Aborting", "Stopping")
        await self.control.call(self.driver.abort)

    # -- for a sequence, which exposes and reads by itself ----------------------------------------

    def claim(self, why: str) -> None:
        """Let nobody else acquire or change the readout from now on; they are told why.

        Raises
        ------
        ValueError
            If the camera is acquiring, or claimed.
        """
        self._check_still()
        self._claim = why
        self._taken, self._sequence_began = 0, time.monotonic()

    def release(self) -> None:
        """Let others use the camera again."""
        self._claim = ""

    async def deliver(self, frame: Frame) -> None:
        """Give a frame of a sequence to the plugins.

        Raises
        ------
        DriverError
            If it could not be written.
        """
        self._taken += 1
        await self._deliver(frame, self._taken, self._sequence_began)

    # -- acquisition ------------------------------------------------------------------------------

    async def _acquisition(self) -> None:
        """Acquire what ImageMode asks for, and say how it ended."""
        began = time.monotonic()
        try:
            await clear_alarm([self._state])
            await self._series()
        except Exception as error:
            if self._aborting:
                await self._say("Aborted", "Aborted")
            else:
                logger.error("camera: %s", error)
                await self._say("Error", str(error))
                await raise_alarm([self._state], AlarmStatus.READ, AlarmSeverity.MAJOR_ALARM)
        else:
            await self._say("Idle", "Idle")
        finally:
            await show(self._remaining, 0.0)
            await asyncio.sleep(max(0.0, began + SHORTEST - time.monotonic()))
            self._task = None
            await self._acquire.show("Done")

    async def _series(self) -> None:
        total = {"Single": 1, "Multiple": self._num_images.value}.get(self._mode.value, math.inf)
        await show(self._images, 0)
        for plugin in self._plugins:
            await plugin.check()
        taken, began = 0, time.monotonic()
        delivery: asyncio.Task[None] | None = None
        try:
            while taken < total and not self._aborting:
                await self._pause(began + taken * self._period.value)
                frame = await self._take()
                taken += 1
                if delivery is not None:
                    await delivery  # the plugins may be one frame behind, no more
                delivery = asyncio.create_task(self._deliver(frame, taken, began))
        finally:
            if delivery is not None:
                await delivery
            await self._finish(taken, began)
        if self._aborting:
            raise DriverError("aborted")

    async def _pause(self, until: float) -> None:
        """Wait for the next exposure of a series with an AcquirePeriod, unless it is stopped."""
        while not self._aborting and (rest := until - time.monotonic()) > 0:
            await self._say("Waiting", "Waiting for the next exposure")
            await asyncio.sleep(min(rest, STATUS_PERIOD))

    async def _take(self) -> Frame:
        """Expose and read one frame."""
        exposure, readout = self._time.value, self.readout
        exposing = asyncio.create_task(
            self.worker.call(self.driver.expose, exposure, readout, timeout=exposure + self.timeout)
        )
        await self._say("Acquire", "Exposing")  # it does not wait for that
        countdown = asyncio.create_task(self._count_down(exposure))
        try:
            await exposing
        except Exception:
            if not self._aborting:  # whatever went wrong, the sensor must not stay busy
                await self.control.call(self.driver.abort)
            raise
        finally:
            countdown.cancel()
        await self._say("Readout", "Reading out")
        return await self.worker.call(self.driver.read_frame, timeout=READ_TIMEOUT)

    async def _count_down(self, exposure: float) -> None:
        end = time.monotonic() + exposure
        while (rest := end - time.monotonic()) > 0:
            await show(self._remaining, rest)
            await asyncio.sleep(0.1)

    async def _deliver(self, frame: Frame, taken: int, began: float) -> None:
        """Give a frame to the plugins; an error of one is raised when all are done."""
        if time.monotonic() - self._shown > STATUS_PERIOD:
            self._shown = time.monotonic()
            await self._show_counters(frame.number, taken, began)
        self._last_number = frame.number
        if self._callbacks.value == "Disable":
            return
        results = await asyncio.gather(
            *(plugin.handle(frame) for plugin in self._plugins), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _finish(self, taken: int, began: float) -> None:
        """Bring counters and plugins up to the last frame."""
        if not taken:
            return
        await self._show_counters(self._last_number, taken, began)
        await asyncio.gather(*(plugin.settle() for plugin in self._plugins))

    async def _show_counters(self, number: int, taken: int, began: float) -> None:
        await self._counter.show(number)
        await show(self._images, taken)
        await show(self._rate, taken / max(time.monotonic() - began, 1e-6))

    async def _say(self, state: str, message: str) -> None:
        """Publish the state, in a fast series no oftener than a screen can follow it.

        The end of an exposure that was told of is told, too: clients may wait for it.
        """
        if state == "Readout":
            if self._state.value != "Acquire":
                return
        elif state in SERIES and self._state.value in SERIES:
            now = time.monotonic()
            if now - self._said < STATUS_PERIOD:
                return
            self._said = now
        await show(self._message, message)
        await show(self._state, state)

    _said = 0.0
    _last_number = 0

    async def run(self) -> None:
        """Read the sensor's temperature once a second."""
        while True:
            try:
                now = float(await self.control.call(self.driver.temperature))
            except Exception as error:
                await show(self._message, str(error))
                await raise_alarm([self._temperature_actual])
            else:
                await clear_alarm([self._temperature_actual])
                await show(self._temperature_actual, now, always=True)
            await asyncio.sleep(TEMPERATURE_PERIOD)

    async def close(self) -> None:
        """Stop an acquisition, so that its file can be closed."""
        if self._task is not None:
            task = self._task
            await self._abort()
            await asyncio.wait([task], timeout=1.0)
