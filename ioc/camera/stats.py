"""The plugin that measures frames: Stats1:.

A plan sees by it whether there is light and whether the specimen is in focus, without the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ioc.camera.measure import Statistics, sharpness, statistics
from ioc.camera.plugin import Plugin
from ioc.drivers.protocol import Frame, PixelType
from ioc.records import show
from ioc.worker import Worker

MIN_TIME = 0.05  # s
BINS = 256


class StatsPlugin(Plugin):
    """Statistics of the whole frame, and the sharpness of its middle.

    PVs: those of every plugin, and MinValue_RBV, MaxValue_RBV, MeanValue_RBV, Sigma_RBV, Total_RBV
    (counts), CentroidX_RBV, CentroidY_RBV (px), Histogram_RBV of HistSize_RBV bins between HistMin
    and HistMax, HistEntropy_RBV, Sharpness_RBV (see `ioc.camera.measure.sharpness`);
    ComputeStatistics, ComputeCentroid, ComputeHistogram, which are always "Yes".
    """

    def __init__(
        self, prefix: str, shape: tuple[int, int], pixel_type: PixelType, worker: Worker
    ) -> None:
        super().__init__(
            prefix, "STATS1", "NDPluginStats", shape, pixel_type, worker=worker, min_time=MIN_TIME
        )
        counts: dict[str, Any] = {"units": "counts", "precision": 1}
        self._values = {
            name: self.readback(f"{name}_RBV", 0.0, **about)
            for name, about in {
                "MinValue": counts,
                "MaxValue": counts,
                "MeanValue": counts,
                "Sigma": counts,
                "Total": counts,
                "CentroidX": {"units": "px", "precision": 2},
                "CentroidY": {"units": "px", "precision": 2},
                "HistEntropy": {"precision": 3},
                "Sharpness": {"precision": 6, "doc": "Contrast at fine structure over the mean"},
            }.items()
        }
        self._histogram = self.readback("Histogram_RBV", [0.0] * BINS, units="px")
        self.readback("HistSize_RBV", BINS)
        top = float(np.iinfo(pixel_type.lower()).max)
        limits = {"limits": (0.0, top), "units": "counts", "precision": 0}
        self._low = self.pair("HistMin", 0.0, apply=self._check_low, **limits)
        self._high = self.pair("HistMax", top, apply=self._check_high, **limits)
        for name in ("ComputeStatistics", "ComputeCentroid", "ComputeHistogram"):
            self.readback(f"{name}_RBV", "Yes", choices=("No", "Yes"))

    def of(self, number: int) -> tuple[float, float] | None:
        """Give the mean and the sharpness of a frame by its number, if they are its."""
        if self.last != number:
            return None
        return float(self._values["MeanValue"].value), float(self._values["Sharpness"].value)

    async def _check_low(self, value: float) -> None:
        if value >= self._high.value:
            raise ValueError(f"HistMin is {value:g}; it must be below HistMax, {self._high.value}")

    async def _check_high(self, value: float) -> None:
        if value <= self._low.value:
            raise ValueError(f"HistMax is {value:g}; it must be above HistMin, {self._low.value}")

    def process(self, frame: Frame) -> tuple[Statistics, NDArray[np.float64], float]:
        """Compute the statistics, the histogram in bins, and the sharpness."""
        found = statistics(frame.data)
        bins = rebin(found.histogram, self._low.value, self._high.value)
        return found, bins, sharpness(frame.data)

    async def publish(
        self, frame: Frame, result: tuple[Statistics, NDArray[np.float64], float]
    ) -> None:
        """Publish what was measured."""
        found, bins, sharp = result
        share = bins[bins > 0] / max(bins.sum(), 1.0)
        values = {
            "MinValue": found.minimum,
            "MaxValue": found.maximum,
            "MeanValue": found.mean,
            "Sigma": found.sigma,
            "Total": found.total,
            "CentroidX": found.centroid[0],
            "CentroidY": found.centroid[1],
            "HistEntropy": -float(share @ np.log(share)),
            "Sharpness": sharp,
        }
        for name, value in values.items():
            await show(self._values[name], float(value))
        await show(self._histogram, bins.tolist(), always=True)


def rebin(histogram: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Gather a histogram of single values into 256 bins, as `numpy.histogram` would.

    Parameters
    ----------
    histogram : ndarray, shape (n,)
        Count of each value, from 0.
    low, high : float
        Edges of the first and of the last bin; the last one includes its upper edge.
    """
    edges = np.ceil(np.linspace(low, high, BINS + 1)).astype(int)
    edges[-1] = int(high) + 1
    below = np.concatenate([[0.0], np.cumsum(histogram)])
    return np.diff(below[edges.clip(0, histogram.size)])
