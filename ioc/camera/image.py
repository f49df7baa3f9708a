"""The plugin that shows a preview of the frames: image1:.

Whole frames do not go over Channel Access: one of 2048² takes over two seconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ioc.camera.measure import PREVIEW_SIDE, preview
from ioc.camera.plugin import Plugin
from ioc.drivers.protocol import Frame, PixelType
from ioc.records import show
from ioc.worker import Worker

MIN_TIME = 0.1  # s


class ImagePlugin(Plugin):
    """A preview of at most 512² px of 8 bits, black and white at the 0.5 and 99.5 percentile.

    PVs: those of every plugin, and ArrayData; ArraySize0_RBV and ArraySize1_RBV are the preview's.
    """

    def __init__(
        self, prefix: str, shape: tuple[int, int], pixel_type: PixelType, worker: Worker
    ) -> None:
        small = self._preview_shape(shape)
        # A depth of 1, since ophyd's `image` and `shaped_image` count the depth as the first of
        # the dimensions: with 0, they find an image of no pixels.
        super().__init__(
            prefix,
            "IMAGE1",
            "NDPluginStdArrays",
            small,
            "UInt8",
            worker=worker,
            min_time=MIN_TIME,
            depth=1,
        )
        self._data = self.readback(
            "ArrayData", bytes(small[0] * small[1]), length=PREVIEW_SIDE**2, doc="Preview, by rows"
        )

    @staticmethod
    def _preview_shape(shape: tuple[int, int]) -> tuple[int, int]:
        return preview(np.zeros(shape, np.uint8)).shape

    async def resize(self, shape: tuple[int, int], pixel_type: PixelType) -> None:
        """Show the size of the previews to come."""
        await super().resize(self._preview_shape(shape), "UInt8")

    def process(self, frame: Frame) -> NDArray[np.uint8]:
        """Make the preview."""
        return preview(frame.data)

    async def publish(self, frame: Frame, result: NDArray[np.uint8]) -> None:
        """Publish the preview."""
        await super().resize(result.shape, "UInt8")
        await show(self._data, result.ravel(), always=True)
