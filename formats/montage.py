"""A montage as files tell it, and as it was solved: what readers give and exporters take.

Between the two stands nothing but `processing.solve`, so any reader goes with any exporter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.errors import FormatError


class MontageFileError(FormatError):
    """A montage could not be read or written; the message says where and what was found."""


@dataclass(frozen=True, eq=False)
class Edges:
    """What was measured between neighbours, each pair once.

    Attributes
    ----------
    pairs : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles.
    offsets : ndarray of float64, shape (m, 2)
        Position of b minus that of a, (rows, columns) in px.
    sd : ndarray of float64, shape (m,)
        Standard deviation of each offset along each axis, in px.
    points : tuple of ndarray of float64, shape (k, 6)
        The places that are one, [row_a, column_a, row_b, column_b, sd, weight] in px, as
        `processing.solve.solve_maps` takes them; none if not told.
    """

    pairs: NDArray[np.intp]
    offsets: NDArray[np.float64]
    sd: NDArray[np.float64]
    points: tuple[NDArray[np.float64], ...]

    @classmethod
    def none(cls) -> Edges:
        """Return what a file tells that holds no matches."""
        return cls(np.empty((0, 2), dtype=np.intp), np.empty((0, 2)), np.empty(0), ())


@dataclass(frozen=True)
class ImageSource:
    """Where an image lies, as `formats.images.open_image` takes it.

    Attributes
    ----------
    path : Path
        Of the file.
    page : int or None
        Which image of the file it is, counted from 0; None if it holds one.
    """

    path: Path
    page: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.page is None else f"{self.path}, image {self.page}"


@dataclass(frozen=True, eq=False)
class Montage:
    """The tiles of a montage, where they should lie, and what was measured between them.

    Attributes
    ----------
    path : Path
        Of the file.
    names : tuple of str, length n
        Each once.
    cells : ndarray of int, shape (n, 2)
        (row, column) of each tile in the grid.
    nominal : ndarray of float64, shape (n, 2)
        (row, column) of each tile's first pixel by the stage, in px; NaN where nothing tells it.
    stage : ndarray of float64, shape (n, 2)
        Stage (x, y) of each tile, in µm; NaN where it is not told.
    to_stage : ndarray of float64, shape (2, 2)
        Takes a vector (rows, columns) in px to stage (x, y) in µm; NaN if it is not known.
    shape : (int, int)
        (height, width) of a tile, in px.
    pixel_size : float
        In nm; NaN if it is not told.
    angle : float
        From image axes to stage axes, in degrees; NaN if it is not told.
    images : tuple of ImageSource, length n
        Of each tile's image.
    edges : Edges
        None of them where the file holds no matches.
    n_unmatched : int
        Pairs for which the file says that no match was found.
    notes : dict of str to str
        How the file was read where files differ, to be shown.
    doubts : tuple of str
        What was taken though nothing in the file tells it: no solution is accepted on that.
    masks : tuple of (ImageSource or None), length n
        Of each tile's mask, 0 where its image is no signal; empty if the file tells none.
    maps : ndarray of float64, shape (n, 2, 3), or None
        Where the file says that tiles were found to lie: pixel (row, column) p is at
        ``map[:, :2] @ p + map[:, 2]``, in px. None if it does not say.
    """

    path: Path
    names: tuple[str, ...]
    cells: NDArray[np.intp]
    nominal: NDArray[np.float64]
    stage: NDArray[np.float64]
    to_stage: NDArray[np.float64]
    shape: tuple[int, int]
    pixel_size: float
    angle: float
    images: tuple[ImageSource, ...]
    edges: Edges
    n_unmatched: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    masks: tuple[ImageSource | None, ...] = ()
    maps: NDArray[np.float64] | None = None


AffineMap = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class PlacedTile:
    """One tile of a montage where it was found to lie.

    Attributes
    ----------
    tile : str
    row, column : int
        In the grid.
    x_px, y_px : float
        Of its first pixel, in px from that of the mosaic, if it is moved as its middle is.
    sd_x_px, sd_y_px : float
        Standard deviation of the two.
    residual_px : float
        How far its neighbours disagree with it, root mean square over its matches; NaN if it has
        none.
    placed_by : {"match", "stage"}
    component : int
        Tiles of one number hang together by matches; 0 is the largest set.
    stage_x_um, stage_y_um : float
        Where the stage would be if the tile lay where it was found to, in µm; NaN if not known.
    image : ImageSource or None
        Its own image, if it has one.
    map : tuple of six float, or None
        m00, m10, m01, m11, m02, m12 of the affine map from its pixels (x, y), as the montage's lens
        shows them, to those of the mosaic; None: it is moved only.
    """

    tile: str
    row: int
    column: int
    x_px: float
    y_px: float
    sd_x_px: float
    sd_y_px: float
    residual_px: float
    placed_by: str
    component: int
    stage_x_um: float
    stage_y_um: float
    image: ImageSource | None = None
    map: AffineMap | None = None


def in_xy(matrix: NDArray[np.float64]) -> AffineMap:
    """Return an affine map of (row, column), shape (2, 3), as one of (x, y).

    m00, m10, m01, m11, m02, m12: m00 and m10 are what a step along x does.
    """
    (row_by_row, row_by_column, row), (column_by_row, column_by_column, column) = matrix.tolist()
    return column_by_column, row_by_column, column_by_row, row_by_row, column, row


@dataclass(frozen=True)
class PlacedMontage:
    """A solved montage, as exporters take it.

    Attributes
    ----------
    name : str
        Of the file, or the uid of the processed run.
    tiles : tuple of PlacedTile
    shape : (int, int)
        (height, width) of a tile, in px.
    pixel_size : float
        In nm; NaN if it is not known.
    angle : float
        From image axes to stage axes, in degrees; NaN if it is not known.
    lens : ndarray of float64, shape (2, degree + 1, degree + 1), or None
        What all tiles are bent by before their maps: coefficients of v^i · u^j for rows and for
        columns, in px, with v and u the row and the column from the middle of the tile, over half
        its sides. None: nothing.
    """

    name: str
    tiles: tuple[PlacedTile, ...]
    shape: tuple[int, int]
    pixel_size: float
    angle: float
    lens: NDArray[np.float64] | None = None
