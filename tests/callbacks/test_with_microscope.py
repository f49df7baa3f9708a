"""The whole road on the virtual microscope: references, a montage with a lost frame, the gate."""

from __future__ import annotations

import numpy as np
import pytest

from callbacks.folders import DataFolders
from callbacks.quality import QualityGate
from callbacks.references import ReferenceProcessor
from callbacks.tile_processor import TileProcessor
from plans import brightfield, darkfield, montage
from tests.callbacks.conftest import SETTINGS
from tests.devices.lab import Lab, Session
from tests.support import put

SENSOR = (512, 512)
ROI = {"centre": (20.0, 10.0), "width": 3.2, "height": 3.2}
WAIT = 60


@pytest.fixture
def lab(start_ioc, tmp_path):
    truth = str(tmp_path / "truth.jsonl")
    stage = {"repeatable_error": 0.15}  # µm: 38 px
    return Lab.over(start_ioc(seed=4, sensor=SENSOR, truth_log=truth, stage=stage))


def test_a_montage_of_the_virtual_microscope_is_solved_to_its_truth(
    lab, executor, recorder, tmp_path
):
    gate, folders = QualityGate(), DataFolders(tmp_path)

    def publish(name, doc):
        recorder(name, doc)
        gate(name, doc)

    references = ReferenceProcessor(executor, recorder, folders.references)
    processor = TileProcessor(executor, publish, SETTINGS, folders)
    session = Session()
    session.RE.subscribe(references)
    session.RE.subscribe(processor)
    uids = {
        "bright": session(brightfield(lab.camera, lab.stage, lab.scope)),
        "dark": session(darkfield(lab.camera, lab.scope)),
    }
    session.documents.clear()
    # One frame gets lost in the fourth tile: the plan takes it again at once, and from there on
    # the places of the datums and those of the frames differ.
    taken = []

    def lose_the_fourth(name, doc):
        if name == "event" and "tile_index" in doc["data"]:
            taken.append(doc["data"]["tile_index"])
            if len(taken) == 3:
                put(f"{lab.ioc.prefix}SIM:Fault:LostFrame:Count", 1)

    session.RE.subscribe(lose_the_fourth)
    taken_montage = session(
        montage(
            lab.camera,
            lab.stage,
            lab.scope,
            ROI,
            overlap=30.0,
            settle=0.15,
            references=uids,
            gate=gate,
        )
    )
    assert processor.close(WAIT)
    recorder.check()
    run = recorder.run(
        next(s["uid"] for s in recorder.starts if s.get("raw_uid") == taken_montage.uid)
    )
    (summary,) = run.table("montage")
    tiles = {tile["tile_index"]: tile for tile in run.table("tile")}
    assert len(tiles) == summary["tiles"] >= 4
    numbers = sorted(tile["frame_number"] for tile in tiles.values())
    assert numbers[-1] - numbers[0] + 1 > len(numbers)  # one was lost, indeed
    assert summary["flat_fielded"]
    assert summary["tiles_failed"] == 0
    assert {tile["verdict"] for tile in tiles.values()} == {"pass"}
    assert summary["residual_px_median"] < 1

    # Against the simulator's truth, but for a common shift.
    truth = lab.truth()
    positions = sorted(run.table("position"), key=lambda row: row["tile_index"])
    solved = np.array([(row["x"], row["y"]) for row in positions])
    true = np.array(
        [
            [truth[tiles[row["tile_index"]]["frame_number"]][axis] for axis in ("x", "y")]
            for row in positions
        ]
    )
    pixel = run.starts[0]["calibration"]["pixel_size"] / 1000
    error = (solved - true) / pixel
    error -= error.mean(axis=0)
    assert np.sqrt((error**2).sum(axis=1).mean()) < 1
    nominal = np.array([(tiles[i]["tile_x"], tiles[i]["tile_y"]) for i in sorted(tiles)])
    off = (nominal - true) / pixel
    assert np.abs(off - off.mean(axis=0)).max() > 5
