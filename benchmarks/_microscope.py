"""A virtual microscope that waits for nothing: its stage settles and its exposures pass at once.

For benchmarks of what is made of its frames, in which its own time is no matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from processing.flatfield import References, make_references
from simulation import MicroscopeSettings, VirtualMicroscope

BESIDE = (400.0, 0.0)  # µm: a place on the film, for bright frames
REFERENCE_FRAMES = 12
STEP = 3.0  # µm between bright frames
SETTLED = 1.0  # s


class QuickMicroscope:
    """A microscope in focus with the beam on, and a clock that only its waits move on.

    Parameters
    ----------
    settings : MicroscopeSettings
    specimen : Specimen
    exposure : float
        Of all frames, in s.

    Attributes
    ----------
    scope : VirtualMicroscope
    """

    def __init__(self, settings: MicroscopeSettings, specimen: Any, exposure: float) -> None:
        self._now = 0.0
        self._exposure = exposure
        self.scope = VirtualMicroscope(
            settings, specimen, clock=lambda: self._now, sleep=self._sleep
        )
        self.scope.column.set("defocus", settings.optics.focus_offset)

    def shoot(self, x: float, y: float) -> NDArray[np.uint16]:
        """Take a frame at a place in µm, once the stage has settled."""
        self.scope.stage.move(x=x, y=y)
        self._sleep(SETTLED)
        self.scope.camera.expose(self._exposure)
        return self.scope.camera.read().data.astype(np.uint16, copy=False)

    def references(self) -> References:
        """Take bright frames on the film, and dark ones."""
        bright = [self.shoot(BESIDE[0] + STEP * i, BESIDE[1]) for i in range(REFERENCE_FRAMES)]
        self.scope.column.set("screen", "Down")
        dark = [self.shoot(*BESIDE) for _ in range(REFERENCE_FRAMES)]
        self.scope.column.set("screen", "Up")
        return make_references(np.stack(bright), np.stack(dark))

    def _sleep(self, seconds: float) -> None:
        self._now += seconds
