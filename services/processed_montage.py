"""Reads processed runs of temline from Tiled, as exporters take them.

So that what this stack acquired goes to a lab's tools in the same way as what was taken long ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.montage import AffineMap, MontageFileError, PlacedMontage, PlacedTile, in_xy
from processing.lens import LensModel

PLAN_NAME = "process_montage"


@dataclass(frozen=True, eq=False)
class Run:
    """A processed run: where its tiles lie, and how to read their pixels.

    Attributes
    ----------
    montage : PlacedMontage
    frames : callable
        Gives the processed frames of the montage's tiles, in order, one after another.
    """

    montage: PlacedMontage
    frames: Callable[[], Iterator[NDArray[np.generic]]]


def read_run(client: Any, uid: str) -> Run:
    """Read a processed run, or the newest one of a raw run.

    Parameters
    ----------
    client : tiled.client.container.Container
        Of the catalogue of runs.
    uid : str
        Of the processed run, or of the raw one.

    Returns
    -------
    Run

    Raises
    ------
    MontageFileError
        If there is no such run, or it holds no solved montage.
    """
    run, raw = _find(client, uid)
    if "position" not in run:
        raise MontageFileError(
            f"run {run.start['uid']} holds no stream `position`: its montage is not solved (yet)"
        )
    layout, calibration = raw.start["montage"], run.start["calibration"]
    # A tile that was taken again has several events; the last is the one that was solved.
    takes = _table(run, "tile")
    rows = {int(index): number for number, index in enumerate(takes["tile_index"])}
    places = _table(run, "position").sort_values("tile_index")
    shape = int(layout["tile_shape"][0]), int(layout["tile_shape"][1])
    maps, lens = _maps(run, shape)
    tiles = tuple(
        PlacedTile(
            tile=f"{run.start['uid']}_{place.tile_index:05d}",
            row=int(layout["tiles"][int(place.tile_index)][0]),
            column=int(layout["tiles"][int(place.tile_index)][1]),
            x_px=float(place.column_px),
            y_px=float(place.row_px),
            sd_x_px=float(place.sd_col),
            sd_y_px=float(place.sd_row),
            residual_px=float(place.residual_px),
            placed_by=str(place.placed_by),
            component=int(place.component),
            stage_x_um=float(place.x),
            stage_y_um=float(place.y),
            map=maps.get(int(place.tile_index)),
        )
        for place in places.itertuples()
    )
    numbers = [rows[int(index)] for index in places["tile_index"]]
    montage = PlacedMontage(
        name=str(run.start["uid"]),
        tiles=tiles,
        shape=shape,
        pixel_size=float(calibration["pixel_size"]),
        angle=float(calibration.get("angle", 0.0)),
        lens=lens,
    )
    return Run(montage, lambda: _frames(run, numbers))


def _maps(
    run: Any, shape: tuple[int, int]
) -> tuple[dict[int, AffineMap], NDArray[np.float64] | None]:
    """Return the map of each tile, by its index, and the lens that all share, where there are."""
    if "affine" not in run:
        return {}, None
    maps = {
        int(one.tile_index): in_xy(
            np.array(
                [
                    (one.row_by_row, one.row_by_column, one.row_px),
                    (one.column_by_row, one.column_by_column, one.column_px),
                ]
            )
        )
        for one in _table(run, "affine").itertuples()
    }
    if "lens" not in run:
        return maps, None
    found = _table(run, "lens").sort_values("seq_num")
    degree = int((found["order_row"] + found["order_column"]).max())
    rows, columns = (tuple(found[name].tolist()) for name in ("shift_row", "shift_column"))
    return maps, LensModel(shape, (rows, columns), degree).powers


def _find(client: Any, uid: str) -> tuple[Any, Any]:
    """Give the processed run and the raw one."""
    from tiled.queries import Key

    if uid not in client:
        raise MontageFileError(f"there is no run {uid} in the catalogue {client.uri}")
    run = client[uid]
    if run.start.get("plan_name") != PLAN_NAME:
        processed = client.search(Key("start.raw_uid") == uid)
        montages = [one for one in processed.values() if one.start["plan_name"] == PLAN_NAME]
        if not montages:
            raise MontageFileError(
                f"run {uid} ({run.start.get('plan_name')}) was not processed as a montage"
            )
        return montages[-1], run
    raw_uid = run.start["raw_uid"]
    if raw_uid not in client:
        raise MontageFileError(f"the raw run {raw_uid} of {uid} is not in the catalogue")
    return run, client[raw_uid]


def _table(run: Any, stream: str) -> Any:
    return run[stream].base["internal"].read()


def _frames(run: Any, numbers: list[int]) -> Iterator[NDArray[np.generic]]:
    if "frame" not in run["tile"]:
        raise MontageFileError(
            f"run {run.start['uid']} kept no processed frames: add `frame` to processing.write"
        )
    frames = run["tile"]["frame"]
    for number in numbers:
        yield np.squeeze(np.asarray(frames[number]))
