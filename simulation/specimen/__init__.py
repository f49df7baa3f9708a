"""Specimens for the virtual microscope: tissue, images, a point grid, and a tape to carry them.

All are `Specimen`s, so the microscope never asks which one it has.
"""

from simulation.specimen.base import NativeRegion, Specimen, level_for
from simulation.specimen.image import ImageSpecimen
from simulation.specimen.neuropil import Feature, NeuropilSection
from simulation.specimen.obstacle import Bar, Obstructed
from simulation.specimen.points import PointGrid
from simulation.specimen.tape import ApertureSpecimen, Placement, Tape

__all__ = [
    "ApertureSpecimen",
    "Bar",
    "Feature",
    "ImageSpecimen",
    "NativeRegion",
    "NeuropilSection",
    "Obstructed",
    "Placement",
    "PointGrid",
    "Specimen",
    "Tape",
    "level_for",
]
