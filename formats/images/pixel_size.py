"""Tells the size of a pixel from what files say, and does not believe what cannot be one.

Many programs write the resolution of a screen or a printer, which says nothing of the specimen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

NM_PER_INCH = 25.4e6
NM = {
    "fm": 1e-6, "pm": 1e-3, "a": 0.1, "å": 0.1, "angstrom": 0.1, "ångström": 0.1,
    "nm": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3,
    "micrometer": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "centimeter": 1e7, "m": 1e9,
    "meter": 1e9, "inch": NM_PER_INCH, "in": NM_PER_INCH,
}  # fmt: skip
"""Nanometres in a unit, by its names in lower case; µ is U+00B5 or U+03BC."""
MAX_PRINTED = 1000.0
"""In nm, that is 25 400 dpi: resolutions coarser than that are of printers, screens, scanners."""
MAX_PIXEL = 1e6
"""In nm: a pixel of a millimetre is none of a microscope, but of a diffraction pattern."""
SAME = 0.01
"""Sides of a pixel that differ by less are one number."""


def in_nm(value: float, unit: str) -> float | None:
    """Give a length in nm, None if the unit is not one of length."""
    scale = NM.get(unit.strip().strip("\0").lower())
    return None if scale is None else value * scale


def square_pixel(sides: Sequence[float | None], unknown: float | None = None) -> float | None:
    """Give the one number that the sides of a pixel are.

    Parameters
    ----------
    sides : sequence of float or None
        Width and height, in nm; None where not told.
    unknown : float, optional
        What a format writes where it does not know, in nm.

    Returns
    -------
    float or None
        In nm; None if it is not known, or not one number.
    """
    known = [side for side in sides if side is not None and 0 < side < MAX_PIXEL]
    if not known or not isclose(known[0], known[-1], rel_tol=SAME):
        return None
    if unknown is not None and isclose(known[0], unknown, rel_tol=1e-6):
        return None
    return known[0]


def printed_pixel(per_inch: Sequence[float]) -> float | None:
    """Give the pixel size in nm by resolutions in px an inch, None if a printer's or a screen's."""
    sides = [NM_PER_INCH / value if value > 0 else None for value in per_inch]
    size = square_pixel(sides)
    return size if size is not None and size < MAX_PRINTED else None
