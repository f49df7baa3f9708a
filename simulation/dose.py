"""What each place of a specimen has had of the beam: its history, on a grid.

Charge and contamination depend on it, so a place that is visited again looks different.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulation.beam import Beam

CELL = 0.25
"""Side of a cell in µm: under the softness of the beam's edge."""
CHUNK = 256
"""Cells along each side of a piece of the map."""
MAX_RADIUS = 100.0
"""Of the beam, in µm; what falls on a place from one that is spread wider is next to nothing."""
BEAM_END = 1.5
"""In radii of the beam: there is no light beyond."""
ANGSTROM2_PER_UM2 = 1e8


class DoseMap:
    """The dose that has fallen on each place of one specimen, in e⁻/Å²."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, int], NDArray[np.float32]] = {}

    def add(self, x: float, y: float, beam: Beam) -> None:
        """Let a beam fall on the specimen.

        Parameters
        ----------
        x, y : float
            Place of the middle of the frame, in µm.
        beam : Beam
        """
        radius = 1 / float(np.linalg.svd(beam.to_edge, compute_uv=False).min())
        if radius > MAX_RADIUS:
            return
        middle = np.array([x, y]) + beam.middle
        low = np.floor((middle - BEAM_END * radius) / CELL).astype(int)
        high = np.ceil((middle + BEAM_END * radius) / CELL).astype(int)
        columns, rows = (np.arange(*ends) for ends in zip(low, high, strict=True))
        places = np.stack(np.meshgrid(columns * CELL - x, rows * CELL - y), axis=-1)
        dose = (beam.electrons / ANGSTROM2_PER_UM2 * beam.share(places)).astype(np.float32)
        for i, in_box, in_chunk in _runs(rows):
            for j, across_box, across_chunk in _runs(columns):
                if (i, j) not in self._chunks:
                    self._chunks[i, j] = np.zeros((CHUNK, CHUNK), np.float32)
                self._chunks[i, j][in_chunk, across_chunk] += dose[in_box, across_box]

    def at(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return the dose at some places.

        Parameters
        ----------
        x, y : array_like
            In µm, of one shape.

        Returns
        -------
        ndarray of float64
            In e⁻/Å².
        """
        x, y = np.asarray(x), np.asarray(y)
        row, column = np.floor(y / CELL).astype(int), np.floor(x / CELL).astype(int)
        v, u = y / CELL - row, x / CELL - column
        below = (1 - u) * self._cells(row, column) + u * self._cells(row, column + 1)
        above = (1 - u) * self._cells(row + 1, column) + u * self._cells(row + 1, column + 1)
        return (1 - v) * below + v * above

    def _cells(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Look cells up, one by one."""
        found = np.zeros(rows.shape)
        i, j = rows // CHUNK, columns // CHUNK
        for key in set(zip(i.flat, j.flat, strict=True)) & self._chunks.keys():
            here = (i == key[0]) & (j == key[1])
            found[here] = self._chunks[key][rows[here] % CHUNK, columns[here] % CHUNK]
        return found


def _runs(cells: NDArray[np.intp]) -> list[tuple[int, slice, slice]]:
    """Cut cells in a row at the borders of chunks: which chunk, where in the row, where in it."""
    first, end = int(cells[0]), int(cells[-1]) + 1
    runs = []
    for chunk in range(first // CHUNK, (end - 1) // CHUNK + 1):
        low, high = max(first, chunk * CHUNK), min(end, (chunk + 1) * CHUNK)
        inside = slice(low - chunk * CHUNK, high - chunk * CHUNK)
        runs.append((chunk, slice(low - first, high - first), inside))
    return runs


class History:
    """The doses of all the specimens, exposure by exposure.

    Exposures come in order; one may come twice, and then the last time counts.
    """

    def __init__(self) -> None:
        self._maps: dict[int, DoseMap] = {}
        self._last: tuple[int, int, float, float, Beam] | None = None

    def before(self, number: int, aperture: int) -> DoseMap:
        """Return what had fallen on the specimen of an aperture before an exposure."""
        if self._last is not None and self._last[0] < number:
            _, where, x, y, beam = self._last
            self._of(where).add(x, y, beam)
            self._last = None
        return self._of(aperture)

    def note(self, number: int, aperture: int, x: float, y: float, beam: Beam | None) -> None:
        """Note where the beam fell in an exposure; without a beam, nowhere."""
        self._last = None if beam is None else (number, aperture, x, y, beam)

    def _of(self, aperture: int) -> DoseMap:
        return self._maps.setdefault(aperture, DoseMap())
