"""Reads and writes tables of tile positions: CSV, JSON, and the tile configurations of Fiji.

What a person, a script or a stage's log makes: a line a tile, with its file and where it lies.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from formats.assemble import FoundTile, assemble
from formats.images.pixel_size import in_nm
from formats.json_files import read_json
from formats.montage import ImageSource, Montage, MontageFileError, PlacedMontage, PlacedTile
from formats.options import PIXELS, ReadOptions, nm_per_unit
from formats.paths import find_file, is_file, numbered
from formats.tile_folder import IMAGE_ENDINGS
from formats.validation import Cell, Coordinate, Size, explain, shown
from formats.writing import write_text
from processing.geometry.frame import NM_PER_UM

# Names of columns, in lower case and without spaces, by what they tell; the first that is there.
NAMES = {
    "file": (
        "file", "filename", "file_name", "image", "image_file", "img_path", "path",
        "tile", "tile_id", "name",
    ),
    "x": ("x", "pos_x", "position_x", "positionx", "x_pos", "xpos", "x_position"),
    "y": ("y", "pos_y", "position_y", "positiony", "y_pos", "ypos", "y_position"),
    "stage_x": ("stage_x", "stagex", "x_stage"),
    "stage_y": ("stage_y", "stagey", "y_stage"),
    "row": ("row", "tile_row", "grid_row", "imagerow"),
    "column": ("column", "col", "tile_column", "grid_column", "grid_col", "imagecol"),
    "page": ("page", "slice"),
}  # fmt: skip
UNIT = re.compile(r"(.+?)[\s_]*[\[(]([^\])]*)[\])]|(.+)_([^_]+)")
DELIMITERS = ",;\t"
CONFIGURED = re.compile(r"\s*([^;#]+?)\s*;[^;]*;\s*\(([^)]*)\)\s*")
DIMENSION = re.compile(r"\s*dim\s*=", re.IGNORECASE)
NOT_IN_CSV = ("map",)
JSON_SUFFIXES = (".json", ".gz")
PLACE, STAGE = ("x", "y"), ("stage_x", "stage_y")
USUAL_UNIT = {PLACE: "px", STAGE: "um"}
EXPECTED = "expected columns for the file and for x and y, or row and column"


class Position(BaseModel):
    """A tile's file and where it lies."""

    file: str = Field(min_length=1)
    page: int | None = Field(default=None, ge=0)
    x: Coordinate | None = None
    y: Coordinate | None = None
    stage_x: Coordinate | None = None
    stage_y: Coordinate | None = None
    row: Cell | None = None
    column: Cell | None = None


class JsonHeader(BaseModel):
    """What a JSON table tells of all its tiles."""

    tiles: list[Any]
    unit: str = ""
    pixel_size: Size | None = Field(
        default=None, validation_alias=AliasChoices("pixel_size_nm", "pixel_size")
    )


@dataclass(frozen=True)
class Positions:
    """A table of positions.

    Attributes
    ----------
    tiles : tuple of Position
    units : dict of str to str
        Of the columns that tell theirs, by the names of `Position`.
    unit : str
        Of the other columns; empty if it is not told.
    pixel_size : float or None
        In nm.
    """

    tiles: tuple[Position, ...]
    units: dict[str, str]
    unit: str = ""
    pixel_size: float | None = None


# Reading


def is_positions(content: Any) -> bool:
    """Whether the content of a JSON file is a table of positions."""
    tiles = content.get("tiles") if isinstance(content, Mapping) else content
    first = tiles[0] if isinstance(tiles, list) and tiles else None
    if not isinstance(first, Mapping):
        return False
    found = {field for field, _, _ in _columns(first)}
    return "file" in found and ({"x", "y"} <= found or {"row", "column"} <= found)


def read_positions(path: Path, folders: Sequence[Path], options: ReadOptions) -> Montage:
    """Read the positions of tile images.

    Columns are known by their names, such as ``file``, ``x``, ``y``, ``row``, ``column``,
    ``stage_x`` and ``stage_y``; units stand in them (``x_um``, ``y (nm)``) or in `options`, px
    otherwise. y runs downwards in px and upwards in lengths, as on a stage, if `options` do not
    say. A file that is there twice takes the last.

    Parameters
    ----------
    path : Path
        CSV (with commas, semicolons or tabs), JSON (a list, or a mapping with ``tiles``, ``unit``
        and ``pixel_size_nm``), or Fiji's ``TileConfiguration.txt``.
    folders : sequence of Path
        Where images may lie, besides the file's own folder.
    options : ReadOptions
        Unit, pixel size, direction of y and overlap are used.

    Returns
    -------
    Montage

    Raises
    ------
    MontageFileError
        If the file is of another form, or an image is missing; it names the line.
    """
    table = _read_table(path)
    axes = next((pair for pair in USUAL_UNIT if _have(table.tiles, *pair)), None)
    in_grid = _have(table.tiles, "row", "column")
    if axes is None and not in_grid:
        raise MontageFileError(f"{path} does not tell of each tile where it lies; {EXPECTED}")
    notes: dict[str, str] = {}
    tiles = _last_takes(table.tiles, ("file", "page") if axes else ("row", "column"), notes)
    unit = options.unit or (_unit(path, table, axes) if axes else "px")
    scale = nm_per_unit(unit, path)
    upwards = bool(scale) if options.y_up is None else options.y_up
    if axes:
        notes["positions"] = f"{axes[0]}, {axes[1]} in {unit}, {'up' if upwards else 'down'}wards"
    folders = (path.parent, *folders)
    to_um = (nm_per_unit(_unit(path, table, STAGE), path) or math.nan) / NM_PER_UM
    found = [
        FoundTile(
            image=ImageSource(_find_image(folders, one.file), one.page),
            name=one.file if one.page is None else f"{one.file}_{one.page:04d}",
            # Rows count downwards beside positions, whatever these do.
            cell=_pair(one, "row", "column", upwards and not axes) if in_grid else None,
            place=_pair(one, axes[1], axes[0], upwards) if axes else None,
            stage=_stage(one, to_um),
        )
        for one in tiles
    ]
    size = table.pixel_size
    return assemble(path, found, options, nm_per_unit=scale, pixel_size=size, notes=notes)


def _have(tiles: Iterable[Position], *names: str) -> bool:
    return all(getattr(tile, name) is not None for tile in tiles for name in names)


def _last_takes(
    tiles: Iterable[Position], key: tuple[str, str], notes: dict[str, str]
) -> list[Position]:
    """Return the last of the tiles that are one by two of their fields."""
    every = list(tiles)
    last = {tuple(getattr(one, name) for name in key): one for one in every}
    if len(last) < len(every):
        notes["taken again"] = f"{len(every) - len(last)} tiles; the last of each counts"
    return list(last.values())


def _unit(path: Path, table: Positions, axes: tuple[str, str]) -> str:
    """Return the unit of two columns, the usual one if they do not tell."""
    x, y = (table.units.get(axis, table.unit or USUAL_UNIT[axes]) for axis in axes)
    if x != y:
        raise MontageFileError(f"{path} tells {axes[0]} in {x} and {axes[1]} in {y}; use one unit")
    return x


def _pair(tile: Position, down: str, right: str, upwards: bool) -> tuple[Any, Any]:
    """Return two fields of a tile as rows, which count downwards, and columns."""
    row, column = getattr(tile, down), getattr(tile, right)
    return -row if upwards else row, column


def _stage(tile: Position, to_um: float) -> tuple[float, float] | None:
    """Return the stage's (x, y) in µm; NaN if it is told in no unit of length."""
    if tile.stage_x is None or tile.stage_y is None:
        return None
    return tile.stage_x * to_um, tile.stage_y * to_um


def _find_image(folders: Sequence[Path], name: str) -> Path:
    """Find an image by its name, which may lack the suffix."""
    usual = find_file(folders[0], name)
    for folder in folders:
        path = find_file(folder, name)
        for candidate in (path, *(path.with_name(path.name + end) for end in IMAGE_ENDINGS)):
            if is_file(candidate):
                return candidate
    return usual


# The forms of tables


def _read_table(path: Path) -> Positions:
    if path.suffix.lower() in JSON_SUFFIXES:
        return _of_json(path, read_json(path))
    text = _read_text(path)
    lines = text.splitlines()
    if any(DIMENSION.match(line) for line in lines):
        return _of_fiji(path, lines)
    return _of_csv(path, text)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise MontageFileError(f"{path} is no text; {EXPECTED}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _of_json(path: Path, content: Any) -> Positions:
    whole = content if isinstance(content, Mapping) else {"tiles": content}
    if not is_positions(whole):
        raise MontageFileError(f"{path} holds no table of positions; {EXPECTED}")
    try:
        header = JsonHeader.model_validate(whole)
    except ValidationError as error:
        raise MontageFileError(f"{path}: {explain(error)}") from error
    columns = _columns(header.tiles[0])
    tiles = [_position(path, f"tile {k}", one, columns) for k, one in enumerate(header.tiles)]
    units = {field: unit for field, _, unit in columns if unit}
    return Positions(tuple(tiles), units, header.unit, header.pixel_size)


def _of_csv(path: Path, text: str) -> Positions:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise MontageFileError(f"{path} is no CSV: {error}") from error
    numbered_rows = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    if not numbered_rows:
        raise MontageFileError(f"{path} is empty; {EXPECTED}")
    names = numbered_rows[0][1]
    columns = _columns(dict.fromkeys(names))
    if not columns:
        raise MontageFileError(f"{path} begins with the columns {shown(names)}; {EXPECTED}")
    tiles = []
    for number, row in numbered_rows[1:]:
        # A comma is no delimiter here but where it stands for the decimal point.
        values = [one.strip() if delimiter == "," else one.strip().replace(",", ".") for one in row]
        told = {name: value for name, value in zip(names, values, strict=False) if value}
        tiles.append(_position(path, f"line {number}", told, columns))
    return Positions(tuple(tiles), {field: unit for field, _, unit in columns if unit})


def _of_fiji(path: Path, lines: Sequence[str]) -> Positions:
    """Read lines such as ``tile_1.tif; ; (900.0, 0.0)``."""
    tiles = []
    for number, line in enumerate(lines, start=1):
        found = CONFIGURED.fullmatch(line)
        if found is None:
            continue
        parts = found[2].split(",")
        told = {"file": found[1], **dict(zip(("x", "y"), parts, strict=False))}
        tiles.append(_position(path, f"line {number}", told, [(k, k, "") for k in told]))
    return Positions(tuple(tiles), {}, "px")


def _columns(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return which columns tell what: field, name, and the unit that the name has."""
    by_name: dict[str, tuple[str, str]] = {}
    for name in names:
        plain, unit = _without_unit(str(name))
        by_name.setdefault(plain, (str(name), unit))
    return [
        (field, *by_name[plain])
        for field, known in NAMES.items()
        for plain in [one for one in known if one in by_name][:1]
    ]


def _without_unit(name: str) -> tuple[str, str]:
    """Split ``Stage X (µm)`` or ``x_px`` into the plain name and the unit, if it has one."""
    if found := UNIT.fullmatch(name.strip()):
        plain, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        if unit.strip().lower() in PIXELS or in_nm(1.0, unit) is not None:
            return _plain(plain), unit.strip()
    return _plain(name), ""


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _position(
    path: Path, place: str, told: Any, columns: Sequence[tuple[str, str, str]]
) -> Position:
    if not isinstance(told, Mapping):
        raise MontageFileError(f"{path}, {place}: found {shown(told)}, expected a mapping")
    try:
        return Position.model_validate({field: told.get(name) for field, name, _ in columns})
    except ValidationError as error:
        raise MontageFileError(f"{path}, {place}: {explain(error)}") from error


# Writing


def write_csv(path: Path, montage: PlacedMontage) -> None:
    """Write one line a tile, with the fields of `PlacedTile`; what is not known is left empty.

    Lengths have four decimals, whether in px or in µm. The image stands last, with its page.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    names = [name for name in PlacedTile.__dataclass_fields__ if name not in NOT_IN_CSV]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*names, "page"])
    writer.writeheader()
    for tile, row in zip(montage.tiles, _rows(montage), strict=True):
        page = tile.image.page if tile.image else None
        writer.writerow({name: _in_csv(row[name]) for name in names} | {"page": _in_csv(page)})
    write_text(path, text.getvalue())


def write_json(path: Path, montage: PlacedMontage) -> None:
    """Write the fields of `PlacedTile` of each tile, and what all have in common.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    tiles = [
        {name: None if _is_nan(value) else value for name, value in row.items()}
        | {"page": tile.image.page if tile.image else None}
        for tile, row in zip(montage.tiles, _rows(montage), strict=True)
    ]
    whole = {
        "name": montage.name,
        "pixel_size_nm": None if _is_nan(montage.pixel_size) else montage.pixel_size,
        "angle": None if _is_nan(montage.angle) else montage.angle,
        "tile_height": montage.shape[0],
        "tile_width": montage.shape[1],
        "tiles": tiles,
    }
    write_text(path, json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False))


def _rows(montage: PlacedMontage) -> list[dict[str, Any]]:
    """Return the fields of each tile, under a name of its own, its image as a path."""
    ids = numbered([tile.tile for tile in montage.tiles])
    return [
        asdict(tile) | {"tile": name, "image": str(tile.image.path) if tile.image else None}
        for tile, name in zip(montage.tiles, ids, strict=True)
    ]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _in_csv(value: object) -> object:
    if value is None or _is_nan(value):
        return ""
    return f"{value:.4f}" if isinstance(value, float) else value
