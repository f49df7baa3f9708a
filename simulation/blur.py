"""Blur a specimen's texture by lenses, motion and camera, and prepare it for spline sampling.

All of it is one transfer function; its kernel is run as a few pairs of one-dimensional filters while
it is compact, and by Fourier transforms when it is not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulation.optics import Optics, camera_transfer, motion_transfer

SMALLEST_KERNEL = 32
LARGEST_RADIUS = 512
"""In px; a point that is spread further wants a coarser texture."""
LARGEST_PAIR_COST = 130
"""Taps of all pairs together over which Fourier transforms are faster."""
TOLERANCE = 1e-3
MARGIN = 8
"""Radius in px that the spline and the camera's blur need."""


def radius_of(optics: Optics, path: NDArray[np.floating], pixel_size: float, level: float) -> int:
    """Estimate the radius of the kernel, in texture px.

    Parameters
    ----------
    optics : Optics
    path : ndarray of float, shape (2, n)
        Motion in the exposure about its mean, in nm.
    pixel_size, level : float
        Of the sensor and of the texture, in nm.
    """
    motion = float(np.abs(path).max())
    finest = 2 * max(pixel_size, level)
    return MARGIN + int((optics.reach(finest) + motion) / level)


def kernel(
    optics: Optics,
    path: NDArray[np.floating],
    pixel_size: float,
    mtf_nyquist: float,
    level: float,
    radius: int,
) -> NDArray[np.float32]:
    """Make the kernel that turns texture into the spline coefficients of the blurred image.

    Parameters
    ----------
    optics : Optics
    path : ndarray of float, shape (2, n)
        Where the place that is seen lies in the exposure, about its mean: stage x and y, in nm.
    pixel_size : float
        Of a sensor pixel at the specimen, in nm.
    mtf_nyquist : float
        Of the camera.
    level : float
        Pixel size of the texture, in nm.
    radius : int
        From `radius_of`.

    Returns
    -------
    ndarray of float32, shape (n, n)
        n is odd; the middle is the origin. Rows run down, against stage y. Its sum is 1.
    """
    size = fft.next_fast_len(max(SMALLEST_KERNEL, 2 * radius), real=True)
    size += size % 2
    kx = fft.rfftfreq(size)[None, :]
    ky = -fft.fftfreq(size)[:, None]
    # The spline that samples the texture blurs it by sinc⁴ along each axis; undo that here.
    spline = (np.sinc(kx) * np.sinc(ky)) ** 4
    kx, ky = kx / level, ky / level
    spectrum = optics.transfer(kx, ky) * camera_transfer(kx**2 + ky**2, pixel_size, mtf_nyquist)
    spectrum = spectrum / spline
    if path.shape[1] > 1:
        spectrum = spectrum * motion_transfer(kx, ky, path)
    point = np.roll(fft.irfft2(spectrum, (size, size)), size // 2, axis=(0, 1))
    # Without the first row and column, the origin is in the middle.
    point = point[1:, 1:]
    return (point / point.sum()).astype(np.float32)


def apply(texture: NDArray[np.generic], point: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur a texture; within the kernel's radius of its border the result is not to be used.

    Parameters
    ----------
    texture : ndarray of uint8 or float32, shape (h, w)
    point : ndarray of float32, shape (n, n)
        From `kernel`.

    Returns
    -------
    ndarray of float32, shape (h, w)
    """
    pairs = separate(point)
    if pairs is None:
        return _by_fourier(texture, point)
    blurred: NDArray[np.float32] | None = None
    for rows, columns in pairs:
        part = cv2.sepFilter2D(texture, cv2.CV_32F, columns, rows, borderType=cv2.BORDER_REPLICATE)
        blurred = part if blurred is None else cv2.add(blurred, part, dst=blurred)
    assert blurred is not None
    return blurred


def separate(
    point: NDArray[np.float32],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]] | None:
    """Write a kernel as a sum of products of one-dimensional ones, as short as can be.

    Parameters
    ----------
    point : ndarray of float32, shape (n, n)

    Returns
    -------
    list of (ndarray of float32, ndarray of float32), or None
        Filters along rows' index and columns' index, for `cv2.sepFilter2D`, which correlates: they
        are reversed. None if Fourier transforms are faster.
    """
    if point.shape[0] > LARGEST_PAIR_COST:
        return None
    left, size, right = np.linalg.svd(point.astype(np.float64))
    tails = np.sqrt(np.cumsum(size[::-1] ** 2))[::-1]
    rank = max(1, int(np.count_nonzero(tails > TOLERANCE * tails[0])))
    pairs = []
    cost = 0
    for i in range(rank):
        root = np.sqrt(size[i])
        column, row = _cut(left[:, i] * root), _cut(right[i] * root)
        cost += column.size + row.size
        if cost > LARGEST_PAIR_COST:
            return None
        pairs.append((column[::-1].copy(), row[::-1].copy()))
    total = sum(float(rows.sum()) * float(columns.sum()) for rows, columns in pairs)
    return [((rows / total).astype(np.float32), columns) for rows, columns in pairs]


def _cut(line: NDArray[np.float64]) -> NDArray[np.float32]:
    """Cut off the ends of a one-dimensional kernel where next to nothing is left."""
    middle = line.size // 2
    folded = np.abs(line)
    outward = np.maximum(folded[middle:], folded[middle::-1])
    outside = np.cumsum(outward[::-1])[::-1]
    half = int(np.count_nonzero(outside > TOLERANCE * outward.sum()))
    return line[middle - half + 1 : middle + half].astype(np.float32)


def _by_fourier(texture: NDArray[np.generic], point: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = texture.shape
    shape = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    padded = cv2.copyMakeBorder(
        texture.astype(np.float32),
        0, shape[0] - height, 0, shape[1] - width, cv2.BORDER_REPLICATE,
    )  # fmt: skip
    origin = np.zeros(shape, np.float32)
    n = point.shape[0]
    if n > min(shape):
        cut = (n - (min(shape) - 1) // 2 * 2 + 1) // 2
        point = point[cut : n - cut, cut : n - cut]
        n = point.shape[0]
    origin[:n, :n] = point
    origin = np.roll(origin, (-(n // 2), -(n // 2)), axis=(0, 1))
    product = cv2.mulSpectrums(cv2.dft(padded), cv2.dft(origin), 0)
    blurred = cv2.idft(product, flags=cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT)
    return np.ascontiguousarray(blurred[:height, :width])


def blur_size(point_optics: Optics, path: NDArray[np.floating]) -> float:
    """Give the standard deviation of defocus blur and motion together, in nm, root mean square.

    Parameters
    ----------
    point_optics : Optics
    path : ndarray of float, shape (2, n)
        Motion in the exposure about its mean, in nm.
    """
    foci = point_optics.defocus**2 + point_optics.astigmatism**2
    by_source = 0.5 * point_optics.semi_angle**2 * foci
    by_motion = 0.5 * float((path**2).sum(axis=0).mean())
    return float(np.sqrt(by_source + by_motion))
