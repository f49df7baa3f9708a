"""Verdicts and faults of tiles, and the gate that a plan asks."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from callbacks.quality import Quality
from processing.quality import Thresholds
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import SIDE, SimulatedMontage, Taken, feed
from tests.support import wait_until

WAIT = 60


@pytest.fixture
def quality(recorder):
    return Quality(recorder, Thresholds(least_tiles=3))


def blurred(frame):
    import cv2

    return cv2.GaussianBlur(frame, (0, 0), 6)


def test_verdicts_reach_the_tiles_of_a_montage(data_folder, make_processor, quality, recorder):
    montage = SimulatedMontage(data_folder, rows=3, columns=3)
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    frames[4] //= 5
    frames[5] = blurred(frames[5])
    frames[6][: SIDE // 3] = 65535
    frames[7][: SIDE // 2] = 10
    frames[8] = np.random.default_rng(0).normal(12000, 50, frames[8].shape).astype(np.uint16)
    montage.write(frames, range(100, 100 + montage.n_tiles))
    processor = make_processor(publish=quality)
    documents = list(montage.documents(write=False))
    for name, doc in documents[:-1]:  # one by one: the median is of the tiles before
        processor(name, doc)
        if name == "event":
            wait_until(lambda: processor.wait(0) or processor.tiles_behind == 0, WAIT)
    feed(processor, documents[-1:])
    assert processor.wait(WAIT)
    recorder.check()  # the descriptor knows the keys that were added
    tiles = {tile["tile_index"]: tile for tile in recorder.table("tile")}
    assert [tiles[i]["verdict"] for i in range(9)] == ["pass"] * 4 + ["fail"] * 4 + ["pass"]
    assert [tiles[i]["faults"] for i in range(4)] == [""] * 4
    assert "dim" in tiles[4]["faults"]
    assert tiles[5]["faults"] == "out_of_focus"
    assert "saturated" in tiles[6]["faults"]
    assert "obstructed" in tiles[7]["faults"]
    assert tiles[8]["faults"] == "featureless"
    (descriptor,) = [doc for doc in recorder.of("descriptor") if doc["name"] == "tile"]
    assert {"verdict", "faults"} <= set(descriptor["object_keys"]["temline"])
    assert list(quality.failed(recorder.starts[0]["raw_uid"], 0)) == [4, 5, 6, 7]


def test_the_gate_waits_for_all_tiles_and_then_for_the_retakes(
    data_folder, make_processor, quality, recorder
):
    montage = SimulatedMontage(data_folder)
    again = Taken(2, attempt=2)
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    frames.append(frames[2].copy())
    frames[2][:] = 5
    montage.write(frames, range(100, 100 + len(frames)))
    documents = list(montage.documents([*montage.all_tiles(), again], write=False))
    raw_uid = documents[0][1]["uid"]
    processor = make_processor(publish=quality)
    before_last = len(documents) - 5  # without the sixth tile, the retake and the stop
    feed(processor, documents[:before_last])
    wait_until(lambda: len(recorder.table("tile")) == 5, WAIT)
    with pytest.raises(TimeoutError, match="5 of 6 tiles"):
        quality.failed(raw_uid, 0.05)

    answers: list[list[int]] = []
    asking = threading.Thread(target=lambda: answers.append(quality.failed(raw_uid, WAIT)))
    asking.start()
    feed(processor, documents[before_last : before_last + 2])
    asking.join(WAIT)
    assert [list(answer) for answer in answers] == [[2]]

    with pytest.raises(TimeoutError):  # the tile is not judged anew
        quality.failed(raw_uid, 0.05)
    feed(processor, documents[before_last + 2 :])
    assert list(quality.failed(raw_uid, WAIT)) == []
    assert processor.wait(WAIT)
    newest = [tile for tile in recorder.table("tile") if tile["tile_index"] == 2]
    assert [tile["verdict"] for tile in newest] == ["fail", "pass"]


def test_the_gate_knows_no_other_run(quality):
    with pytest.raises(TimeoutError, match="run nobody"):
        quality.failed("nobody", 0.01)


def test_an_aborted_montage_does_not_keep_the_gate_waiting(data_folder, make_processor, quality):
    montage = SimulatedMontage(data_folder)
    processor = make_processor(publish=quality)
    uid = feed(processor, montage.documents(montage.all_tiles()[:2], exit_status="abort"))
    assert processor.wait(WAIT)
    assert list(quality.failed(uid, 1)) == []


def test_runs_of_others_pass_through_unchanged(recorder, data_folder):
    quality = Quality(recorder)
    documents = list(SimulatedMontage(data_folder).documents())
    feed(quality, documents)
    assert all(a[1] is b[1] for a, b in zip(documents, recorder.documents, strict=True))


def test_old_montages_are_forgotten(data_folder, make_processor, recorder):
    quality = Quality(recorder, keep=1)
    processor = make_processor(publish=quality)
    uids = []
    for seed in (1, 2):
        montage = SimulatedMontage(data_folder, seed=seed)
        uids.append(feed(processor, montage.documents()))
        assert processor.wait(WAIT)
    assert list(quality.failed(uids[1], 0)) == []
    with pytest.raises(TimeoutError):
        quality.failed(uids[0], 0)
    assert SETTINGS.max_in_flight > 1
