"""What the plugins compute from a frame: statistics, a focus measure and a preview.

Pure functions on arrays, on OpenCV, which lets go of the interpreter while it computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PREVIEW_SIDE = 512
FOCUS_SIDE = 1024
FOCUS_BAND = (1.0, 3.0)  # px of the half-resolution images that are compared

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Statistics:
    """Counts of a frame; `centroid` is (x, y) in px, `histogram` has one count a value."""

    minimum: int
    maximum: int
    mean: float
    sigma: float
    total: float
    centroid: tuple[float, float]
    histogram: NDArray[np.float64]


def statistics(data: Pixels) -> Statistics:
    """Compute the statistics of a frame, all but the centroid from one histogram.

    Parameters
    ----------
    data : ndarray of uint8 or uint16, shape (height, width)
    """
    levels = int(np.iinfo(data.dtype).max) + 1
    histogram = cv2.calcHist([data], [0], None, [levels], [0, levels]).ravel().astype(np.float64)
    present = np.flatnonzero(histogram)
    values = present.astype(np.float64)
    weights = histogram[present]
    total = float(values @ weights)
    mean = total / data.size
    sigma = float(np.sqrt(((values - mean) ** 2 @ weights) / data.size))
    return Statistics(
        int(present[0]), int(present[-1]), mean, sigma, total, _centroid(data), histogram
    )


def _centroid(data: Pixels) -> tuple[float, float]:
    """Find the centre of mass, on a reduced frame: exact enough, and a tenth of the time."""
    small, scale = _reduced(data, PREVIEW_SIDE)
    moments = cv2.moments(small)
    if not moments["m00"]:
        return (data.shape[1] - 1) / 2, (data.shape[0] - 1) / 2
    column, row = ((moments[m] / moments["m00"] + 0.5) * scale - 0.5 for m in ("m10", "m01"))
    return column, row


def _reduced(data: Pixels, side: int) -> tuple[Pixels, float]:
    """Average a frame down to at most `side` px; give it with the factor."""
    scale = max(1.0, max(data.shape) / side)
    if scale == 1.0:
        return data, scale
    size = (max(1, round(data.shape[1] / scale)), max(1, round(data.shape[0] / scale)))
    reduced: Pixels = cv2.resize(data, size, interpolation=cv2.INTER_AREA)
    return reduced, scale


def preview(data: Pixels, low: float = 0.5, high: float = 99.5) -> NDArray[np.uint8]:
    """Make a picture of a frame for a screen.

    Parameters
    ----------
    data : ndarray of uint8 or uint16, shape (height, width)
    low, high : float
        Percentiles that become black and white.

    Returns
    -------
    ndarray of uint8
        At most 512 px along each side, each the mean of those that it stands for.
    """
    small = _reduced(data, PREVIEW_SIDE)[0]
    black, white = np.percentile(small[::2, ::2], (low, high))
    scale = 255.0 / max(white - black, 1.0)
    return cv2.convertScaleAbs(np.maximum(small, black), alpha=scale, beta=-black * scale)


def sharpness(data: Pixels) -> float:
    """Measure how sharp a frame is: its contrast at fine structure, relative to its mean.

    The middle (up to 1024²) is taken apart into two images of every second pixel in a
    quincunx, which show the same specimen with independent noise. Both go through a band-pass,
    a difference of Gaussians that leaves out the finest frequencies, where shot noise is, and the
    slowest, where illumination is. Their covariance holds the specimen's contrast without the
    noise's, so the measure does not grow where there is less light.

    Parameters
    ----------
    data : ndarray of uint8 or uint16, shape (height, width)

    Returns
    -------
    float
        Root of the covariance over the mean; 0 for a frame with nothing in it.
    """
    middle = _middle(data, FOCUS_SIDE)
    mean = cv2.mean(middle)[0]
    if mean <= 0:
        return 0.0
    first, second = _quincunx(middle)
    covariance = cv2.mean(cv2.multiply(_band(first), _band(second)))[0] / 4
    return float(max(covariance, 0.0) ** 0.5 / mean)


def _quincunx(image: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the sums of the two diagonals of each 2 × 2 px."""
    # Pairs of columns as two channels, which OpenCV takes apart ten times as fast as numpy steps.
    rows = [np.ascontiguousarray(image[row::2]) for row in (0, 1)]
    upper, lower = (row.reshape(*row.shape[:1], -1, 2) for row in rows)
    diagonals = ((upper, 0, lower, 1), (upper, 1, lower, 0))
    first, second = (
        cv2.add(cv2.extractChannel(a, i), cv2.extractChannel(b, j), dtype=cv2.CV_32F)
        for a, i, b, j in diagonals
    )
    return first, second


def _middle(data: Pixels, side: int) -> Pixels:
    """Cut out the middle, with even sides of at most `side` px."""
    height, width = (min(length, side) // 2 * 2 for length in data.shape)
    top, left = (data.shape[0] - height) // 2, (data.shape[1] - width) // 2
    return data[top : top + height, left : left + width]


def _band(image: NDArray[np.float32]) -> NDArray[np.float32]:
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in FOCUS_BAND)
    return fine - coarse
