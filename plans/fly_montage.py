"""A montage flown by the sequencer: as `montage`, at the speed of the hardware.

The tiles of a row cost no message; what the gate, the focus and failures want is done in between.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from plans import checks, names
from plans.exposures import acquisition, set_exposure, value_of
from plans.flying import TileFlyer
from plans.focusing import Focusing
from plans.montage import MontageResult, montage
from plans.montage_request import MontageRequest, montage_request
from plans.safety import illuminated, staged
from plans.steering import Steering
from processing.geometry import GridTile

MOST_NAMED = 10  # missing tiles that a stop document names

_log = logging.getLogger(__name__)


def fly_montage(
    sequencer: Any, *devices_and_roi: Any, **options: Any
) -> MsgGenerator[MontageResult]:
    """Cover a region of interest with overlapping tiles, at the speed of the hardware.

    The IOC's sequencer has the whole trajectory and takes the tiles by itself; each is read out and
    written while the stage moves on. Events come while it flies, with the keys of `montage`, and
    when each tile settled and was exposed; so processing, gate and Tiled see the same run. It can
    be paused, stopped and aborted at any moment: the exposure that is being made is made, and every
    frame on disk has its event.

    A tile that fails (a stall, a camera time-out, a lost frame, a full disk) is tried again at
    once, `retakes` times; then it is left out, and named with its reason in the stream ``missing``
    and in the result. If three in a row are, the plan ends: then nothing works.

    Parameters
    ----------
    sequencer : device
    camera, stage, scope, roi, **options
        As of `montage`. A focus in between (``row``, every n tiles, or as the gate wants) makes the
        sequencer rest; ``plane`` and ``surface`` do not.

    Returns
    -------
    MontageResult

    Raises
    ------
    TypeError, ValueError
        If an argument is bad or the region is out of reach; nothing has moved then.
    TileError
        If tiles could not be taken.

    See Also
    --------
    montage : the same, step by step, without a sequencer.

    Examples
    --------
    >>> roi = {"centre": (0, 0), "width": 200, "height": 150}
    >>> RE(fly_montage(sequencer, camera, stage, scope, roi, overlap=12, focus="plane"))
    """
    request, tiles = yield from _loaded(sequencer, *devices_and_roi, **options)
    seconds = yield from value_of(sequencer.duration)
    _log.info("%d tiles, in about %.0f s", len(request.todo), seconds)
    request.metadata["estimated_time"] = float(seconds)
    return (yield from _fly_montage(sequencer, request, tiles))


def estimate_montage(sequencer: Any, *devices_and_roi: Any, **options: Any) -> MsgGenerator[float]:
    """Estimate how long `fly_montage` would take, by the hardware's own numbers; nothing moves.

    Focusing, retakes and what fails are not counted in.

    Parameters
    ----------
    sequencer, camera, stage, scope, roi, **options
        As of `fly_montage`.

    Returns
    -------
    float
        In s.

    Raises
    ------
    TypeError, ValueError
        As `fly_montage`.

    Examples
    --------
    >>> RE(estimate_montage(sequencer, camera, stage, scope, roi, pattern="blocks")).plan_result
    """
    yield from _loaded(sequencer, *devices_and_roi, **options)
    return float((yield from value_of(sequencer.duration)))


_of_montage = signature(montage)
_flown: tuple[Any, ...] = (fly_montage, estimate_montage)
for _plan in _flown:  # what help shows, and what forms are made of
    _plan.__signature__ = _of_montage.replace(
        parameters=[
            Parameter("sequencer", Parameter.POSITIONAL_OR_KEYWORD, annotation=Any),
            *_of_montage.parameters.values(),
        ]
    )


def _loaded(
    sequencer: Any, *devices_and_roi: Any, **options: Any
) -> MsgGenerator[tuple[MontageRequest, TileFlyer]]:
    """Check the arguments, and load the tiles into the sequencer; nothing moves."""
    checks.device("sequencer", sequencer, "kickoff", "complete", "hold_after")
    arguments = signature(montage).bind(*devices_and_roi, **options)
    arguments.apply_defaults()
    request = yield from montage_request(names.FLY_MONTAGE, **arguments.arguments)
    request.metadata["plan_args"]["sequencer"] = sequencer.name
    exposure = request.exposure
    if exposure is None:
        exposure = float((yield from value_of(request.camera.cam.acquire_time)))
    tiles = TileFlyer(
        sequencer,
        request.camera,
        request.stage,
        request.scope,
        request.grid,
        exposure,
        retries=request.retakes,
        shifts=request.shifts,
    )
    yield from bps.abs_set(sequencer.settle, request.settle, wait=True)
    yield from tiles.load(request.todo)
    return request, tiles


def _fly_montage(
    sequencer: Any, request: MontageRequest, tiles: TileFlyer
) -> MsgGenerator[MontageResult]:
    """Fly a montage that was checked and loaded."""
    camera, scope, gate = request.camera, request.scope, request.gate
    steering = Steering(tiles, request.retakes, request.max_behind)
    focusing = Focusing(tiles, request.focus, request.autofocus, request.defocus)
    work = _FlownMontage(tiles, steering, focusing)

    def inner_montage(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, tiles.exposure)
        yield from tiles.declare_flight()
        if request.may_focus:
            yield from focusing.declare()
        if gate is not None and uid:  # in a dry run there is none
            steering.consult(gate, uid)
        yield from illuminated(tiles.accounted(work.fly()), scope)
        while again := (yield from steering.to_retake_at_end()):
            yield from tiles.load(again)
            yield from illuminated(tiles.accounted(work.fly()), scope)

    def ending() -> dict[str, str]:
        said = steering.ending()
        reasons = [said["reason"], _missing(tiles.missing)]
        return {**said, "reason": "; ".join(filter(None, reasons))}

    plan = acquisition(inner_montage, request.metadata, camera, scope, ending)
    uid, _ = yield from staged(plan, sequencer)
    return MontageResult.of(uid, tiles, steering)


def _missing(tiles: dict[int, str]) -> str:
    """Name the tiles that are missing, for the stop document."""
    if not tiles:
        return ""
    named = ", ".join(map(str, list(tiles)[:MOST_NAMED]))
    more = f" and {len(tiles) - MOST_NAMED} more" if len(tiles) > MOST_NAMED else ""
    return f"{len(tiles)} tiles are missing: {named}{more} (see the stream {names.MISSING})"


@dataclass
class _FlownMontage:
    """A flown montage on its way: what flies its tiles, steers and focuses them."""

    tiles: TileFlyer
    steering: Steering
    focusing: Focusing
    _hold: GridTile | None = None  # after which the sequencer was asked to rest
    _focused: set[int] = field(default_factory=set)  # tiles before which it was focused
    _pass_of: dict[int, int] = field(default_factory=dict)  # of each tile, by their indices

    def __post_init__(self) -> None:
        for number, tiles in enumerate(self.tiles.grid.passes()):
            self._pass_of |= dict.fromkeys((tile.index for tile in tiles), number)

    def fly(self) -> MsgGenerator[None]:
        """Fly what is loaded; at the ends of rows, what the gate has refused until then."""
        if self.focusing.measures and not self._focused:
            yield from self._measure()
        while (left := self.tiles.left) and not self.steering.stops_now:
            if self.steering.refocus_is_due or self._focus_is_due(left[0]):
                yield from self._focus_at(left)
            yield from self._plan_hold(left)
            yield from self.tiles.fly(self._between)
            self._hold = None
            yield from self._catch_up()
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
        if isinstance(self.focusing.policy, int):
            wanted = [a for a, b in pairwise(left) if self.focusing.is_due(b, first=False)]
        elif self.focusing.policy == "row" or self.steering.wants_retakes:
            wanted = [a for a, b in pairwise(left) if self._is_new_row(a, b)]
        else:
            return
        for tile in wanted:
            if (yield from self.tiles.hold_after(tile)):
                self._hold = tile
                return

    def _catch_up(self) -> MsgGenerator[None]:
        """Wait for the processing if it is too far behind; the next tile tells for how long."""
        yield from self.steering.catch_up()
        if self.tiles.waited and (left := self.tiles.left):
            yield from self.tiles.load(left)

    def _take_again(self, before: list[GridTile]) -> MsgGenerator[None]:
        """Put what the gate has refused before what is left, if a row has come to its end."""
        left = self.tiles.left
        over = before[: len(before) - len(left)]
        if self.steering.stops_now or not over:
            return
        if left and not self._is_new_row(over[-1], left[0]):
            return
        again = self.steering.to_retake(then=left[0] if left else None)
        if again:
            yield from self.tiles.load([*again, *left])

    def _is_new_row(self, before: GridTile, tile: GridTile) -> bool:
        return self._pass_of[before.index] != self._pass_of[tile.index]

    def _focus_is_due(self, tile: GridTile) -> bool:
        """Tell whether the policy wants a focus before a tile, which has had none."""
        if tile.index in self._focused or self.tiles.attempts[tile.index]:
            return False
        grid = self.tiles.grid
        first = tile.index == 0 or self._is_new_row(grid.tiles[tile.index - 1], tile)
        return self.focusing.is_due(tile, first)

    def _focus_at(self, left: list[GridTile]) -> MsgGenerator[None]:
        """Focus at the next tile, and load what is left with the focus that was found."""
        self.steering.focused()
        self._focused.add(left[0].index)
        yield from self.focusing.at(left[0])
        yield from self.tiles.load(left)

    def _measure(self) -> MsgGenerator[None]:
        """Measure the focus over the region, and load the tiles with it."""
        self.steering.focused()
        self._focused.add(-1)
        yield from self.focusing.measure()
        yield from self.tiles.load(self.tiles.left)
