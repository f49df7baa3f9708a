"""A montage: tiles over a region of interest, one event each.

Every tile is moved to, settled, exposed and recorded before the next; each step can be paused, and
a quality gate steers between them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from bluesky.utils import MsgGenerator

from plans import names
from plans.exposures import acquisition, set_exposure
from plans.focusing import Focusing
from plans.gate import QualityGate
from plans.image_shift import restored
from plans.montage_request import MontageRequest, montage_request
from plans.safety import illuminated
from plans.steering import Steering, Taker
from plans.tiles import TileTaker
from processing.geometry import GridTile, ImageShift, Region


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
    missing : tuple of int
        Tiles that could not be taken, by index.
    """

    uid: str
    tiles: int
    retaken: int
    failed: tuple[int, ...]
    stop: Literal["", "at_end", "now"]
    reason: str
    missing: tuple[int, ...] = ()

    @classmethod
    def of(cls, uid: str, tiles: Taker, steering: Steering) -> MontageResult:
        """Sum up what was taken and how it was steered."""
        return cls(
            str(uid),
            tiles=len(tiles.attempts),
            retaken=tiles.attempts.total() - len(tiles.attempts),
            failed=steering.failed,
            stop=steering.stop,
            reason=steering.reason,
            missing=tuple(tiles.missing),
        )


def montage(
    camera: Any,
    stage: Any,
    scope: Any,
    roi: Region | Mapping[str, Any],
    *,
    overlap: float = 10.0,
    min_overlap: float = 0.0,
    pattern: Literal["serpentine", "raster", "blocks"] = "serpentine",
    block: int = 3,
    image_shift: ImageShift | None = None,
    settle: float = 0.1,
    exposure: float | None = None,
    focus: Literal["none", "once", "row", "plane", "surface"] | int = "none",
    focus_range: float = 20.0,
    focus_steps: int = 9,
    references: Mapping[str, str | None] | None = None,
    gate: QualityGate | None = None,
    retakes: int = 1,
    max_behind: int = 32,
    taken: Collection[int] = (),
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
    pattern : {"serpentine", "raster", "blocks"}
        Whether every second row runs back; or tiles are taken in blocks, each from one stage
        position by image shift. The image shift is in the end what it was before.
    block : int
        Tiles along the side of a block.
    image_shift : ImageShift, optional
        Its calibration, and how far it may reach; as `ImageShift` has it, if it is left out.
    settle : float
        Seconds to wait after each move.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    focus : {"none", "once", "row", "plane", "surface"} or int
        When to autofocus: never, at the first tile, at the first tile of each row, or every n
        tiles. One that fails is recorded, and the montage goes on with the last good focus. Or
        before the first tile, at five places for a plane, at nine for a surface of second order;
        each tile then has its focus by what is fitted to them.
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
    taken : collection of int
        Tiles that an earlier run has, by index, so that only the others are taken: how a montage
        that was cut off is gone on with, given the same arguments.
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
    request = yield from montage_request(
        names.MONTAGE,
        camera,
        stage,
        scope,
        roi,
        overlap=overlap,
        min_overlap=min_overlap,
        pattern=pattern,
        block=block,
        image_shift=image_shift,
        settle=settle,
        exposure=exposure,
        focus=focus,
        focus_range=focus_range,
        focus_steps=focus_steps,
        references=references,
        gate=gate,
        retakes=retakes,
        max_behind=max_behind,
        taken=taken,
        sample=sample,
        operator=operator,
        md=md,
    )
    return (yield from _take_montage(request))


def _take_montage(request: MontageRequest) -> MsgGenerator[MontageResult]:
    """Take a montage that was checked."""
    camera, scope, gate = request.camera, request.scope, request.gate
    tiles = TileTaker(
        camera,
        request.stage,
        scope,
        request.grid,
        request.settle,
        retries=request.retakes,
        shifts=request.shifts,
    )
    steering = Steering(tiles, request.retakes, request.max_behind)
    focusing = Focusing(tiles, request.focus, request.autofocus, request.defocus)
    work = _Montage(tiles, steering, focusing, request.taken)

    def inner_montage(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, request.exposure)
        yield from tiles.declare()
        if request.may_focus:
            yield from focusing.declare()
        if gate is not None and uid:  # in a dry run there is none
            steering.consult(gate, uid)
        yield from illuminated(work.take_all(), scope)
        while again := (yield from steering.to_retake_at_end()):
            yield from illuminated(work.take_again(again), scope)

    def body(uid: str) -> MsgGenerator[None]:
        return restored(inner_montage(uid), request.shifts)

    uid, _ = yield from acquisition(body, request.metadata, camera, scope, steering.ending)
    return MontageResult.of(uid, tiles, steering)


@dataclass
class _Montage:
    """A montage on its way: what takes its tiles, steers and focuses them."""

    tiles: TileTaker
    steering: Steering
    focusing: Focusing
    taken: frozenset[int]

    def take_all(self) -> MsgGenerator[None]:
        """Take all tiles row by row; after each row, those again that have failed until then."""
        if self.focusing.measures:
            self.steering.focused()
            yield from self.focusing.measure()
        passes = [
            [tile for tile in tiles if tile.index not in self.taken]
            for tiles in self.tiles.grid.passes()
        ]
        for row, next_row in pairwise([*filter(None, passes), []]):
            for tile, then in zip(row, [*row[1:], *next_row[:1], None], strict=False):
                if not self.steering.stops_now and self.focusing.is_due(tile, tile is row[0]):
                    yield from self._focus_at(tile)
                yield from self._take(tile, then)
            again = self.steering.to_retake(then=next_row[0] if next_row else None)
            yield from self.take_again(again)

    def take_again(self, tiles: Iterable[GridTile]) -> MsgGenerator[None]:
        """Take tiles again, in order."""
        for tile in tiles:
            yield from self._take(tile)

    def _take(self, tile: GridTile, then: GridTile | None = None) -> MsgGenerator[None]:
        """Take a tile as the gate wants it: focused if it says so, not at all after an end."""
        if self.steering.stops_now:
            return
        if self.steering.refocus_is_due:
            yield from self._focus_at(tile)
        yield from self.tiles.take(tile, then)
        yield from self.steering.after(tile)
        yield from self.steering.catch_up()

    def _focus_at(self, tile: GridTile) -> MsgGenerator[None]:
        self.steering.focused()
        yield from self.focusing.at(tile)
