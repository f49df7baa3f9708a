"""What a frame depends on: when it is exposed, and how everything stands meanwhile.

Two scenes that are equal give the same frame; so one can be made while it is still exposed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulation.column import ColumnState
from simulation.render import Texture


@dataclass(frozen=True)
class Exposure:
    """What the camera asks for.

    Attributes
    ----------
    number : int
        Of the frame.
    start, duration : float
        In simulated s.
    binning, bits : int
    """

    number: int
    start: float
    duration: float
    binning: int
    bits: int


@dataclass(frozen=True)
class Scene:
    """How the microscope stands.

    Attributes
    ----------
    column : ColumnState
    stage_commands : int
        How many the stage has had: its path is settled until the next.
    specimen : Texture
        What is under the beam.
    aperture : int
    tape_offset : ndarray of float64, shape (2,)
        In µm; of the last command to the tape.
    conditions : frozenset of str
        What is imperfect, of `simulation.faults.CONDITIONS`.
    dropped : bool
        Whether the beam was lost (a fault).
    """

    column: ColumnState
    stage_commands: int
    specimen: Texture
    aperture: int
    tape_offset: NDArray[np.float64] = field(compare=False)
    conditions: frozenset[str] = frozenset()
    dropped: bool = False
