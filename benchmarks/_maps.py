"""Matches of tiles of the virtual microscope whose maps are known, without taking an image.

For montages of so many tiles that taking them would take an hour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulation import FrameMap, VirtualMicroscope


@dataclass(frozen=True, eq=False)
class KnownMaps:
    """The maps of many frames of one microscope, which share their distortion.

    Attributes
    ----------
    to_stage : ndarray of float64, shape (n, 2, 2)
        From undistorted px (row, column) to the specimen (x, y) in µm.
    middles : ndarray of float64, shape (n, 2)
        Places (x, y) of the middles of the frames, in µm.
    first : FrameMap
        Of the first frame, for the distortion.
    """

    to_stage: NDArray[np.float64]
    middles: NDArray[np.float64]
    first: FrameMap

    @classmethod
    def of(cls, microscope: VirtualMicroscope, middles: ArrayLike) -> KnownMaps:
        """Ask a microscope for the maps of frames in their order, at places (x, y) in µm."""
        places = np.asarray(middles, dtype=float)
        maps = [microscope.map_at(*place, number) for number, place in enumerate(places, 1)]
        return cls(np.array([each.to_stage for each in maps]), places, maps[0])

    def partners(
        self, a: NDArray[np.intp], b: NDArray[np.intp], pixels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Find the pixels of frames `b` that show what pixels of frames `a` show.

        Parameters
        ----------
        a, b : ndarray of int, shape (n,)
        pixels : ndarray of float64, shape (n, m, 2)
            (row, column) in frames `a`.

        Returns
        -------
        ndarray of float64, shape (n, m, 2)
            (row, column) in frames `b`.
        """
        middle = (np.array(self.first.shape) - 1) / 2
        ideal = self.first.undistorted(pixels) - middle
        seen = np.einsum("nij,nmj->nmi", self.to_stage[a], ideal) + self.middles[a, None]
        back = np.linalg.inv(self.to_stage[b])
        there = np.einsum("nij,nmj->nmi", back, seen - self.middles[b, None])
        return self.first.distorted(there + middle)


def along_edges(steps: NDArray[np.float64], side: int, count: int) -> NDArray[np.float64]:
    """Return places along the middle of the overlaps of square tiles with their neighbours.

    Parameters
    ----------
    steps : ndarray of float64, shape (n, 2)
        (rows, columns) from each tile to its neighbour, in px.
    side : int
        Of the tiles, in px.
    count : int
        Of places on each edge.

    Returns
    -------
    ndarray of float64, shape (n, count, 2)
        (row, column) in the first tile.
    """
    below = np.abs(steps[:, 0]) > np.abs(steps[:, 1])
    along = np.where(below[:, None], [0.0, 1.0], [1.0, 0.0])
    spread = np.linspace(-0.4, 0.4, count) * side
    middle = (side - 1) / 2 + steps / 2
    return middle[:, None] + along[:, None] * spread[None, :, None]
