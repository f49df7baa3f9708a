"""What a quality gate has a montage do: retakes, refocusing, waiting for the processing, an end.

The gate only advises; how often and for how long it is followed is bounded here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from devices.microscope import BLANKED, UNBLANKED
from plans.gate import Consultation, QualityGate
from processing.geometry import Grid, GridTile, short_route

REFOCUS_DISTANCE = 5
"""Tiles to be taken after an autofocus before the gate can have another."""

BACKLOG_TIMEOUT = 120.0
"""Seconds that a montage waits for the processing to catch up, before it goes on without."""

_BACKLOG_POLL = 0.2  # s
_MOST_ROUTED = 200  # tiles; more lie close together in the order of the grid, too

_log = logging.getLogger(__name__)


class Taker(Protocol):
    """What takes the tiles that are steered; see `plans.tiles.TileTaker`."""

    scope: Any
    grid: Grid
    attempts: Counter[int]
    missing: dict[int, str]
    waited: float


@dataclass
class Steering:
    """Follows the advice of a gate, and remembers what of it is still to be done.

    Attributes
    ----------
    tiles : Taker
        What takes the tiles.
    retakes : int
        How often the gate can have a tile taken again.
    max_behind : int
        Tiles that may be taken but not judged before the montage waits.
    stop : {"", "at_end", "now"}
        Whether the gate wants an end; once said, it stays.
    reason : str
        Why it wants an end.
    failed : tuple of int
        Tiles that fail as they were taken last, by index, as the gate said last.
    """

    tiles: Taker
    retakes: int
    max_behind: int
    stop: Literal["", "at_end", "now"] = ""
    reason: str = ""
    failed: tuple[int, ...] = ()
    _gate: Consultation | None = None
    _taken: list[GridTile] = field(default_factory=list)
    _behind: int = 0
    _refocus: bool = False
    _focused_at: float = float("-inf")  # how many tiles were taken then
    _gave_up: bool = False  # waiting for the processing, until it has caught up

    def consult(self, gate: QualityGate, raw_uid: str) -> None:
        """Be steered by a gate from now on."""
        self._gate = Consultation(gate, raw_uid, len(self.tiles.grid.tiles))

    @property
    def stops_now(self) -> bool:
        """Whether the montage is to end at once."""
        return self.stop == "now"

    @property
    def refocus_is_due(self) -> bool:
        """Whether the gate wants to have the next tile focused, and the last focus is not new."""
        return self._refocus and len(self._taken) - self._focused_at >= REFOCUS_DISTANCE

    def focused(self) -> None:
        """Take note of an autofocus, good or not."""
        self._refocus = False
        self._focused_at = len(self._taken)

    @property
    def is_behind(self) -> bool:
        """Whether the processing is so far behind that the montage must wait."""
        return self._behind > self.max_behind and not self._gave_up and not self.stops_now

    def after(self, *tiles: GridTile) -> MsgGenerator[None]:
        """Ask the gate, now that some tiles are taken."""
        self._taken.extend(tiles)
        yield from self._ask()
        if self._behind <= self.max_behind:
            self._gave_up = False

    def catch_up(self) -> MsgGenerator[None]:
        """Wait if the processing is too far behind: with the beam blanked, until time is up."""
        if self.is_behind:
            yield from self._catch_up()

    @property
    def wants_retakes(self) -> bool:
        """Whether there are tiles that may be taken again."""
        return bool(self._fresh())

    def to_retake(self, then: GridTile | None) -> list[GridTile]:
        """Give the tiles to take again now, in order, on the way to the next one.

        One that was taken again but is not judged since is left alone: what the gate says of it is
        about the take before.
        """
        return self._route(self._fresh(), then)

    def _fresh(self) -> list[int]:
        """Give the tiles that failed as they were taken last, and may be taken again."""
        allowed = self._allowed(self.failed)
        if not allowed:
            return []
        n_judged = max(0, len(self._taken) - self._behind)
        judged = Counter(tile.index for tile in self._taken[:n_judged])
        return [i for i in allowed if judged[i] == self.tiles.attempts[i]]

    def _allowed(self, failed: Iterable[int]) -> list[int]:
        return [i for i in failed if 0 < self.tiles.attempts[i] <= self.retakes]

    def to_retake_at_end(self) -> MsgGenerator[list[GridTile]]:
        """Wait until all tiles are judged; give those to take again, in order."""
        if self._gate is None or self.stops_now:
            return []
        failed = yield from self._gate.failed()
        yield from self._ask()
        self.failed = tuple(failed)
        return [] if self.stops_now else self._route(failed, None)

    def ending(self) -> dict[str, str]:
        """Give what the stop document says: `exit_status` and `reason`.

        A montage that the gate ended is an "abort", as if a person had: "success" would claim that
        it is whole, and "fail" that something broke.
        """
        if self.stops_now:
            done = f"{len(+self.tiles.attempts)} of {len(self.tiles.grid.tiles)} tiles"
            reason = f"the quality gate ended it after {done}: {self.reason}"
            return {"exit_status": "abort", "reason": reason}
        reason = f"complete; the quality gate wants to stop here: {self.reason}"
        return {"exit_status": "success", "reason": reason if self.stop else ""}

    def _ask(self) -> MsgGenerator[None]:
        if self._gate is None:
            return
        advice = yield from self._gate.advice()
        self.failed, self._behind = advice.retake, advice.behind
        if advice.refocus and not self._refocus:
            _log.warning("the quality gate wants to refocus: %s", advice.reason)
            self._refocus = True
        if advice.decision == "stop_now" and self.stop != "now":
            self.stop, self.reason = "now", advice.reason
            _log.error("the quality gate ends the montage: %s", advice.reason)
        elif advice.decision == "stop_at_end" and not self.stop:
            self.stop, self.reason = "at_end", advice.reason
            _log.warning("the quality gate wants to stop after this montage: %s", advice.reason)

    def _route(self, failed: Iterable[int], then: GridTile | None) -> list[GridTile]:
        """Give those of some tiles that may be taken again, in the order of least travel."""
        may = self._allowed(failed)
        tiles = [self.tiles.grid.tiles[i] for i in may]
        if not tiles:
            return []
        _log.info("taking %d tiles again that the quality gate refused: %s", len(may), may)
        if len(tiles) > _MOST_ROUTED:
            return tiles
        here = self._taken[-1]
        places = [(tile.x, tile.y) for tile in tiles]
        end = None if then is None else (then.x, then.y)
        return [tiles[i] for i in short_route(places, (here.x, here.y), end)]

    def _catch_up(self) -> MsgGenerator[None]:
        _log.warning(
            "waiting: %d tiles are taken but not judged; at most %d may be",
            self._behind,
            self.max_behind,
        )
        yield from self._blank(BLANKED)
        waited = 0.0
        while self._behind > self.max_behind and not self.stops_now:
            if waited >= BACKLOG_TIMEOUT:
                self._gave_up = True
                break
            yield from bps.checkpoint()
            yield from bps.sleep(_BACKLOG_POLL)
            waited += _BACKLOG_POLL
            yield from self._ask()
        if not self.stops_now:
            yield from self._blank(UNBLANKED)
        self.tiles.waited = waited
        _log.warning(
            "waited %.1f s; %d tiles are not judged yet%s",
            waited,
            self._behind,
            ": going on all the same, look whether the processing runs" if self._gave_up else "",
        )

    def _blank(self, value: str) -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.abs_set(self.tiles.scope.blank, value, wait=True)
