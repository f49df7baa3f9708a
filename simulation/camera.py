"""The camera: an exposure that takes its time, then a frame that is read.

The stage may move as soon as the exposure is over. A frame is rendered while it is exposed, and
once more if anything changes until the end: so the simulation hides behind the hardware's time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from simulation.clock import SimulationClock
from simulation.errors import (
    CameraBusyError,
    CameraError,
    CameraTimeoutError,
    ExposureAbortedError,
    LostFrameError,
)
from simulation.faults import FaultSet
from simulation.render import FrameRenderer, View
from simulation.scene import Exposure, Scene
from simulation.settings import CameraSettings

BINNINGS = (1, 2, 4)
BITS = (8, 16)
COOLING_TIME = 60.0


Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Note = Callable[[float], None]
"""Called with the unix time of the end of an exposure, in s, when its frame is read."""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes
    ----------
    data : ndarray of uint8 or uint16, shape (height, width)
    number : int
        Unique and rising over the camera's life.
    timestamp : float
        Unix time of the end of the exposure, in s.
    """

    data: Pixels
    number: int
    timestamp: float


@dataclass(frozen=True)
class _Unread:
    """A frame that was exposed: its pixels, with the end of its exposure in simulated time."""

    number: int
    pixels: Future[tuple[Note, Pixels]]
    timestamp: float
    end: float


class VirtualCamera:
    """A camera in front of the virtual column. Its methods may be called from any thread.

    Parameters
    ----------
    settings : CameraSettings
    clock : SimulationClock
    faults : FaultSet
    renderer : FrameRenderer
    scene : callable
        Gives how everything stands now.
    struck : callable
        Called once at the end of an exposure: gives its scene with the faults that strike it.
    see : callable
        Given an exposure and a scene, tells what the camera sees, and whom to tell when that frame
        is read. Called in the order of the exposures, with the last scene of each last.
    """

    def __init__(
        self,
        settings: CameraSettings,
        clock: SimulationClock,
        faults: FaultSet,
        renderer: FrameRenderer,
        *,
        scene: Callable[[], Scene],
        struck: Callable[[Scene], Scene],
        see: Callable[[Exposure, Scene], tuple[View, Note]],
    ) -> None:
        self.settings = settings
        self.sensor = settings.sensor
        self._clock = clock
        self._faults = faults
        self._renderer = renderer
        self._scene, self._struck, self._see = scene, struck, see
        self._darkroom = ThreadPoolExecutor(1, "darkroom")
        self._exposing = threading.Lock()
        self._abort = threading.Event()
        self._lock = threading.Lock()
        self._unread: deque[_Unread] = deque()
        self._number = 0
        self._cooling = (settings.temperature, settings.temperature, clock.now())

    @property
    def frame_number(self) -> int:
        """Number of the last exposure; 0 before the first."""
        return self._number

    def expose(self, exposure: float, binning: int = 1, bits: int = 16) -> int:
        """Expose, and return when the light is in: the stage may move then.

        Parameters
        ----------
        exposure : float
            In s.
        binning : {1, 2, 4}
        bits : {8, 16}

        Returns
        -------
        int
            Number of the frame, for `read`.

        Raises
        ------
        CameraError
            If an argument is not allowed.
        CameraBusyError
            If an exposure is running, or too many frames wait to be read.
        CameraTimeoutError
            If the exposure does not end (a fault).
        ExposureAbortedError
            If `abort` was called.
        """
        self._check(exposure, binning, bits)
        if not self._exposing.acquire(blocking=False):
            raise CameraBusyError("an exposure is running; wait for it, or abort it")
        try:
            self._abort.clear()
            return self._expose(exposure, binning, bits)
        finally:
            self._exposing.release()

    def _expose(self, exposure: float, binning: int, bits: int) -> int:
        with self._lock:
            if len(self._unread) >= self.settings.unread_frames:
                raise CameraBusyError(
                    f"{len(self._unread)} frames were not read; read or abort before the next"
                )
            self._number += 1
            number = self._number
        start = self._clock.now()
        request = Exposure(number, start, exposure, binning, bits)
        before = self._scene()
        pixels = self._darkroom.submit(self._develop, request, before)
        try:
            self._until_exposed(request)
        except CameraError:
            pixels.cancel()
            spent = min(max(self._clock.now() - start, 0.0), exposure)
            self._darkroom.submit(self._see, replace(request, duration=spent), before)
            raise
        timestamp = time.time()
        after = self._struck(self._scene())
        if after != before:
            pixels.cancel()
            pixels = self._darkroom.submit(self._develop, request, after)
        with self._lock:
            self._unread.append(_Unread(number, pixels, timestamp, start + exposure))
        return number

    def _until_exposed(self, exposure: Exposure) -> None:
        end = exposure.start + exposure.duration
        self._wait(end, exposure.number)
        if self._faults.strikes("camera_timeout"):
            self._wait(end + self.settings.timeout, exposure.number)
            raise CameraTimeoutError(
                f"exposure {exposure.number} of {exposure.duration:g} s did not end within "
                f"{self.settings.timeout:g} s of its time; expose again"
            )

    def _develop(self, exposure: Exposure, scene: Scene) -> tuple[Note, Pixels]:
        view, note = self._see(exposure, scene)
        return note, self._renderer.render(view)

    def read(self) -> Frame:
        """Read the oldest frame that was exposed and not read.

        It is there no earlier than the camera's readout time after the end of its exposure.

        Returns
        -------
        Frame

        Raises
        ------
        CameraError
            If there is none.
        ExposureAbortedError
            If `abort` was called.
        LostFrameError
            If it did not arrive (a fault).
        """
        with self._lock:
            if not self._unread:
                raise CameraError("there is no frame to read; expose first")
            unread = self._unread.popleft()
        note, pixels = unread.pixels.result()
        note(unread.timestamp)
        if self._faults.strikes("lost_frame"):
            raise LostFrameError(f"frame {unread.number} did not arrive; expose again")
        self._wait(unread.end + self.settings.readout_time, unread.number)
        return Frame(pixels, unread.number, unread.timestamp)

    def abort(self) -> None:
        """End a running exposure early and forget the frames that were not read."""
        self._abort.set()
        with self._lock:
            self._unread.clear()

    def temperature(self) -> float:
        """Read the sensor's temperature, in °C."""
        first, target, since = self._cooling
        left = np.exp(-(self._clock.now() - since) / COOLING_TIME)
        return float(target + (first - target) * left)

    def set_temperature(self, value: float) -> None:
        """Set what the sensor is cooled to, in °C.

        Raises
        ------
        CameraError
            If it is not between −60 and 40 °C.
        """
        if not -60 <= value <= 40:
            raise CameraError(f"temperature is {value} °C; it must lie between -60 and 40 °C")
        self._cooling = (self.temperature(), float(value), self._clock.now())

    def _wait(self, end: float, number: int) -> None:
        if not self._clock.wait_until(end, self._abort) or self._abort.is_set():
            raise ExposureAbortedError(f"exposure {number} was aborted")

    def _check(self, exposure: float, binning: int, bits: int) -> None:
        low, high = self.settings.min_exposure, self.settings.max_exposure
        if not (isfinite(exposure) and low <= exposure <= high):
            raise CameraError(
                f"exposure is {exposure} s; it must lie between {low:g} and {high:g} s"
            )
        if binning not in BINNINGS:
            raise CameraError(f"binning is {binning}; it must be 1, 2 or 4")
        if bits not in BITS:
            raise CameraError(f"bits is {bits}; it must be 8 or 16")
