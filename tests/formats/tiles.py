"""A picture cut into overlapping tiles, whose places are known, for readers of montages.

`matches` lays tiles where a montage says they lie, read through the reader of images, and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from formats.errors import FormatError
from formats.images import open_image
from formats.montage import Montage
from formats.readers import read_montage

HEIGHT, WIDTH = 24, 32  # px, of a tile
DOWN, RIGHT = 20, 26  # px, from tile to tile


@dataclass(frozen=True)
class Tiles:
    """Tiles of a picture in rows and columns; `skipped` ones were not taken."""

    rows: int = 3
    columns: int = 4
    skipped: tuple[tuple[int, int], ...] = ((1, 2),)

    @property
    def picture(self) -> NDArray[np.uint8]:
        shape = (self.rows * DOWN + HEIGHT, self.columns * RIGHT + WIDTH)
        return np.random.default_rng(5).integers(1, 255, shape, np.uint8)

    @property
    def cells(self) -> list[tuple[int, int]]:
        every = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return [cell for cell in every if cell not in self.skipped]

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        picture = self.picture
        return [
            picture[row * DOWN : row * DOWN + HEIGHT, column * RIGHT : column * RIGHT + WIDTH]
            for row, column in self.cells
        ]

    @property
    def places(self) -> NDArray[np.float64]:
        return np.array(self.cells, dtype=float) * (DOWN, RIGHT)


def matches(montage: Montage, tiles: Tiles, places: NDArray[np.float64] | None = None) -> bool:
    """Whether every pixel of every tile lies where the picture has it, but for a common shift."""
    places = montage.nominal if places is None else places
    picture = tiles.picture
    first = places.min(axis=0) - tiles.places.min(axis=0)
    corners = np.rint(places - first).astype(int)
    found = [open_image(source.path, source.page).read() for source in montage.images]
    return len(found) == len(tiles.cells) and all(
        np.array_equal(image, picture[row : row + HEIGHT, column : column + WIDTH])
        for image, (row, column) in zip(found, corners.tolist(), strict=True)
    )


def read_or_refuse(inputs: list[Path]) -> Montage | None:
    """Read a montage; None if it is refused in one line, as anything may be."""
    try:
        return read_montage(inputs)
    except FormatError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"an error of several lines: {error}") from error
        return None


def write_stack(path: Path, images: list[NDArray[np.uint8]], angstroms: float = 40.0) -> Path:
    """Write an MRC stack as SerialEM does: the first row of an image is its bottom one."""
    with mrcfile.new(path) as file:
        file.set_data(np.array(images)[:, ::-1].astype(np.int16))
        file.set_image_stack()
        file.voxel_size = angstroms
    return path
