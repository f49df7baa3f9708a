"""Judges tiles: adds a verdict and named faults to the tiles of a processed run.

A stage between the tile processor and those who read its documents; and the gate that a montage
plan asks which tiles to take again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

from callbacks.documents import Publish, text

PASS, FAIL = "pass", "fail"
TILE_STREAM = "tile"
VERDICT_KEYS = {"verdict": text(), "faults": text()}

# Faults, in the order in which they are listed. The last does not fail a tile: empty resin is
# nothing that taking it again could cure.
FAILED_PROCESSING = "failed_processing"
DIM = "dim"
SATURATED = "saturated"
OBSTRUCTED = "obstructed"
OUT_OF_FOCUS = "out_of_focus"
ASTIGMATIC = "astigmatic"
FEATURELESS = "featureless"
FAULTS = (FAILED_PROCESSING, DIM, SATURATED, OBSTRUCTED, OUT_OF_FOCUS, ASTIGMATIC, FEATURELESS)
HARMLESS = frozenset({FEATURELESS})


@dataclass(frozen=True)
class Thresholds:
    """From where on a tile is at fault.

    A relative threshold compares a tile with the median of the tiles that passed before it in the
    same montage, and holds once there are `least_tiles` of them.

    Attributes
    ----------
    least_mean : float
        Least mean, in counts; below it a tile is dim.
    least_mean_relative : float
        Least mean, as a fraction of the median.
    most_saturated : float
        Greatest share of saturated pixels.
    most_dark : float
        Greatest share of pixels far below the tile's own bright ones: something is in the way.
    least_focus : float
        Least focus score; below it a tile is out of focus. Tiles without texture have none.
    least_focus_relative : float
        Least focus score, as a fraction of the median.
    most_astigmatism : float
        Greatest astigmatism, 0 to 1.
    least_tiles, most_tiles : int
        How many passed tiles the median is taken of.

    Raises
    ------
    ValueError
        If a threshold is negative.
    """

    least_mean: float = 50.0
    least_mean_relative: float = 0.5
    most_saturated: float = 0.01
    most_dark: float = 0.25
    least_focus: float = 0.05
    least_focus_relative: float = 0.6
    most_astigmatism: float = 0.5
    least_tiles: int = 4
    most_tiles: int = 25

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value >= 0:
                raise ValueError(f"{entry.name} is {value}; it must not be negative")


@dataclass
class _Montage:
    """The verdicts on one montage."""

    n_tiles: int
    means: deque[float]
    scores: deque[float]
    failed: dict[int, bool] = field(default_factory=dict)  # by tile, as it was taken last
    attempts: dict[int, int] = field(default_factory=dict)
    to_retake: dict[int, int] = field(default_factory=dict)  # tile and attempt that were told
    ended: bool = False


class Quality:
    """Takes the documents of processed runs, adds verdicts to their tiles, and passes them on.

    Each event of the stream `tile` gains `verdict` ("pass" or "fail") and `faults`, the names of
    its faults joined by commas, and so does the stream's descriptor. All else passes unchanged.

    Parameters
    ----------
    publish : callable
        Called with (name, document).
    thresholds : Thresholds
    keep : int
        Montages that `failed` can still be asked about.

    Examples
    --------
    >>> quality = Quality(sink)
    >>> processor = TileProcessor(executor, quality, settings, folder)
    >>> RE(montage(..., gate=quality))
    """

    def __init__(
        self, publish: Publish, thresholds: Thresholds | None = None, keep: int = 10
    ) -> None:
        self.thresholds = thresholds or Thresholds()
        self._publish, self._keep = publish, keep
        self._raw_of: dict[str, str] = {}  # uid of the processed run and its raw run
        self._tile_descriptors: dict[str, str] = {}  # and of the descriptors of its tiles
        self._montages: OrderedDict[str, _Montage] = OrderedDict()
        self._news = threading.Condition()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document in, judge it if it is a tile, and pass it on."""
        if name == "start" and "montage" in doc and "raw_uid" in doc:
            self._begin(doc)
        elif name == "descriptor" and doc["run_start"] in self._raw_of:
            doc = self._describe(doc)
        elif name == "event" and doc["descriptor"] in self._tile_descriptors:
            doc = self._judge(doc)
        elif name == "stop" and doc["run_start"] in self._raw_of:
            self._end(doc)
        self._publish(name, doc)

    def failed(self, raw_uid: str, timeout: float) -> Sequence[int]:
        """Tell which tiles of a montage failed, once all are judged: a plan's quality gate.

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
                judged = self._montages.get(raw_uid)
                raise TimeoutError(
                    f"{len(judged.attempts) if judged else 0} of "
                    f"{judged.n_tiles if judged else 'the'} tiles of run {raw_uid} were judged "
                    f"within {timeout:g} s: look whether tile processing runs and keeps up"
                )
            montage = self._montages[raw_uid]
            bad = sorted(index for index, failed in montage.failed.items() if failed)
            montage.to_retake = {index: montage.attempts[index] for index in bad}
            return bad

    def faults(self, tile: Mapping[str, Any], montage_median: Mapping[str, float]) -> list[str]:
        """Name the faults of a tile.

        Parameters
        ----------
        tile : mapping
            Data of an event of the stream `tile`.
        montage_median : mapping of str to float
            `mean` and `focus` of the tiles before, as far as they are known.

        Returns
        -------
        list of str
            Of `FAULTS`; empty if there is none.
        """
        if tile["error"]:
            return [FAILED_PROCESSING]
        limits = self.thresholds
        least_mean = max(
            limits.least_mean, limits.least_mean_relative * montage_median.get("mean", 0.0)
        )
        least_focus = max(
            limits.least_focus, limits.least_focus_relative * montage_median.get("focus", 0.0)
        )
        found = {
            DIM: tile["mean"] < least_mean,
            SATURATED: tile["saturated"] > limits.most_saturated,
            OBSTRUCTED: tile["dark"] > limits.most_dark,
            OUT_OF_FOCUS: tile["textured"] and tile["focus"] < least_focus,
            ASTIGMATIC: tile["textured"] and tile["astigmatism"] > limits.most_astigmatism,
            FEATURELESS: not tile["textured"],
        }
        return [fault for fault in FAULTS if found.get(fault)]

    def _begin(self, start: Mapping[str, Any]) -> None:
        size = self.thresholds.most_tiles
        with self._news:
            self._raw_of[start["uid"]] = start["raw_uid"]
            self._montages[start["raw_uid"]] = _Montage(
                len(start["montage"]["tiles"]), deque(maxlen=size), deque(maxlen=size)
            )
            while len(self._montages) > self._keep:
                self._montages.popitem(last=False)

    def _describe(self, doc: dict[str, Any]) -> dict[str, Any]:
        if doc["name"] != TILE_STREAM:
            return doc
        self._tile_descriptors[doc["uid"]] = self._raw_of[doc["run_start"]]
        objects = {name: [*keys, *VERDICT_KEYS] for name, keys in doc["object_keys"].items()}
        return {**doc, "data_keys": {**doc["data_keys"], **VERDICT_KEYS}, "object_keys": objects}

    def _judge(self, event: dict[str, Any]) -> dict[str, Any]:
        montage = self._montages[self._tile_descriptors[event["descriptor"]]]
        tile = event["data"]
        medians = {
            name: median(values)
            for name, values in (("mean", montage.means), ("focus", montage.scores))
            if len(values) >= max(1, self.thresholds.least_tiles)
        }
        faults = self.faults(tile, medians)
        failed = not HARMLESS.issuperset(faults)
        if not failed:
            montage.means.append(tile["mean"])
            if tile["textured"]:
                montage.scores.append(tile["focus"])
        with self._news:
            index, attempt = tile["tile_index"], tile["tile_attempt"]
            if attempt >= montage.attempts.get(index, 0):  # an earlier take may be done later
                montage.attempts[index], montage.failed[index] = attempt, failed
            self._news.notify_all()
        added = {"verdict": FAIL if failed else PASS, "faults": ",".join(faults)}
        times = dict.fromkeys(added, event["time"])
        return {
            **event,
            "data": {**tile, **added},
            "timestamps": {**event["timestamps"], **times},
        }

    def _end(self, stop: Mapping[str, Any]) -> None:
        with self._news:
            raw_uid = self._raw_of.pop(stop["run_start"])
            if raw_uid in self._montages:
                self._montages[raw_uid].ended = True
            self._tile_descriptors = {
                uid: raw for uid, raw in self._tile_descriptors.items() if raw != raw_uid
            }
            self._news.notify_all()

    def _all_judged(self, raw_uid: str) -> bool:
        montage = self._montages.get(raw_uid)
        if montage is None:
            return False
        again = all(montage.attempts[index] > told for index, told in montage.to_retake.items())
        return montage.ended or (again and len(montage.attempts) >= montage.n_tiles)
