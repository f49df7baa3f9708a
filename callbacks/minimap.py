"""The picture of a montage that grows while it is taken: small tiles, put where they belong by now.

It is a Zarr array of one uncompressed chunk, which is written in place: whoever reads it, Tiled
too, sees what has come so far.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from callbacks.documents import ZARR_MIMETYPE, StoredArray
from formats.whole_file import whole_file

SUFFIX = ".minimap.zarr"
PICTURE_SUFFIX = ".png"
PICTURE = 2048  # largest side of the picture, in px
PICTURE_SECONDS = 1.0  # between two pictures, at least
MOVES = 10  # tiles that are drawn anew in one go, at most: under 2 ms


class Minimap:
    """A minimap on disk, with a heat map of one figure of the tiles.

    Where tiles overlap the one with the higher index is on top, in whichever order they come.
    Only one object may write a minimap, on one thread. It keeps the small tiles: 20 MB for 5 000
    tiles of 2048², 130 MB for as many of 5376².

    Parameters
    ----------
    path : Path
        Of the Zarr store, which must not exist. Its name should end in ``.minimap.zarr``.
    nominal : array_like, shape (n, 2)
        Where each tile is expected: (row, column) of its first pixel, in px of the camera. The
        positions that come later are meant from the same zero.
    tile_shape : (int, int)
        (height, width) of a tile, in px of the camera.
    mini_shape : (int, int)
        (height, width) of a small tile, in px; it gives the scale.
    margin : float
        How far tiles may lie outside their nominal places, in px of the camera; what lies farther
        out is cut off.
    cells : sequence of (int, int)
        Place (row, column) of each tile in the montage's grid, for the heat map.

    Raises
    ------
    OSError
        If it cannot be made.
    ValueError
        If `nominal` and `cells` are not of the same tiles.
    """

    def __init__(
        self,
        path: Path,
        nominal: ArrayLike,
        *,
        tile_shape: tuple[int, int],
        mini_shape: tuple[int, int],
        margin: float,
        cells: Sequence[tuple[int, int]],
    ) -> None:
        places = np.asarray(nominal, dtype=float)
        if places.shape != (len(cells), 2) or not len(cells):
            raise ValueError(f"nominal has shape {places.shape}; it must be ({len(cells)}, 2)")
        self.path, self.mini_shape = Path(path), mini_shape
        self.scale = np.divide(mini_shape, tile_shape)
        self._origin = places.min(axis=0) - margin
        extent = (np.ptp(places, axis=0) + 2 * margin) * self.scale + mini_shape
        rows, columns = (int(side) for side in np.ceil(extent))
        grid = np.array(cells) - np.min(cells, axis=0)
        self._cells = grid
        zarr.create_group(self.path, zarr_format=3)
        self.pixels = _map_array(self.path / "minimap", (rows, columns), np.uint8, 0)
        self.heat = _map_array(self.path / "heat", tuple(grid.max(axis=0) + 1), np.float32, np.nan)
        self._minis = np.zeros((len(places), *mini_shape), np.uint8)
        self._wanted = np.full(places.shape, np.nan)  # corners, in px of the minimap
        self._drawn = np.full(places.shape, np.nan)
        self._changed, self._next_picture = False, 0.0

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """What documents say of it."""
        return tuple(
            StoredArray(
                key, str(self.path), key, array.shape, array.dtype.str, array.shape, ZARR_MIMETYPE
            )
            for key, array in (("minimap", self.pixels), ("heat", self.heat))
        )

    def place(
        self, index: int, mini: NDArray[np.uint8], position: ArrayLike, heat: float = np.nan
    ) -> None:
        """Put a tile where it belongs; one that was there before, as an earlier attempt, goes.

        Parameters
        ----------
        index : int
            Of the tile, in `nominal`.
        mini : ndarray of uint8, shape `mini_shape`
        position : array_like, shape (2,)
            (row, column) of the tile's first pixel as it is known by now, in px of the camera.
        heat : float
            What to show of the tile in the heat map.

        Raises
        ------
        ValueError
            If `mini` has the wrong shape or type, or the position is not finite.
        """
        if mini.shape != self.mini_shape or mini.dtype != np.uint8:
            raise ValueError(
                f"mini is {mini.dtype} of shape {mini.shape}; it must be uint8 of {self.mini_shape}"
            )
        wanted = self._corner(position)
        if not np.isfinite(wanted).all():
            raise ValueError(f"the position of tile {index} is {position!r}; it must be finite")
        self._minis[index] = mini
        self._wanted[index] = wanted
        self._draw(index)
        self.heat[tuple(self._cells[index])] = heat

    def move(self, positions: ArrayLike) -> int:
        """Draw tiles anew that are known to lie over a pixel of the minimap from where they are.

        A few at a time, the farthest first, so that no call takes long: call it after each tile.

        Parameters
        ----------
        positions : array_like, shape (n, 2)
            (row, column) of the first pixel of each tile of `nominal` as they are known by now, in
            px of the camera; NaN for what is not known. Tiles that were not placed yet stay away.

        Returns
        -------
        int
            How many are left to be drawn anew.
        """
        wanted = self._corner(positions)
        known = np.isfinite(wanted).all(axis=1) & np.isfinite(self._drawn[:, 0])
        self._wanted[known] = wanted[known]
        away = np.nan_to_num(np.abs(self._wanted - self._drawn).max(axis=1), nan=0.0)
        far = np.flatnonzero(away > 1)
        for index in far[np.argsort(-away[far], kind="stable")][:MOVES]:
            self._draw(int(index))
        return max(0, len(far) - MOVES)

    def picture_due(self) -> bool:
        """Tell whether it is time to call `draw_picture`: something new, and a second has gone."""
        now = time.monotonic()
        if not self._changed or now < self._next_picture:
            return False
        self._changed, self._next_picture = False, now + PICTURE_SECONDS
        return True

    def _corner(self, positions: ArrayLike) -> NDArray[np.float64]:
        """Turn positions into places in the minimap, in its own px."""
        return np.asarray((np.asarray(positions, dtype=float) - self._origin) * self.scale)

    def _draw(self, index: int) -> None:
        """Draw a tile at its place, and what lies under its old one."""
        old, new = self._drawn[index].copy(), np.rint(self._wanted[index])
        self._drawn[index] = new
        if np.isfinite(old).all() and (old != new).any():
            self._redraw(old)
        self._redraw(new)
        self._changed = True

    def _redraw(self, corner: NDArray[np.float64]) -> None:
        """Draw the place of one tile anew, with all that lies on it."""
        first = np.clip(corner, 0, self.pixels.shape).astype(int)
        last = np.clip(corner + self.mini_shape, 0, self.pixels.shape).astype(int)
        if (first >= last).any():
            return
        here = self.pixels[first[0] : last[0], first[1] : last[1]]
        here[...] = 0
        apart = np.abs(self._drawn - corner)
        for index in np.flatnonzero((apart < self.mini_shape).all(axis=1)):
            start = np.maximum(self._drawn[index], first).astype(int)
            stop = np.minimum(self._drawn[index] + self.mini_shape, last).astype(int)
            if (start < stop).all():
                into = tuple(slice(a, b) for a, b in zip(start - first, stop - first, strict=True))
                inside = (start - self._drawn[index]).astype(int)
                size = stop - start
                here[into] = self._minis[index][
                    inside[0] : inside[0] + size[0], inside[1] : inside[1] + size[1]
                ]


def read_minimap(path: Path | str) -> NDArray[np.uint8]:
    """Read a minimap as it is now.

    Parameters
    ----------
    path : Path or str
        Of its store.

    Returns
    -------
    ndarray of uint8, shape (height, width)
        0 where no tile is yet.
    """
    return np.asarray(zarr.open_array(Path(path) / "minimap", mode="r")[0])


def draw_picture(path: Path | str, largest: int = PICTURE) -> Path:
    """Write a minimap as a PNG beside it, in one go, so that a viewer never sees half of one.

    Parameters
    ----------
    path : Path or str
        Of the minimap's store.
    largest : int
        Largest side of the picture, in px.

    Returns
    -------
    Path
        Of the picture: the store's, with the suffix ``.png``.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    pixels = read_minimap(path)
    factor = largest / max(pixels.shape)
    if factor < 1:
        size = [max(1, round(side * factor)) for side in pixels.shape[::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    target = Path(path).with_suffix(PICTURE_SUFFIX)
    with whole_file(target) as unfinished:
        unfinished.write_bytes(cv2.imencode(PICTURE_SUFFIX, pixels)[1].tobytes())
    return target


def _map_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike, fill: float) -> NDArray[Any]:
    """Make an array of one image whose only chunk is a file of plain numbers, and map that file."""
    array = zarr.create_array(
        path,
        shape=(1, *shape),
        chunks=(1, *shape),
        dtype=dtype,
        compressors=None,
        fill_value=fill,
        dimension_names=["c", "y", "x"],
        config={"write_empty_chunks": True},
    )
    array[...] = fill
    chunk = path / array.metadata.encode_chunk_key((0, 0, 0))
    return np.memmap(chunk, array.dtype, "r+", shape=shape)
