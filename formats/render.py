"""Reads and writes tile specs of `render`, which hold images, masks and transforms of tiles.

JSON, gzipped or not: a list, or tiles and shared transforms by their ids.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from formats.assemble import FoundTile, Measures, assemble, measure, pixel_size_by
from formats.json_files import read_json
from formats.montage import ImageSource, Montage, MontageFileError, PlacedMontage, PlacedTile
from formats.options import ReadOptions, several_sections
from formats.paths import find_file, is_file, numbered
from formats.render_transforms import (
    Transform,
    TransformError,
    fit_affine,
    in_turn,
    lens_polynomial,
    make_transform,
)
from formats.validation import Cell, Coordinate, Finite, Size, explain, shown
from formats.writing import write_text
from processing.geometry.frame import NM_PER_UM

AFFINE = "mpicbg.trakem2.transform.AffineModel2D"
POLYNOMIAL = "mpicbg.trakem2.transform.PolynomialTransform2D"
INTENSITIES = 0, 65535  # as uint16 frames have them
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # C: is a drive
DRIVE = re.compile(r"/[A-Za-z]:")
IMAGE_LOADER, STACK_LOADER = "IMAGEJ_DEFAULT", "IMAGEJ_TIFF_STACK"
STEPS = 9  # places along the sides of a tile, at which its transforms are evaluated
EXACT = 0.01  # px, up to which transforms are affine
MIN_PIXEL_SIZE = 0.5  # nm; tools that do not know it write 0.1, and others µm
MAX_SCALE_ERROR = 0.1  # of the stage's positions, if they are in nm
SPEC_KEYS = {"mipmapLevels", "transforms"}
Model = TypeVar("Model", bound=BaseModel)
FORM = "tile specs are a list of mappings with tileId, mipmapLevels and transforms"


class MipMap(BaseModel):
    """The image of one level, and its mask."""

    image: str | None = Field(default=None, alias="imageUrl")
    image_loader: str | None = Field(default=None, alias="imageLoaderType")
    image_slice: int = Field(default=1, ge=1, alias="imageSliceNumber")
    mask: str | None = Field(default=None, alias="maskUrl")
    mask_loader: str | None = Field(default=None, alias="maskLoaderType")
    mask_slice: int = Field(default=1, ge=1, alias="maskSliceNumber")


class Layout(BaseModel):
    """How a tile was taken."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    section: str | None = Field(default=None, alias="sectionId")
    row: Cell | None = Field(default=None, alias="imageRow")
    column: Cell | None = Field(default=None, alias="imageCol")
    stage_x: Coordinate | None = Field(default=None, alias="stageX")
    stage_y: Coordinate | None = Field(default=None, alias="stageY")
    pixel_size: Finite | None = Field(default=None, alias="pixelsize")


class TransformSpec(BaseModel):
    """A transform: one of a class, a list, or what stands elsewhere under an id."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    type: Literal["leaf", "list", "ref", "interpolated"] = "leaf"
    id: str | None = None
    class_name: str = Field(default="", alias="className")
    data: str = Field(default="", alias="dataString")
    parts: list[TransformSpec] = Field(default=[], alias="specList")
    ref: str | None = Field(default=None, alias="refId")


class TileSpec(BaseModel):
    """A tile."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    tile_id: str = Field(alias="tileId")
    z: Finite | None = None
    width: Size | None = None
    height: Size | None = None
    layout: Annotated[Layout, BeforeValidator(lambda value: value or {})] = Layout()
    levels: dict[str, MipMap] = Field(default={}, alias="mipmapLevels")
    transforms: TransformSpec | None = None

    @property
    def sections(self) -> tuple[str, ...]:
        """What its section is called: by z, and by its layout."""
        told = [] if self.z is None else [f"{self.z:g}", f"{self.z}"]
        return (*told, *([self.layout.section] if self.layout.section else []))


# Reading


def is_tile_specs(content: Any) -> bool:
    """Whether the content of a JSON file is tile specs of `render`."""
    if isinstance(content, Mapping):
        return "tileIdToSpecMap" in content or "tileSpecs" in content
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and "tileId" in first and len(first.keys() & SPEC_KEYS) > 0


def is_transform_specs(content: Any) -> bool:
    """Whether the content of a JSON file is transforms that tile specs of `render` refer to."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and "id" in first and "tileId" not in first


def read_render(inputs: Sequence[Path], options: ReadOptions) -> Montage:
    """Read tile specs of `render`.

    Parameters
    ----------
    inputs : sequence of Path
        JSON, gzipped or not: a list of tile specs, or a mapping with ``tileIdToSpecMap`` or
        ``tileSpecs``, and ``transformIdToSpecMap``; and files of the transforms that they refer to.
    options : ReadOptions
        Section and pixel size are used.

    Returns
    -------
    Montage
        Maps are the affine ones that come nearest to the transforms; nominal positions, where they
        bring the tiles' middles.

    Raises
    ------
    MontageFileError
        If a file is of another form, holds several sections and none was chosen, or names images
        elsewhere than in files, or transforms that cannot be evaluated; it names the tile.
    """
    path = inputs[0]
    told, shared = _gathered(inputs)
    specs = _one_section(path, told, options)
    notes: dict[str, str] = {}
    if len(specs) < len(told):
        notes["left out"] = f"{len(told) - len(specs)} tiles, of other sections or taken again"
    images = [_image(path, spec) for spec in specs]
    measures = measure(path, images)
    _require_size(path, specs, measures)
    maps = _maps(path, specs, shared, measures.shape, notes)
    tiles = [
        FoundTile(
            image=image,
            name=spec.tile_id,
            cell=_cell(spec),
            place=_by_middle(one, measures.shape),
            stage=_stage(spec),
            mask=_mask(path, spec),
            map=one,
        )
        for spec, image, one in zip(specs, images, maps, strict=True)
    ]
    size = _pixel_size(specs, notes)
    montage = assemble(path, tiles, options, measures=measures, pixel_size=size, notes=notes)
    return montage if _is_in_nm(montage) else _without_stage(montage)


def _gathered(inputs: Sequence[Path]) -> tuple[list[TileSpec], dict[str, TransformSpec]]:
    """Return the tiles of all files, and the transforms by their ids."""
    tiles: list[TileSpec] = []
    shared: dict[str, TransformSpec] = {}
    for path in inputs:
        content = read_json(path)
        if is_transform_specs(content):
            content = {"transformSpecs": content}
        elif not isinstance(content, Mapping):
            content = {"tileSpecs": content}
        specs = content.get("tileIdToSpecMap", content.get("tileSpecs", []))
        transforms = content.get("transformIdToSpecMap", content.get("transformSpecs", []))
        tiles += [_validated(TileSpec, path, "tile", *one) for one in _items(path, specs)]
        for number, one in _items(path, transforms):
            spec = _validated(TransformSpec, path, "transform", number, one)
            shared[spec.id or str(number)] = spec
    if not tiles:
        raise MontageFileError(f"{inputs[0]} holds no tile; {FORM}")
    return tiles, shared


def _items(path: Path, specs: Any) -> list[tuple[str | int, Any]]:
    """Return specs with their number or id."""
    if isinstance(specs, Mapping):
        return list(specs.items())
    if isinstance(specs, list):
        return list(enumerate(specs))
    raise MontageFileError(f"{path}: found {shown(specs)}, where a list was expected; {FORM}")


def _validated(model: type[Model], path: Path, kind: str, number: str | int, spec: Any) -> Model:
    try:
        return model.model_validate(spec)
    except ValidationError as error:
        named = spec.get("tileId") if isinstance(spec, Mapping) else None
        name = shown(number if named is None else named)
        raise MontageFileError(f"{path}, {kind} {name}: {explain(error)}") from error


def _one_section(path: Path, specs: Sequence[TileSpec], options: ReadOptions) -> list[TileSpec]:
    """Return the tiles of the section that is meant, the last of each id."""
    if options.section is None:
        chosen = list(specs) if len({spec.z for spec in specs}) == 1 else []
    else:
        chosen = [spec for spec in specs if options.section in spec.sections]
    if chosen:
        return list({spec.tile_id: spec for spec in chosen}.values())
    raise several_sections(path, [f"{z:g}" for z in sorted({one.z or 0.0 for one in specs})])


# A tile


def _level(path: Path, spec: TileSpec) -> MipMap:
    level = spec.levels.get("0")
    if level is None or not level.image:
        raise MontageFileError(
            f"{path}, tile {spec.tile_id}: it names no image of full size; expected "
            "mipmapLevels with a level 0 and its imageUrl"
        )
    return level


def _image(path: Path, spec: TileSpec) -> ImageSource:
    level = _level(path, spec)
    return _source(path, spec, level.image or "", level.image_loader, level.image_slice)


def _mask(path: Path, spec: TileSpec) -> ImageSource | None:
    level = _level(path, spec)
    if not level.mask:
        return None
    return _source(path, spec, level.mask, level.mask_loader, level.mask_slice)


def _source(path: Path, spec: TileSpec, url: str, loader: str | None, number: int) -> ImageSource:
    """Return where the image of a URL lies."""
    if loader not in (None, IMAGE_LOADER, STACK_LOADER):
        raise MontageFileError(
            f"{path}, tile {spec.tile_id}: {shown(url)} is for the loader {loader}; expected an "
            f"image file, of {IMAGE_LOADER} or {STACK_LOADER}"
        )
    scheme = SCHEME.fullmatch(url)
    if scheme is None:
        file = find_file(path.parent, url)
    elif scheme[1].lower() == "file":
        file = _file_of_url(path, scheme[2])
    else:
        raise MontageFileError(
            f"{path}, tile {spec.tile_id}: {shown(url)} is at a server; copy the images, and give "
            "paths or file: URLs"
        )
    return ImageSource(file, number - 1 if loader == STACK_LOADER else None)


def _file_of_url(path: Path, rest: str) -> Path:
    """Return the file of a URL without its scheme, ``/data/a%20b.tif`` or ``//host/data/a.tif``."""
    if rest.startswith("//"):
        rest = "/" + rest[2:].partition("/")[2]
    if DRIVE.match(rest):
        rest = rest[1:]
    found = find_file(path.parent, unquote(rest))
    # Some programs leave a % in a name as it is.
    return found if is_file(found) else next(filter(is_file, [find_file(path.parent, rest)]), found)


def _require_size(path: Path, specs: Sequence[TileSpec], measures: Measures) -> None:
    """Refuse tiles that are told to be larger or smaller than their images."""
    height, width = measures.shape
    for spec in specs:
        if (spec.height or height, spec.width or width) != measures.shape:
            raise MontageFileError(
                f"{path}, tile {spec.tile_id} has {spec.height:g} × {spec.width:g} px; its image "
                f"has {height} × {width}"
            )


def _cell(spec: TileSpec) -> tuple[int, int] | None:
    row, column = spec.layout.row, spec.layout.column
    return None if row is None or column is None else (row, column)


def _stage(spec: TileSpec) -> tuple[float, float] | None:
    x, y = spec.layout.stage_x, spec.layout.stage_y
    return None if x is None or y is None else (x / NM_PER_UM, y / NM_PER_UM)


def _pixel_size(specs: Sequence[TileSpec], notes: dict[str, str]) -> float | None:
    """Return the pixel size that the layouts agree on, in nm."""
    sizes = {spec.layout.pixel_size for spec in specs} - {None}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is not None and size < MIN_PIXEL_SIZE:
        notes["pixelsize"] = f"{size:g}, which cannot be nm, is left out"
        return None
    return size


def _is_in_nm(montage: Montage) -> bool:
    """Whether the stage's positions are in nm, by the pixel size and the tiles' places."""
    by_stage = pixel_size_by(montage.to_stage)
    return abs(by_stage / montage.pixel_size - 1) <= MAX_SCALE_ERROR


def _without_stage(montage: Montage) -> Montage:
    unknown = np.full((2, 2), math.nan)
    return replace(
        montage, stage=np.full_like(montage.stage, math.nan), to_stage=unknown, angle=math.nan
    )


# Transforms


def _maps(
    path: Path,
    specs: Sequence[TileSpec],
    shared: Mapping[str, TransformSpec],
    shape: tuple[int, int],
    notes: dict[str, str],
) -> list[NDArray[np.float64]]:
    """Return the affine map of each tile that comes nearest to its transforms."""
    maps, bent = [], 0.0
    for spec in specs:
        try:
            transforms = _flat(spec.transforms, shared) if spec.transforms else []
            found, misfit = fit_affine(in_turn(transforms), shape, STEPS)
        except TransformError as error:
            raise MontageFileError(f"{path}, tile {spec.tile_id}: {error}") from error
        maps.append(found)
        bent = max(bent, misfit)
    if bent > EXACT:
        notes["transforms"] = f"bend tiles by up to {bent:.1f} px, taken for affine maps"
    return maps


def _flat(
    spec: TransformSpec, shared: Mapping[str, TransformSpec], within: tuple[str, ...] = ()
) -> list[Transform]:
    """Return the transforms of a spec, in the order in which they apply.

    Raises
    ------
    TransformError
        If one refers to itself or to what is not there, or cannot be evaluated.
    """
    if spec.type == "list":
        return [one for part in spec.parts for one in _flat(part, shared, within)]
    if spec.type == "ref":
        ref = spec.ref or ""
        if ref in within or ref not in shared:
            problem = "refers to itself" if ref in within else "is not in the files"
            raise TransformError(f"transform {shown(ref)} {problem}; give the file that holds it")
        return _flat(shared[ref], shared, (*within, ref))
    if spec.type == "interpolated":
        raise TransformError("an interpolated transform cannot be evaluated; expected leaf or list")
    return [make_transform(spec.class_name, spec.data)]


def _by_middle(one: NDArray[np.float64], shape: tuple[int, int]) -> tuple[float, float]:
    """Return where the first pixel of a tile would lie if it were moved as its middle is."""
    middle = (np.asarray(shape) - 1) / 2
    row, column = one[:, :2] @ middle + one[:, 2] - middle
    return float(row), float(column)


# Writing


def tile_specs(montage: PlacedMontage, z: float = 0.0) -> list[dict[str, Any]]:
    """Return the tile specs of `render`, one a tile.

    Parameters
    ----------
    montage : PlacedMontage
    z : float
        Of the section.

    Returns
    -------
    list of dict
        As `render` (Saalfeld lab) takes them: one affine transform a tile, whose data string is
        "m00 m10 m01 m11 m02 m12", in px of the mosaic; before it the lens, if there is one, as a
        polynomial that all tiles have.
    """
    ids = numbered([tile.tile for tile in montage.tiles])
    lens = []
    if montage.lens is not None:
        lens = [_leaf(POLYNOMIAL, lens_polynomial(montage.lens, montage.shape))]
    return [
        _tile_spec(montage, tile, name, z, lens)
        for tile, name in zip(montage.tiles, ids, strict=True)
    ]


def _leaf(class_name: str, data: str) -> dict[str, str]:
    return {"type": "leaf", "className": class_name, "dataString": data}


def _tile_spec(
    montage: PlacedMontage, tile: PlacedTile, name: str, z: float, lens: list[dict[str, str]]
) -> dict[str, Any]:
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
    values = tile.map or (1.0, 0.0, 0.0, 1.0, tile.x_px, tile.y_px)
    affine = _leaf(AFFINE, " ".join(f"{value:.10g}" for value in values))
    return {
        "tileId": name,
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
        "mipmapLevels": {"0": _mipmap(tile.image)} if tile.image else {},
        "transforms": {"type": "list", "specList": [*lens, affine]},
    }


def _mipmap(image: ImageSource) -> dict[str, Any]:
    url: dict[str, Any] = {"imageUrl": image.path.absolute().as_uri()}
    if image.page is not None:
        url |= {"imageLoaderType": STACK_LOADER, "imageSliceNumber": image.page + 1}
    return url


def write_render(path: Path, montage: PlacedMontage) -> None:
    """Write the tile specs of `render` as JSON.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    text = json.dumps(tile_specs(montage), indent=1, allow_nan=False)
    write_text(path, text)
