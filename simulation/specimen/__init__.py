"""Specimens for the virtual microscope: tissue, images, a point grid, and the tape that carries them."""

from simulation.specimen.base import NativeRegion, Specimen, level_for
from simulation.specimen.image import ImageSpecimen
from simulation.specimen.neuropil import NeuropilSection
from simulation.specimen.points import PointGrid

__all__ = [
    "ImageSpecimen",
    "NativeRegion",
    "NeuropilSection",
    "PointGrid",
    "Specimen",
    "level_for",
]
