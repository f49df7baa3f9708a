"""A procedural ultrathin section of neuropil.

`cells` says what lies where, `shading` draws it, `features` are the blemishes; `section` joins
them.
"""

from simulation.specimen.neuropil.features import Feature
from simulation.specimen.neuropil.section import NeuropilSection

__all__ = ["Feature", "NeuropilSection"]
