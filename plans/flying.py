"""Taking the tiles of a grid by the sequencer: what is flown, when it rests, and what it missed.

The sequencer walks by itself; here its results are recorded, and it is held where a gate, a focus
or a fault wants something between two tiles.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus, MsgGenerator, short_uid

from devices import Flight, FlightPoint, MissingTile, PointFailedError, SettingRefusedError, Tile
from plans import names
from plans.exposures import declare, record, value_of
from plans.image_shift import ShiftedTiles
from plans.safety import finally_do
from plans.tiles import TileError, about_tile
from processing.geometry import Grid, GridTile

COLLECT_PERIOD = 0.1  # s between looks at what was taken
MOST_MISSING = 3  # tiles that are missed one after the other, from which on nothing works

_log = logging.getLogger(__name__)


@dataclass
class TileFlyer:
    """Takes tiles of a grid within a run that is open, with camera, beam and sequencer staged.

    Attributes
    ----------
    sequencer, camera, stage, scope : device
    grid : Grid
    exposure : float
        In s.
    retries : int
        How often a tile is tried again, at once, if something fails.
    shifts : ShiftedTiles, optional
        The image shift of each tile, if the grid has any.
    defocus : callable, optional
        Gives the defocus of each tile, in µm; as it is set, if it is left out.
    attempts : Counter
        How often each tile was recorded, by its index.
    missing : dict of int to str
        Tiles that were given up, and why.
    waited : float
        Seconds waited before the next tile for the processing to catch up; recorded with it.
    tile : devices.Tile
        What events say of a tile.
    """

    sequencer: Any
    camera: Any
    stage: Any
    scope: Any
    grid: Grid
    exposure: float
    retries: int
    shifts: ShiftedTiles | None = None
    defocus: Callable[[GridTile], float] | None = None
    attempts: Counter[int] = field(default_factory=Counter)
    missing: dict[int, str] = field(default_factory=dict)
    waited: float = 0.0
    tile: Tile = field(default_factory=lambda: Tile(name=names.TILE))
    _missed: MissingTile = field(default_factory=lambda: MissingTile(name=names.MISSING))
    _failures: Counter[int] = field(default_factory=Counter)
    _in_a_row: int = 0
    _flown: list[GridTile] = field(default_factory=list)  # of the flight, by its points
    _left: dict[int, GridTile] = field(default_factory=dict)
    _told: list[int] = field(default_factory=list)  # points whose events are recorded
    _noted: int = 0  # how many of them are accounted for here

    @property
    def readables(self) -> list[Any]:
        """What is read with a frame that is taken by itself, such as one of an autofocus."""
        return [self.tile, self.stage, self.scope]

    # -- one flight -------------------------------------------------------------------------------

    @property
    def left(self) -> list[GridTile]:
        """What of the flight is neither taken nor missing, in order."""
        return list(self._left.values())

    def load(self, tiles: Sequence[GridTile]) -> MsgGenerator[None]:
        """Load tiles into the sequencer, in place of what is left of others.

        Raises
        ------
        bluesky.utils.FailedStatus
            If one is out of reach.
        """
        self._flown = list(tiles)
        self._left = {tile.index: tile for tile in tiles}
        defocus = yield from value_of(self.scope.defocus)
        flight = Flight(
            [self._point(tile, float(defocus), first=tile is tiles[0]) for tile in tiles],
            self.exposure,
            self.camera,
            self.stage,
            self.scope,
            self.tile,
        )
        self.waited = 0.0
        self._told, self._noted = flight.told, 0
        # Not to be done again after a pause: it would take the tiles once more that were taken.
        loading = yield from _once(bps.prepare(self.sequencer, flight, group=short_uid("load")))
        yield from _until_done(loading)

    def declare(self, stream: str) -> MsgGenerator[None]:
        """Describe a stream of frames that are taken one by one."""
        yield from declare(stream, self.camera, *self.readables)

    def declare_flight(self) -> MsgGenerator[None]:
        """Describe the stream of tiles; a flight must have been loaded."""
        yield from _once(bps.declare_stream(self.sequencer, name=names.PRIMARY, collect=True))

    def fly(self, between: Callable[[list[GridTile]], MsgGenerator[bool]]) -> MsgGenerator[None]:
        """Fly what is left, until its end or until it is to rest; record what was taken.

        Parameters
        ----------
        between : callable
            Given the tiles that were recorded since it was called last, in order; returns messages,
            and whether to rest.

        Raises
        ------
        TileError
            If several tiles one after the other could not be taken.
        """
        while self._left:
            try:
                yield from self._leg(between)
            except FailedStatus as error:
                point = _failed_point(error)
                if point is None:
                    raise
                yield from self._note(between)
                yield from self._retry_or_skip(self._flown[point], error)
            else:
                return

    def hold_after(self, tile: GridTile) -> MsgGenerator[bool]:
        """Have the flight rest after a tile; tell whether it was not too late for that."""
        try:
            yield from bps.abs_set(self.sequencer.hold_after, self._flown.index(tile), wait=True)
        except FailedStatus as error:
            if isinstance(error.__cause__, SettingRefusedError):
                return False
            raise
        return True

    def accounted(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Run a plan that flies; whatever ends it, record what was taken until then."""
        return (yield from finally_do(plan, self._account))

    def place(self, tile: GridTile) -> dict[Any, Any]:
        """Give where the devices have to be for a frame of a tile that is taken by itself."""
        place = {
            self.tile: about_tile(tile, self.attempts[tile.index] + 1, self.waited),
            self.stage.x: tile.stage_x,
            self.stage.y: tile.stage_y,
        }
        return place if self.shifts is None else place | self.shifts.place(tile)

    # -- how --------------------------------------------------------------------------------------

    def _point(self, tile: GridTile, defocus: float, first: bool) -> FlightPoint:
        """Give the point of a tile; its optics are relative to what is set now."""
        # What was waited was waited before the first.
        known = about_tile(tile, self.attempts[tile.index] + 1, self.waited if first else 0.0)
        focus = 0.0 if self.defocus is None else self.defocus(tile) - defocus
        shift = (0.0, 0.0) if self.shifts is None else self.shifts.added(tile)
        return FlightPoint(tile.stage_x, tile.stage_y, focus, *shift, known)

    def _leg(self, between: Callable[[list[GridTile]], MsgGenerator[bool]]) -> MsgGenerator[None]:
        """Fly until the sequencer rests, and record all of it."""
        starting = yield from _once(bps.kickoff(self.sequencer, group=short_uid("kickoff")))
        yield from _until_done(starting)
        group = short_uid("flight")
        flying = yield from _once(bps.complete(self.sequencer, group=group))
        if flying is None:  # in a dry run nobody answers
            self._left.clear()
            return
        while not flying.done:
            yield from bps.checkpoint()
            yield from bps.wait(group, timeout=COLLECT_PERIOD, error_on_timeout=False)
            taken = yield from self._collect()
            if (yield from between(taken)):
                yield from bps.abs_set(self.sequencer, "pause", wait=True)
                break
        yield from self._note(between)

    def _note(self, between: Callable[[list[GridTile]], MsgGenerator[bool]]) -> MsgGenerator[None]:
        """Record what was taken and not recorded yet, and tell of it."""
        while taken := (yield from self._collect()):
            yield from between(taken)

    def _collect(self) -> MsgGenerator[list[GridTile]]:
        """Record what was taken; give its tiles, and those that an error has kept back before."""
        yield from _once(bps.collect(self.sequencer, name=names.PRIMARY, return_payload=False))
        taken = [self._flown[point] for point in self._told[self._noted :]]
        self._noted += len(taken)
        for tile in taken:
            self.attempts[tile.index] += 1
            self._left.pop(tile.index, None)
            self._in_a_row = 0
        return taken

    def _retry_or_skip(self, tile: GridTile, error: FailedStatus) -> MsgGenerator[None]:
        """Have the sequencer try a tile again, or leave it out and say so."""
        self._failures[tile.index] += 1
        if self._failures[tile.index] <= self.retries:
            _log.warning("tile %d is taken again: %s", tile.index, error)
            return
        _log.error("tile %d is missing: %s", tile.index, error)
        yield from self._record_missing(tile, str(error))
        if self._in_a_row >= MOST_MISSING:
            raise TileError(self._given_up(tile, error)) from error
        yield from bps.abs_set(self.sequencer, "skip", wait=True)

    def _record_missing(self, tile: GridTile, reason: str) -> MsgGenerator[None]:
        if not self.missing:
            yield from declare(names.MISSING, self._missed)
        self.missing[tile.index] = reason
        self._left.pop(tile.index, None)
        self._in_a_row += 1
        known = {"index": tile.index, "row": tile.row, "column": tile.column, "reason": reason}
        yield from bps.abs_set(self._missed, known, wait=True)
        yield from record([self._missed], names.MISSING)

    def _given_up(self, tile: GridTile, error: FailedStatus) -> str:
        return (
            f"{self._in_a_row} tiles one after the other could not be taken, the last of them "
            f"tile {tile.index} (row {tile.row}, column {tile.column}), in {self.retries + 1} "
            f"attempts: {error}. {len(+self.attempts)} of {len(self.grid.tiles)} tiles are on "
            "disk; put it right and take the rest"
        )

    def _account(self) -> MsgGenerator[None]:
        """Have the sequencer end, and record every frame that it took."""
        yield from bps.abs_set(self.sequencer, "abort", wait=True)
        while (yield from self._collect()):
            pass


def _once(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Send messages that are not to be sent again after a pause."""
    try:
        return (yield from bpp.rewindable_wrapper(plan, rewindable=False))
    finally:
        plan.close()  # an error may come before its first message, which bluesky would warn of


def _until_done(status: Any) -> MsgGenerator[None]:
    """Wait for a status in a way that a pause does not cut short; its failure comes by itself."""
    while status is not None and not status.done:
        yield from bps.checkpoint()
        yield from bps.sleep(0.005)


def _failed_point(error: FailedStatus) -> int | None:
    """Give the point of a flight that failed, if it was one."""
    cause = error.__cause__
    return cause.point if isinstance(cause, PointFailedError) else None
