"""A procedural ultrathin section of neuropil."""

from simulation.specimen.neuropil.section import NeuropilSection

__all__ = ["NeuropilSection"]
