"""The quality gate: reads the verdicts on tiles from their documents, and tells plans what to do.

In process, on the documents' own way: nothing is read back from a data service.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from processing.quality import Steering, Thresholds

STREAMS = ("tile", "fault", "verdict")


class _Montage:
    """What the gate knows of one montage."""

    def __init__(self, thresholds: Thresholds, n_tiles: int) -> None:
        self.n_tiles = n_tiles
        self.steering = Steering(thresholds, n_tiles)
        self.told: dict[int, int] = {}  # tiles that `failed` named, and their attempts then
        self.ended = False

    def take(self, stream: str, data: dict[str, Any]) -> None:
        """Take in the data of an event of one of `STREAMS`."""
        getattr(self.steering, stream)(data)

    @property
    def all_judged(self) -> bool:
        """Whether every tile is judged, and those that were told have been judged anew."""
        judged = self.steering.judged
        again = all(judged[index] > attempt for index, attempt in self.told.items())
        return self.ended or (again and len(judged) >= self.n_tiles)


class QualityGate:
    """Takes the documents of processed montages in, and answers plans.

    Documents come on one thread, questions on any other.

    Parameters
    ----------
    thresholds : Thresholds, optional
    behind : callable, optional
        Gives the number of tiles that are taken but not judged yet, like
        ``lambda: processor.tiles_behind``; by default 0.
    keep : int
        Montages that can still be asked about.

    Examples
    --------
    >>> gate = QualityGate()
    >>> RE(montage(..., gate=gate))  # doctest: +SKIP
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        behind: Callable[[], int] | None = None,
        keep: int = 10,
    ) -> None:
        self.thresholds = thresholds or Thresholds()
        self._behind, self._keep = behind or (lambda: 0), keep
        self._raw_of: dict[str, str] = {}  # the raw run of each processed run that is open
        self._streams: dict[str, tuple[str, str]] = {}  # raw run and stream of each descriptor
        self._montages: OrderedDict[str, _Montage] = OrderedDict()
        self._news = threading.Condition()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document of a processed run in; those of other runs are ignored."""
        with self._news:
            if name == "start" and "montage" in doc and "raw_uid" in doc:
                self._begin(doc)
            elif name == "descriptor" and doc["run_start"] in self._raw_of:
                if doc["name"] in STREAMS:
                    self._streams[doc["uid"]] = self._raw_of[doc["run_start"]], doc["name"]
            elif name == "event" and doc["descriptor"] in self._streams:
                raw_uid, stream = self._streams[doc["descriptor"]]
                if raw_uid in self._montages:
                    self._montages[raw_uid].take(stream, doc["data"])
            elif name == "stop" and doc["run_start"] in self._raw_of:
                self._end(doc)
            self._news.notify_all()

    def advice(self, raw_uid: str) -> dict[str, Any]:
        """Tell what to do next. It never waits.

        Parameters
        ----------
        raw_uid : str
            Of the raw run. One that is not known yet is good.

        Returns
        -------
        dict
            decision : {"good", "retake", "stop_at_end", "stop_now"}
            reason : str
            retake : list of int, the tiles that fail as they were taken last
            refocus : bool, whether to focus before the next tile; told once
            behind : int, tiles that are taken but not judged yet
        """
        behind = self._behind()
        with self._news:
            montage = self._montages.get(raw_uid)
            if montage is None:
                told = {"decision": "good", "reason": "", "retake": [], "refocus": False}
                return {**told, "behind": behind}
            advice = montage.steering.advice(behind)
        return {
            "decision": advice.decision,
            "reason": advice.reason,
            "retake": list(advice.retake),
            "refocus": advice.refocus,
            "behind": behind,
        }

    def failed(self, raw_uid: str, timeout: float) -> Sequence[int]:
        """Tell which tiles of a montage failed, once all are judged.

        Asked again, it waits until those that it named before are judged anew.

        Parameters
        ----------
        raw_uid : str
            Of the raw run.
        timeout : float
            How long to wait for verdicts, in s.

        Returns
        -------
        sequence of int
            Indices of the tiles to take again.

        Raises
        ------
        TimeoutError
            If not all tiles are judged in time.
        """
        with self._news:
            if not self._news.wait_for(lambda: self._all_judged(raw_uid), timeout):
                known = self._montages.get(raw_uid)
                raise TimeoutError(
                    f"{len(known.steering.judged) if known else 0} of "
                    f"{known.n_tiles if known else 'the'} tiles of run {raw_uid} were judged "
                    f"within {timeout:g} s: look whether tile processing runs and keeps up"
                )
            montage = self._montages[raw_uid]
            bad = montage.steering.failed
            montage.told = {index: montage.steering.judged[index] for index in bad}
            return bad

    def _begin(self, start: dict[str, Any]) -> None:
        raw_uid = start["raw_uid"]
        self._raw_of[start["uid"]] = raw_uid
        self._montages[raw_uid] = _Montage(self.thresholds, len(start["montage"]["tiles"]))
        while len(self._montages) > self._keep:
            self._montages.popitem(last=False)

    def _end(self, stop: dict[str, Any]) -> None:
        raw_uid = self._raw_of.pop(stop["run_start"])
        if raw_uid in self._montages:
            self._montages[raw_uid].ended = True
        self._streams = {uid: to for uid, to in self._streams.items() if to[0] != raw_uid}

    def _all_judged(self, raw_uid: str) -> bool:
        montage = self._montages.get(raw_uid)
        return montage is not None and montage.all_judged
