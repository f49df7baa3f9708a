"""A montage: tiles over a region of interest, one event each.

Every tile is moved to, settled, exposed and recorded before the next; each step can be paused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bluesky.utils import MsgGenerator

from devices import FocusFit
from plans import checks, names
from plans.exposures import (
    declare,
    in_run,
    read_calibration,
    set_exposure,
    value_of,
)
from plans.focus import AutofocusSettings, FocusError, find_focus
from plans.gate import QualityGate, ask
from plans.metadata import start_document
from plans.safety import illuminated, leaves_safe, staged
from plans.tiles import TileTaker, describe_grid
from processing.geometry import GridTile, Region, plan_grid

_log = logging.getLogger(__name__)


def montage(
    camera: Any,
    stage: Any,
    scope: Any,
    roi: Region | Mapping[str, Any],
    *,
    overlap: float = 10.0,
    min_overlap: float = 0.0,
    pattern: Literal["serpentine", "raster"] = "serpentine",
    settle: float = 0.1,
    exposure: float | None = None,
    focus: Literal["none", "once", "row"] | int = "none",
    focus_range: float = 20.0,
    focus_steps: int = 9,
    references: Mapping[str, str | None] | None = None,
    gate: QualityGate | None = None,
    retakes: int = 1,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Cover a region of interest with overlapping tiles.

    The grid lies along the image's axes, turned against the stage as the microscope says. Tiles
    that do not touch the region are skipped. The plan can be paused, resumed, stopped and aborted
    at any moment: a tile that was cut off is taken again, none is recorded twice, and the
    microscope is left safe.

    Parameters
    ----------
    camera, stage, scope : device
    roi : Region or mapping
        What to cover: ``{"vertices": [(x, y), …]}``, or ``{"centre": (x, y), "width": …,
        "height": …, "angle": …}``, in µm and degrees.
    overlap : float
        Between neighbours, in percent of a tile.
    min_overlap : float
        The least overlap, in µm; the larger of the two counts.
    pattern : {"serpentine", "raster"}
        Whether every second row runs back.
    settle : float
        Seconds to wait after each move.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    focus : {"none", "once", "row"} or int
        When to autofocus: never, at the first tile, at the first tile of each row, or every n
        tiles. One that fails is recorded, and the montage goes on with the last good focus.
    focus_range : float
        From the first defocus of an autofocus series to the last, in µm.
    focus_steps : int
        Frames of an autofocus series.
    references : mapping, optional
        Uids of the runs of `brightfield`, `darkfield` and `lens_correction` to correct with, by
        ``bright``, ``dark`` and ``lens``.
    gate : QualityGate, optional
        Asked, after the last tile, which ones to take again.
    retakes : int
        How often a tile is taken again: at once after a camera fault, and as often again if the
        gate asks for it. Each event of a tile after its first has a higher ``tile_attempt``.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    TypeError, ValueError
        If an argument is bad or the region is out of reach; nothing has moved then.
    TileError
        If a tile could not be taken.

    See Also
    --------
    brightfield, darkfield : take the references.
    autofocus : what `focus` does, by itself.

    Examples
    --------
    >>> roi = {"centre": (0, 0), "width": 40, "height": 30}
    >>> RE(montage(camera, stage, scope, roi, overlap=12, focus="row", sample="M21-S0042"))
    """
    checks.camera(camera)
    checks.stage(stage)
    checks.scope(scope)
    region = checks.region(roi)
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    focus_policy = checks.focus_policy(focus)
    retakes = checks.whole("retakes", retakes, 0, checks.MAX_RETAKES)
    reference_uids = checks.references(references)
    checks.number("overlap", overlap, 0, 100, "%")
    checks.number("min_overlap", min_overlap, 0, float("inf"), "µm")
    if gate is not None:
        checks.device("gate", gate, "failed")
    autofocus = AutofocusSettings(focus_range, focus_steps, settle=settle)
    defocus = yield from value_of(scope.defocus)
    if focus_policy != "none":
        autofocus.check(defocus, scope)
    calibration = yield from read_calibration(camera, scope)
    grid = plan_grid(
        region,
        calibration.geometry,
        calibration.shape,
        overlap=overlap,
        min_overlap=min_overlap,
        pattern=pattern,
    )
    checks.grid_in_reach(grid, stage)

    _md = start_document(
        names.MONTAGE,
        {
            "camera": camera.name,
            "stage": stage.name,
            "scope": scope.name,
            "roi": region.to_dict(),
            "overlap": overlap,
            "min_overlap": min_overlap,
            "pattern": pattern,
            "settle": settle,
            "exposure": exposure,
            "focus": focus_policy,
            "focus_range": focus_range,
            "focus_steps": focus_steps,
            "references": reference_uids,
            "gate": type(gate).__name__ if gate is not None else None,
            "retakes": retakes,
        },
        sample=checks.sample(sample),
        operator=checks.text("operator", operator),
        hints={"dimensions": [([stage.x.name, stage.y.name], names.PRIMARY)]},
        num_points=len(grid.tiles),
        roi=region.to_dict(),
        montage=describe_grid(grid, overlap, min_overlap),
        calibration=calibration.to_dict(),
        references=reference_uids,
    )
    _md.update(md or {})
    tiles = TileTaker(camera, stage, scope, grid, settle, retries=retakes)
    work = _Montage(tiles, focus_policy, autofocus, defocus)

    def inner_montage(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, exposure)
        yield from work.declare()
        yield from illuminated(work.take(grid.tiles), scope)
        for _ in range(retakes):
            if gate is None:
                break
            failed = yield from ask(gate, uid, len(grid.tiles))
            if not failed:
                break
            _log.info("taking %d tiles again that the quality gate refused", len(failed))
            again = [grid.tiles[index] for index in failed]
            yield from illuminated(work.take(again, focus_first=False), scope)

    plan = staged(in_run(inner_montage, _md), camera)
    uid, _ = yield from leaves_safe(plan, scope)
    return str(uid)


@dataclass
class _Montage:
    """A montage on its way: what takes its tiles, and the focus that it has to remember."""

    tiles: TileTaker
    focus: str | int
    autofocus: AutofocusSettings
    defocus: float
    fit: FocusFit = field(default_factory=lambda: FocusFit(name=names.AUTOFOCUS_DEVICE))

    def declare(self) -> MsgGenerator[None]:
        """Describe the streams."""
        yield from self.tiles.declare()
        if self.focus != "none":
            yield from self.tiles.declare(names.FOCUS)
            yield from declare(names.AUTOFOCUS_FIT, self.fit)

    def take(self, tiles: Iterable[GridTile], focus_first: bool = True) -> MsgGenerator[None]:
        """Take tiles in order, focusing on the way."""
        row = None
        for tile in tiles:
            if focus_first and self._focus_is_due(tile, row):
                yield from self._focus_at(tile)
            row = tile.row
            yield from self.tiles.take(tile)

    def _focus_is_due(self, tile: GridTile, row: int | None) -> bool:
        if isinstance(self.focus, int):
            return tile.index % self.focus == 0
        return (self.focus == "once" and tile.index == 0) or (
            self.focus == "row" and tile.row != row
        )

    def _focus_at(self, tile: GridTile) -> MsgGenerator[None]:
        """Autofocus at a tile; one that fails, by its frames or its fit, ends nothing."""
        try:
            found = yield from find_focus(
                self.tiles.camera,
                self.tiles.scope,
                self.fit,
                self.autofocus,
                centre=self.defocus,
                stream=names.FOCUS,
                readables=self.tiles.readables,
                place=self.tiles.place(tile),
                tile=tile.index,
            )
        except FocusError as error:
            _log.warning("tile %d: %s", tile.index, error)
        else:
            self.defocus = found.defocus
