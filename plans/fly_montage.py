"""A montage flown by the sequencer: as `montage`, at the speed of the hardware.

The tiles of a row cost no message; the gate, the focus and what failed are dealt with in between.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from devices import FocusFit
from plans import checks, names
from plans.exposures import acquisition, declare, read_calibration, set_exposure, value_of
from plans.flying import TileFlyer, ends_of_rows
from plans.focus import AutofocusSettings, FocusError, find_focus
from plans.gate import QualityGate
from plans.metadata import start_document
from plans.montage import MontageResult
from plans.safety import illuminated, staged
from plans.steering import Steering
from plans.tiles import describe_grid
from processing.geometry import GridTile, Region, plan_grid

_log = logging.getLogger(__name__)


def fly_montage(
    sequencer: Any,
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
    max_behind: int = 32,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[MontageResult]:
    """Cover a region of interest with overlapping tiles, at the speed of the hardware."""
    checks.camera(camera)
    checks.device("sequencer", sequencer, "kickoff", "complete", "hold_after")
    checks.stage(stage)
    checks.scope(scope)
    region = checks.region(roi)
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    focus_policy = checks.focus_policy(focus)
    retakes = checks.whole("retakes", retakes, 0, checks.MAX_RETAKES)
    max_behind = checks.whole("max_behind", max_behind, 1, checks.MAX_BEHIND)
    reference_uids = checks.references(references)
    checks.number("overlap", overlap, 0, 100, "%")
    checks.number("min_overlap", min_overlap, 0, float("inf"), "µm")
    if gate is not None:
        checks.device("gate", gate, "advice", "failed")
    autofocus = AutofocusSettings(focus_range, focus_steps, settle=settle)
    defocus = yield from value_of(scope.defocus)
    if focus_policy != "none" or gate is not None:
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
        names.FLY_MONTAGE,
        {
            "sequencer": sequencer.name,
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
            "max_behind": max_behind,
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={"dimensions": [([stage.x.name, stage.y.name], names.PRIMARY)]},
        num_points=len(grid.tiles),
        roi=region.to_dict(),
        montage=describe_grid(grid, overlap, min_overlap),
        calibration=calibration.to_dict(),
        references=reference_uids,
    )
    seconds = exposure
    if seconds is None:
        seconds = yield from value_of(camera.cam.acquire_time)
    tiles = TileFlyer(sequencer, camera, stage, scope, grid, float(seconds), retries=retakes)
    steering = Steering(tiles, retakes, max_behind)
    work = _FlownMontage(tiles, steering, focus_policy, autofocus, defocus)

    def inner_montage(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, exposure)
        yield from bps.abs_set(sequencer.settle, settle, wait=True)
        yield from tiles.load(grid.tiles)
        yield from work.declare(may_focus=focus_policy != "none" or gate is not None)
        if gate is not None and uid:  # in a dry run there is none
            steering.consult(gate, uid)
        yield from illuminated(tiles.accounted(work.fly()), scope)
        while again := (yield from steering.to_retake_at_end()):
            yield from tiles.load(again)
            yield from illuminated(tiles.accounted(work.fly()), scope)

    plan = acquisition(inner_montage, _md, camera, scope, steering.ending)
    uid, _ = yield from staged(plan, sequencer)
    return MontageResult(
        str(uid),
        tiles=len(tiles.attempts),
        retaken=tiles.attempts.total() - len(tiles.attempts),
        failed=steering.failed,
        stop=steering.stop,
        reason=steering.reason,
    )


@dataclass
class _FlownMontage:
    """A flown montage on its way: what flies and steers its tiles, and the focus it remembers."""

    tiles: TileFlyer
    steering: Steering
    focus: str | int
    autofocus: AutofocusSettings
    defocus: float
    fit: FocusFit = field(default_factory=lambda: FocusFit(name=names.AUTOFOCUS_DEVICE))
    _hold: GridTile | None = None  # after which the sequencer was asked to rest
    _focused: set[int] = field(default_factory=set)  # tiles before which it was focused

    def declare(self, may_focus: bool) -> MsgGenerator[None]:
        """Describe the streams."""
        yield from self.tiles.declare()
        if may_focus:
            yield from declare(names.FOCUS, self.tiles.camera, *self.tiles.readables)
            yield from declare(names.AUTOFOCUS_FIT, self.fit)

    def fly(self) -> MsgGenerator[None]:
        """Fly what is loaded; at the ends of rows, what the gate has refused until then."""
        while (left := self.tiles.left) and not self.steering.stops_now:
            if self.steering.refocus_is_due or self._focus_is_due(left):
                yield from self._focus_at(left[0])
            yield from self._plan_hold(left)
            yield from self.tiles.fly(self._between)
            self._hold = None
            yield from self.steering.catch_up()
            yield from self._take_again(left)

    def _between(self, taken: list[GridTile]) -> MsgGenerator[bool]:
        """Ask the gate, now that some tiles are taken; say whether to rest at once."""
        if taken:
            yield from self.steering.after(*taken)
        if self.steering.wants_retakes and self._hold is None:
            yield from self._plan_hold(self.tiles.left)
        steering = self.steering
        return steering.stops_now or steering.refocus_is_due or steering.is_behind

    def _plan_hold(self, left: list[GridTile]) -> MsgGenerator[None]:
        """Have the sequencer rest where something is to be done: at the end of a row, or sooner."""
        if isinstance(self.focus, int):
            wanted = [a for a, b in pairwise(left) if b.index % self.focus == 0]
        elif self.focus == "row" or self.steering.wants_retakes:
            wanted = ends_of_rows(left)
        else:
            return
        for tile in wanted:
            if tile is not left[-1] and (yield from self.tiles.hold_after(tile)):
                self._hold = tile
                return

    def _take_again(self, before: list[GridTile]) -> MsgGenerator[None]:
        """Put what the gate has refused before what is left, if a row has come to its end."""
        left = self.tiles.left
        taken = [tile for tile in before if tile not in left]
        if self.steering.stops_now or not taken or (left and left[0].row == taken[-1].row):
            return
        again = self.steering.to_retake(then=left[0] if left else None)
        if again:
            yield from self.tiles.load([*again, *left])

    def _focus_is_due(self, left: list[GridTile]) -> bool:
        """Tell whether the policy wants a focus before the next tile."""
        tile = left[0]
        if tile.index in self._focused or self.tiles.attempts[tile.index]:
            return False
        if isinstance(self.focus, int):
            return tile.index % self.focus == 0
        if self.focus == "once":
            return not self._focused
        return self.focus == "row" and self._begins_row(tile)

    def _begins_row(self, tile: GridTile) -> bool:
        before = self.tiles.grid.tiles[tile.index - 1] if tile.index else None
        return before is None or before.row != tile.row

    def _focus_at(self, tile: GridTile) -> MsgGenerator[None]:
        """Autofocus at a tile; one that fails, by its frames or its fit, ends nothing."""
        self.steering.focused()
        self._focused.add(tile.index)
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
