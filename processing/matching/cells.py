"""Patches over which shifts change, by a lens or a turn: divided into cells, each at its own shift.

Sums over the cells of a patch are what the patch would give if it were bent as the other tile is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # px along a side, over which shifts are taken for the same
TOLERATED = 0.25  # px by which the shift of a patch's border may be off its middle's, undivided


@dataclass(frozen=True, eq=False)
class Cells:
    """Patches, each divided into cells, or whole.

    Attributes
    ----------
    patches : ndarray of int64, shape (n, 4)
        [top, bottom, left, right] of each, in px.
    slopes : ndarray of float64, shape (n, 2, 2), or None
        How shifts change over a patch: ``slopes[:, i, j]`` along axis i by the place on axis j;
        None: they do not, and each patch is one cell.
    boxes : ndarray of int64, shape (m, 4)
        Of the cells, patch by patch.
    """

    patches: NDArray[np.int64]
    slopes: NDArray[np.float64] | None = None
    boxes: NDArray[np.int64] = field(init=False)
    _owners: NDArray[np.intp] = field(init=False)
    _bent: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        boxes, owners, bent = self.patches, np.arange(len(self.patches)), np.zeros(())
        if self.slopes is not None:
            boxes, owners = _divide(self.patches)
            off = middles(boxes) - middles(self.patches)[owners]
            bent = np.einsum("nij,nj->ni", self.slopes[owners], off)
        for name, value in (("boxes", boxes), ("_owners", owners), ("_bent", bent)):
            object.__setattr__(self, name, value)

    def shifts(self, of_patches: NDArray[Any]) -> NDArray[np.float64]:
        """Return the shift of each cell from those of the patches, shape (m, 2), in px."""
        return np.asarray(of_patches[self._owners] + self._bent)

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up values of cells, shape (m, …), over each patch, shape (n, …)."""
        if self.slopes is None:
            return values
        starts = np.searchsorted(self._owners, np.arange(len(self.patches)))
        return np.asarray(np.add.reduceat(values, starts))


def middles(boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the middle (row, column) of each box, shape (n, 2), in px."""
    return (boxes[:, ::2] + boxes[:, 1::2] - 1) / 2


def matters(slopes: NDArray[np.float64], patches: NDArray[np.int64]) -> bool:
    """Whether shifts change so much over patches that these must be divided."""
    half = (patches[:, 1::2] - patches[:, ::2]) / 2
    return bool((np.abs(slopes) * half[:, None]).max(initial=0) > TOLERATED)


def _divide(patches: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Divide patches into cells; tell which patch each is of."""
    boxes: list[list[int]] = []
    owners: list[int] = []
    for owner, (top, bottom, left, right) in enumerate(patches.tolist()):
        rows, columns = (_parts(*ends) for ends in ((top, bottom), (left, right)))
        boxes += [[*row, *column] for row in rows for column in columns]
        owners += [owner] * (len(boxes) - len(owners))
    return np.array(boxes, np.int64), np.array(owners, np.intp)


def _parts(start: int, end: int) -> list[tuple[int, int]]:
    count = max(1, round((end - start) / SIDE))
    return list(pairwise(start + (end - start) * k // count for k in range(count + 1)))
