"""Reads and writes montages of SerialEM: stacks or single images with mdoc, idoc or piece list.

Pieces are placed by their lower left corners, x to the right and y upwards; images come upright.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from formats.assemble import FoundTile, assemble
from formats.autodoc import Section, read_autodoc
from formats.montage import ImageSource, Montage, MontageFileError, PlacedMontage
from formats.options import ReadOptions, several_sections
from formats.paths import find_file, is_file
from formats.validation import MAX_COORDINATE, Coordinate, Size, explain, shown
from formats.writing import write_text

AUTODOCS = (".mdoc", ".idoc", ".adoc")
PIECE_LIST = ".pl"
NM_PER_ANGSTROM = 0.1
IMAGES = "Image", "ZValue"  # the sections that tell of an image
MAX_DIGITS = 10  # of an image's number in a stack
# What SerialEM writes in a stack's extended header for each image, as shorts, by IMOD's
# description of MRC files: a flag's bytes, and where piece coordinates and stage stand.
ITEM_BYTES = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2, 32: 4}
TILT_FLAG, PIECE_FLAG, STAGE_FLAG = 1, 2, 4
SHORTS_PER_UM = 25.0
EXTRA_SHORTS = slice(16, 20)  # of what mrcfile calls extra2: bytes an image, and flags
Model = TypeVar("Model", bound=BaseModel)


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _solved(value: Any) -> Any:
    """Take coordinates that were never solved, told by huge numbers, for none."""
    try:
        numbers = [float(part) for part in _split(value)]
    except (TypeError, ValueError):
        return value
    return None if any(abs(number) >= MAX_COORDINATE for number in numbers) else numbers


def _first_two(value: Any) -> Any:
    parts = _split(value)
    return parts[:2] if isinstance(parts, list) else parts


Pair = Annotated[tuple[Coordinate, Coordinate], BeforeValidator(_first_two)]
Triple = Annotated[tuple[Coordinate, Coordinate, Coordinate], BeforeValidator(_split)]
Solved = Annotated[tuple[Coordinate, Coordinate, Coordinate] | None, BeforeValidator(_solved)]


class Header(BaseModel):
    """What an autodoc tells of all its images."""

    pixel_spacing: Size | None = Field(default=None, alias="PixelSpacing")
    stack: str = Field(default="", alias="ImageFile")


class Values(BaseModel):
    """What a section tells of a piece; SerialEM writes much more."""

    piece: Triple = Field(alias="PieceCoordinates")
    aligned: Solved = Field(default=None, alias="AlignedPieceCoords")
    aligned_sloppily: Solved = Field(default=None, alias="AlignedPieceCoordsVS")
    in_supermontage: Pair | None = Field(default=None, alias="SuperMontCoords")
    stage: Pair | None = Field(default=None, alias="StagePosition")
    pixel_spacing: Size | None = Field(default=None, alias="PixelSpacing")
    label: str = Field(default="", alias="NavigatorLabel")
    frames: str = Field(default="", alias="SubFramePath")


@dataclass(frozen=True)
class Piece:
    """A piece of a montage.

    Attributes
    ----------
    told_by : Path
    image : ImageSource
    name : str
    x, y : float
        Of its lower left corner, in px, y upwards.
    z : int
        Which montage of the file it belongs to.
    label : str
        Of the Navigator's item at which the montage was taken, if any.
    aligned : (float, float) or None
        x and y as SerialEM found them.
    stage : (float, float) or None
        In µm.
    pixel_size : float or None
        In nm.
    """

    told_by: Path
    image: ImageSource
    name: str
    x: float
    y: float
    z: int
    label: str = ""
    aligned: tuple[float, float] | None = None
    stage: tuple[float, float] | None = None
    pixel_size: float | None = None


def tells_pieces(path: Path) -> bool:
    """Whether an autodoc tells of a montage, and not of a tilt series or of single images."""
    return any("PieceCoordinates" in one.values for one in read_autodoc(path).sections)


def read_serialem(inputs: Sequence[Path], options: ReadOptions) -> Montage:
    """Read a montage of SerialEM.

    Parameters
    ----------
    inputs : sequence of Path
        An ``.mdoc`` (its stack lies beside it) or ``.idoc``; a stack, with its ``.mdoc`` or piece
        list ``.pl`` beside it or among the inputs, or with piece coordinates in its header; or
        several ``.mdoc``, of the parts of a supermontage or one an image.
    options : ReadOptions
        Section and pixel size are used.

    Returns
    -------
    Montage
        Nominal positions are the piece coordinates; maps are the aligned ones, if there are any.

    Raises
    ------
    MontageFileError
        If a file cannot be read, has no piece coordinates, or holds several montages and none was
        chosen.
    """
    path = inputs[0]
    pieces = _one_montage(path, _read_pieces(inputs), options)
    notes = {"y": "upwards, as SerialEM counts"}
    kept = _last_takes(path, pieces, notes)
    solved = any(piece.aligned for piece in kept)
    if solved:
        notes["aligned"] = "as SerialEM found, kept as maps"
    tiles = [
        FoundTile(
            piece.image,
            piece.name,
            place=(-piece.y, piece.x),
            stage=piece.stage,
            map=_shift(*(piece.aligned or (piece.x, piece.y))) if solved else None,
        )
        for piece in kept
    ]
    size = next((piece.pixel_size for piece in kept if piece.pixel_size), None)
    return assemble(path, tiles, options, pixel_size=size, notes=notes)


def _last_takes(path: Path, pieces: Sequence[Piece], notes: dict[str, str]) -> list[Piece]:
    """Return the last of the pieces at each place."""
    last: dict[tuple[float, float], Piece] = {}
    for piece in pieces:
        before = last.get((piece.x, piece.y))
        if before is not None and before.told_by != piece.told_by:
            raise MontageFileError(
                f"{before.told_by} and {piece.told_by} both tell of a piece at {piece.x:g} "
                f"{piece.y:g}; they are two montages: give one of them"
            )
        last[piece.x, piece.y] = piece
    if len(last) < len(pieces):
        notes["taken again"] = f"{len(pieces) - len(last)} pieces; the last of each counts"
    return list(last.values())


def _shift(x: float, y: float) -> NDArray[np.float64]:
    """Return the map that moves a piece's lower left corner to x and y."""
    return np.array([[1.0, 0.0, -y], [0.0, 1.0, x]])


# Which files tell of the pieces


def _read_pieces(inputs: Sequence[Path]) -> list[Piece]:
    docs = [path for path in inputs if path.suffix.lower() in AUTODOCS]
    lists = [path for path in inputs if path.suffix.lower() == PIECE_LIST]
    stacks = [path for path in inputs if path not in docs and path not in lists]
    one_stack = len(stacks) == 1 and len(docs) + len(lists) <= 1
    if not (one_stack or (docs and not stacks and not lists)):
        raise MontageFileError(
            f"{', '.join(str(path) for path in inputs)} cannot be one montage of SerialEM; "
            "expected one stack with its .mdoc or .pl, or .mdoc files alone"
        )
    if not stacks:
        return [piece for doc in docs for piece in _of_autodoc(doc, None)]
    stack = stacks[0]
    docs = docs or ([] if lists else _beside(stack, AUTODOCS))
    lists = lists or _beside(stack, (PIECE_LIST,))
    if docs:
        return _of_autodoc(docs[0], stack)
    return _of_list(lists[0], stack) if lists else _of_header(stack)


def _beside(stack: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that tell of a stack, by their names."""
    names = [stack.name + suffix for suffix in suffixes]
    names += [stack.stem + suffix for suffix in suffixes]
    return [path for path in map(stack.with_name, names) if is_file(path)]


def _one_montage(path: Path, pieces: Sequence[Piece], options: ReadOptions) -> Sequence[Piece]:
    """Return the pieces of the montage that is meant."""
    if options.section is None and len({piece.z for piece in pieces}) == 1:
        return pieces
    by_z = [piece for piece in pieces if options.section == str(piece.z)]
    by_label = [piece for piece in pieces if options.section == piece.label]
    if by_z or by_label:
        return by_z or by_label
    montages = sorted({(piece.z, piece.label) for piece in pieces})
    raise several_sections(path, [f"{z} ({label})" if label else f"{z}" for z, label in montages])


# An autodoc


def _of_autodoc(path: Path, stack: Path | None) -> list[Piece]:
    doc = read_autodoc(path)
    # A section that is written again replaces what it was.
    sections = {(one.kind, one.name): one for one in doc.sections if one.kind in IMAGES}
    values = {
        key: _validated(Values, path, section)
        for key, section in sections.items()
        if "PieceCoordinates" in section.values
    }
    if not values:
        raise MontageFileError(
            f"{path} tells no PieceCoordinates in {len(sections)} sections of images; expected a "
            "montage of SerialEM"
        )
    header = _validated(Header, path, Section("file", path.name, doc.values))
    if stack is None and any(kind == "ZValue" for kind, _ in values):
        stack = _stack(path, header)
    parts = {one.in_supermontage for one in values.values()}
    joined = len(parts) > 1 and None not in parts
    pieces = []
    for key, one in values.items():
        image, name = _image(path, key, one, stack)
        piece = _piece(path, image, name, one)
        spacing = one.pixel_spacing or header.pixel_spacing
        size = spacing * NM_PER_ANGSTROM if spacing else None
        pieces.append(replace(piece, pixel_size=size, z=0 if joined else piece.z))
    return pieces


def _validated(model: type[Model], path: Path, section: Section) -> Model:
    try:
        return model.model_validate(section.values)
    except ValidationError as error:
        raise MontageFileError(
            f"{path}, [{section.kind} = {section.name}]: {explain(error)}"
        ) from error


def _stack(path: Path, header: Header) -> Path | None:
    """Return the stack that an mdoc tells of; None if it does not lie beside it."""
    candidates = [path.with_suffix("")] if path.suffix.lower() == ".mdoc" else []
    if header.stack:
        candidates.append(find_file(path.parent, header.stack))
    return next((one for one in candidates if is_file(one)), None)


def _piece(told_by: Path, image: ImageSource, name: str, values: Values) -> Piece:
    x, y, z = values.piece
    across, up = values.in_supermontage or (0.0, 0.0)
    aligned = values.aligned or values.aligned_sloppily
    return Piece(
        told_by=told_by,
        image=image,
        name=name,
        x=x + across,
        y=y + up,
        z=int(z),
        label=values.label,
        aligned=(aligned[0] + across, aligned[1] + up) if aligned else None,
        stage=values.stage,
    )


def _image(
    path: Path, key: tuple[str, str], values: Values, stack: Path | None
) -> tuple[ImageSource, str]:
    """Return where the image of a section lies, and its name."""
    kind, name = key
    if kind == "Image":
        return ImageSource(find_file(path.parent, name)), name
    if stack is not None:
        if not (name.isdecimal() and len(name) < MAX_DIGITS):
            raise MontageFileError(
                f"{path}, [{kind} = {name}]: expected the number of an image in {stack.name}"
            )
        return _in_stack(stack, int(name))
    if values.frames:
        return ImageSource(find_file(path.parent, values.frames)), values.frames
    raise MontageFileError(
        f"{path} lies beside none of the images that it tells of; expected its stack, "
        f"{path.with_suffix('').name}"
    )


def _in_stack(stack: Path, page: int) -> tuple[ImageSource, str]:
    return ImageSource(stack, page), f"{stack.stem}_{page:04d}"


# A piece list, or the header


def _of_list(path: Path, stack: Path) -> list[Piece]:
    """Read IMOD's piece list: a line of x, y and z for each image of the stack."""
    try:
        lines = path.read_text("latin-1").splitlines()
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    pieces: list[Piece] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = Values.model_validate({"PieceCoordinates": line.split()[:3]})
        except ValidationError as error:
            raise MontageFileError(
                f"{path}, line {number}: found {shown(line.strip())}, "
                "expected x, y and z of a piece"
            ) from error
        pieces.append(_piece(path, *_in_stack(stack, len(pieces)), values))
    return pieces


def _of_header(stack: Path) -> list[Piece]:
    """Read the piece coordinates in a stack's extended header."""
    table, flags = _extended_header(stack)
    if not flags & PIECE_FLAG:
        raise MontageFileError(
            f"{stack} holds no piece coordinates, and neither {stack.name}.mdoc nor "
            f"{stack.stem}.pl lies beside it; expected a montage of SerialEM"
        )
    first = 1 if flags & TILT_FLAG else 0
    pieces = []
    for page, row in enumerate(table.tolist()):
        x, y, z = row[first : first + 3]
        told: dict[str, Any] = {"PieceCoordinates": [x % 2**16, y % 2**16, z]}
        if flags & STAGE_FLAG:
            told["StagePosition"] = [one / SHORTS_PER_UM for one in row[first + 3 : first + 5]]
        pieces.append(_piece(stack, *_in_stack(stack, page), Values.model_validate(told)))
    return pieces


def _extended_header(stack: Path) -> tuple[NDArray[np.int16], int]:
    """Return what SerialEM wrote for each image, and the flags of what that is; none if it did not.

    As IMOD does, it is taken for SerialEM's if the flags' items have as many bytes as it says.
    """
    nothing = np.empty((0, 0), np.int16), 0
    try:
        with stack.open("rb") as file:
            start = file.read(HEADER_DTYPE.itemsize)
            if len(start) < HEADER_DTYPE.itemsize:
                return nothing
            header = np.frombuffer(start, HEADER_DTYPE, count=1)[0]
            size, flags = np.frombuffer(bytes(header["extra2"])[EXTRA_SHORTS], "<i2").tolist()
            if size <= 0 or size != sum(n for flag, n in ITEM_BYTES.items() if flags & flag):
                return nothing
            length = min(int(header["nsymbt"]), size * int(header["nz"]))
            content = file.read(max(length, 0))
    except OSError as error:
        raise MontageFileError(f"{stack} cannot be read: {error.strerror or error}") from error
    count = len(content) // size
    return np.frombuffer(content[: count * size], "<i2").reshape(count, size // 2), flags


# Writing


def require_autodoc(path: Path, tiles: Sequence[ImageSource | None]) -> tuple[ImageSource, ...]:
    """Refuse an autodoc that cannot tell of the images of a montage.

    Parameters
    ----------
    path : Path
        Of the autodoc.
    tiles : sequence of (ImageSource or None)
        The image of each tile, one at least; None if it has none.

    Returns
    -------
    tuple of ImageSource

    Raises
    ------
    MontageFileError
    """
    images = tuple(one for one in tiles if one is not None)
    in_stack = all(one.page is not None and one.path == images[0].path for one in images)
    if len(images) < len(tiles) or in_stack != (path.suffix.lower() == ".mdoc"):
        raise MontageFileError(
            f"{path}: an .mdoc is for tiles in one stack, and an .idoc for a file each; the tiles "
            f"are {'in one stack' if in_stack and images else 'not so'}"
        )
    return images


def write_autodoc(path: Path, montage: PlacedMontage) -> None:
    """Write where tiles lie as SerialEM's own alignment would: ``.mdoc`` or ``.idoc``.

    Piece coordinates are those of the grid that comes nearest, aligned ones the solved places, both
    in whole px as SerialEM and IMOD have them. Turns and scales of tiles are left out.

    Parameters
    ----------
    path : Path
        Named by ``.mdoc`` if all tiles are images of one stack, beside which it has to lie; by
        ``.idoc`` if each has a file of its own.
    montage : PlacedMontage

    Raises
    ------
    MontageFileError
        If tiles have no images, or not as the name says, or the file cannot be written.
    """
    images = require_autodoc(path, [tile.image for tile in montage.tiles])
    in_stack = path.suffix.lower() == ".mdoc"
    height, width = montage.shape
    spacing = montage.pixel_size / NM_PER_ANGSTROM
    told = {"PixelSpacing": f"{spacing:g}"} if math.isfinite(spacing) else {}
    of_all = {"ImageFile": images[0].path.name} if in_stack else {"ImageSeries": "1"}
    whole = {**told, **of_all, "ImageSize": f"{width} {height}", "Montage": "1", "DataMode": "6"}
    pieces, aligned = _piece_coordinates(montage)
    text = _lines(whole)
    for tile, image, piece, place in zip(montage.tiles, images, pieces, aligned, strict=True):
        header = f"ZValue = {image.page}" if in_stack else f"Image = {image.path}"
        values = {"PieceCoordinates": f"{piece[0]} {piece[1]} 0", **told}
        if math.isfinite(tile.stage_x_um):
            values["StagePosition"] = f"{tile.stage_x_um:.4f} {tile.stage_y_um:.4f}"
        values["AlignedPieceCoords"] = f"{place[0]} {place[1]} 0"
        text += f"\n[{header}]\n{_lines(values)}"
    write_text(path, text)


def _piece_coordinates(
    montage: PlacedMontage,
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return x and y of each tile in the nearest regular grid, and as solved, y upwards."""
    cells = np.array([(tile.row, tile.column) for tile in montage.tiles], dtype=float)
    places = np.array([(tile.y_px, tile.x_px) for tile in montage.tiles])
    cells -= cells.min(axis=0)
    pitch = np.array(
        [
            round(np.polyfit(cells[:, axis], places[:, axis], 1)[0]) if cells[:, axis].any() else 0
            for axis in (0, 1)
        ]
    )
    grid = cells * pitch
    solved = np.rint(places - np.median(places - grid, axis=0))
    top = grid[:, 0].max()
    pieces, aligned = (
        [(int(x), int(top - y)) for y, x in table.tolist()] for table in (grid, solved)
    )
    return pieces, aligned


def _lines(values: dict[str, str]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in values.items())
