"""All stitchers on one montage of the virtual microscope, in either world, judged by its truth.

Positions alone are judged as such; who bends tiles is judged by where it puts what they show.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks._montages import JUDGED, KnownMontage, ToMosaic, shifted, take_montage
from benchmarks._report import Result
from benchmarks.peers import Stitched
from formats.options import ReadOptions
from processing.matching import Match
from processing.solve import solve_maps_of_matches
from processing.stitch import match_neighbours
from services.stitch import StitchRequest, stitch
from simulation import World

OVERLAP, REACH = 0.12, 60.0  # share of a tile; px that the stage may stray from tile to tile
NAMES = {
    "ashlar": "ASHLAR",
    "m2stitch": "m2stitch",
    "feabas": "FEABAS",
    "bigfeta": "BigFeta, on temline's matches, best of five stiffnesses",
}
GOAL = {"kind": 0.3}  # px RMS, of `temline stitch`

Matches = dict[tuple[int, int], Match]


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a stitcher made of the montage.

    Attributes
    ----------
    error : float
        RMS distance of what tiles show from where it should be, in px; NaN if there is no answer.
    seconds : float
        Of the processor, all threads.
    said : str
        Why there is no answer.
    """

    error: float
    seconds: float
    said: str = ""


def measure_world(quick: bool, world: World) -> Iterator[Result]:
    """Stitch a montage of a world with everything that is there."""
    count, side = (3, 384) if quick else (6, 1024)
    montage = take_montage(world, rows=count, columns=count, side=side, overlap=OVERLAP)
    _temline(montage)  # the first run of all may compile
    answer, matches = _temline(montage)
    answers = {"temline": answer}
    with tempfile.TemporaryDirectory() as folder:
        answers["temline stitch, from files to a mosaic"] = _from_files(montage, Path(folder))
        if not quick:
            answers |= dict(_peers(montage, matches, Path(folder)))
    for name, answer in answers.items():
        goal = GOAL.get(world) if name.startswith("temline") else None
        label = f"{count} × {count} tiles of the virtual microscope"
        yield Result(f"{label}: RMS error, {name}", answer.error, "px", answer.said, goal=goal)
        a_tile = 1e3 * answer.seconds / len(montage.tiles)
        yield Result(f"{label}: CPU time a tile, {name}", a_tile, "ms")


def _temline(montage: KnownMontage) -> tuple[_Answer, Matches]:
    """Match and solve tiles in memory."""
    shape = montage.tiles.shape[1:]
    lost = ~montage.masks
    masked = [np.ma.MaskedArray(*pair) for pair in zip(montage.tiles, lost, strict=True)]
    began = time.process_time()
    matches = match_neighbours(masked.__getitem__, montage.nominal, shape, reach=REACH)
    maps = solve_maps_of_matches(montage.nominal, matches, shape).maps
    seconds = time.process_time() - began
    return _Answer(_rms(montage, maps.forward), seconds), matches


def _from_files(montage: KnownMontage, folder: Path) -> _Answer:
    """Stitch a folder of TIFF files: read, look at light, find how tiles lie, …, write a mosaic."""
    tiles = folder / "tiles"
    tiles.mkdir()
    for (row, column), tile in zip(montage.grid, montage.tiles, strict=True):
        tifffile.imwrite(tiles / f"tile_r{row:02d}_c{column:02d}.tif", tile)
    request = StitchRequest(
        (tiles,), folder / "mosaic.ome.zarr", options=ReadOptions(pixel_size=4.0)
    )
    began = time.process_time()
    solution = stitch(request).solved.solution
    return _Answer(_rms(montage, solution.maps.forward), time.process_time() - began)


def _peers(montage: KnownMontage, matches: Matches, folder: Path) -> Iterator[tuple[str, _Answer]]:
    """Let every peer that can be installed stitch the tiles."""
    tiles = folder / "tiles.npz"
    good = {pair: match for pair, match in matches.items() if match.good}
    points = [
        np.column_stack([np.full(len(match.points), number), match.points])
        for number, match in enumerate(good.values())
    ]
    pixels = _judged(montage)
    np.savez(
        tiles,
        tiles=montage.tiles,
        nominal=montage.nominal,
        grid=montage.grid,
        reach=REACH,
        pairs=np.array(list(good)),
        points=np.concatenate(points),
        pixels=pixels,
    )
    for name, label in NAMES.items():
        why = peers.install(name)
        answer = (
            Stitched(None, said=f"not installed: {why}")
            if why
            else peers.stitch(name, tiles, folder)
        )
        yield label, _Answer(_error(montage, answer), answer.seconds, answer.said)


def _judged(montage: KnownMontage) -> NDArray[np.float64]:
    """Return the pixels that `KnownMontage.errors` asks for, in its order."""
    asked: list[NDArray[np.float64]] = []

    def ask(_: int, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        asked.append(pixels)
        return pixels

    montage.errors(ask)
    return asked[0]


def _error(montage: KnownMontage, answer: Stitched) -> float:
    """Judge a peer: by places of pixels if it gave any, of several solutions the best."""
    if answer.places is not None:
        solutions = answer.places.reshape(-1, len(montage.tiles), JUDGED**2, 2)
        return min(_rms(montage, _looked_up(places)) for places in solutions)
    if answer.positions is not None:
        return _rms(montage, shifted(answer.positions))
    return float("nan")


def _looked_up(places: NDArray[np.float64]) -> ToMosaic:
    return lambda index, _: places[index]


def _rms(montage: KnownMontage, to_mosaic: ToMosaic) -> float:
    return float(np.sqrt((montage.errors(to_mosaic) ** 2).mean()))
