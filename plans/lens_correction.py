"""Tiles from which a callback works the lens's distortion out: a few, with a large overlap.

Each place of the specimen is seen through many parts of the lens, and must look the same in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bluesky.utils import MsgGenerator

from plans import checks, names
from plans.exposures import read_calibration
from plans.metadata import start_document
from plans.tiles import TileTaker, describe_grid, take_grid
from processing.geometry import FrameGeometry, Grid, Region, plan_grid

MIN_SIDE, MAX_SIDE = 2, 9  # tiles
MIN_OVERLAP, MAX_OVERLAP = (
    20.0,
    80.0,
)  # %: matches of thin overlaps say nothing of the frame's middle


def lens_correction(
    camera: Any,
    stage: Any,
    scope: Any,
    centre: Sequence[float],
    *,
    overlap: float = 60.0,
    side: int = 3,
    settle: float = 0.3,
    exposure: float | None = None,
    references: Mapping[str, str | None] | None = None,
    retries: int = 1,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take a square of tiles with a large overlap, for the correction of the lens's distortion.

    Do so at least daily, and after any change of the beam or the magnification. Choose a place with
    texture everywhere. The grid lies along the image's axes, as a montage's does.

    Parameters
    ----------
    camera, stage, scope : device
    centre : (float, float)
        Stage (x, y) of the middle tile, in µm.
    overlap : float
        Between neighbours, in percent of a tile, 20 to 80.
    side : int
        Tiles along each side of the square.
    settle : float
        Seconds to wait after each move.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    references : mapping, optional
        Uids of the runs of `brightfield` and `darkfield` to correct with, by ``bright``, ``dark``.
    retries : int
        How often a tile is tried again, at once, if the camera fails.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    str
        Uid of the run, for ``references={"lens": …}`` of a montage.

    Raises
    ------
    TypeError, ValueError
        If an argument is bad or a tile is out of reach; nothing has moved then.
    TileError
        If a tile could not be taken.

    See Also
    --------
    montage : what the correction is for.

    Examples
    --------
    >>> lens = yield from lens_correction(camera, stage, scope, (120, -40))
    >>> yield from montage(camera, stage, scope, roi, references={"lens": lens})
    """
    checks.camera(camera)
    checks.stage(stage)
    checks.scope(scope)
    place = checks.place("centre", centre)
    overlap = checks.number("overlap", overlap, MIN_OVERLAP, MAX_OVERLAP, "%")
    side = checks.whole("side", side, MIN_SIDE, MAX_SIDE)
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    retries = checks.whole("retries", retries, 0, checks.MAX_RETAKES)
    reference_uids = checks.references(references)
    if reference_uids["lens"] is not None:
        raise ValueError("references has lens; tiles that a lens is fitted to are not corrected")
    calibration = yield from read_calibration(camera, scope)
    grid = square(place, side, calibration.geometry, calibration.shape, overlap)
    checks.grid_in_reach(grid, stage, "centre")

    _md = start_document(
        names.LENS_CORRECTION,
        {
            "camera": camera.name,
            "stage": stage.name,
            "scope": scope.name,
            "centre": list(place),
            "overlap": overlap,
            "side": side,
            "settle": settle,
            "exposure": exposure,
            "references": reference_uids,
            "retries": retries,
        },
        sample=checks.sample(sample),
        operator=checks.text("operator", operator),
        hints={"dimensions": [([stage.x.name, stage.y.name], names.PRIMARY)]},
        num_points=len(grid.tiles),
        grid=describe_grid(grid, overlap),  # not `montage`: what has one is stitched and judged
        calibration=calibration.to_dict(),
        references=reference_uids,
    )
    _md.update(md or {})
    taker = TileTaker(camera, stage, scope, grid, settle, retries)
    return (yield from take_grid(taker, _md, exposure))


def square(
    centre: tuple[float, float],
    side: int,
    geometry: FrameGeometry,
    shape: tuple[int, int],
    overlap: float,
) -> Grid:
    """Lay a square of tiles about a place.

    Parameters
    ----------
    centre : (float, float)
        Stage (x, y), in µm.
    side : int
        Tiles along each side.
    geometry : FrameGeometry
    shape : (int, int)
        (height, width) of a tile, in px.
    overlap : float
        In percent.

    Returns
    -------
    Grid
    """
    # A region that leaves half a step to spare needs just so many tiles.
    height, width = geometry.size(shape) * (1 + (side - 1.5) * (1 - overlap / 100))
    region = Region.rectangle(centre, float(width), float(height), geometry.angle)
    return plan_grid(region, geometry, shape, overlap=overlap)
