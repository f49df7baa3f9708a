"""A montage: tiles over a region of interest, one event each.

Every tile is moved to, settled, exposed and recorded before the next; each step can be paused, and
a quality gate steers between them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Literal

from bluesky.utils import MsgGenerator

from devices import FocusFit
from plans import checks, names
from plans.exposures import (
    acquisition,
    declare,
    read_calibration,
    set_exposure,
    value_of,
)
from plans.focus import AutofocusSettings, FocusError, find_focus
from plans.gate import QualityGate
from plans.metadata import start_document
from plans.safety import illuminated
from plans.steering import Steering
from plans.tiles import TileTaker, describe_grid
from processing.geometry import GridTile, Region, plan_grid

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MontageResult:
    """A montage that was taken.

    Attributes
    ----------
    uid : str
        Of the run.
    tiles : int
        Tiles that were taken.
    retaken : int
        How often tiles were taken again because the gate refused them.
    failed : tuple of int
        Tiles that the gate refused as they were taken last, by index.
    stop : {"", "at_end", "now"}
        Whether the gate wants no other montage after this, or ended this one before it was whole.
    reason : str
        Why.
    """

    uid: str
    tiles: int
    retaken: int
    failed: tuple[int, ...]
    stop: Literal["", "at_end", "now"]
    reason: str


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
    max_behind: int = 32,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[MontageResult]:
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
        Asked after each tile what to do: take tiles again, which is done at the end of a row and
        at the end of all; focus before the next tile; end the montage, at once or after it.
    retakes : int
        How often a tile is taken again: at once after a camera fault, and as often again if the
        gate asks for it. Each event of a tile after its first has a higher ``tile_attempt``.
    max_behind : int
        Tiles that may be taken but not judged by the gate; beyond that the montage waits, with the
        beam blanked, for two minutes at most. Each event's ``tile_waited`` says how long.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    MontageResult
        If the gate ended the montage, the run's stop document has exit status "abort" and the
        reason.

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
    tiles = TileTaker(camera, stage, scope, grid, settle, retries=retakes)
    steering = Steering(tiles, retakes, max_behind)
    work = _Montage(tiles, steering, focus_policy, autofocus, defocus)

    def inner_montage(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, exposure)
        yield from work.declare(may_focus=focus_policy != "none" or gate is not None)
        if gate is not None and uid:  # in a dry run there is none
            steering.consult(gate, uid)
        yield from illuminated(work.take_rows(), scope)
        while again := (yield from steering.to_retake_at_end()):
            yield from illuminated(work.take_again(again), scope)

    uid, _ = yield from acquisition(inner_montage, _md, camera, scope, steering.ending)
    return MontageResult(
        str(uid),
        tiles=len(tiles.attempts),
        retaken=tiles.attempts.total() - len(tiles.attempts),
        failed=steering.failed,
        stop=steering.stop,
        reason=steering.reason,
    )


@dataclass
class _Montage:
    """A montage on its way: what takes and steers its tiles, and the focus it has to remember."""

    tiles: TileTaker
    steering: Steering
    focus: str | int
    autofocus: AutofocusSettings
    defocus: float
    fit: FocusFit = field(default_factory=lambda: FocusFit(name=names.AUTOFOCUS_DEVICE))

    def declare(self, may_focus: bool) -> MsgGenerator[None]:
        """Describe the streams."""
        yield from self.tiles.declare()
        if may_focus:
            yield from self.tiles.declare(names.FOCUS)
            yield from declare(names.AUTOFOCUS_FIT, self.fit)

    def take_rows(self) -> MsgGenerator[None]:
        """Take all tiles row by row; after each row, those again that have failed until then."""
        rows = [list(row) for _, row in groupby(self.tiles.grid.tiles, lambda tile: tile.row)]
        for row, next_row in pairwise([*rows, []]):
            for tile in row:
                if self._focus_is_due(tile, first=tile is row[0]):
                    yield from self._focus_at(tile)
                yield from self._take(tile)
            again = self.steering.to_retake(then=next_row[0] if next_row else None)
            yield from self.take_again(again)

    def take_again(self, tiles: Iterable[GridTile]) -> MsgGenerator[None]:
        """Take tiles again, in order."""
        for tile in tiles:
            yield from self._take(tile)

    def _take(self, tile: GridTile) -> MsgGenerator[None]:
        """Take a tile as the gate wants it: focused if it says so, not at all after an end."""
        if self.steering.stops_now:
            return
        if self.steering.refocus_is_due:
            yield from self._focus_at(tile)
        yield from self.tiles.take(tile)
        yield from self.steering.after(tile)
        yield from self.steering.catch_up()

    def _focus_is_due(self, tile: GridTile, first: bool) -> bool:
        if self.steering.stops_now:
            return False
        if isinstance(self.focus, int):
            return tile.index % self.focus == 0
        return (self.focus == "once" and tile.index == 0) or (self.focus == "row" and first)

    def _focus_at(self, tile: GridTile) -> MsgGenerator[None]:
        """Autofocus at a tile; one that fails, by its frames or its fit, ends nothing."""
        self.steering.focused()
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
