"""Reads montage metadata of TilEM and TEMCA, `_metadata_*.json`, of the forms that there are.

What files leave open — which way rows count, what dX and dY mean — `conventions` decides.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from formats.conventions import Entries, Offsets, Sense, decide, neighbours
from formats.montage import Edges, ImageSource, Montage, MontageFileError
from formats.paths import find_file
from processing.geometry.frame import NM_PER_UM

SHOWN = 3  # problems that an error tells of
DEFAULT_SIDE = 3840  # px; of the 20 Mpx TEMCA cameras, which `em_stitch` takes by default, too
DEFAULT_SD = 1.0  # px, of an edge that tells no spread
LEAST_SD = 0.3  # px: points are whole pixels, which alone makes 0.29
SAME = 5.0  # px; entries of a pair that differ by less were measured on the same place
# Sides by TEMCA's codes; 0 is an invalid entry and 1 the middle of a tile.
CODES = {2: "left", 3: "top", 4: "right", 5: "bottom"}
FORM = (
    'a montage is [{"metadata": {…}}, {"data": [tile, …]}] or {"tiles": …}, '
    "as TilEM and TEMCA write it"
)


def _xy(value: Any) -> Any:
    """Take a place as [x, y, …] or {"x", "y"}; give (x, y)."""
    if isinstance(value, Mapping):
        return value.get("x"), value.get("y")
    return value[:2] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _list(value: Any) -> Any:
    """Take one number for a list of one, and nothing for an empty one."""
    if value is None:
        return []
    return [value] if isinstance(value, int | float) else value


Place = Annotated[tuple[float, float], BeforeValidator(_xy)]
Numbers = Annotated[list[float], BeforeValidator(_list)]


def _names(*names: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names))


class Matcher(BaseModel):
    """What was measured on one side of a tile."""

    model_config = ConfigDict(populate_by_name=True)

    position: int | str = 0
    match_quality: float | None = _names("match_quality", "quality")
    row: int | None = None
    column: int | None = _names("column", "col")
    dx: float | None = _names("dX", "dx")
    dy: float | None = _names("dY", "dy")
    dx_sd: float | None = _names("dXsd", "dx_sd")
    dy_sd: float | None = _names("dYsd", "dy_sd")
    px: Numbers = Field(default=[], validation_alias=AliasChoices("pX", "px"))
    py: Numbers = Field(default=[], validation_alias=AliasChoices("pY", "py"))
    qx: Numbers = Field(default=[], validation_alias=AliasChoices("qX", "qx"))
    qy: Numbers = Field(default=[], validation_alias=AliasChoices("qY", "qy"))

    @property
    def side(self) -> str | None:
        """On which side of the tile the neighbour lies; None if the entry is of no neighbour."""
        if isinstance(self.position, int):
            return CODES.get(self.position)
        name = self.position.strip().lower()
        name = CODES.get(int(name), "") if name.isdigit() else name
        return name if name in CODES.values() else None

    @property
    def matched(self) -> bool:
        """Whether anything was found there."""
        found = self.match_quality is None or self.match_quality >= 0
        return found and (bool(self.px) or (self.dx is not None and self.dy is not None))


class Tile(BaseModel):
    """A tile, with what stands in its ``img_meta`` taken for its own."""

    name: str | None = _names("img_path", "filename", "tile_id", "name")
    raster: Place | None = _names("raster_pos", "raster_position")
    row: int | None = None
    column: int | None = _names("column", "col")
    stage: Place | None = _names("stage_pos", "stage_position")
    pixel_size: float | None = Field(
        default=None, gt=0, validation_alias=AliasChoices("pixel_size_x_move", "pixel_size")
    )
    angle: float | None = _names("angle", "rotation_angle")
    matcher: list[Matcher] | None = _names("matcher", "matches")


class Header(BaseModel):
    """What is said of the whole montage, from wherever it stands in the file."""

    overlap: float | None = Field(default=None, ge=0)
    pixel_size: float | None = Field(
        default=None,
        gt=0,
        validation_alias=AliasChoices("x_nm_per_pix", "nm_per_pix", "pixel_size"),
    )
    angle: float | None = _names("angle", "rotation_angle", "rotation")
    width: int | None = Field(default=None, gt=0)
    height: int | None = Field(default=None, gt=0)
    tile_size: int | list[int] | None = None


def read_tilem(path: Path, offsets: Offsets | None = None) -> Montage:
    """Read the metadata of a montage.

    Parameters
    ----------
    path : Path
        JSON: ``[{"metadata": …}, {"data": [tile, …]}, …]``, or a mapping with ``tiles`` (a list or
        a mapping by name), ``calibration`` and ``acquisition_params``. Lengths on the stage are in
        nm. Tiles may lack all but their place: ``raster_pos``, or ``row`` and ``column``.
    offsets : Offsets, optional
        What dX and dY mean; found from the data if it is left out.

    Returns
    -------
    Montage

    Raises
    ------
    MontageFileError
        If the file cannot be read or is of another form; it names the tile and what was expected.
    """
    header, tiles = _parse(path)
    if not tiles:
        raise MontageFileError(f"{path} holds no tile; {FORM}")
    notes: dict[str, str] = {}
    names = tuple(Path(tile.name or f"tile {number}").name for number, tile in enumerate(tiles))
    shape = _shape(header, notes)
    stage = np.array([tile.stage or (np.nan, np.nan) for tile in tiles])
    size = _first(tile.pixel_size for tile in tiles) or header.pixel_size or math.nan
    angle = _first(tile.angle for tile in tiles)
    angle = header.angle if angle is None else angle
    by_stage = _image_places(stage, size, angle or 0.0)
    cells = _cells(path, tiles, names, by_stage, notes)
    entries = _entries(path, tiles, names, cells)
    pitch = _pitch(path, header, shape, entries, by_stage)
    sense = decide(cells, by_stage, pitch, entries, offsets)
    found = _edges(entries, sense, cells)
    turn = np.diag(sense.mirror) @ _rotation(angle or 0.0)
    known = bool(np.isfinite(by_stage).all(axis=1).any())
    to_stage = np.linalg.inv(turn) * (size / NM_PER_UM if known else math.nan)
    return Montage(
        path=path,
        names=names,
        cells=cells,
        nominal=sense.nominal,
        stage=stage / NM_PER_UM,
        to_stage=np.asarray(to_stage, dtype=float),
        shape=shape,
        pixel_size=size,
        angle=math.nan if angle is None else angle,
        images=tuple(_image(path, tile, name) for tile, name in zip(tiles, names, strict=True)),
        edges=found,
        n_unmatched=entries.unmatched(sense.steps, cells, found.pairs),
        notes=notes | sense.notes,
    )


# The file


def _parse(path: Path) -> tuple[Header, list[Tile]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise MontageFileError(f"{path} is not JSON: {error}") from error
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) for part in parts):
        raise MontageFileError(f"{path} holds a {type(content).__name__}; {FORM}")
    whole: dict[str, Any] = {key: value for part in parts for key, value in part.items()}
    tiles = whole.get("data", whole.get("tiles"))
    if tiles is None and "img_path" in whole:
        tiles = parts
    if isinstance(tiles, dict):
        tiles = [{"name": name, **tile} for name, tile in tiles.items() if isinstance(tile, dict)]
    if not isinstance(tiles, list):
        keys = ", ".join(list(whole)[:5]) or "(none)"
        raise MontageFileError(f"{path} holds the keys {keys}; {FORM}")
    try:
        header = Header.model_validate(_header(whole))
    except ValidationError as error:
        raise MontageFileError(f"{path}, metadata: {_explain(error)}") from error
    return header, [_tile(path, number, tile) for number, tile in enumerate(tiles)]


def _header(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what is said of the whole montage; the innermost mappings tell best."""
    meta = whole.get("metadata") or {}
    calibration = meta.get("calibration") or whole.get("calibration") or {}
    high = calibration.get("highmag") or {}
    camera = meta.get("camera_info") or whole.get("camera_info") or {}
    acquisition = whole.get("acquisition_params") or meta.get("acquisition_params") or {}
    gathered: dict[str, Any] = {}
    for part in (whole, meta, acquisition, camera, calibration, high):
        gathered |= {key: value for key, value in part.items() if value is not None}
    return gathered


def _tile(path: Path, number: int, tile: Any) -> Tile:
    if not isinstance(tile, dict):
        raise MontageFileError(f"{path}, tile {number}: found {tile!r}, expected a mapping")
    flat = {**(tile.get("img_meta") or {}), **tile}
    try:
        return Tile.model_validate(flat)
    except ValidationError as error:
        name = flat.get("img_path") or flat.get("filename") or flat.get("name") or ""
        raise MontageFileError(
            f"{path}, tile {number}{f' ({name})' * bool(name)}: {_explain(error)}"
        ) from error


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors()[:SHOWN]:
        found = repr(problem["input"])
        found = found if len(found) <= 60 else found[:57] + "…"
        place = ".".join(str(part) for part in problem["loc"])
        problems.append(f"{place}: {problem['msg']}, found {found}")
    return "; ".join(problems)


# Tiles


def _first(values: Any) -> float | None:
    return next((value for value in values if value is not None), None)


def _shape(header: Header, notes: dict[str, str]) -> tuple[int, int]:
    side = header.tile_size
    sides = [side] if isinstance(side, int) else side
    width = header.width or (sides[0] if sides else None)
    height = header.height or (sides[-1] if sides else None)
    if width is None or height is None:
        notes["tile size"] = f"not told, {DEFAULT_SIDE} × {DEFAULT_SIDE} px assumed"
    return height or DEFAULT_SIDE, width or DEFAULT_SIDE


def _rotation(angle: float) -> NDArray[np.float64]:
    """Give the matrix from stage (x, y) to image (row, column)."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[-s, c], [c, s]])


def _image_places(stage: NDArray[np.float64], size: float, angle: float) -> NDArray[np.float64]:
    """Give (row, column) in px by the stage, as `em_stitch` computes it; NaN if not known."""
    return np.asarray(stage @ _rotation(angle).T / size)


def _cells(
    path: Path,
    tiles: Sequence[Tile],
    names: Sequence[str],
    by_stage: NDArray[np.float64],
    notes: dict[str, str],
) -> NDArray[np.intp]:
    """Give the (row, column) of each tile."""
    cells = np.empty((len(tiles), 2), dtype=np.intp)
    explicit = any(tile.row is not None and tile.column is not None for tile in tiles)
    for number, tile in enumerate(tiles):
        if tile.row is not None and tile.column is not None:
            cells[number] = tile.row, tile.column
        elif tile.raster is not None:
            cells[number] = round(tile.raster[1]), round(tile.raster[0])
        elif numbers := re.search(r"_(\d+)_(\d+)(\.\w+)?$", names[number]):
            cells[number] = int(numbers[2]), int(numbers[1])
        else:
            raise MontageFileError(
                f"{path}, tile {number} ({names[number]}): it tells no place in the grid; "
                "expected raster_pos [column, row], or row and column"
            )
    if not explicit and _transposed(cells, by_stage):
        cells = cells[:, ::-1].copy()
        notes["raster positions"] = "[row, column], by the stage"
    places, count = np.unique(cells, axis=0, return_counts=True)
    if (count > 1).any():
        row, column = places[count > 1][0]
        again = np.flatnonzero((cells == (row, column)).all(axis=1))[:2]
        raise MontageFileError(
            f"{path}: tiles {names[again[0]]} and {names[again[1]]} both stand in row {row}, "
            f"column {column}; each tile needs a place of its own"
        )
    return cells


def _transposed(cells: NDArray[np.intp], places: NDArray[np.float64]) -> bool:
    """Tell whether what was taken for rows runs along the image's columns."""
    known = np.isfinite(places).all(axis=1)
    if known.sum() < 3 or np.linalg.matrix_rank(cells[known] - cells[known][0]) < 2:
        return False
    slope = np.linalg.lstsq(
        np.column_stack([cells[known], np.ones(known.sum())]), places[known], rcond=None
    )[0][:2]
    straight, across = np.abs(np.diag(slope)).sum(), np.abs(np.diag(slope[::-1])).sum()
    return bool(across > straight)


def _pitch(
    path: Path,
    header: Header,
    shape: tuple[int, int],
    entries: Entries,
    by_stage: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Give the distance between rows and between columns in px, NaN where nothing tells it."""
    if header.overlap is not None:
        side = np.asarray(shape, dtype=float)
        # Below 1 it is a share of the tile; messages of TEM_comms give it in px.
        return side * (1 - header.overlap) if header.overlap < 1 else side - header.overlap
    pitch = entries.pitch()
    if not np.isfinite(by_stage).any() and np.isnan(pitch).any():
        raise MontageFileError(
            f"{path} tells neither stage positions with a pixel size nor the overlap: "
            "expected stage_pos and pixel_size of each tile, or metadata.overlap"
        )
    return pitch


def _image(path: Path, tile: Tile, name: str) -> ImageSource:
    return ImageSource(find_file(path.parent, tile.name or name))


# Edges


def _entries(
    path: Path, tiles: Sequence[Tile], names: Sequence[str], cells: NDArray[np.intp]
) -> Entries:
    """Lay all matcher entries out in arrays."""
    index = {(int(row), int(column)): number for number, (row, column) in enumerate(cells)}
    table: list[tuple[int, str, int, float, float, float, float, float, float, bool]] = []
    points: list[NDArray[np.float64]] = []
    for number, tile in enumerate(tiles):
        for entry in tile.matcher or ():
            if entry.side is None:
                continue
            lengths = {len(values) for values in (entry.px, entry.py, entry.qx, entry.qy)}
            if len(lengths) > 1:
                raise MontageFileError(
                    f"{path}, tile {number} ({names[number]}), {entry.side}: pX, pY, qX and qY "
                    f"have the lengths {sorted(lengths)}; expected as many of each"
                )
            both = np.array([entry.qy, entry.qx, entry.py, entry.px], dtype=float).T
            step = np.median(both[:, 2:] - both[:, :2], axis=0) if len(both) else (np.nan, np.nan)
            told = entry.row is not None and entry.column is not None
            table.append(
                (
                    number,
                    entry.side,
                    index.get((entry.row or 0, entry.column or 0), -1) if told else -1,
                    math.nan if entry.dy is None else entry.dy,
                    math.nan if entry.dx is None else entry.dx,
                    float(step[0]),
                    float(step[1]),
                    _sd(entry, both),
                    1.0 if entry.match_quality is None else entry.match_quality,
                    entry.matched,
                )
            )
            points.append(both)
    return Entries.from_rows(table, points)


def _sd(entry: Matcher, points: NDArray[np.float64]) -> float:
    """Give the standard deviation of an entry's offset, in px."""
    if len(points) >= 2:
        spread = (points[:, 2:] - points[:, :2]).std(axis=0, ddof=1)
        return max(float(np.sqrt((spread**2).mean() / len(points))), LEAST_SD)
    told = [value for value in (entry.dx_sd, entry.dy_sd) if value is not None and value > 0]
    return max(float(np.mean(told)), LEAST_SD) if told else DEFAULT_SD


def _edges(entries: Entries, sense: Sense, cells: NDArray[np.intp]) -> Edges:
    """Take each pair of neighbours once, whether one of them, both, or both often tell of it."""
    other = neighbours(entries, sense.steps, cells)
    usable = np.flatnonzero(entries.matched & (other >= 0) & np.isfinite(sense.offsets).all(axis=1))
    pairs: dict[tuple[int, int], list[int]] = {}
    for one in usable:
        ends = sorted((int(entries.tile[one]), int(other[one])))
        pairs.setdefault((ends[0], ends[1]), []).append(int(one))
    offsets, sd, points = [], [], []
    for (a, _), several in pairs.items():
        # An entry gives the place of its tile minus that of the neighbour.
        signs = np.where(entries.tile[several] == a, -1.0, 1.0)
        steps = sense.offsets[several] * signs[:, None]
        apart = np.linalg.norm(steps[:, None] - steps, axis=2)
        best = np.lexsort((-entries.quality[several], apart.sum(axis=1).round(3)))[0]
        agreeing = apart[best] <= SAME
        offsets.append(steps[agreeing].mean(axis=0))
        sd.append(float(np.mean(entries.sd[several][agreeing])))
        chosen = [one for one, agrees in zip(several, agreeing, strict=True) if agrees]
        points.append(_points(entries, chosen, a))
    return Edges(
        np.array(list(pairs), dtype=np.intp).reshape(-1, 2),
        np.array(offsets).reshape(-1, 2),
        np.array(sd),
        tuple(points),
    )


def _points(entries: Entries, chosen: Sequence[int], a: int) -> NDArray[np.float64]:
    """Give the points of entries as places in tile a and in the other."""
    tables = []
    for one in chosen:
        both = entries.points[one]
        both = both if entries.tile[one] == a else both[:, [2, 3, 0, 1]]
        sd = np.full(len(both), max(entries.sd[one] * math.sqrt(len(both)), LEAST_SD))
        tables.append(np.column_stack([both, sd, np.ones(len(both))]))
    return np.concatenate([np.empty((0, 6)), *tables])
