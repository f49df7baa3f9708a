"""What a specimen is to the microscope, and the cached pyramid that every specimen here stands on.

Texture costs far more than a frame, so it is made once, in chunks, ahead of the camera.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from math import ceil, floor, isfinite, log2
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

NM_PER_UM = 1000.0
FINEST_LEVEL = 1
COARSEST_LEVEL = 2**14
OPAQUE_TO_EMPTY = 255.0
"""Chunks hold transmission times this, rounded: a step of 0.4 % is well under the shot noise."""


class NativeRegion(NamedTuple):
    """Pixels of a specimen at one level of its pyramid, as they are stored.

    A place (X, Y) in µm is at column ``(X − x) · 1000 / level`` and row ``(y − Y) · 1000 / level``.
    """

    pixels: NDArray[np.uint8]
    """Transmission × 255, shape (height, width); row 0 at the top (largest y). Yours to change."""
    x: float
    """Place of the centre of pixel [0, 0], in µm."""
    y: float
    """Place of the centre of pixel [0, 0], in µm."""


class Specimen(Protocol):
    """A thin object that transmits part of the beam; all that the microscope knows of it.

    There are two ways to look at one. `region` is the simple way: any place, any pixel size,
    already resampled on the axes of the specimen. `native_region` is the fast way for an instrument
    that rotates, distorts and shifts its frames: it hands out the stored pixels of one level,
    without any resampling, so that all the geometry of a frame is done by one remap. Choose the
    level with `level_for`, ask for the bounding box of the frame plus two pixels for the
    interpolation, and sample at the rows and columns that `NativeRegion` gives. (``cv2.remap``
    rounds places to 1/32 px; levels are blurred by about half a pixel, so that cubic interpolation
    loses nothing at any phase.)
    """

    def region(
        self, x: float, y: float, width: int, height: int, pixel_size: float
    ) -> NDArray[np.float32]:
        """Sample the specimen on an axis-aligned grid.

        Parameters
        ----------
        x, y : float
            Middle of the region, in µm.
        width, height : int
            Size of the region in pixels.
        pixel_size : float
            Distance of the pixels, in nm.

        Returns
        -------
        ndarray of float32, shape (height, width)
            Transmission in [0, 1]; 1 is empty. Row 0 is at the top (largest y); pixel centres are
            at ``x + (column − (width − 1)/2) · pixel_size`` and
            ``y + ((height − 1)/2 − row) · pixel_size``. The same place gives the same values,
            whatever was asked for before.
        """

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> NativeRegion:
        """Hand out the stored pixels that cover a rectangle, at one level of the pyramid.

        Parameters
        ----------
        x, y : float
            Middle of the rectangle, in µm.
        width_um, height_um : float
            Size of the rectangle, in µm. The pixels cover at least this.
        level : int
            Pixel size of the level in nm: a power of two from 1 to 16384.

        Returns
        -------
        NativeRegion
        """

    def prefetch(
        self, x: float, y: float, width_um: float, height_um: float, pixel_size: float
    ) -> None:
        """Make the texture of a rectangle ready in the background; returns at once.

        Parameters
        ----------
        x, y, width_um, height_um : float
            Middle and size of the rectangle, in µm.
        pixel_size : float
            Pixel size, in nm, of the regions that will be asked for.
        """

    def close(self) -> None:
        """Stop work in the background. The specimen stays usable."""


def level_for(pixel_size: float) -> int:
    """Choose the level of the pyramid to sample at a pixel size: the next finer or equal one.

    Parameters
    ----------
    pixel_size : float
        In nm.

    Returns
    -------
    int
        Pixel size of the level, in nm: a power of two from 1 to 16384.

    Raises
    ------
    ValueError
        If the pixel size is not positive and finite.
    """
    if not (isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size is {pixel_size!r} nm; it must be positive and finite")
    # A tenth finer than a level is still its own: errors of calibration must not cost four times
    # the texture.
    level = 2 ** floor(log2(pixel_size * 1.1))
    return int(min(max(level, FINEST_LEVEL), COARSEST_LEVEL))


class ChunkCache:
    """Bounded, thread-safe store of chunks, least recently used first out.

    Two threads that want the same chunk make it once: the second waits for the first.

    Parameters
    ----------
    max_bytes : int
        Chunks are dropped, the longest unused first, to stay within this size.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._pending: dict[Hashable, Future[NDArray[np.uint8]]] = {}

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._chunks

    def get(self, key: Hashable, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return a chunk, and make it first if it is not there."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
            pending = self._pending.get(key)
            if pending is None:
                mine: Future[NDArray[np.uint8]] = Future()
                self._pending[key] = mine
        if pending is not None:
            return pending.result()
        try:
            chunk = make()
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            mine.set_exception(error)
            raise
        self._store(key, chunk)
        mine.set_result(chunk)
        return chunk

    def _store(self, key: Hashable, chunk: NDArray[np.uint8]) -> None:
        chunk.flags.writeable = False
        with self._lock:
            del self._pending[key]
            self._chunks[key] = chunk
            self.n_bytes += chunk.nbytes
            while self.n_bytes > self.max_bytes and len(self._chunks) > 1:
                _, dropped = self._chunks.popitem(last=False)
                self.n_bytes -= dropped.nbytes


class ChunkKey(NamedTuple):
    """Address of a chunk: its level in nm, and its place on the grid of chunks of that level."""

    level: int
    row: int
    column: int


class PyramidSpecimen(ABC):
    """A specimen in chunks, on levels of 1, 2, 4, 8 … nm a pixel, made when asked for.

    A subclass writes `render`; everything else (cache, background work, resampling) is here.
    Pixel (0, 0) of every level has its upper left corner at the origin of the specimen, so a pixel
    of a level covers exactly four of the next finer one. Rows grow downwards, against y.

    Parameters
    ----------
    cache_bytes : int
        Bound of the chunk cache.
    chunk : int
        Side of a chunk in pixels.
    period : float, optional
        The square of this side about the origin repeats without end, in µm: its texture is made
        once, and a montage of any size costs copies only, while the cache holds it. It is rounded
        to a power of two of chunks, so that all levels repeat alike; those whose chunks are larger
        do not repeat. The seams may be seen.

    Raises
    ------
    ValueError
        If the period is not positive and finite.
    """

    def __init__(
        self, *, cache_bytes: int = 512 * 2**20, chunk: int = 512, period: float | None = None
    ) -> None:
        self.chunk = chunk
        self._period_nm = None if period is None else _whole_chunks(period, chunk)
        self.cache = ChunkCache(cache_bytes)
        self._queue: deque[ChunkKey] = deque()
        self._queue_lock = threading.Lock()
        self._worker: threading.Thread | None = None

    @abstractmethod
    def render(
        self, level: int, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """Make pixels of a level, the same ones whatever the rectangle that is asked for.

        Parameters
        ----------
        level : int
            Pixel size, in nm.
        row, column : int
            First pixel on the grid of the level; its centre is at ``x = (column + 0.5) · level``
            and ``y = −(row + 0.5) · level`` nm.
        height, width : int
            Size in pixels.

        Returns
        -------
        ndarray of uint8, shape (height, width)
            Transmission × 255.
        """

    # -- the Specimen protocol ------------------------------------------------------------------

    def region(
        self, x: float, y: float, width: int, height: int, pixel_size: float
    ) -> NDArray[np.float32]:
        """See `Specimen.region`.

        Raises
        ------
        ValueError
            If a number is not finite, or a size is not positive.
        """
        if width < 1 or height < 1:
            raise ValueError(f"the region is {width} × {height} px; both must be at least 1")
        level = level_for(pixel_size)
        scale = pixel_size / level
        margin = 2 * (4 + 2 * scale) * level / NM_PER_UM
        native = self.native_region(
            x,
            y,
            width * pixel_size / NM_PER_UM + margin,
            height * pixel_size / NM_PER_UM + margin,
            level,
        )
        pixels = native.pixels.astype(np.float32)
        if scale > 1.05:
            # What is finer than the new pixel would fold back as false detail.
            pixels = cv2.GaussianBlur(pixels, (0, 0), 0.5 * (scale**2 - 1) ** 0.5)
        rows = (native.y - y) * NM_PER_UM / level + (np.arange(height) - (height - 1) / 2) * scale
        columns = (x - native.x) * NM_PER_UM / level + (np.arange(width) - (width - 1) / 2) * scale
        return cubic_resample(pixels, rows, columns, np.float32(1 / OPAQUE_TO_EMPTY))

    def native_region(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> NativeRegion:
        """See `Specimen.native_region`.

        Raises
        ------
        ValueError
            If a number is not finite, a size is not positive or there is no such level.
        """
        row0, row1, column0, column1 = self._pixel_bounds(x, y, width_um, height_um, level)
        pixels = np.empty((row1 - row0, column1 - column0), np.uint8)
        for key in self._chunks_of(row0, row1, column0, column1, level):
            self._paste(pixels, row0, column0, key)
        return NativeRegion(
            pixels, (column0 + 0.5) * level / NM_PER_UM, -(row0 + 0.5) * level / NM_PER_UM
        )

    def prefetch(
        self, x: float, y: float, width_um: float, height_um: float, pixel_size: float
    ) -> None:
        """See `Specimen.prefetch`. The newest request is served first, its middle before its edge.

        Raises
        ------
        ValueError
            If a number is not finite, a size is not positive or the pixel size is not.
        """
        level = level_for(pixel_size)
        bounds = self._pixel_bounds(x, y, width_um, height_um, level)
        middle_row = (bounds[0] + bounds[1]) / 2 / self.chunk - 0.5
        middle_column = (bounds[2] + bounds[3]) / 2 / self.chunk - 0.5
        keys = sorted(
            self._chunks_of(*bounds, level),
            key=lambda key: (key.row - middle_row) ** 2 + (key.column - middle_column) ** 2,
        )
        keys = list(dict.fromkeys(map(self._origin, keys)))
        # More than the cache holds would drive out what was made first.
        room = self.cache.max_bytes // self.chunk**2
        with self._queue_lock:
            self._queue.extendleft(reversed(keys[:room]))
            while len(self._queue) > room:
                self._queue.pop()
            if self._queue and self._worker is None:
                self._worker = threading.Thread(
                    target=self._work, name=f"{type(self).__name__} prefetch", daemon=True
                )
                self._worker.start()

    def wait_prefetched(self, timeout: float = 60.0) -> None:
        """Wait until everything that was asked for by `prefetch` is there.

        Parameters
        ----------
        timeout : float
            In seconds.

        Raises
        ------
        TimeoutError
            If it takes longer.
        """
        with self._queue_lock:
            worker = self._worker
        if worker is not None:
            worker.join(timeout)
            if worker.is_alive():
                raise TimeoutError(
                    f"{len(self._queue)} chunks of texture are still to be made after {timeout} s; "
                    "prefetch a smaller area or wait longer"
                )

    def close(self) -> None:
        """Stop work in the background, after the chunk in hand. The specimen stays usable."""
        with self._queue_lock:
            self._queue.clear()
            worker = self._worker
        if worker is not None:
            worker.join()

    # -- chunks ---------------------------------------------------------------------------------

    def _pixel_bounds(
        self, x: float, y: float, width_um: float, height_um: float, level: int
    ) -> tuple[int, int, int, int]:
        """Find the rows and columns [first, end) of a level that cover a rectangle."""
        if not all(map(isfinite, (x, y, width_um, height_um))) or min(width_um, height_um) <= 0:
            raise ValueError(
                f"no such region: middle ({x!r}, {y!r}) µm, size {width_um!r} × {height_um!r} µm; "
                "numbers must be finite and sizes positive"
            )
        if level_for(level) != level:
            raise ValueError(
                f"level is {level!r} nm; it must be a power of two from "
                f"{FINEST_LEVEL} to {COARSEST_LEVEL}"
            )
        scale = NM_PER_UM / level
        hair = 1e-6  # px: a bound on the edge of a pixel does not take in the next one
        return (
            floor((-y - height_um / 2) * scale + hair),
            ceil((-y + height_um / 2) * scale - hair),
            floor((x - width_um / 2) * scale + hair),
            ceil((x + width_um / 2) * scale - hair),
        )

    def _chunks_of(
        self, row0: int, row1: int, column0: int, column1: int, level: int
    ) -> Iterator[ChunkKey]:
        for row in range(row0 // self.chunk, (row1 - 1) // self.chunk + 1):
            for column in range(column0 // self.chunk, (column1 - 1) // self.chunk + 1):
                yield ChunkKey(level, row, column)

    def _origin(self, key: ChunkKey) -> ChunkKey:
        """Find the chunk that is seen at a place: with a period, one about the origin."""
        if self._period_nm is None:
            return key
        count = self._period_nm // (self.chunk * key.level)
        if count == 0:
            return key
        half = count // 2
        return ChunkKey(
            key.level, (key.row + half) % count - half, (key.column + half) % count - half
        )

    def _get(self, key: ChunkKey) -> NDArray[np.uint8]:
        side, key = self.chunk, self._origin(key)
        return self.cache.get(
            key, lambda: self.render(key.level, key.row * side, key.column * side, side, side)
        )

    def _paste(self, target: NDArray[np.uint8], row0: int, column0: int, key: ChunkKey) -> None:
        """Copy the part of a chunk that lies within an array whose first pixel is given."""
        top, left = key.row * self.chunk - row0, key.column * self.chunk - column0
        height, width = target.shape
        rows = slice(max(top, 0), min(top + self.chunk, height))
        columns = slice(max(left, 0), min(left + self.chunk, width))
        target[rows, columns] = self._get(key)[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]

    def _work(self) -> None:
        """Make the chunks in the queue; end when there are none, so that no thread idles."""
        while True:
            with self._queue_lock:
                if not self._queue:
                    self._worker = None
                    return
                key = self._queue.popleft()
            if key not in self.cache:
                self._get(key)


def _whole_chunks(period: float, chunk: int) -> int:
    """Round a period in µm to a power of two of chunks of the finest level; give it in nm."""
    if not (isfinite(period) and period > 0):
        raise ValueError(f"period is {period!r} µm; it must be positive and finite")
    finest = chunk * FINEST_LEVEL
    return finest * 2 ** max(0, round(log2(period * NM_PER_UM / finest)))


@njit(nogil=True, cache=True)
def cubic_resample(pixels, rows, columns, gain):
    """Sample an image on a grid of rows and columns by Catmull–Rom interpolation.

    Exact in place (OpenCV rounds places to 1/32 px), as shifts of 0.02 px matter to a stitcher.

    Parameters
    ----------
    pixels : ndarray of float32, shape (M, N)
    rows, columns : ndarray of float64, shape (H,) and (W,)
        Places to sample, in px, at least one pixel from the border.
    gain : float32
        Factor on the result.

    Returns
    -------
    ndarray of float32, shape (H, W)
        Clipped to [0, 255 · gain].
    """
    height, width = rows.size, columns.size
    first = np.empty(width, np.int32)
    weights = np.empty((4, width), np.float32)
    for j in range(width):
        first[j] = int(np.floor(columns[j])) - 1
        _catmull_rom(columns[j] - np.floor(columns[j]), weights, j)
    row_weights = np.empty((4, 1), np.float32)
    line = np.empty(pixels.shape[1], np.float32)
    result = np.empty((height, width), np.float32)
    top = np.float32(255.0) * gain
    for i in range(height):
        r = int(np.floor(rows[i])) - 1
        _catmull_rom(rows[i] - np.floor(rows[i]), row_weights, 0)
        w0, w1, w2, w3 = row_weights[0, 0], row_weights[1, 0], row_weights[2, 0], row_weights[3, 0]
        for j in range(line.size):
            line[j] = gain * (
                w0 * pixels[r, j]
                + w1 * pixels[r + 1, j]
                + w2 * pixels[r + 2, j]
                + w3 * pixels[r + 3, j]
            )
        for j in range(width):
            k = first[j]
            value = (
                weights[0, j] * line[k]
                + weights[1, j] * line[k + 1]
                + weights[2, j] * line[k + 2]
                + weights[3, j] * line[k + 3]
            )
            result[i, j] = min(max(value, np.float32(0.0)), top)
    return result


@njit(nogil=True, cache=True)
def _catmull_rom(t, weights, j):
    weights[0, j] = 0.5 * t * (-1 + t * (2 - t))
    weights[1, j] = 0.5 * (2 + t * t * (-5 + 3 * t))
    weights[2, j] = 0.5 * t * (1 + t * (4 - 3 * t))
    weights[3, j] = 0.5 * t * t * (t - 1)
