"""Writes the tiles of a virtual montage as other systems would have: their keys, their order.

``python -m tests.services.stitch.files tiles`` makes a folder of them, with real faults.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks._montages import KnownMontage, shifted, take_montage
from tests.formats import mdoc
from tests.formats.render_specs import affine, spec
from tests.formats.tiles import write_stack

PIXEL_SIZE = 4.0  # nm


@dataclass(frozen=True)
class Written:
    """A montage as files.

    Attributes
    ----------
    inputs : list of Path
        What to stitch.
    order : list of int
        Which tile each row of the table of positions is about.
    """

    inputs: list[Path]
    order: list[int]


def write_folder(
    folder: Path, montage: KnownMontage, name: str = "sec7_r{:03d}-c{:03d}.tif"
) -> Written:
    """Write an image a tile, with the row and the column in its name."""
    folder.mkdir(parents=True)
    for (row, column), tile in zip(montage.grid, montage.tiles, strict=True):
        tifffile.imwrite(folder / name.format(row, column), tile)
    return Written([folder], list(range(len(montage.tiles))))


def write_serialem(folder: Path, montage: KnownMontage) -> Written:
    """Write a stack with its mdoc, its pieces along columns to and fro, as a stage goes."""
    folder.mkdir(parents=True)
    rows = int(montage.grid[:, 0].max()) + 1
    order = sorted(
        range(len(montage.tiles)),
        key=lambda tile: (
            montage.grid[tile, 1],
            montage.grid[tile, 0] * (-1) ** montage.grid[tile, 1],
        ),
    )
    stack = write_stack(folder / "map.st", [montage.tiles[tile] // 2 for tile in order])
    height, width = montage.tiles.shape[1:]
    text = mdoc.global_data(ImageFile=stack.name, ImageSize=f"{width} {height}", DataMode=1)
    bottom = montage.nominal[:, 0].max()
    for page, tile in enumerate(order):
        down, right = montage.nominal[tile]
        x, y = round(right), round(bottom - down)
        stage = [value * PIXEL_SIZE / 1000 for value in (right, -down)]
        text += mdoc.section(
            f"ZValue = {page}",
            (int(montage.grid[tile, 0]), int(montage.grid[tile, 1])),
            rows,
            PieceCoordinates=f"{x} {y} 0",
            StagePosition=f"{stage[0]:.5f} {stage[1]:.5f}",
        )
    text += mdoc.mont_section((rows - 1, 0), rows)
    (folder / "map.st.mdoc").write_text(text, newline="\n")
    return Written([folder / "map.st.mdoc"], order)


def write_render(folder: Path, montage: KnownMontage) -> Written:
    """Write tile specs as `render` gives them out, with the images that they name."""
    folder.mkdir(parents=True)
    height, width = montage.tiles.shape[1:]
    specs = []
    for number, ((row, column), place) in enumerate(
        zip(montage.grid.tolist(), montage.nominal, strict=True)
    ):
        path = folder / f"col{column:04d}_row{row:04d}_cam0.tif"
        tifffile.imwrite(path, montage.tiles[number])
        down, right = place
        one = spec(
            0,
            path.as_uri(),
            affine(right + 7000.0, down - 900.0),
            tileId=f"1503041411210{row:03d}{column:03d}.3407.0",
            width=float(width),
            height=float(height),
            maxX=float(width),
            maxY=float(height),
        )
        one["layout"] |= {
            "imageRow": row + 21,
            "imageCol": column + 75,
            "stageX": right * PIXEL_SIZE,
            "stageY": -down * PIXEL_SIZE,
        }
        specs.append(one)
    path = folder / "tiles.json"
    path.write_text(json.dumps(specs))
    return Written([path], list(range(len(montage.tiles))))


def rms_error(
    montage: KnownMontage, corners: NDArray[np.float64], order: list[int] | None = None
) -> float:
    """Return how far positions are from the truth, in px; their order is that of the files."""
    by_tile = np.empty_like(corners)
    by_tile[list(range(len(corners))) if order is None else order] = corners
    return float(np.sqrt((montage.errors(shifted(by_tile)) ** 2).mean()))


if __name__ == "__main__":
    taken = take_montage("real", rows=5, columns=6, side=1024, overlap=0.12)
    write_folder(Path(sys.argv[1]), taken)
