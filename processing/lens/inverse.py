"""The inverse of a lens on a grid, for loops that ask it for every pixel of a mosaic.

Interpolated between its nodes it costs a few operations, and the lens is the same for all tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from processing.lens.model import LensModel, grid_places

SPACINGS = (64, 32, 16)  # between nodes, in px
MAX_ERROR = 0.02  # px by which the shift may depart from what is interpolated
GRIDS_KEPT = 4


@dataclass(frozen=True, eq=False)
class InverseGrid:
    """What to add to places of the corrected frame to find them in the frame as it was taken.

    Attributes
    ----------
    first : (float, float)
        (row, column) of the first node in the corrected frame, in px.
    spacing : int
        From node to node, in px.
    shifts : ndarray of float64, shape (rows, columns, 2)
        At each node, in px; linear between nodes, and beyond the outer ones.
    """

    first: tuple[float, float]
    spacing: int
    shifts: NDArray[np.float64]


NO_LENS = InverseGrid((0.0, 0.0), 256, np.zeros((2, 2, 2)))


@lru_cache(maxsize=GRIDS_KEPT)
def inverse_grid(model: LensModel) -> InverseGrid:
    """Work the inverse of a model out; the last four are kept, in each process.

    Parameters
    ----------
    model : LensModel

    Returns
    -------
    InverseGrid
        Over the corrected frame and a node more all round; right to 0.02 px within it, unless the
        lens bends more than any of a microscope, and a spacing of 16 px is too wide.
    """
    fine = (each for each in SPACINGS if sum(model.bends) * each**2 / 8 <= MAX_ERROR)
    spacing = next(fine, SPACINGS[-1])
    corrected = model.to_corrected(grid_places(model.shape))
    first = np.floor(corrected.min(axis=(0, 1))) - spacing
    counts = np.ceil((corrected.max(axis=(0, 1)) - first) / spacing).astype(int) + 2
    nodes = first + spacing * np.moveaxis(np.indices(counts), 0, -1)
    shifts = np.ascontiguousarray(model.to_distorted_anywhere(nodes) - nodes)
    return InverseGrid((float(first[0]), float(first[1])), spacing, shifts)
