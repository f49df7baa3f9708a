"""Blur a specimen's texture by lenses, motion and camera, and prepare it for spline sampling.

All of it is one transfer function; its kernel is run as a few pairs of one-dimensional filters
while it is compact, and by Fourier transforms when it is not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulation.optics import Optics, camera_transfer, motion_transfer
from simulation.resample import blur_by_pairs

SMALLEST_KERNEL = 32
LARGEST_RADIUS = 512
"""In px; a point that is spread further wants a coarser texture."""
LARGEST_PAIR_COST = 160
"""Taps of all pairs together over which Fourier transforms are faster."""
TOLERANCE = 0.01
"""Largest error of the transfer, relative to that of the mean; the pixels' noise is above it."""
MARGIN = 8
"""Radius in px that the spline and the camera's blur need."""
TAPER = 5
"""Width in px of the smooth end of a kernel, within that."""


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
    *,
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
    ndarray of float32, shape (2 · radius + 1, 2 · radius + 1)
        The middle is the origin. Rows run down, against stage y. Its sum is 1.
    """
    size = fft.next_fast_len(max(SMALLEST_KERNEL, 2 * radius + 2), real=True)
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
    inside = slice(size // 2 - radius, size // 2 + radius + 1)
    point = point[inside, inside] * np.outer(taper(radius), taper(radius))
    return (point / point.sum()).astype(np.float32)


def taper(radius: int) -> NDArray[np.float64]:
    """Give a window of 2 · radius + 1 px that lets a kernel end smoothly over its last few.

    Without it, the edge of the band at the texture's Nyquist frequency would ring far.
    """
    away = np.abs(np.arange(-radius, radius + 1))
    return np.cos(np.pi / 2 * np.clip((away - radius + TAPER) / TAPER, 0, 1)) ** 2


def apply(
    texture: NDArray[np.generic], point: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Blur a texture; within the kernel's radius of its border the result is not to be used.

    Parameters
    ----------
    texture : ndarray of uint8 or float32, shape (h, w)
    point : ndarray of float32, shape (n, n)
        From `kernel`.
    out : ndarray of float32, shape (h, w), optional
        Memory for the result.

    Returns
    -------
    ndarray of float32, shape (h, w)
    """
    pairs = separate(point)
    if pairs is None:
        return _by_fourier(texture, point)
    blurred = np.empty(texture.shape, np.float32) if out is None else out
    blur_by_pairs(texture, *pairs, blurred)
    return blurred


def separate(
    point: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Write a kernel as a sum of products of one-dimensional ones, as short as can be.

    Parameters
    ----------
    point : ndarray of float32, shape (n, n)

    Returns
    -------
    (ndarray, ndarray) of float32, shape (rank, n), or None
        Filters along the rows' and the columns' index, reversed, for a correlation. None if Fourier
        transforms are faster.
    """
    if point.shape[0] > LARGEST_PAIR_COST:
        return None
    left, size, right = np.linalg.svd(point.astype(np.float64))
    rank = int(np.count_nonzero(size > TOLERANCE * size[0]))
    down = np.array([_cut(left[:, i], TOLERANCE * size[0] / size[i]) for i in range(rank)])
    along = np.array([_cut(right[i], TOLERANCE * size[0] / size[i]) for i in range(rank)])
    if np.count_nonzero(down) + np.count_nonzero(along) > LARGEST_PAIR_COST:
        return None
    down *= size[:rank, None]
    down *= point.sum() / (down.sum(axis=1) @ along.sum(axis=1))
    return (
        np.ascontiguousarray(down[:, ::-1], np.float32),
        np.ascontiguousarray(along[:, ::-1], np.float32),
    )


def _cut(line: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Set the ends of a one-dimensional kernel to zero where next to nothing is left."""
    middle = line.size // 2
    outward = np.maximum(np.abs(line[middle:]), np.abs(line[middle::-1]))
    outside = np.sqrt(np.cumsum(outward[::-1] ** 2)[::-1])
    half = max(1, int(np.count_nonzero(outside > tolerance / 2)))
    cut = np.zeros_like(line)
    cut[middle - half + 1 : middle + half] = line[middle - half + 1 : middle + half]
    return cut


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
