"""Reads and writes OME-TIFF with the places of tiles, an image or a file each.

OME does not say which way stage positions count; here y counts upwards, as ASHLAR reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from scipy.spatial import cKDTree

from formats.assemble import MAX_PITCH, MIN_PITCH, FoundTile, Measures, assemble, measure
from formats.images.opening import guarded
from formats.images.pixel_size import in_nm, square_pixel
from formats.montage import ImageSource, Montage, MontageFileError, PlacedMontage, PlacedTile
from formats.options import ReadOptions, nm_per_unit
from formats.paths import find_file, is_file, numbered
from formats.validation import Coordinate, Size, explain
from formats.whole_file import whole_file
from formats.writing import not_written
from processing.geometry.frame import NM_PER_UM

XML_ENDINGS = (".companion.ome", ".ome.xml", ".xml")
FRAME_UNIT, PIXEL_UNIT = "reference frame", "pixel"  # of OME: lengths of no known unit, and px
TELLING = "PositionX", "StageLabel", "BinaryOnly"  # of places, or of who tells them
FORBIDDEN = "<!DOCTYPE", "<!ENTITY"  # no OME-XML has them, and parsers can be blown up by them
EXPECTED = "expected OME-XML with an Image a tile, whose Plane tells PositionX and PositionY"
Model = TypeVar("Model", bound=BaseModel)


class Pixels(BaseModel):
    """How the pixels of an image are stored."""

    size_z: int = Field(default=1, ge=1, alias="SizeZ")
    size_c: int = Field(default=1, ge=1, alias="SizeC")
    size_t: int = Field(default=1, ge=1, alias="SizeT")
    physical_x: Size | None = Field(default=None, alias="PhysicalSizeX")
    physical_y: Size | None = Field(default=None, alias="PhysicalSizeY")
    unit_x: str = Field(default="µm", alias="PhysicalSizeXUnit")
    unit_y: str = Field(default="µm", alias="PhysicalSizeYUnit")

    @property
    def pixel_size(self) -> float | None:
        """In nm; None if it is not told, or not square."""
        sides = ((self.physical_x, self.unit_x), (self.physical_y, self.unit_y))
        return square_pixel([in_nm(side, unit) if side else None for side, unit in sides])


class Plane(BaseModel):
    """Where one plane of an image was taken."""

    z: int = Field(default=0, alias="TheZ")
    c: int = Field(default=0, alias="TheC")
    t: int = Field(default=0, alias="TheT")
    x: Coordinate | None = Field(default=None, alias="PositionX")
    y: Coordinate | None = Field(default=None, alias="PositionY")
    unit: str = Field(default=FRAME_UNIT, alias="PositionXUnit")
    unit_y: str = Field(default=FRAME_UNIT, alias="PositionYUnit")


class StageLabel(BaseModel):
    """Where an image was taken, as some programs write it."""

    x: Coordinate = Field(alias="X")
    y: Coordinate = Field(alias="Y")
    unit: str = Field(default=FRAME_UNIT, alias="XUnit")
    unit_y: str = Field(default=FRAME_UNIT, alias="YUnit")


class TiffData(BaseModel):
    """Where the planes of an image lie."""

    ifd: int = Field(default=0, ge=0, alias="IFD")
    z: int = Field(default=0, alias="FirstZ")
    c: int = Field(default=0, alias="FirstC")
    t: int = Field(default=0, alias="FirstT")


@dataclass(frozen=True)
class OmeTile:
    """A tile as OME-XML tells of it.

    Attributes
    ----------
    image : ImageSource
    name : str
    x, y : float
        Position in `unit`.
    unit : str
    pixel_size : float or None
        In nm.
    planes : int
        Of which this is the first.
    """

    image: ImageSource
    name: str
    x: float
    y: float
    unit: str
    pixel_size: float | None
    planes: int


# Reading


def tells_places(images: Sequence[Path]) -> bool:
    """Whether OME-TIFF files tell where the tiles of a montage lie, and not all in one place."""
    some = images[:2]
    texts = [_ome_xml(path) or "" for path in some]
    if not all(any(name in text for name in TELLING) for text in texts):
        return False
    return len({(tile.x, tile.y) for path in some for tile in _tiles(path)}) > 1


def read_ome(inputs: Sequence[Path], options: ReadOptions) -> Montage:
    """Read OME-TIFF files whose metadata tell where the tiles lie.

    Parameters
    ----------
    inputs : sequence of Path
        One file with an image a tile; one file a tile; or one file, or the companion, of a set
        whose OME-XML names the others.
    options : ReadOptions
        Unit, direction of y (upwards, if it is not told) and pixel size are used.

    Returns
    -------
    Montage

    Raises
    ------
    MontageFileError
        If a file holds no OME-XML, or an image without a position; it names the image.
    """
    path = inputs[0]
    tiles = _of_all(inputs)
    if not tiles:
        raise MontageFileError(f"{path} tells of no image; {EXPECTED}")
    upwards = options.y_up is not False
    notes = {"y": f"{'up' if upwards else 'down'}wards; OME-TIFF does not say which"}
    if any(tile.planes > 1 for tile in tiles):
        notes["planes"] = f"the first of {max(tile.planes for tile in tiles)} of a tile"
    measures = measure(path, [tile.image for tile in tiles])
    size = options.pixel_size or tiles[0].pixel_size or measures.pixel_size
    unit = options.unit or _unit(path, tiles, measures, size)
    scale = nm_per_unit(unit, path)
    notes["positions"] = f"in {unit}"
    sign = -1 if upwards else 1
    found = [
        FoundTile(
            image=tile.image,
            name=tile.name,
            place=(sign * tile.y, tile.x),
            stage=(tile.x * scale / NM_PER_UM, tile.y * scale / NM_PER_UM) if scale else None,
        )
        for tile in tiles
    ]
    return assemble(
        path, found, options, measures=measures, nm_per_unit=scale, pixel_size=size, notes=notes
    )


def _ome_xml(path: Path) -> str | None:
    """Return the OME-XML of a file, or of the file that it points to; None if it has none."""
    if path.name.lower().endswith(XML_ENDINGS):
        return _read_xml(path)
    with guarded(path), tifffile.TiffFile(path) as file:
        return file.ome_metadata


def _read_xml(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _of_all(inputs: Sequence[Path]) -> list[OmeTile]:
    """Return the tiles of files, each image once: files of a set may all tell of all."""
    tiles: dict[ImageSource, OmeTile] = {}
    known: set[Path] = set()
    for path in inputs:
        if path.absolute() not in known:
            found = {tile.image: tile for tile in _tiles(path)}
            known |= {image.path for image in found}
            tiles |= found
    return list(tiles.values())


def _tiles(path: Path) -> Iterator[OmeTile]:
    """Yield what a file's OME-XML tells of its images."""
    root = _parsed(path, _ome_xml(path))
    pointers = _children(root, "BinaryOnly")
    if pointers:
        companion = find_file(path.parent, pointers[0].get("MetadataFile", ""))
        if not is_file(companion):
            raise MontageFileError(f"{path} has its metadata in {companion.name}, which is missing")
        path = companion
        root = _parsed(companion, _read_xml(companion))
    page = 0
    for number, image in enumerate(_children(root, "Image")):
        name = image.get("Name") or image.get("ID") or f"image {number}"
        where = f"{path}, image {name!r}"
        pixels = next(iter(_children(image, "Pixels")), None)
        if pixels is None:
            raise MontageFileError(f"{where} has no Pixels; {EXPECTED}")
        stored = _validated(Pixels, where, pixels)
        planes = stored.size_z * stored.size_c * stored.size_t
        position = _position(where, image, pixels)
        yield OmeTile(
            image=_source(path, root, where, pixels, page),
            name=name,
            x=position[0],
            y=position[1],
            unit=position[2],
            pixel_size=stored.pixel_size,
            planes=planes,
        )
        page += planes


def _parsed(path: Path, text: str | None) -> ElementTree.Element:
    if text is None:
        raise MontageFileError(f"{path} holds no OME-XML; {EXPECTED}")
    if any(part in text for part in FORBIDDEN):
        raise MontageFileError(f"{path} holds XML with a document type, which no OME-XML has")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - has no entities, see above
    except (ElementTree.ParseError, UnicodeError) as error:
        raise MontageFileError(f"{path} holds XML that cannot be read: {error}") from error


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the children of a name, whatever version of the schema it belongs to."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def _validated(model: type[Model], where: str, element: ElementTree.Element) -> Model:
    try:
        return model.model_validate(element.attrib)
    except ValidationError as error:
        raise MontageFileError(f"{where}: {explain(error)}") from error


def _position(
    where: str, image: ElementTree.Element, pixels: ElementTree.Element
) -> tuple[float, float, str]:
    """Return x, y and their unit: of the first plane, or of the image's label."""
    planes = [_validated(Plane, where, one) for one in _children(pixels, "Plane")]
    planes.sort(key=lambda one: (one.t, one.c, one.z))
    labels = [_validated(StageLabel, where, one) for one in _children(image, "StageLabel")]
    every: list[Plane | StageLabel] = [*planes, *labels]
    for told in every:
        if told.x is None or told.y is None:
            continue
        if told.unit != told.unit_y:
            raise MontageFileError(f"{where} tells x in {told.unit} and y in {told.unit_y}")
        return told.x, told.y, told.unit
    raise MontageFileError(f"{where} tells no position; {EXPECTED}")


def _source(
    path: Path,
    root: ElementTree.Element,
    where: str,
    pixels: ElementTree.Element,
    page: int,
) -> ImageSource:
    """Return where the first plane of an image lies; `page` if the file does not say."""
    told = [(_validated(TiffData, where, one), one) for one in _children(pixels, "TiffData")]
    if not told:
        return ImageSource(path.absolute(), page)
    data, element = min(told, key=lambda one: (one[0].t, one[0].c, one[0].z))
    uuid = next(iter(_children(element, "UUID")), None)
    # A file that was renamed still knows itself by its UUID.
    if uuid is None or not uuid.get("FileName") or uuid.text == root.get("UUID"):
        return ImageSource(path.absolute(), data.ifd)
    return ImageSource(find_file(path.parent, uuid.get("FileName", "")), data.ifd)


def _unit(path: Path, tiles: Sequence[OmeTile], measures: Measures, pixel_size: float) -> str:
    """Return the unit of positions: that which they tell, or that by which tiles are neighbours."""
    units = {tile.unit for tile in tiles}
    if len(units) > 1:
        raise MontageFileError(f"{path} tells positions in {' and '.join(sorted(units))}")
    unit = units.pop()
    if unit.lower() != FRAME_UNIT:
        return "px" if unit.lower() == PIXEL_UNIT else unit
    if len(tiles) == 1:
        return "px"
    places = np.array([(tile.y, tile.x) for tile in tiles])
    nearest = np.asarray(cKDTree(places).query(places, k=2)[1])[:, 1]
    apart = np.abs(places - places[nearest]) / measures.shape
    pitch = float(np.median(apart.max(axis=1)))
    for scale, candidate in ((NM_PER_UM / pixel_size, "µm"), (1.0, "px")):
        if MIN_PITCH <= pitch * scale <= MAX_PITCH:
            return candidate
    raise MontageFileError(
        f"{path} tells positions in no unit, and neighbours are {pitch:.3g} tiles apart if it is "
        "px: give the unit"
    )


# Writing


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
    names = numbered([tile.tile for tile in montage.tiles])
    try:
        with (
            whole_file(path) as unfinished,
            tifffile.TiffWriter(unfinished, ome=True, bigtiff=True) as file,
        ):
            for tile, name, frame in zip(montage.tiles, names, frames, strict=True):
                metadata = _ome_metadata(tile, name, scale)
                file.write(frame, photometric="minisblack", metadata=metadata)
    except OSError as error:
        raise not_written(path, error) from error
    return path


def _ome_metadata(tile: PlacedTile, name: str, scale: float) -> dict[str, Any]:
    return {
        "axes": "YX",
        "Name": name,
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
