"""Lens correction: the model of a distortion, its fit to matches of tiles, and corrected frames.

Tiles of a distorted lens do not fit each other however they are placed; corrected, they do.
"""

from processing.lens.degrees import Trial
from processing.lens.errors import LensFitError
from processing.lens.fit import (
    Degree,
    LensFit,
    LensLimits,
    PairResidual,
    fit_lens,
)
from processing.lens.map import LensMap, lens_map
from processing.lens.model import LensModel

__all__ = [
    "Degree",
    "LensFit",
    "LensFitError",
    "LensLimits",
    "LensMap",
    "LensModel",
    "PairResidual",
    "Trial",
    "fit_lens",
    "lens_map",
]
