"""Reads a folder of tile images whose names tell their rows and columns.

What most labs have: one image a tile, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.assemble import MAX_PITCH, MIN_PITCH, FoundTile, assemble, measure
from formats.montage import ImageSource, Montage, MontageFileError
from formats.options import ReadOptions, nm_per_unit
from formats.tile_names import (
    MAX_TAKEN_AGAIN,
    MIN_FILL,
    NamePattern,
    find_pattern,
    natural_key,
)
from formats.validation import MAX_CELL, MAX_COORDINATE

REVIEW = ".review.png"  # pages of figures that stitching left there
IMAGE_ENDINGS = (
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".pgm",
    ".mrc", ".mrc.gz", ".mrc.bz2", ".map", ".st", ".dm3", ".dm4", ".emd", ".ser",
)  # fmt: skip


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its sub-folders, as people sort them."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".")
            and name.lower().endswith(IMAGE_ENDINGS)
            and not name.endswith(REVIEW)
        ]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def read_tile_folder(folder: Path, files: Sequence[Path], options: ReadOptions) -> Montage:
    """Read tile images whose names tell their places.

    Names that tell x and y tell the grid's column and row if they count it, or else positions in
    the unit of `options`, px if they are a tile apart in px. Of a place that has several images the
    last counts, as people sort names.

    Parameters
    ----------
    folder : Path
        In which all files are; names are relative to it.
    files : sequence of Path
        Image files.
    options : ReadOptions
        Pattern, columns, serpentine, overlap, unit, pixel size and direction of y are used.

    Returns
    -------
    Montage
        Without stage and edges.

    Raises
    ------
    MontageFileError
        If there is no image, or names tell no place, or the same place for too many images.
    """
    names = [path.relative_to(folder).as_posix() for path in files]
    if not names:
        raise MontageFileError(
            f"{folder} holds no image; expected files {', '.join(IMAGE_ENDINGS)}"
        )
    pattern = NamePattern.parse(options.pattern) if options.pattern else find_pattern(names)
    notes = {"names": pattern.text}
    numbers = _numbers(folder, files, pattern, notes)
    first = measure(folder, [ImageSource(next(iter(numbers)))])
    in_grid, places = _places(folder, list(numbers.values()), first.shape, options)
    tiles = _last_takes(folder, names, dict(zip(numbers, places, strict=True)), notes)
    found_tiles = [
        FoundTile(
            ImageSource(path),
            path.relative_to(folder).as_posix(),
            cell=(int(place[0]), int(place[1])) if in_grid else None,
            place=None if in_grid else place,
        )
        for path, place in tiles.items()
    ]
    scale = nm_per_unit(options.unit) if options.unit else None
    return assemble(folder, found_tiles, options, nm_per_unit=scale, notes=notes)


def _numbers(
    folder: Path, files: Sequence[Path], pattern: NamePattern, notes: dict[str, str]
) -> dict[Path, dict[str, float]]:
    """Return the numbers in the names of the files that have the pattern."""
    names = {path: path.relative_to(folder).as_posix() for path in files}
    numbers: dict[Path, dict[str, float]] = {}
    left_out = []
    for path in sorted(files, key=lambda path: natural_key(names[path])):
        found = pattern.numbers(names[path])
        if found is None:
            left_out.append(names[path])
        else:
            numbers[path] = found
    if not numbers:
        raise MontageFileError(
            f"{folder}: none of {len(names)} images, such as {left_out[0]}, has a name of the "
            f"pattern {pattern.text!r}"
        )
    if left_out:
        notes["left out"] = f"{len(left_out)} images of other names, such as {left_out[0]}"
    return numbers


def _places(
    folder: Path,
    numbers: Sequence[dict[str, float]],
    shape: tuple[int, int],
    options: ReadOptions,
) -> tuple[bool, list[tuple[float, float]]]:
    """Return whether names count rows and columns, and the (row, column) of each, downwards."""
    in_grid = True
    if "row" in numbers[0]:
        places = np.array([(one["row"], one["col"]) for one in numbers])
    elif "x" in numbers[0]:
        places = np.array([(one["y"], one["x"]) for one in numbers])
        in_grid = options.unit is None and _counts_tiles(places, shape)
    else:
        places = _by_index(folder, np.array([one["index"] for one in numbers]), options)
    if np.abs(places).max() > (MAX_CELL if in_grid else MAX_COORDINATE):
        raise MontageFileError(
            f"{folder}: names tell numbers up to {np.abs(places).max():g}, which are no places; "
            "give a pattern"
        )
    if options.y_up:
        places[:, 0] *= -1
    return in_grid, [(row, column) for row, column in places.tolist()]


def _counts_tiles(places: NDArray[np.float64], shape: tuple[int, int]) -> bool:
    """Whether numbers count rows and columns; otherwise they are positions."""
    if not (places == np.rint(places)).all() or np.abs(places).max() > MAX_CELL:
        return False
    whole = (places - places.min(axis=0)).astype(int)
    pitch = np.maximum(np.gcd.reduce(whole, axis=0), 1)
    rows, columns = (whole // pitch).max(axis=0) + 1
    fill = len(np.unique(whole, axis=0)) / (rows * columns)
    steps = (pitch / np.asarray(shape))[np.ptp(places, axis=0) > 0]
    a_tile_apart = bool(len(steps) and ((steps >= MIN_PITCH) & (steps <= MAX_PITCH)).all())
    return bool(fill >= MIN_FILL) and not a_tile_apart


def _by_index(
    folder: Path, numbers: NDArray[np.float64], options: ReadOptions
) -> NDArray[np.float64]:
    if options.columns is None:
        raise MontageFileError(
            f"{folder}: the pattern has an {{index}} alone, so the number of columns must be given"
        )
    rows, columns = np.divmod(numbers - numbers.min(), options.columns)
    backwards = options.serpentine & (rows % 2 == 1)
    return np.column_stack([rows, np.where(backwards, options.columns - 1 - columns, columns)])


def _last_takes(
    folder: Path,
    names: Sequence[str],
    places: dict[Path, tuple[float, float]],
    notes: dict[str, str],
) -> dict[Path, tuple[float, float]]:
    """Return the last image of each place."""
    last = {place: path for path, place in places.items()}
    again = len(places) - len(last)
    if again > MAX_TAKEN_AGAIN * len(places):
        raise MontageFileError(
            f"{folder}: {len(places)} images, such as {names[0]}, tell {len(last)} places; they "
            "are of several sections or channels: give one folder, or a pattern that fits one"
        )
    if again:
        notes["taken again"] = f"{again} tiles; the last of each counts"
    kept = set(last.values())
    return {path: place for path, place in places.items() if path in kept}
