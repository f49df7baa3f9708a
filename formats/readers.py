"""Reads a montage, whatever system it comes from: the content of what is given decides how.

Each format's reader is a module of its own; this one only chooses.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from formats.assemble import measure
from formats.conventions import Offsets
from formats.images.mrc import is_compressed, is_mrc
from formats.images.tiff import is_tiff
from formats.json_files import read_json
from formats.montage import ImageSource, Montage, MontageFileError
from formats.ome_tiff import XML_ENDINGS, read_ome, tells_places
from formats.options import ReadOptions
from formats.paths import is_file
from formats.positions import is_positions, read_positions
from formats.render import is_tile_specs, is_transform_specs, read_render
from formats.serialem import AUTODOCS, PIECE_LIST, read_serialem, tells_pieces
from formats.tile_folder import image_files, read_tile_folder
from formats.tilem import read_tilem
from formats.validation import shown

START = 1024  # bytes by which an image's format is known
TABLES = (".csv", ".tsv", ".txt")
JSON_ENDINGS = (".json", ".json.gz")
# Of metadata of TilEM: one of these stands in it, or in its first tile.
TILEM_KEYS = {
    "metadata", "data", "calibration", "acquisition_params", "img_meta", "matcher", "matches",
    "stage_pos", "stage_position", "raster_pos", "raster_position",
}  # fmt: skip
# What tells of all tiles of the folder in which it lies, by how its name begins.
TILEM_NAME, FIJI_NAME = "_metadata", "tileconfiguration"
CAN_READ = (
    "a folder of tile images with row and column in their names; a table of positions (.csv, "
    ".json, TileConfiguration.txt); a SerialEM montage (.mdoc, .idoc, .st or .mrc); render tile "
    "specs (.json); OME-TIFF with positions; TilEM or TEMCA metadata (_metadata_*.json)"
)


def read_montage(
    inputs: Sequence[Path],
    options: ReadOptions | None = None,
    offsets: Offsets | None = None,
) -> Montage:
    """Read a montage of any form that is known.

    Parameters
    ----------
    inputs : sequence of Path
        A folder, a file, or files that belong together: the images of tiles; a table of positions
        and the folders of its images; a stack and its ``.mdoc`` or ``.pl``; tile specs and their
        transforms; the files of an OME-TIFF set.
    options : ReadOptions, optional
        What the files leave open.
    offsets : Offsets, optional
        What dX and dY mean in metadata of TilEM.

    Returns
    -------
    Montage
        All its images are there, and of one size.

    Raises
    ------
    MontageFileError
        If the inputs are of no known form, or something is wrong with them; `FormatError` if an
        image cannot be read. The message is one line.
    """
    options = options or ReadOptions()
    paths = [Path(one) for one in inputs]
    if not paths:
        raise MontageFileError(f"no input; expected {CAN_READ}")
    folders = [path for path in paths if os.path.isdir(path)]
    files = [path for path in paths if path not in folders]
    for path in files:
        if not is_file(path):
            raise MontageFileError(f"{path}: there is no such file or folder; check its name")
    if not files:
        return _read_folders(folders, options, offsets)
    return _read_files(files, folders, options, offsets)


def _read_folders(
    folders: Sequence[Path], options: ReadOptions, offsets: Offsets | None
) -> Montage:
    """Read folders: the metadata in one, or else the images in all."""
    told = _metadata_in(folders[0]) if len(folders) == 1 and options.pattern is None else []
    if told:
        return _read_files(told, (), options, offsets)
    root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    images = [file.absolute() for folder in folders for file in image_files(folder)]
    return _read_images(root, images, options)


def _metadata_in(folder: Path) -> list[Path]:
    """Return what tells of all tiles in a folder: autodocs, or one other file."""
    try:
        files = sorted(filter(is_file, folder.iterdir()))
    except OSError as error:
        raise MontageFileError(f"{folder} cannot be read: {error.strerror or error}") from error
    docs = [path for path in files if path.suffix.lower() in AUTODOCS and tells_pieces(path)]
    if docs:
        return docs
    others = [path for path in files if _is_metadata(path.name.lower())]
    if len(others) > 1:
        raise MontageFileError(
            f"{folder} holds {', '.join(path.name for path in others)}; give one of these"
        )
    return others


def _is_metadata(name: str) -> bool:
    is_tilem = name.startswith(TILEM_NAME) and name.endswith(JSON_ENDINGS)
    return is_tilem or (name.startswith(FIJI_NAME) and name.endswith(TABLES))


def _read_files(
    files: Sequence[Path],
    folders: Sequence[Path],
    options: ReadOptions,
    offsets: Offsets | None,
) -> Montage:
    """Read files that belong together."""
    names = [path.name.lower() for path in files]
    if any(name.endswith((*AUTODOCS, PIECE_LIST)) for name in names):
        return read_serialem(files, options)
    if any(name.endswith(JSON_ENDINGS) for name in names):
        return _read_json_files(files, folders, options, offsets)
    tables = [path for path in files if path.name.lower().endswith(TABLES)]
    if tables:
        return read_positions(_only(tables), [*folders, *_folders_of(files)], options)
    if any(name.endswith(XML_ENDINGS) for name in names):
        return read_ome(files, options)
    if folders:
        raise MontageFileError(f"{files[0]} and {folders[0]} are no montage; expected {CAN_READ}")
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    return _read_images(root, [file.absolute() for file in files], options)


def _only(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise MontageFileError(
            f"{paths[0]} and {paths[1]} both tell of tiles; give one of them, and the folders of "
            "its images"
        )
    return paths[0]


def _folders_of(files: Sequence[Path]) -> list[Path]:
    """Return the folders in which files lie, each once."""
    return list(dict.fromkeys(path.parent for path in files))


def _read_json_files(
    files: Sequence[Path],
    folders: Sequence[Path],
    options: ReadOptions,
    offsets: Offsets | None,
) -> Montage:
    tables = [path for path in files if path.name.lower().endswith(JSON_ENDINGS)]
    contents = {path: read_json(path) for path in tables}
    if any(is_tile_specs(one) for one in contents.values()):
        # What tells of tiles comes first, for messages name it.
        ordered = sorted(tables, key=lambda path: is_transform_specs(contents[path]))
        return read_render(ordered, options)
    path = _only(tables)
    content = contents[path]
    folders = [*folders, *_folders_of(files)]
    if _is_tilem(content):
        return _with_images(read_tilem(path, offsets), folders, options)
    if is_positions(content):
        return read_positions(path, folders, options)
    raise MontageFileError(f"{path} holds {shown(content)}; expected {CAN_READ}")


def _is_tilem(content: Any) -> bool:
    """Whether the content of a JSON file is metadata of TilEM or TEMCA."""
    parts = content if isinstance(content, list) else [content]
    whole = {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}
    tiles = whole.get("tiles", [])
    listed = list(tiles.values()) if isinstance(tiles, dict) else tiles
    first = listed[0] if isinstance(listed, list) and listed else None
    return not TILEM_KEYS.isdisjoint({*whole, *(first if isinstance(first, dict) else ())})


def _with_images(montage: Montage, folders: Sequence[Path], options: ReadOptions) -> Montage:
    """Find the images of a montage, which may lie in other folders, and measure them."""
    images = tuple(_found_in(folders, image) for image in montage.images)
    measures = measure(montage.path, images)
    if measures.shape != montage.shape:
        told, found = (f"{high} × {wide}" for high, wide in (montage.shape, measures.shape))
        raise MontageFileError(f"{montage.path} tells of tiles of {told} px; images have {found}")
    size = options.pixel_size or montage.pixel_size
    return replace(
        montage, images=images, pixel_size=measures.pixel_size if math.isnan(size) else size
    )


def _found_in(folders: Sequence[Path], image: ImageSource) -> ImageSource:
    """Return where an image lies: where it is told to, or under its name in one of the folders."""
    places = (image.path, *(folder / image.path.name for folder in folders))
    return replace(image, path=next(filter(is_file, places), image.path))


def _read_images(root: Path, images: Sequence[Path], options: ReadOptions) -> Montage:
    """Read images by what they hold, or else by their names."""
    start = _start(images[0]) if images else b""
    if len(images) == 1 and (is_mrc(start) or is_compressed(start)):
        return read_serialem(images, options)
    if options.pattern is None and is_tiff(start) and tells_places(images):
        return read_ome(images, options)
    if len(images) == 1:
        raise MontageFileError(f"{images[0]} is one file, and no montage; expected {CAN_READ}")
    return read_tile_folder(root, images, options)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(START)
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
