"""Draws the figures of a montage from its documents: for the demo's table and its JSON.

The simulator's truth is read here, and nowhere on the way to the result.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from event_model import RunRouter
from numpy.typing import NDArray

from processing.geometry import FrameGeometry

MEGA = 1e6
MIN_TO_TURN = 6  # tiles


@dataclass(frozen=True)
class Figures:
    """What the demo measures; the keys of its JSON.

    Attributes
    ----------
    residual_px_median : float
        Of the matches after the solve.
    truth_error_px_rms, nominal_error_px_rms : float
        Distance of solved and of nominal positions from the simulator's truth, as `position_error`.
        NaN if there is no truth.
    mpx_per_s : float
        Pixels of the tiles over the time of the montage's run.
    exposure_share : float
        Share of that time that was exposure, 0 to 1.
    seconds : float
        From the beam's first light to the finished mosaic.
    focus_median : float
        Focus score of the tiles.
    go : bool
        Whether quality lets the montage pass.
    reasons : str
        Why not; empty if it does.
    model : str
        What tiles were allowed to do in the solve, as matches that were held out bear it out.
    """

    tiles_taken: int
    tiles_skipped: int
    tiles_retaken: int
    tiles_failed: int
    residual_px_median: float
    truth_error_px_rms: float
    nominal_error_px_rms: float
    mpx_per_s: float
    exposure_share: float
    seconds: float
    focus_median: float
    go: bool
    reasons: str
    model: str
    raw_uid: str
    processed_uid: str

    def to_json(self) -> str:
        """Give the figures as one JSON object; what is not known is null."""
        values = {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return json.dumps(values, indent=2)


class Recorder:
    """Keeps the start, the events and the stop of runs of one kind: small runs only.

    Parameters
    ----------
    plan_name : str
        Of the runs to keep.
    """

    def __init__(self, plan_name: str) -> None:
        self._plan_name = plan_name
        self._router = RunRouter([self._factory])
        self._streams: dict[str, str] = {}
        self.start: dict[str, Any] = {}
        self.stop: dict[str, Any] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.configuration: dict[str, Any] = {}
        self.ended = threading.Event()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document in."""
        self._router(name, doc)

    def _factory(self, name: str, start: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        del name
        return ([self._keep] if start.get("plan_name") == self._plan_name else []), []

    def _keep(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.start, self.stop, self.events, self.configuration = doc, {}, {}, {}
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
            for device in doc.get("configuration", {}).values():
                self.configuration |= device["data"]
        elif name == "event_page":  # to which the router turns single events too
            events = self.events.setdefault(self._streams[doc["descriptor"]], [])
            for values in zip(*doc["data"].values(), strict=True):
                events.append(dict(zip(doc["data"], values, strict=True)))
        elif name == "stop":
            self.stop = doc
            self.ended.set()

    def last(self, stream: str, key: str = "tile_index") -> dict[int, dict[str, Any]]:
        """Give the last event of each tile of a stream."""
        return {event[key]: event for event in self.events.get(stream, ())}


def read_truth(path: Path) -> dict[int, dict[str, Any]]:
    """Read the simulator's log of what was behind each frame, by frame number.

    Parameters
    ----------
    path : path
        One JSON object a line: ``frame``, ``x``, ``y`` (µm), ``pixel_size`` (nm), ``angle`` (deg).
        A last line that is cut off is left out.
    """
    truth = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        truth[entry["frame"]] = entry
    return truth


def position_error(positions: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return how far positions are from the truth, RMS, but for what no tile can tell.

    That is where the whole lies, and (of six tiles and more) by how much it is turned and scaled:
    what the magnification truly is.

    Parameters
    ----------
    positions, truth : ndarray of float64, shape (n, 2)
        In px.
    """
    found, true = (places[:, 0] + 1j * places[:, 1] for places in (positions, truth))
    if len(true) < MIN_TO_TURN:
        left = found - true - (found - true).mean()
    else:
        terms = np.column_stack([np.ones_like(true), true])
        left = found - terms @ np.linalg.lstsq(terms, found, rcond=None)[0]
    return float(np.sqrt((np.abs(left) ** 2).mean()))


def truth_errors(
    tiles: Mapping[int, Mapping[str, Any]],
    positions: Mapping[int, Mapping[str, Any]],
    calibration: Mapping[str, Any],
    truth: Mapping[int, Mapping[str, Any]],
) -> tuple[float, float]:
    """Compare solved and nominal positions with the truth.

    Parameters
    ----------
    tiles, positions : mapping of int to mapping
        Last events of the streams `tile` and `position`, by the tile's index.
    calibration : mapping
        Of the start document.
    truth : mapping of int to mapping
        As `read_truth` gives it.

    Returns
    -------
    solved, nominal : float
        RMS distances in px; NaN if the truth of fewer than two tiles is known.
    """
    known = [
        index for index in positions if index in tiles and tiles[index]["frame_number"] in truth
    ]
    if len(known) < 2:
        return float("nan"), float("nan")
    frames = [truth[tiles[index]["frame_number"]] for index in known]
    flips = {key: bool(calibration.get(key, False)) for key in ("flip_columns", "flip_rows")}
    true_geometry = FrameGeometry(frames[0]["pixel_size"], frames[0]["angle"], **flips)
    nominal_geometry = FrameGeometry(calibration["pixel_size"], calibration["angle"], **flips)
    true = true_geometry.pixel_vector([(frame["x"], frame["y"]) for frame in frames])
    places = [positions[index] for index in known]
    solved = np.array([(place["row_px"], place["column_px"]) for place in places])
    nominal = nominal_geometry.pixel_vector(
        [(tiles[i]["tile_x"], tiles[i]["tile_y"]) for i in known]
    )
    return position_error(solved, true), position_error(nominal, true)


def montage_figures(
    raw: Recorder, processed: Recorder, truth: Mapping[int, Mapping[str, Any]], seconds: float
) -> Figures:
    """Draw the figures of a montage from what was recorded of its raw and its processed run.

    Parameters
    ----------
    raw, processed : Recorder
        Both ended.
    truth : mapping
        As `read_truth` gives it; may be empty.
    seconds : float
        Of acquisition and processing.
    """
    layout = raw.start["montage"]
    taken: Sequence[Mapping[str, Any]] = raw.events.get("primary", ())
    tiles = processed.last("tile")
    summary = processed.events["montage"][-1] if processed.events.get("montage") else {}
    duration = raw.stop["time"] - raw.start["time"]
    exposure = float(raw.configuration["camera_cam_acquire_time"])
    height, width = layout["tile_shape"]
    solved, nominal = truth_errors(
        tiles, processed.last("position"), raw.start["calibration"], truth
    )
    focus = [tile["focus"] for tile in tiles.values() if np.isfinite(tile["focus"])]
    return Figures(
        tiles_taken=len({event["tile_index"] for event in taken}),
        tiles_skipped=len(layout["skipped"]),
        tiles_retaken=sum(event["tile_attempt"] > 1 for event in taken),
        tiles_failed=sum(tile["verdict"] != "pass" for tile in tiles.values()),
        residual_px_median=float(summary.get("residual_px_median", float("nan"))),
        truth_error_px_rms=solved,
        nominal_error_px_rms=nominal,
        mpx_per_s=len(taken) * height * width / MEGA / duration,
        exposure_share=len(taken) * exposure / duration,
        seconds=seconds,
        focus_median=float(np.median(focus)) if focus else float("nan"),
        go=bool(summary.get("go", False)),
        reasons=str(summary.get("reasons", "the montage was not processed to its end")),
        model=str(summary.get("model", "")),
        raw_uid=raw.start["uid"],
        processed_uid=processed.start.get("uid", ""),
    )
