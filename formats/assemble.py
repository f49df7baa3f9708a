"""Makes a montage of the tiles that a reader found: their images, grid, names and stage.

What every reader has to do alike stands here; what a format means stands in its reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.images import open_image
from formats.montage import Edges, ImageSource, Montage, MontageFileError
from formats.options import ReadOptions
from formats.paths import distinct_names, is_file
from processing.geometry.frame import NM_PER_UM
from processing.geometry.lattice import grid_cells

MIN_PITCH, MAX_PITCH = 0.2, 1.05  # tiles, from a tile to the next one
MAX_STAGE_MISFIT = 0.1  # of the tiles' distance, that the stage may stray from what it says
MAX_SHEAR = 0.05  # of a map to the stage, up to which it is a turned frame


@dataclass(frozen=True)
class FoundTile:
    """A tile as a reader found it.

    Attributes
    ----------
    image : ImageSource
    name : str
        A path, or a name; need not be the only one.
    cell : (int, int) or None
        (row, column) in the grid, rows downwards; found by the places if two tiles share one.
    place : (float, float) or None
        (row, column) of its first pixel, rows downwards, in px or the unit that goes with it.
    stage : (float, float) or None
        Stage (x, y) in µm.
    mask : ImageSource or None
        0 where the image is no signal.
    map : ndarray of float64, shape (2, 3), or None
        Where it was found to lie, as in `Montage.maps`.
    """

    image: ImageSource
    name: str
    cell: tuple[int, int] | None = None
    place: tuple[float, float] | None = None
    stage: tuple[float, float] | None = None
    mask: ImageSource | None = None
    map: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Measures:
    """What all images of a montage have in common.

    Attributes
    ----------
    shape : (int, int)
        (height, width) in px.
    pixel_size : float
        In nm; NaN if the files do not tell it, or not alike.
    """

    shape: tuple[int, int]
    pixel_size: float


def measure(path: Path, images: Iterable[ImageSource]) -> Measures:
    """Read the headers of all images; so that what cannot be read is known at the door.

    Parameters
    ----------
    path : Path
        Of the montage, for messages.
    images : iterable of ImageSource
        Of its tiles, or of their masks.

    Raises
    ------
    MontageFileError
        If images are missing or differ in size; ``formats.images.ImageFormatError``, a
        `FormatError` like it, if one cannot be read.
    """
    pages: dict[Path, list[int | None]] = {}
    for one in images:
        pages.setdefault(one.path, []).append(one.page)
    missing = [file for file in pages if not is_file(file)]
    if missing:
        raise MontageFileError(
            f"{path}: {len(missing)} of {len(pages)} image files are missing; expected "
            f"{missing[0]}{' and others' if len(missing) > 1 else ''}"
        )
    shapes: dict[tuple[int, int], Path] = {}
    sizes: set[float | None] = set()
    for file, wanted in pages.items():
        image = open_image(file, None if wanted[0] is None else 0)
        beyond = [page for page in wanted if page is not None and not 0 <= page < image.count]
        if beyond:
            raise MontageFileError(
                f"{path} tells of image {beyond[0]} of {file}, which holds {image.count}, "
                "counted from 0; it may have been cut short"
            )
        shapes.setdefault(image.shape, file)
        sizes.add(image.pixel_size)
    if len(shapes) > 1:
        told = [
            f"{file.name} has {height} × {width} px" for (height, width), file in shapes.items()
        ]
        raise MontageFileError(
            f"{path}: {told[0]} and {told[1]}; the tiles of a montage must have one size"
        )
    size = sizes.pop() if len(sizes) == 1 else None
    return Measures(next(iter(shapes)), math.nan if size is None else size)


def assemble(
    path: Path,
    tiles: Sequence[FoundTile],
    options: ReadOptions,
    *,
    measures: Measures | None = None,
    nm_per_unit: float | None = None,
    pixel_size: float | None = None,
    notes: dict[str, str] | None = None,
) -> Montage:
    """Make a montage of tiles.

    Parameters
    ----------
    path : Path
        Of the file or folder that told of them.
    tiles : sequence of FoundTile
        Each place, image and stage position once. All or none of them have a cell; a place; a map.
    options : ReadOptions
        Its pixel size goes before all others.
    measures : Measures, optional
        Of the images, if they were read already.
    nm_per_unit : float, optional
        Of the tiles' places; px if it is left out.
    pixel_size : float, optional
        In nm, as the file tells it; otherwise the images do.
    notes : dict of str to str, optional
        How the file was read.

    Raises
    ------
    MontageFileError
        If there is no tile, all are at one place, an image is missing or of another size, or a
        length needs a pixel size that nobody tells; `FormatError` if an image cannot be read.
    """
    if not tiles:
        raise MontageFileError(f"{path} holds no tile")
    notes = dict(notes or {})
    measures = measures or measure(path, [tile.image for tile in tiles])
    size = options.pixel_size or pixel_size or measures.pixel_size
    places = _places(path, tiles, nm_per_unit, size)
    if np.isnan(places).any():
        places = _by_cells(tiles, measures.shape, options, notes)
    if len(tiles) > 1 and (np.ptp(places, axis=0) == 0).all():
        raise MontageFileError(
            f"{path} puts all {len(tiles)} tiles at one place; were their positions recorded?"
        )
    masks = tuple(tile.mask for tile in tiles)
    _require_masks(path, masks, measures)
    stage = np.array([tile.stage or (math.nan, math.nan) for tile in tiles])
    to_stage = _to_stage(places, stage)
    return Montage(
        path=path,
        names=distinct_names([tile.name for tile in tiles]),
        cells=_cells(tiles, places, measures.shape, notes),
        nominal=places,
        stage=stage,
        to_stage=to_stage,
        shape=measures.shape,
        pixel_size=size,
        angle=_angle(to_stage),
        images=tuple(tile.image for tile in tiles),
        edges=Edges.none(),
        notes=notes,
        masks=masks if any(masks) else (),
        maps=_maps(tiles),
    )


def _require_masks(path: Path, masks: Sequence[ImageSource | None], measures: Measures) -> None:
    """Refuse masks that are not there, or of another size than the images."""
    told = [mask for mask in masks if mask]
    if told and (found := measure(path, told)).shape != measures.shape:
        sizes = [f"{height} × {width}" for height, width in (found.shape, measures.shape)]
        raise MontageFileError(
            f"{path}: masks have {sizes[0]} px and tiles {sizes[1]}; they must have one size"
        )


def _places(
    path: Path, tiles: Sequence[FoundTile], nm_per_unit: float | None, pixel_size: float
) -> NDArray[np.float64]:
    """Return the tiles' places in px; NaN where none is told."""
    places = np.array([tile.place or (math.nan, math.nan) for tile in tiles])
    if nm_per_unit is None or np.isnan(places).all():
        return places
    if math.isnan(pixel_size):
        raise MontageFileError(
            f"{path} tells positions by length, but neither it nor the images tell the pixel "
            "size: give it, in nm"
        )
    return places * (nm_per_unit / pixel_size)


def _by_cells(
    tiles: Sequence[FoundTile],
    shape: tuple[int, int],
    options: ReadOptions,
    notes: dict[str, str],
) -> NDArray[np.float64]:
    """Return where tiles lie by their rows and columns, NaN if the overlap is not known."""
    if options.overlap is None:
        notes["overlap"] = "not told; left to matching"
        return np.full((len(tiles), 2), math.nan)
    cells = np.array([tile.cell for tile in tiles])
    return (cells - cells.min(axis=0)) * np.asarray(shape) * (1 - options.overlap / 100)


def _cells(
    tiles: Sequence[FoundTile],
    places: NDArray[np.float64],
    shape: tuple[int, int],
    notes: dict[str, str],
) -> NDArray[np.intp]:
    told = {tile.cell for tile in tiles} - {None}
    if len(told) == len(tiles):
        cells = np.array([tile.cell for tile in tiles], dtype=np.intp)
        return cells - np.minimum(cells.min(axis=0), 0)
    found = grid_cells(places, shape)
    if found is None:
        notes["grid"] = "none; tiles are numbered as one row"
        return np.array([(0, number) for number in range(len(tiles))], dtype=np.intp)
    return found


def _maps(tiles: Sequence[FoundTile]) -> NDArray[np.float64] | None:
    maps = [tile.map for tile in tiles if tile.map is not None]
    return np.array(maps) if maps else None


def _to_stage(places: NDArray[np.float64], stage: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what takes pixels to the stage, fitted to the tiles; NaN if they do not tell it."""
    unknown = np.full((2, 2), math.nan)
    known = np.isfinite(places).all(axis=1) & np.isfinite(stage).all(axis=1)
    if not known.any():
        return unknown
    from_middle = places[known] - places[known].mean(axis=0)
    stage = stage[known] - stage[known].mean(axis=0)
    if min(np.linalg.matrix_rank(from_middle), np.linalg.matrix_rank(stage)) < 2:
        return unknown  # one row of tiles, or a stage that stood still
    solution = np.linalg.lstsq(from_middle, stage, rcond=None)[0]
    misfit = np.linalg.norm(stage - from_middle @ solution, axis=1)
    typical = np.linalg.norm(stage, axis=1)
    if np.median(misfit) > MAX_STAGE_MISFIT * np.median(typical):
        return unknown
    return np.asarray(solution.T)


def _angle(to_stage: NDArray[np.float64]) -> float:
    """Return the angle from the image's columns to the stage's x, in degrees; NaN if not known."""
    down, right = to_stage.T
    lengths = np.linalg.norm(down) * np.linalg.norm(right)
    if not abs(down @ right) <= MAX_SHEAR * lengths:  # NaN is no angle either
        return math.nan
    return math.degrees(math.atan2(right[1], right[0]))


def pixel_size_by(to_stage: NDArray[np.float64]) -> float:
    """Return the size of a pixel by what takes pixels to the stage, in nm; NaN if not known."""
    (a, b), (c, d) = to_stage
    return math.sqrt(abs(a * d - b * c)) * NM_PER_UM
