"""What a montage is asked for, checked at the door: the grid, the settings and the start document.

Whichever way its tiles are then taken, its arguments, metadata and errors are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bluesky.utils import MsgGenerator

from plans import checks, names
from plans.exposures import Calibration, read_calibration, value_of
from plans.focus import AutofocusSettings
from plans.gate import QualityGate
from plans.image_shift import ShiftedTiles
from plans.metadata import start_document
from plans.tiles import describe_grid
from processing.geometry import Grid, GridTile, ImageShift, Region, plan_grid
from processing.geometry.grid import MAX_BLOCK, Pattern


@dataclass(frozen=True)
class MontageRequest:
    """A montage that can be taken; the arguments of `montage` of the same names.

    Attributes
    ----------
    camera, stage, scope : device
    grid : Grid
        The tiles, all within the stage's reach.
    calibration : Calibration
        What a frame shows.
    settle : float
        In s.
    exposure : float or None
        In s.
    focus : str or int
    autofocus : AutofocusSettings
    defocus : float
        What was set before, in µm.
    gate : QualityGate or None
    retakes, max_behind : int
    taken : frozenset of int
        Tiles that another run has, by index.
    shifts : ShiftedTiles or None
        The image shift of each tile, if the grid has any.
    metadata : dict
        Of the start document.
    """

    camera: Any
    stage: Any
    scope: Any
    grid: Grid
    calibration: Calibration
    settle: float
    exposure: float | None
    focus: str | int
    autofocus: AutofocusSettings
    defocus: float
    gate: QualityGate | None
    retakes: int
    max_behind: int
    taken: frozenset[int]
    shifts: ShiftedTiles | None
    metadata: dict[str, Any]

    @property
    def todo(self) -> list[GridTile]:
        """The tiles to take, in order."""
        return [tile for tile in self.grid.tiles if tile.index not in self.taken]

    @property
    def may_focus(self) -> bool:
        """Whether there can be an autofocus, by the policy or because the gate wants it."""
        return self.focus != "none" or self.gate is not None


def montage_request(
    plan_name: str,
    camera: Any,
    stage: Any,
    scope: Any,
    roi: Region | Mapping[str, Any],
    *,
    overlap: float,
    min_overlap: float,
    pattern: Pattern,
    block: int,
    image_shift: ImageShift | None,
    settle: float,
    exposure: float | None,
    focus: str | int,
    focus_range: float,
    focus_steps: int,
    references: Mapping[str, str | None] | None,
    gate: QualityGate | None,
    retakes: int,
    max_behind: int,
    taken: Collection[int],
    sample: str | dict[str, Any] | None,
    operator: str | None,
    md: Mapping[str, Any] | None,
) -> MsgGenerator[MontageRequest]:
    """Check the arguments of a montage, read the calibration, plan the grid; nothing moves.

    Parameters
    ----------
    plan_name : str
        For the start document.
    camera, stage, scope : device
    roi, overlap, min_overlap, pattern, block, image_shift, settle, exposure, focus, focus_range, \
focus_steps, references, gate, retakes, max_behind, taken, sample, operator, md
        As of `montage`.

    Returns
    -------
    MontageRequest

    Raises
    ------
    TypeError, ValueError
        If an argument is bad or the region is out of reach.
    """
    checks.camera(camera)
    checks.stage(stage)
    checks.scope(scope)
    region = checks.region(roi)
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    focus = checks.focus_policy(focus)
    retakes = checks.whole("retakes", retakes, 0, checks.MAX_RETAKES)
    max_behind = checks.whole("max_behind", max_behind, 1, checks.MAX_BEHIND)
    reference_uids = checks.references(references)
    checks.number("overlap", overlap, 0, 100, "%")
    checks.number("min_overlap", min_overlap, 0, float("inf"), "µm")
    block = checks.whole("block", block, 1, MAX_BLOCK)
    image_shift = checks.image_shift(image_shift)
    if gate is not None:
        checks.device("gate", gate, "advice", "failed")
    autofocus = AutofocusSettings(focus_range, focus_steps, settle=settle)
    defocus = yield from value_of(scope.defocus)
    if focus != "none" or gate is not None:
        autofocus.check(defocus, scope)
    calibration = yield from read_calibration(camera, scope)
    grid = plan_grid(
        region,
        calibration.geometry,
        calibration.shape,
        overlap=overlap,
        min_overlap=min_overlap,
        pattern=pattern,
        block=block,
        image_shift=image_shift,
    )
    checks.grid_in_reach(grid, stage)
    taken = checks.taken(taken, len(grid.tiles))
    shifts = None
    if grid.pattern == "blocks":
        shifts = yield from ShiftedTiles.over(scope, image_shift)
        shifts.check(grid)

    metadata = start_document(
        plan_name,
        {
            "camera": camera.name,
            "stage": stage.name,
            "scope": scope.name,
            "roi": region.to_dict(),
            "overlap": overlap,
            "min_overlap": min_overlap,
            "pattern": pattern,
            "block": block,
            "image_shift": image_shift.to_dict(),
            "settle": settle,
            "exposure": exposure,
            "focus": focus,
            "focus_range": focus_range,
            "focus_steps": focus_steps,
            "references": reference_uids,
            "gate": type(gate).__name__ if gate is not None else None,
            "retakes": retakes,
            "max_behind": max_behind,
            "taken": sorted(taken),
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={"dimensions": [([stage.x.name, stage.y.name], names.PRIMARY)]},
        num_points=len(grid.tiles) - len(taken),
        roi=region.to_dict(),
        montage=describe_grid(grid, overlap, min_overlap),
        calibration=calibration.to_dict(),
        references=reference_uids,
    )
    return MontageRequest(
        camera,
        stage,
        scope,
        grid,
        calibration,
        settle,
        exposure,
        focus,
        autofocus,
        defocus,
        gate,
        retakes,
        max_behind,
        taken,
        shifts,
        metadata,
    )
