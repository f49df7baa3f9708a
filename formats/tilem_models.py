"""The content of TilEM and TEMCA metadata as models: what is not of their form is told by place.

All that stands in such a file goes through here, before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from formats.json_files import read_json
from formats.montage import MontageFileError
from formats.validation import Cell, Coordinate, Finite, Size, explain, shown

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


Place = Annotated[tuple[Coordinate, Coordinate], BeforeValidator(_xy)]

Numbers = Annotated[list[Finite], BeforeValidator(_list)]


def _names(*names: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*names))


class Matcher(BaseModel):
    """What was measured on one side of a tile."""

    model_config = ConfigDict(populate_by_name=True)

    position: int | str | None = None
    match_quality: Finite | None = _names("match_quality", "quality")
    row: Cell | None = None
    column: Cell | None = _names("column", "col")
    dx: Finite | None = _names("dX", "dx")
    dy: Finite | None = _names("dY", "dy")
    dx_sd: Finite | None = _names("dXsd", "dx_sd")
    dy_sd: Finite | None = _names("dYsd", "dy_sd")
    px: Numbers = Field(default=[], validation_alias=AliasChoices("pX", "px"))
    py: Numbers = Field(default=[], validation_alias=AliasChoices("pY", "py"))
    qx: Numbers = Field(default=[], validation_alias=AliasChoices("qX", "qx"))
    qy: Numbers = Field(default=[], validation_alias=AliasChoices("qY", "qy"))

    @property
    def code(self) -> str:
        """The side as the entry tells it, a number or a name; empty if it does not."""
        return "" if self.position is None else str(self.position).strip().lower()

    @property
    def matched(self) -> bool:
        """Whether anything was found there: a quality of 0 is no patch, of −1 no neighbour."""
        found = self.match_quality is None or self.match_quality > 0
        return found and (bool(self.px) or (self.dx is not None and self.dy is not None))


class Tile(BaseModel):
    """A tile, with what stands in its ``img_meta`` taken for its own."""

    name: str | None = _names("img_path", "filename", "tile_id", "name")
    raster: Place | None = _names("raster_pos", "raster_position")
    row: Cell | None = None
    column: Cell | None = _names("column", "col")
    stage: Place | None = _names("stage_pos", "stage_position")
    pixel_size: Size | None = Field(
        default=None, validation_alias=AliasChoices("pixel_size_x_move", "pixel_size")
    )
    angle: Finite | None = _names("angle", "rotation_angle")
    matcher: list[Matcher] | None = _names("matcher", "matches")


class Header(BaseModel):
    """What is said of the whole montage, from wherever it stands in the file."""

    overlap: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    pixel_size: Size | None = Field(
        default=None,
        validation_alias=AliasChoices("x_nm_per_pix", "nm_per_pix", "pixel_size"),
    )
    angle: Finite | None = _names("angle", "rotation_angle", "rotation")
    width: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    height: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    tile_size: int | list[int] | None = None


def read_metadata(path: Path) -> tuple[Header, list[Tile]]:
    """Read a file of metadata, gzipped or not.

    Returns
    -------
    header : Header
    tiles : list of Tile
        One at least.

    Raises
    ------
    MontageFileError
        If the file cannot be read or is of another form; it names the tile and what was expected.
    """
    content = read_json(path)
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise MontageFileError(f"{path} holds {_kind(content)}; {FORM}")
    whole: dict[str, Any] = {key: value for part in parts for key, value in part.items()}
    tiles = whole.get("data", whole.get("tiles"))
    if tiles is None and "img_path" in whole:
        tiles = parts
    if isinstance(tiles, dict):
        tiles = [{"name": name, **tile} for name, tile in tiles.items() if isinstance(tile, dict)]
    if not isinstance(tiles, list):
        keys = ", ".join(list(whole)[:5]) or "(none)"
        raise MontageFileError(f"{path} holds the keys {keys}; {FORM}")
    if not tiles:
        raise MontageFileError(f"{path} holds no tile; {FORM}")
    try:
        header = Header.model_validate(_header(path, whole))
    except ValidationError as error:
        raise MontageFileError(f"{path}, metadata: {explain(error)}") from error
    return header, [_tile(path, number, tile) for number, tile in enumerate(tiles)]


def _kind(content: Any) -> str:
    if isinstance(content, list):
        return f"a list of {len(content)}, not all of them mappings" if content else "an empty list"
    return f"a {type(content).__name__}"


def _header(path: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what is said of the whole montage; the innermost mappings tell best."""
    meta = _mapping(path, "metadata", whole)
    within: dict[str, Mapping[str, Any]] = {}
    for name in ("calibration", "camera_info", "acquisition_params"):
        within[name] = _mapping(path, name, meta) or _mapping(path, name, whole)
    high = _mapping(path, "highmag", within["calibration"])
    gathered: dict[str, Any] = {}
    order = "acquisition_params", "camera_info", "calibration"
    for part in (whole, meta, *(within[name] for name in order), high):
        gathered |= {key: value for key, value in part.items() if value is not None}
    return gathered


def _mapping(path: Path, name: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping within another, an empty one if it is not there."""
    value = part.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MontageFileError(
            f"{path}, metadata: {name}: found {shown(value)}, expected a mapping"
        )
    return value


def _tile(path: Path, number: int, tile: Any) -> Tile:
    if not isinstance(tile, dict):
        raise MontageFileError(f"{path}, tile {number}: found {shown(tile)}, expected a mapping")
    name = next((tile[key] for key in ("img_path", "filename", "name") if tile.get(key)), "")
    where = f"{path}, tile {number}{f' ({name})' * bool(name)}"
    inner = tile.get("img_meta")
    if inner is not None and not isinstance(inner, dict):
        raise MontageFileError(f"{where}: img_meta: found {shown(inner)}, expected a mapping")
    try:
        return Tile.model_validate({**(inner or {}), **tile})
    except ValidationError as error:
        raise MontageFileError(f"{where}: {explain(error)}") from error
