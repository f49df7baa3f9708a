"""What each place of a specimen has had of the beam: its history, on a grid."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.render import Beam

CELL = 0.25
"""Side of a cell, in µm: under the softness of the beam's edge."""
CHUNK = 256
"""Cells along the side of a piece of the map."""
MAX_BEAM = 100.0
"""Radius in µm of a beam that is spread so wide that its dose is nothing."""
BEAM_END = 1.5
"""In radii: beyond it there is next to no light."""
ANGSTROM2_PER_UM2 = 1e8


@dataclass(frozen=True)
class Footprint:
    """Where a beam fell on a specimen in an exposure.

    Attributes
    ----------
    x, y : float
        Middle of the beam, in µm.
    beam : Beam
    """

    x: float
    y: float
    beam: Beam
