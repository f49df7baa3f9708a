"""What all areaDetector plugins have in common: their PVs, and how they are given frames.

A plugin computes on a worker thread, and publishes no more often than its MinCallbackTime says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ioc.drivers.protocol import Frame, PixelType
from ioc.records import Group, show
from ioc.worker import Worker

CAMERA_PORT = "CAM"
DATA_TYPES = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Float32", "Float64")
PROCESS_TIMEOUT = 10.0  # s

logger = logging.getLogger(__name__)


class Plugin(Group):
    """Base of the plugins; one says what to do in `process` and `publish`.

    PVs: EnableCallbacks, BlockingCallbacks, MinCallbackTime, NDArrayPort, NDArrayAddress,
    ArrayCounter, DroppedArrays (each with _RBV); PortName_RBV, PluginType_RBV, ArraySize0_RBV (X),
    ArraySize1_RBV (Y), ArraySize2_RBV, NDimensions_RBV, DataType_RBV, ColorMode_RBV, UniqueId_RBV,
    TimeStamp_RBV, ExecutionTime_RBV (ms).

    Parameters
    ----------
    prefix : str
    port : str
        The plugin's port name.
    kind : str
        Its areaDetector type, such as "NDPluginStats".
    shape : (int, int)
        (height, width) of the arrays that it gives, in px.
    pixel_type : {"UInt8", "UInt16"}
    worker : Worker
        The thread that it computes on.
    min_time : float
        The least time between two callbacks, in s; 0 takes every frame.
    depth : int
        Length of the third dimension; 0 if there is none.
    """

    def __init__(
        self,
        prefix: str,
        port: str,
        kind: str,
        shape: tuple[int, int],
        pixel_type: PixelType,
        *,
        worker: Worker,
        min_time: float,
        depth: int = 0,
    ) -> None:
        super().__init__(prefix)
        self.port = port
        self.worker = worker
        self._published = 0.0
        self._waiting: Frame | None = None
        self._background: asyncio.Task[None] | None = None
        self.enable = self.pair("EnableCallbacks", "Enable", choices=("Disable", "Enable"))
        self.blocking = self.pair("BlockingCallbacks", "Yes", choices=("No", "Yes"))
        self.min_time = self.pair(
            "MinCallbackTime", min_time, units="s", precision=3, limits=(0.0, 10.0)
        )
        self.readback("PortName_RBV", port)
        self.readback("PluginType_RBV", kind)
        self.pair("NDArrayPort", CAMERA_PORT, apply=self._check_port)
        self.pair("NDArrayAddress", 0, limits=(-1, 0))
        self.counter = self.pair("ArrayCounter", 0)
        self.dropped = self.pair("DroppedArrays", 0)
        self._size = [
            self.readback(f"ArraySize{i}_RBV", n, units="px")
            for i, n in enumerate((shape[1], shape[0], depth))
        ]
        self.readback("NDimensions_RBV", 3 if depth else 2)
        self._data_type = self.readback("DataType_RBV", pixel_type, choices=DATA_TYPES)
        self.readback("ColorMode_RBV", "Mono", choices=("Mono",))
        self._unique_id = self.readback("UniqueId_RBV", 0)
        self._time_stamp = self.readback("TimeStamp_RBV", 0.0, units="s", precision=3)
        self._execution_time = self.readback("ExecutionTime_RBV", 0.0, units="ms", precision=2)

    async def _check_port(self, port: str) -> str:
        if port != CAMERA_PORT:
            raise ValueError(f"{self.port} takes its frames from {CAMERA_PORT}, not from {port!r}")
        return port

    @property
    def last(self) -> int:
        """Number of the frame that was dealt with last."""
        return int(self._unique_id.value)

    @property
    def enabled(self) -> bool:
        """Whether it takes frames."""
        return self.enable.value == "Enable"

    async def check(self) -> None:
        """Raise before an acquisition starts, if frames could not be dealt with."""

    async def resize(self, shape: tuple[int, int], pixel_type: PixelType) -> None:
        """Show the size of the frames to come; a plugin that shows none counts as unprimed."""
        await show(self._size[0], shape[1])
        await show(self._size[1], shape[0])
        await show(self._data_type, pixel_type)

    async def handle(self, frame: Frame) -> None:
        """Take one frame, or pass it by if the one before was too short a time ago."""
        if not self.enabled:
            return
        self._waiting = frame
        if time.monotonic() - self._published < self.min_time.value:
            return
        if self.blocking.value == "Yes":
            await self.settle()
        elif self._background is None or self._background.done():
            self._background = asyncio.create_task(self.settle())
        else:
            await self.dropped.show(self.dropped.value + 1)

    async def settle(self) -> None:
        """Deal with the last frame that came, if that has not been done."""
        frame, self._waiting = self._waiting, None
        if frame is None:
            return
        began = time.monotonic()
        try:
            result = await self.worker.call(self.process, frame)
            await self.publish(frame, result)
        except Exception:
            # A preview or a mean that cannot be had is no reason to lose the frame.
            logger.exception("%s: frame %d", self.port, frame.number)
        self._published = time.monotonic()
        await self.count(frame, self._published - began)

    async def count(self, frame: Frame, seconds: float) -> None:
        """Publish what frame was dealt with, and how long it took."""
        await show(self._unique_id, frame.number)
        await show(self._time_stamp, frame.timestamp)
        await show(self._execution_time, seconds * 1000)
        await self.counter.show(self.counter.value + 1)

    def process(self, frame: Frame) -> Any:
        """Compute on the worker thread; what it returns goes to `publish`."""
        return None

    async def publish(self, frame: Frame, result: Any) -> None:
        """Publish what was computed."""
