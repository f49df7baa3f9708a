"""Writes solved montages for a lab's other tools: CSV, `render` tile specs, OME-TIFF.

Each takes the same `PlacedMontage`, whether it came from a file or from a processed run.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from formats.montage import MontageFileError, PlacedMontage, PlacedTile
from formats.whole_file import whole_file
from processing.geometry.frame import NM_PER_UM

AFFINE = "mpicbg.trakem2.transform.AffineModel2D"
INTENSITIES = 0, 65535  # as uint16 frames have them
CSV_LEFT_OUT = ("image", "linear")


def write_csv(path: Path, montage: PlacedMontage) -> None:
    """Write one line a tile, with the fields of `PlacedTile`; what is not known is left empty.

    Lengths have four decimals, whether in px or in µm.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    rows = [
        {name: _written(value) for name, value in asdict(tile).items() if name not in CSV_LEFT_OUT}
        for tile in montage.tiles
    ]
    names = [name for name in PlacedTile.__dataclass_fields__ if name not in CSV_LEFT_OUT]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise _not_written(path, error) from error


def _written(value: object) -> object:
    if not isinstance(value, float):
        return value
    return f"{value:.4f}" if math.isfinite(value) else ""


def tile_specs(montage: PlacedMontage, z: float = 0.0) -> list[dict[str, Any]]:
    """Give the tile specs of `render`, one a tile.

    Parameters
    ----------
    montage : PlacedMontage
    z : float
        Of the section.

    Returns
    -------
    list of dict
        As `render` (Saalfeld lab) takes them: one affine transform a tile, whose data string is
        "m00 m10 m01 m11 m02 m12", in px of the mosaic.
    """
    return [_tile_spec(montage, tile, z) for tile in montage.tiles]


def _tile_spec(montage: PlacedMontage, tile: PlacedTile, z: float) -> dict[str, Any]:
    height, width = montage.shape
    layout = {
        "sectionId": f"{z:.1f}",
        "imageRow": tile.row,
        "imageCol": tile.column,
        "stageX": tile.stage_x_um * NM_PER_UM,
        "stageY": tile.stage_y_um * NM_PER_UM,
        "rotation": montage.angle,
        "pixelsize": montage.pixel_size,
    }
    values = (*tile.linear, tile.x_px, tile.y_px)
    spec: dict[str, Any] = {
        "tileId": tile.tile,
        "z": z,
        # JSON has no NaN: what is not known is left out.
        "layout": {
            name: value
            for name, value in layout.items()
            if not (isinstance(value, float) and math.isnan(value))
        },
        "width": width,
        "height": height,
        "minIntensity": INTENSITIES[0],
        "maxIntensity": INTENSITIES[1],
        "mipmapLevels": {"0": {"imageUrl": tile.image.as_uri()}} if tile.image else {},
        "transforms": {
            "type": "list",
            "specList": [
                {
                    "type": "leaf",
                    "className": AFFINE,
                    "dataString": " ".join(f"{value:.10g}" for value in values),
                }
            ],
        },
    }
    return spec


def write_render(path: Path, montage: PlacedMontage) -> None:
    """Write the tile specs of `render` as JSON.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    try:
        path.write_text(json.dumps(tile_specs(montage), indent=1, allow_nan=False), "utf-8")
    except OSError as error:
        raise _not_written(path, error) from error


def write_ome_tiff(
    folder: Path, montage: PlacedMontage, frames: Iterable[NDArray[np.generic]]
) -> Path:
    """Write all tiles to one OME-TIFF file, an image each, with their places.

    ``PositionX`` and ``PositionY`` are in µm along the axes of the image, x to the right and y
    upwards, as ASHLAR takes them (Fiji's Grid/Collection stitching: tick "invert Y coordinates").
    Nothing but these tells such tools where a tile lies, so the stage's own axes, which may be
    turned against the image's, would be of no use there.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    montage : PlacedMontage
    frames : iterable of ndarray, shape (height, width)
        Of each tile, in order; taken one after another.

    Returns
    -------
    Path
        Of the file, ``<name>.ome.tif``.

    Raises
    ------
    MontageFileError
        If the file cannot be written, or the pixel size is not known.
    """
    if not math.isfinite(montage.pixel_size):
        raise MontageFileError(
            f"{montage.name} tells no pixel size; OME-TIFF holds positions in µm and needs one"
        )
    path = folder / f"{montage.name}.ome.tif"
    scale = montage.pixel_size / NM_PER_UM
    try:
        with (
            whole_file(path) as unfinished,
            tifffile.TiffWriter(unfinished, ome=True, bigtiff=True) as file,
        ):
            for tile, frame in zip(montage.tiles, frames, strict=True):
                file.write(frame, photometric="minisblack", metadata=_ome_metadata(tile, scale))
    except OSError as error:
        raise _not_written(path, error) from error
    return path


def _ome_metadata(tile: PlacedTile, scale: float) -> dict[str, Any]:
    return {
        "axes": "YX",
        "Name": tile.tile,
        "PhysicalSizeX": scale,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": scale,
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [tile.x_px * scale],
            "PositionXUnit": ["µm"],
            "PositionY": [-tile.y_px * scale],
            "PositionYUnit": ["µm"],
        },
    }


def _not_written(path: Path, error: OSError) -> MontageFileError:
    return MontageFileError(f"{path} cannot be written: {error.strerror or error}")
