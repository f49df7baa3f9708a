"""The figures of a montage: truth errors by geometry, and what is not known stays unknown."""

import json
import math

import numpy as np
import pytest

from processing.geometry import FrameGeometry
from services.report import (
    Figures,
    Recorder,
    montage_figures,
    position_error,
    read_truth,
    truth_errors,
)

TRUE = FrameGeometry(4.008, angle=3.1, flip_rows=True)
CALIBRATION = {"pixel_size": 4.0, "angle": 3.0, "flip_columns": False, "flip_rows": True}


@pytest.fixture
def places():
    """Give true places of frames in px, about their mean."""
    return np.array([(0.0, 0.0), (0.0, 900.0), (900.0, 10.0), (910.0, 905.0)])


def documents_of(places, wrong=(0.0, 0.0)):
    """Make the truth of frames 11, 12, … and the positions of tiles 0, 1, … solved from them."""
    stage = TRUE.stage_vector(places) + np.array([50.0, -20.0])
    frame = {"pixel_size": TRUE.pixel_size, "angle": TRUE.angle}
    truth = {11 + i: {"frame": 11 + i, "x": x, "y": y, **frame} for i, (x, y) in enumerate(stage)}
    tiles = {
        i: {"frame_number": 11 + i, "tile_x": x + 0.4 * (-1) ** i, "tile_y": y}
        for i, (x, y) in enumerate(stage)
    }
    positions = {i: {"row_px": r + 77.0, "column_px": c - 3.0} for i, (r, c) in enumerate(places)}
    positions[0]["row_px"] += wrong[0]
    positions[0]["column_px"] += wrong[1]
    return tiles, positions, truth


def test_exact_positions_have_no_error_whatever_their_origin(places):
    tiles, positions, truth = documents_of(places)
    solved, nominal = truth_errors(tiles, positions, CALIBRATION, truth)
    assert solved == pytest.approx(0, abs=1e-9)
    assert nominal == pytest.approx(100, rel=0.05)  # 0.4 µm either way, at 4 nm


def test_one_wrong_tile_shows_with_its_share(places):
    tiles, positions, truth = documents_of(places, wrong=(8.0, 0.0))
    solved, _ = truth_errors(tiles, positions, CALIBRATION, truth)
    assert solved == pytest.approx(math.sqrt((6**2 + 3 * 2**2) / 4))  # less the mean of 2 px


def test_tiles_without_truth_are_left_out(places):
    tiles, positions, truth = documents_of(places, wrong=(8.0, 0.0))
    del truth[11]
    solved, _ = truth_errors(tiles, positions, CALIBRATION, truth)
    assert solved == pytest.approx(0, abs=1e-9)
    assert all(map(math.isnan, truth_errors(tiles, positions, CALIBRATION, {})))


def test_the_error_is_a_distance():
    truth = np.zeros((2, 2))
    assert position_error(np.array([(3.0, 4.0), (-3.0, -4.0)]), truth) == pytest.approx(5)


def test_what_the_magnification_truly_is_no_tile_can_tell():
    truth = np.random.default_rng(0).uniform(0, 9000, (9, 2))
    turned = truth @ (
        1.003 * np.array([[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]])
    )
    assert position_error(turned + np.array([100, -7]), truth) == pytest.approx(0, abs=1e-8)
    stretched = truth * [1.001, 1.0]
    assert position_error(stretched, truth) > 1


def test_the_truth_log_may_end_in_the_middle_of_a_line(tmp_path):
    log = tmp_path / "truth.jsonl"
    log.write_text('{"frame": 1, "x": 2.0}\n{"frame": 2, "x": 3.0}\n{"frame": 3, "x"')
    assert read_truth(log) == {1: {"frame": 1, "x": 2.0}, 2: {"frame": 2, "x": 3.0}}


def event_of(descriptor, number, data):
    return {
        "descriptor": descriptor,
        "uid": f"{descriptor}{number}",
        "seq_num": number,
        "time": 100.0 + number,
        "data": data,
        "timestamps": dict.fromkeys(data, 100.0),
    }


def raw_run(recorder):
    """Give a recorder the documents of a montage of two tiles, one of them retaken."""
    montage = {"tiles": [0, 1], "skipped": [[0, 1]], "tile_shape": [1000, 1000]}
    recorder(
        "start",
        {
            "uid": "raw",
            "time": 100.0,
            "plan_name": "montage",
            "montage": montage,
            "calibration": CALIBRATION,
        },
    )
    configuration = {"camera": {"data": {"camera_cam_acquire_time": 0.2}}}
    descriptor = {
        "uid": "d",
        "name": "primary",
        "run_start": "raw",
        "data_keys": {},
        "configuration": configuration,
    }
    recorder("descriptor", descriptor)
    for number, (index, attempt) in enumerate(((0, 1), (1, 1), (1, 2)), 1):
        event = {"tile_index": index, "tile_attempt": attempt}
        recorder("event", event_of("d", number, event))
    recorder("stop", {"run_start": "raw", "time": 102.0, "uid": "s", "exit_status": "success"})


def test_figures_count_tiles_retakes_and_speed():
    raw, processed = Recorder("montage"), Recorder("process_montage")
    raw_run(raw)
    assert raw.ended.is_set()
    processed("start", {"uid": "done", "time": 100.0, "plan_name": "process_montage"})
    processed("descriptor", {"uid": "t", "name": "tile", "run_start": "done", "data_keys": {}})
    for number, (index, verdict) in enumerate(((0, "pass"), (1, "fail"), (1, "pass")), 1):
        tile = {"tile_index": index, "verdict": verdict, "focus": 0.1 * number, "frame_number": 1}
        processed("event", event_of("t", number, tile))
    figures = montage_figures(raw, processed, {}, seconds=5.0)
    assert (figures.tiles_taken, figures.tiles_skipped, figures.tiles_retaken) == (2, 1, 1)
    assert figures.tiles_failed == 0  # what counts is the last take
    assert figures.mpx_per_s == pytest.approx(1.5)
    assert figures.exposure_share == pytest.approx(0.3)
    assert figures.focus_median == pytest.approx(0.2)
    assert (figures.raw_uid, figures.processed_uid) == ("raw", "done")
    assert math.isnan(figures.residual_px_median)


def test_what_is_not_known_is_null_in_json():
    figures = Figures(
        1, 0, 0, 0, math.nan, math.nan, 5.0, 1.0, 0.5, 9.0, 0.5, True, "", "translations", "a", "b"
    )
    values = json.loads(figures.to_json())
    assert values["truth_error_px_rms"] is None
    assert values["nominal_error_px_rms"] == 5.0


def test_other_runs_are_not_recorded():
    recorder = Recorder("montage")
    recorder("start", {"uid": "x", "time": 0.0, "plan_name": "snap"})
    recorder("stop", {"run_start": "x", "time": 1.0, "uid": "y", "exit_status": "success"})
    assert recorder.start == {}
    assert not recorder.ended.is_set()
