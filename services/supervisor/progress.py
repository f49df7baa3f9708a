"""How far a request has come, from the documents of its runs.

A montage counts its tiles, as one may be taken twice; any other plan its events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

REPORT_PERIOD = 0.1  # s


class Progress:
    """Reports the share of a run that is done, and the time left.

    Parameters
    ----------
    report : callable
        Called as ``report("progress", fraction=…, left=…)``: 0 to 1, and s, or None if nothing is
        known of it.
    clock : callable
        Gives the time in s.
    """

    def __init__(
        self, report: Callable[..., None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report, self._clock = report, clock
        self.end()

    def end(self) -> None:
        """Forget the run."""
        self._total, self._done, self._began, self._reported = 0, 0, 0.0, 0.0
        self._primary = ""
        self._tiles: set[int] = set()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document in."""
        if name == "start":
            self.end()
            self._total = int(doc.get("num_points") or 0)
            self._began = self._clock()
            self._tell()
        elif name == "descriptor" and doc["name"] == "primary":
            self._primary = doc["uid"]
        elif doc.get("descriptor") == self._primary and name == "event":
            self._add([doc["data"].get("tile_index")])
        elif doc.get("descriptor") == self._primary and name == "event_page":
            self._add(doc["data"].get("tile_index") or [None] * len(doc["seq_num"]))

    def _add(self, tiles: list[int | None]) -> None:
        for tile in tiles:
            if tile is None:
                self._done += 1
            else:
                self._tiles.add(int(tile))
        if self._done + len(self._tiles) >= self._total or (
            self._clock() - self._reported >= REPORT_PERIOD
        ):
            self._tell()

    def _tell(self) -> None:
        self._reported = self._clock()
        done = self._done + len(self._tiles)
        if not self._total:
            return
        left = (self._reported - self._began) / done * (self._total - done) if done else None
        self._report("progress", fraction=min(1.0, done / self._total), left=left)
