"""What a montage knows of the tile that it takes: a soft device, read into every event.

The nominal place travels with the frame, so nothing downstream has to count events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.status import Status

from devices.status import finished


class SoftReadings(Device):
    """A device of soft signals that are set all at once, in one message."""

    units: ClassVar[Mapping[str, str]] = {}
    """Units of the signals that have one, by attribute name."""

    def set(self, values: Mapping[str, Any]) -> Status:
        """Set signals by name.

        Parameters
        ----------
        values : mapping of str to value
            By attribute name.
        """
        for name, value in values.items():
            getattr(self, name).put(value)
        return finished(self)

    def describe(self) -> dict[str, Any]:
        """Describe the signals, with the units and the numpy types that soft signals lack."""
        keys: dict[str, Any] = super().describe()
        for attribute in self.component_names:
            signal = getattr(self, attribute)
            value = signal.get()
            if not isinstance(value, str):
                keys[signal.name]["dtype_numpy"] = np.dtype(type(value)).str
            if attribute in self.units:
                keys[signal.name]["units"] = self.units[attribute]
        return keys


class Tile(SoftReadings):
    """The tile that is taken now; event keys ``tile_index``, ``tile_row`` and so on.

    Attributes
    ----------
    index : int
        In the order of taking, from 0.
    row, column : int
        In the grid.
    attempt : int
        1, and one more for each time that it is taken again.
    x, y : float
        Where its middle is meant to be on the stage, in µm.
    waited : float
        How long the montage waited before it for the processing to catch up, in s.
    """

    units: ClassVar = {"x": "um", "y": "um", "waited": "s"}

    index = Cpt(Signal, value=0)
    row = Cpt(Signal, value=0)
    column = Cpt(Signal, value=0)
    attempt = Cpt(Signal, value=1)
    x = Cpt(Signal, value=0.0)
    y = Cpt(Signal, value=0.0)
    waited = Cpt(Signal, value=0.0)


class MissingTile(SoftReadings):
    """A tile that could not be taken; event keys ``missing_index``, ``missing_reason`` and so on.

    Attributes
    ----------
    index : int
        In the order of taking, from 0.
    row, column : int
        In the grid.
    reason : str
    """

    index = Cpt(Signal, value=0)
    row = Cpt(Signal, value=0)
    column = Cpt(Signal, value=0)
    reason = Cpt(Signal, value="")


class FocusFit(SoftReadings):
    """What an autofocus found; event keys ``autofocus_defocus``, ``autofocus_quality`` and so on.

    Attributes
    ----------
    defocus : float
        The defocus that is set after it, in µm: the best one, or the one before if it failed.
    quality : float
        0 to 1; 0 if it failed.
    succeeded : int
        1 or 0.
    reason : str
        Why it failed, or empty.
    tile : int
        Index of the tile before which it was done, or −1.
    """

    units: ClassVar = {"defocus": "um"}

    defocus = Cpt(Signal, value=0.0)
    quality = Cpt(Signal, value=0.0)
    succeeded = Cpt(Signal, value=0)
    reason = Cpt(Signal, value="")
    tile = Cpt(Signal, value=-1)
