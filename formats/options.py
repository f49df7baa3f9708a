"""What a person may say about a montage's files where they leave it open.

One set for all readers; a reader uses what it needs of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from formats.images.pixel_size import in_nm
from formats.montage import MontageFileError

PIXELS = ("px", "pixel", "pixels")
MAX_OVERLAP_PERCENT = 95.0
SECTIONS_SHOWN = 10  # that an error tells of


@dataclass(frozen=True)
class ReadOptions:
    """How to read a montage's files; None leaves it to what they say.

    Attributes
    ----------
    pattern : str or None
        Of the names of tile images, with ``{row}``, ``{col}``, ``{x}``, ``{y}``, ``{index}``, and
        ``*`` for anything else.
    columns : int or None
        Of the grid, where names hold an ``{index}`` alone, which counts along rows.
    serpentine : bool
        Whether such an index runs back along every second row.
    overlap : float or None
        Of neighbours, in percent of a tile.
    unit : str or None
        Of positions: px, or one of length such as nm, um, µm or mm.
    pixel_size : float or None
        In nm.
    y_up : bool or None
        Whether y, and rows, count upwards.
    section : str or None
        Which montage of a file that holds several: its z, or its section's name.

    Raises
    ------
    MontageFileError
        If a value is out of range.
    """

    pattern: str | None = None
    columns: int | None = None
    serpentine: bool = False
    overlap: float | None = None
    unit: str | None = None
    pixel_size: float | None = None
    y_up: bool | None = None
    section: str | None = None

    def __post_init__(self) -> None:
        if self.overlap is not None and not 0 <= self.overlap <= MAX_OVERLAP_PERCENT:
            raise MontageFileError(
                f"the overlap is {self.overlap:g} %; it must lie between 0 and "
                f"{MAX_OVERLAP_PERCENT:g} %"
            )
        if self.pixel_size is not None and not (
            math.isfinite(self.pixel_size) and self.pixel_size > 0
        ):
            raise MontageFileError(
                f"the pixel size is {self.pixel_size:g} nm; it must be positive and finite"
            )
        if self.unit is not None:
            nm_per_unit(self.unit)
        if self.columns is not None and self.columns < 1:
            raise MontageFileError(f"the grid has {self.columns} columns; it must have 1 or more")


def nm_per_unit(unit: str, told_by: object = "options") -> float | None:
    """Return how many nm a unit of positions has; None for px.

    Parameters
    ----------
    unit : str
    told_by : object
        Who told it, for the message.

    Raises
    ------
    MontageFileError
        If it is no unit of length.
    """
    if unit.strip().lower() in PIXELS:
        return None
    scale = in_nm(1.0, unit)
    if scale is None:
        raise MontageFileError(f"{told_by}: the unit is {unit!r}; it must be px, nm, µm (um) or mm")
    return scale


def several_sections(path: object, told: Sequence[str]) -> MontageFileError:
    """Make the error for a file that holds several montages, of which none was chosen."""
    some = ", ".join([*told[:SECTIONS_SHOWN], *(["…"] if len(told) > SECTIONS_SHOWN else [])])
    return MontageFileError(
        f"{path} holds {len(told)} montages, the sections {some}; choose one of these"
    )
