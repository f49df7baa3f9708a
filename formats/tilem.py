"""Reads montage metadata of TilEM and TEMCA, `_metadata_*.json`, of the forms that there are.

What files leave open — which side is which, which way rows count, what dX and dY mean —
`conventions` decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.conventions import ConventionError, Offsets, Sense, decide
from formats.montage import Edges, ImageSource, Montage, MontageFileError
from formats.paths import distinct_names, find_file
from formats.sides import Entries
from formats.tilem_models import Header, Matcher, Tile, read_metadata
from processing.geometry.frame import NM_PER_UM

DEFAULT_SIDE = 3840  # px; of the 20 Mpx TEMCA cameras, which `em_stitch` takes by default, too
DEFAULT_SD = 1.0  # px, of an edge that tells no spread
# Of a tile's side, that points may lie outside of it: most of them, and a wrong one.
MAX_BEYOND, MAX_FAR = 2.0, 10.0
MIN_SD = 0.3  # px: points are whole pixels, which alone makes 0.29
SAME = 5.0  # px; entries of a pair that differ by less were measured on the same place


def read_tilem(path: Path, offsets: Offsets | None = None) -> Montage:
    """Read the metadata of a montage.

    Parameters
    ----------
    path : Path
        JSON, gzipped or not: ``[{"metadata": …}, {"data": [tile, …]}, …]``, or a mapping with
        ``tiles`` (a list or a mapping by name), ``calibration`` and ``acquisition_params``. Lengths
        on the stage are in nm. Tiles may lack all but their place: ``raster_pos``, or ``row`` and
        ``column``. A tile that was taken again counts as it was taken last.
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
    header, tiles = read_metadata(path)
    notes: dict[str, str] = {}
    shape = _shape(header, notes)
    size = _first(tile.pixel_size for tile in tiles) or header.pixel_size or math.nan
    angle = _first(tile.angle for tile in tiles)
    angle = header.angle if angle is None else angle
    turn = _rotation(angle or 0.0)
    tiles, cells = _last_takes(tiles, _cells(path, tiles, turn, notes), notes)
    names = _tile_names(tiles)
    stage = _stage(tiles)
    if len(stage) > 1 and (np.ptp(stage, axis=0) == 0).all():
        stage = np.full_like(stage, math.nan)
        notes["stage"] = "its positions are all the same, so they are not used"
    by_stage = stage @ turn.T / size
    entries = _entries(path, tiles, names, cells)
    _require_within(path, entries, names, shape)
    pitch = _pitch(path, header, shape, entries, by_stage)
    try:
        sense = decide(cells, by_stage, pitch, entries, offsets)
    except ConventionError as error:
        raise MontageFileError(f"{path}: {error}") from error
    edges = _edges(entries, sense)
    mirrored = np.diag(sense.mirror) @ turn
    known = bool(np.isfinite(by_stage).all(axis=1).any())
    return Montage(
        path=path,
        names=names,
        cells=cells,
        nominal=sense.nominal,
        stage=stage / NM_PER_UM,
        to_stage=np.asarray(np.linalg.inv(mirrored) * (size / NM_PER_UM if known else math.nan)),
        shape=shape,
        pixel_size=size,
        angle=math.nan if angle is None else angle,
        images=tuple(_image(path, tile, name) for tile, name in zip(tiles, names, strict=True)),
        edges=edges,
        n_unmatched=_unmatched(entries, sense, edges),
        notes=notes | sense.notes,
        doubts=sense.doubts,
    )


# Tiles


def _first(values: Iterable[float | None]) -> float | None:
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


def _stage(tiles: Sequence[Tile]) -> NDArray[np.float64]:
    """Return the stage's (x, y) of each tile in nm, NaN where it is not told."""
    return np.array([tile.stage or (math.nan, math.nan) for tile in tiles])


def _tile_names(tiles: Sequence[Tile]) -> tuple[str, ...]:
    """Return a name of its own for each tile: its image's, with folders where these differ."""
    return distinct_names([tile.name or f"tile {number}" for number, tile in enumerate(tiles)])


def _cells(
    path: Path, tiles: Sequence[Tile], turn: NDArray[np.float64], notes: dict[str, str]
) -> NDArray[np.intp]:
    """Return the (row, column) of each tile."""
    cells = np.empty((len(tiles), 2), dtype=np.intp)
    explicit = any(tile.row is not None and tile.column is not None for tile in tiles)
    for number, tile in enumerate(tiles):
        name = tile.name or ""
        if tile.row is not None and tile.column is not None:
            cells[number] = tile.row, tile.column
        elif tile.raster is not None:
            cells[number] = round(tile.raster[1]), round(tile.raster[0])
        elif numbers := re.search(r"_(\d{1,6})_(\d{1,6})(\.\w+)?$", name):
            cells[number] = int(numbers[2]), int(numbers[1])
        else:
            raise MontageFileError(
                f"{path}, tile {number}{f' ({name})' * bool(name)}: it tells no place in the "
                "grid; expected raster_pos [column, row], or row and column"
            )
    if not explicit and _transposed(cells, _stage(tiles) @ turn.T):
        cells = cells[:, ::-1].copy()
        notes["raster positions"] = "[row, column], by the stage"
    return cells


def _last_takes(
    tiles: Sequence[Tile], cells: NDArray[np.intp], notes: dict[str, str]
) -> tuple[list[Tile], NDArray[np.intp]]:
    """Leave out tiles that were taken again: of a place, the last counts."""
    last = {tuple(cell): number for number, cell in enumerate(cells.tolist())}
    if len(last) < len(tiles):
        notes["taken again"] = f"{len(tiles) - len(last)} tiles; the last of each counts"
    kept = sorted(last.values())
    return [tiles[number] for number in kept], cells[kept]


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
    index = {(row, column): number for number, (row, column) in enumerate(cells.tolist())}
    found = [(number, entry) for number, tile in enumerate(tiles) for entry in tile.matcher or ()]
    points = [
        _both(entry, f"{path}, tile {number} ({names[number]}), matcher {place}")
        for number, tile in enumerate(tiles)
        for place, entry in enumerate(tile.matcher or ())
    ]
    steps, spread = _medians(points)
    told = np.array([_told_sd(entry) for _, entry in found])
    return Entries(
        tile=np.array([number for number, _ in found], dtype=np.intp),
        code=np.array([entry.code for _, entry in found], dtype=np.str_),
        told=np.array([_told(entry, index) for _, entry in found], dtype=np.intp),
        d=np.array([(_nan(entry.dy), _nan(entry.dx)) for _, entry in found]).reshape(-1, 2),
        step=steps,
        sd=np.maximum(np.where(np.isfinite(spread), spread, told), MIN_SD),
        quality=np.array(
            [1.0 if entry.match_quality is None else entry.match_quality for _, entry in found]
        ),
        matched=np.array([entry.matched for _, entry in found], dtype=bool),
        points=tuple(points),
        side=np.zeros((len(found), 2), dtype=np.intp),
    )


def _require_within(
    path: Path, entries: Entries, names: Sequence[str], shape: tuple[int, int]
) -> None:
    """Refuse points of which most lie outside of the tiles, which are of another size then."""
    if not any(map(len, entries.points)):
        return
    count = [len(points) for points in entries.points]
    points = np.concatenate(entries.points).reshape(-1, 2, 2)
    away = np.maximum(-points, points - (np.array(shape) - 1)) / shape
    if np.median(away.max(axis=2)) <= MAX_BEYOND and away.max() <= MAX_FAR:
        return
    worst, which = np.unravel_index(away.max(axis=2).argmax(), away.shape[:2])
    row, column = points[worst, which]
    tile = int(np.repeat(entries.tile, count)[worst])
    raise MontageFileError(
        f"{path}, tile {tile} ({names[tile]}): a match has a point at column {column:.6g} and row "
        f"{row:.6g}, outside of tiles of {shape[0]} × {shape[1]} px; expected the size of its "
        "images in camera_info"
    )


def _both(entry: Matcher, where: str) -> NDArray[np.float64]:
    """Return the points of an entry, [row, column] of q and of p."""
    lengths = {len(values) for values in (entry.px, entry.py, entry.qx, entry.qy)}
    if len(lengths) > 1:
        raise MontageFileError(
            f"{where}: pX, pY, qX and qY have the lengths {sorted(lengths)}; expected as many of "
            "each"
        )
    if not entry.matched:
        return np.empty((0, 4))
    return np.array([entry.qy, entry.qx, entry.py, entry.px], dtype=float).T.reshape(-1, 4)


def _told(entry: Matcher, index: dict[tuple[int, int], int]) -> int:
    if entry.row is None or entry.column is None:
        return -1
    return index.get((entry.row, entry.column), -1)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _medians(
    points: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the median p − q of each entry's points, and its standard deviation; or NaN.

    A patch that slipped does not count: 1.4826 of the median deviation is a normal one's.
    """
    lengths = np.array([len(one) for one in points], dtype=np.intp)
    steps, sd = np.full((len(points), 2), np.nan), np.full(len(points), np.nan)
    for length in np.unique(lengths[lengths > 0]).tolist():
        which = np.flatnonzero(lengths == length)
        both = np.array([points[one] for one in which.tolist()])
        apart = both[:, :, 2:] - both[:, :, :2]
        steps[which] = np.median(apart, axis=1)
        if length > 1:
            spread = 1.4826 * np.median(np.abs(apart - steps[which, None]), axis=1)
            sd[which] = np.sqrt((spread**2).mean(axis=1) / length)
    return steps, sd


def _told_sd(entry: Matcher) -> float:
    """Return the standard deviation that an entry tells of its offset, in px."""
    told = [value for value in (entry.dx_sd, entry.dy_sd) if value is not None and value > 0]
    return sum(told) / len(told) if told else DEFAULT_SD


def _edges(entries: Entries, sense: Sense) -> Edges:
    """Take each pair of neighbours once, whether one of them, both, or both often tell of it."""
    known = (sense.others >= 0) & (sense.others != entries.tile)
    known &= entries.matched & np.isfinite(sense.offsets).all(axis=1)
    pairs: dict[tuple[int, int], list[int]] = {}
    for one in np.flatnonzero(known).tolist():
        ends = sorted((int(entries.tile[one]), int(sense.others[one])))
        pairs.setdefault((ends[0], ends[1]), []).append(one)
    merged = [_merged(entries, sense, several, a) for (a, _), several in pairs.items()]
    return Edges(
        np.array(list(pairs), dtype=np.intp).reshape(-1, 2),
        np.array([offset for offset, _, _ in merged]).reshape(-1, 2),
        np.array([sd for _, sd, _ in merged]),
        tuple(points for _, _, points in merged),
    )


def _merged(
    entries: Entries, sense: Sense, several: list[int], a: int
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Return offset, sd and points of a pair, from the entries that agree on it."""
    # An entry gives the place of its tile minus that of the neighbour.
    if len(several) == 1:
        (one,) = several
        sign = -1.0 if entries.tile[one] == a else 1.0
        return (
            sign * sense.offsets[one],
            float(entries.sd[one]),
            _points(entries, several, a, sense.flip),
        )
    signs = np.where(entries.tile[several] == a, -1.0, 1.0)
    steps = sense.offsets[several] * signs[:, None]
    apart = np.linalg.norm(steps[:, None] - steps, axis=2)
    best = np.lexsort((-entries.quality[several], apart.sum(axis=1).round(3)))[0]
    agreeing = apart[best] <= SAME
    chosen = [one for one, agrees in zip(several, agreeing.tolist(), strict=True) if agrees]
    sd = float(np.mean(entries.sd[chosen]))
    return steps[agreeing].mean(axis=0), sd, _points(entries, chosen, a, sense.flip)


def _points(entries: Entries, chosen: Sequence[int], a: int, flip: float) -> NDArray[np.float64]:
    """Return the points of entries as places in tile a and in the other."""
    tables = []
    for one in chosen:
        both = entries.points[one]
        table = np.empty((len(both), 6))
        # q and p: q is in the tile itself, if p is in the neighbour.
        straight = (entries.tile[one] == a) == (flip > 0)
        table[:, :4] = both if straight else both[:, [2, 3, 0, 1]]
        table[:, 4] = max(entries.sd[one] * math.sqrt(len(both)), MIN_SD)
        table[:, 5] = 1 / max(len(both), 1)
        tables.append(table)
    return tables[0] if len(tables) == 1 else np.concatenate(tables)


def _unmatched(entries: Entries, sense: Sense, edges: Edges) -> int:
    """Count the pairs of neighbours of which the file tells, but no offset."""
    known = sense.others >= 0
    told = np.sort(np.column_stack([entries.tile, sense.others])[known], axis=1)
    return len({*map(tuple, told.tolist())} - {*map(tuple, np.sort(edges.pairs, axis=1).tolist())})
