"""Specimens for the virtual microscope: tissue, images, a point grid, and the tape that carries them."""

from simulation.specimen.base import NativeRegion, Specimen, level_for
from simulation.specimen.image import ImageSpecimen
from simulation.specimen.neuropil import Feature, NeuropilSection
from simulation.specimen.points import PointGrid
from simulation.specimen.tape import ApertureSpecimen, Placement, Tape

__all__ = [
    "ApertureSpecimen",
    "Feature",
    "ImageSpecimen",
    "NativeRegion",
    "NeuropilSection",
    "Placement",
    "PointGrid",
    "Specimen",
    "Tape",
    "level_for",
]
