"""Faults of the virtual microscope, switched by name at run time.

Whatever can fail on the real instrument can be made to fail here, when a test or an operator asks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from simulation.errors import SettingsError

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "beam_drop": "the next exposures see no beam",
        "camera_timeout": "the next exposures do not end and are given up",
        "stage_stall": "the next moves stop half way",
        "lost_frame": "the next frames are exposed but do not arrive",
        "vacuum_trip": "the vacuum fails and the column valve closes",
        "disk_full": "the next frames cannot be written to disk",
    }
)
"""What each fault does, by its name."""

CONDITIONS: Mapping[str, str] = MappingProxyType(
    {
        "lens_field": "frames are distorted by the lenses and the camera",
        "magnification_drift": "magnification and rotation change over the section and with focus",
        "tile_distortion": "each frame has a small affine map of its own",
        "uneven_light": "the light is uneven, and changes from frame to frame",
        "charging": "the image moves when the beam first falls on a place",
        "contamination": "the specimen darkens under the beam",
        "fringes": "the camera's sensitivity has a periodic pattern",
        "dark_corners": "a round aperture leaves the corners of the sensor black",
    }
)
"""What is usual with real instruments, by its name in `ImperfectionSettings`: it spoils no frame,
and is on from the start where it is enabled. An event is an exposure."""

NO_END = -1


class FaultSet:
    """Faults that are on: each until it is cleared, or for its next so many events.

    Parameters
    ----------
    known : mapping of str to str
        What each does, by its name.
    on : iterable of str
        Those that are on from the start.
    """

    def __init__(self, known: Mapping[str, str] = FAULTS, on: Iterable[str] = ()) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        for name in on:
            self.set(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all the faults that there are."""
        return tuple(self._known)

    def set(self, name: str, on: bool = True, count: int | None = None) -> None:
        """Switch a fault on or off.

        Parameters
        ----------
        name : str
            One of `names`.
        on : bool
        count : int, optional
            Number of events after which it goes off by itself; none: it stays on until cleared.

        Raises
        ------
        SettingsError
            If there is no such fault or the count is not positive.
        """
        self._check(name)
        if count is not None and count < 1:
            raise SettingsError(f"count of {name} is {count}; it must be 1 or more, or None")
        with self._lock:
            if on:
                self._left[name] = NO_END if count is None else count
            else:
                self._left.pop(name, None)

    def clear(self, name: str | None = None) -> None:
        """Switch one fault off, or all of them."""
        if name is not None:
            self.set(name, on=False)
            return
        with self._lock:
            self._left.clear()

    def is_on(self, name: str) -> bool:
        """Tell whether a fault is on, without using up an event."""
        self._check(name)
        with self._lock:
            return name in self._left

    def active(self) -> dict[str, int | None]:
        """Give the faults that are on, each with the events it has left (None: no end)."""
        with self._lock:
            return {name: None if n == NO_END else n for name, n in self._left.items()}

    def strikes(self, name: str) -> bool:
        """Pass one event: tell whether the fault strikes it, and use it up.

        Raises
        ------
        SettingsError
            If there is no such fault.
        """
        self._check(name)
        with self._lock:
            left = self._left.get(name)
            if left is None:
                return False
            if left != NO_END:
                if left == 1:
                    del self._left[name]
                else:
                    self._left[name] = left - 1
            return True

    def _check(self, name: str) -> None:
        if name not in self._known:
            raise SettingsError(f"there is no fault {name!r}; there are {', '.join(self._known)}")
