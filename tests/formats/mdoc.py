"""Makes autodocs of montages as SerialEM writes them, with the keys that real files have.

They follow an atlas of SerialEM 3.8 and the description of its files in its manual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.formats.tiles import DOWN, HEIGHT, RIGHT, WIDTH, Tiles

ANGSTROMS = 40.0  # px
# Of the stage, in µm a px, along x and y of the image; x and y are turned by a little.
STAGE_RIGHT, STAGE_UP = (0.0040, 0.0003), (-0.0003, 0.0040)
Cell = tuple[int, int]


def global_data(**changed: Any) -> str:
    values = {
        "PixelSpacing": ANGSTROMS,
        "Voltage": 120,
        "ImageFile": "gm.mrc",
        "ImageSize": f"{WIDTH} {HEIGHT}",
        "Montage": 1,
        "DataMode": 1,
    } | changed
    titles = (
        "[T = SerialEM: TU Delft JEM-1400/HC w. F416                  05-Feb-20  14:41:21    ]\n\n"
        "[T =     Tilt axis angle = 90.6, binning = 2  spot = 3  camera = 0]\n"
    )
    return f"{lines(values)}\n{titles}\n"


def lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in values.items() if value is not None)


def piece(cell: Cell, rows: int, z: int = 0) -> tuple[int, int, int]:
    """Return the piece coordinates of a tile: of its lower left corner, y upwards."""
    return cell[1] * RIGHT, (rows - 1 - cell[0]) * DOWN, z


def section(
    header: str,
    cell: Cell,
    rows: int,
    z: int = 0,
    **changed: Any,
) -> str:
    x, y, _ = piece(cell, rows, z)
    stage = [x * STAGE_RIGHT[k] + y * STAGE_UP[k] - 834.368 for k in (0, 1)]
    values = {
        "TiltAngle": -0.1,
        "PieceCoordinates": f"{x} {y} {z}",
        "StagePosition": f"{stage[0]:.5f} {stage[1]:.5f}",
        "StageZ": 45.1092,
        "Magnification": 100,
        "Intensity": 0.831815,
        "ExposureDose": 0,
        "PixelSpacing": ANGSTROMS,
        "SpotSize": 3,
        "Defocus": 158.09,
        "ImageShift": "0 0",
        "RotationAngle": -179.4,
        "ExposureTime": 0.2,
        "Binning": 2,
        "CameraIndex": 0,
        "DividedBy2": 1,
        "MagIndex": 10,
        "CountsPerElectron": 11.5,
        "MinMaxMean": "0 3490 28.0558",
        "TargetDefocus": -2,
        "DateTime": "05-Feb-20  14:42:35",
    } | changed
    return f"[{header}]\n{lines(values)}\n"


def mont_section(cell: Cell, rows: int, z: int = 0) -> str:
    """Return what SerialEM adds of a whole montage; it has piece coordinates, too."""
    return section(
        f"MontSection = {z}",
        cell,
        rows,
        z,
        MinMaxMean=None,
        BufISXY="0 0",
        ProbeMode=1,
        MoveStage=1,
        ConSetUsed="6 0",
        MontBacklash="10 -10",
        ValidBacklash="0 0",
        DriftSettling=0.01,
        CameraModes="0 0",
        Alpha=0,
        FilterState="0 0",
    )


def mdoc(
    tiles: Tiles,
    order: Sequence[int],
    *,
    changed: Callable[[int], dict[str, Any]] = lambda number: {},
    **header: Any,
) -> str:
    """Return an mdoc for a stack whose images are those tiles, in that order."""
    pieces: Iterable[str] = (
        section(f"ZValue = {page}", tiles.cells[number], tiles.rows, **changed(number))
        for page, number in enumerate(order)
    )
    return global_data(**header) + "".join(pieces) + mont_section(tiles.cells[-1], tiles.rows)
