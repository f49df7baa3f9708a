"""Where each pixel of each tile lies in a mosaic: one lens for all tiles, and an affine map a tile.

What a solve finds, and what a mosaic is rendered and files are exported from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.geometry import FrameGeometry
from processing.lens import LensModel

MAX_BEND = 0.25  # of any part of a matrix from the identity: real tiles stay below 0.01
BORDER = 129  # places along each side of a tile that its box is taken from
BEND_STEPS = 5  # places along each side of a tile at which its bend is measured


@dataclass(frozen=True, eq=False)
class TileMaps:
    """The maps of the tiles of a montage.

    What tile `t` shows at the pixel ``p`` lies in the mosaic at the pixel
    ``A_t (p + shift(p)) + b_t``, all (row, column): the lens bends all tiles alike, and each has an
    affine map of its own.

    Parameters
    ----------
    shape : (int, int)
        (height, width) of the tiles, in px.
    matrices : ndarray of float64, shape (n, 2, 3)
        ``[A | b]`` of each tile, from (row, column) after the lens to (row, column) of the mosaic.
    lens : LensModel, optional
        None: tiles are straight.

    Raises
    ------
    ValueError
        If the matrices have another shape or are not finite, a tile is bent too far to be believed,
        or the lens is of frames of another shape.

    Examples
    --------
    >>> maps = TileMaps.shifts([(10.0, 20.0)], (2048, 2048))
    >>> maps.forward(0, (5, 5))
    array([15., 25.])
    """

    shape: tuple[int, int]
    matrices: NDArray[np.float64]
    lens: LensModel | None = None

    def __post_init__(self) -> None:
        matrices = np.array(self.matrices, dtype=np.float64)
        if matrices.ndim != 3 or matrices.shape[1:] != (2, 3):
            raise ValueError(f"matrices have shape {matrices.shape}; they must be (n, 2, 3)")
        finite = np.isfinite(matrices).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(f"the map of tile {finite.argmin()} holds a number that is not finite")
        bend = np.abs(matrices[:, :, :2] - np.eye(2)).max(axis=(1, 2), initial=0)
        if (bend > MAX_BEND).any():
            raise ValueError(
                f"the map of tile {bend.argmax()} turns, scales or shears it by {bend.max():.3g}; "
                f"at most {MAX_BEND} is believed: look at its matches"
            )
        if self.lens is not None and self.lens.shape != tuple(self.shape):
            raise ValueError(
                f"the lens is of frames of {self.lens.shape} px, and tiles are {self.shape} px"
            )
        object.__setattr__(self, "matrices", matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    @classmethod
    def shifts(cls, positions: ArrayLike, shape: tuple[int, int]) -> TileMaps:
        """Make the maps of tiles that are neither turned nor bent.

        Parameters
        ----------
        positions : array_like, shape (n, 2)
            (row, column) of each tile's first pixel, in px.
        shape : (int, int)
            (height, width) of the tiles, in px.
        """
        places = np.asarray(positions, dtype=np.float64).reshape(-1, 2)
        straight = np.broadcast_to(np.eye(2), (len(places), 2, 2))
        return cls(shape, np.concatenate([straight, places[:, :, None]], axis=2))

    def only(self, indices: ArrayLike) -> TileMaps:
        """Return the maps of some of the tiles, which are counted anew."""
        return replace(self, matrices=self.matrices[np.asarray(indices, dtype=np.intp)])

    def moved(self, vector: ArrayLike) -> TileMaps:
        """Return the maps into a mosaic whose first pixel lies elsewhere: all places plus a vector.

        Parameters
        ----------
        vector : array_like, shape (2,)
            (rows, columns) in px.
        """
        matrices = self.matrices.copy()
        matrices[:, :, 2] += np.asarray(vector, dtype=np.float64)
        return replace(self, matrices=matrices)

    def forward(self, tile: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
        """Find where pixels of tiles lie in the mosaic.

        Parameters
        ----------
        tile : int or array_like of int, shape (...)
            Index of the tile, one for all points or one for each.
        points : array_like, shape (..., 2)
            (row, column) in px of the tile.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the mosaic.
        """
        places = np.asarray(points, dtype=np.float64)
        if self.lens is not None:
            places = self.lens.to_corrected(places)
        return _apply(self.matrices[np.asarray(tile)], places)

    def inverse(self, tile: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
        """Find which pixels of tiles lie at places of the mosaic: `forward` inverted.

        Parameters
        ----------
        tile : int or array_like of int, shape (...)
            Index of the tile, one for all points or one for each.
        points : array_like, shape (..., 2)
            (row, column) in px of the mosaic, not far from the tile.

        Returns
        -------
        ndarray of float64, shape (..., 2)
            (row, column) in px of the tile.

        Raises
        ------
        ValueError
            If a place lies so far outside a tile that its lens puts nothing there.
        """
        places = _apply(self.inverted[np.asarray(tile)], np.asarray(points, dtype=np.float64))
        return places if self.lens is None else self.lens.to_distorted(places)

    @cached_property
    def inverted(self) -> NDArray[np.float64]:
        """The affine maps back, from the mosaic to tiles after the lens, shape (n, 2, 3)."""
        # Element by element, so that a map is inverted alike among whichever others it stands.
        (a, b, down), (c, d, right) = np.moveaxis(self.matrices, 0, -1)
        inverse = np.array([[d, -b, b * right - d * down], [-c, a, c * down - a * right]])
        return np.ascontiguousarray(np.moveaxis(inverse / (a * d - b * c), -1, 0))

    @cached_property
    def middles(self) -> NDArray[np.float64]:
        """Where the middle of each tile lies in the mosaic, (row, column) in px, shape (n, 2)."""
        middle = FrameGeometry.middle(self.shape)
        return self.forward(np.arange(len(self)), np.broadcast_to(middle, (len(self), 2)))

    @property
    def positions(self) -> NDArray[np.float64]:
        """(row, column) of each tile's first pixel in px, if a tile only moves as its middle does.

        Shape (n, 2).
        """
        return np.asarray(self.middles - FrameGeometry.middle(self.shape))

    @cached_property
    def bend(self) -> float:
        """How far in px some pixel of a tile lies from where `positions` put it, at most."""
        sides = (np.linspace(0, side - 1, BEND_STEPS) for side in self.shape)
        pixels = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
        places = self.forward(np.arange(len(self))[:, None], pixels)
        off = places - (pixels + self.positions[:, None])
        return float(np.linalg.norm(off, axis=-1).max(initial=0.0))

    @property
    def first_pixel(self) -> NDArray[np.float64]:
        """The least (row, column) of all tiles in the mosaic, in px, as `boxes` tell it."""
        near = (self.positions < self.positions.min(axis=0) + self.shape).any(axis=1)
        return np.asarray(self.only(np.flatnonzero(near)).boxes[0].min(axis=0))

    @cached_property
    def boxes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the greatest (row, column) of each tile in the mosaic, shape (n, 2) each.

        Of the middles of its pixels; exact for straight tiles, to a few hundredths of a pixel for
        those that a lens bends.
        """
        rows, columns = (np.linspace(0, side - 1, BORDER) for side in self.shape)
        last_row, last_column = rows[-1], columns[-1]
        border = np.concatenate(
            [
                np.column_stack([np.repeat((0, last_row), BORDER), np.tile(columns, 2)]),
                np.column_stack([np.tile(rows, 2), np.repeat((0, last_column), BORDER)]),
            ]
        )
        places = self.forward(np.arange(len(self))[:, None], border)
        return places.min(axis=1), places.max(axis=1)


def _apply(matrices: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take points through affine maps, one for all of them or one for each."""
    turned = np.einsum("...ij,...j->...i", matrices[..., :2], points)
    return np.asarray(turned + matrices[..., 2])
