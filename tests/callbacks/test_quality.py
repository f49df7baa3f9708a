"""The gate that a plan asks, behind real processing."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from callbacks.quality import QualityGate
from tests.callbacks.montage import SIDE, SimulatedMontage, Taken, feed
from tests.support import wait_until

WAIT = 60


@pytest.fixture
def gate():
    return QualityGate()


@pytest.fixture
def processor(make_processor, gate, recorder):
    def publish(name, doc):
        gate(name, doc)
        recorder(name, doc)

    return make_processor(publish=publish)


def blurred(frame):
    return cv2.GaussianBlur(frame, (0, 0), 6)


def test_verdicts_reach_the_gate(data_folder, processor, gate, recorder):
    montage = SimulatedMontage(data_folder, rows=3, columns=3)
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    frames[4] //= 5
    frames[5] = blurred(frames[5])
    frames[6][: SIDE // 3] = 65535
    frames[7][: SIDE // 2] = 10
    frames[8] = np.random.default_rng(0).normal(12000, 50, frames[8].shape).astype(np.uint16)
    montage.write(frames, range(100, 100 + montage.n_tiles))
    documents = list(montage.documents(write=False))
    for name, doc in documents[:-1]:  # one by one: the median is of the tiles before
        processor(name, doc)
        if name == "event":
            wait_until(lambda: processor.wait(0) or processor.tiles_behind == 0, WAIT)
    feed(processor, documents[-1:])
    assert processor.wait(WAIT)
    tiles = {tile["tile_index"]: tile for tile in recorder.table("tile")}
    assert [tiles[i]["verdict"] for i in range(9)] == ["pass"] * 4 + ["fail"] * 4 + ["pass"]
    assert [tiles[i]["faults"] for i in range(4)] == [""] * 4
    assert "dim" in tiles[4]["faults"]
    assert tiles[5]["faults"] == "out_of_focus"
    assert "saturated" in tiles[6]["faults"]
    assert "obstructed" in tiles[7]["faults"]
    assert tiles[8]["faults"] == "featureless"
    assert list(gate.failed(recorder.starts[0]["raw_uid"], 0)) == [4, 5, 6, 7]


def test_the_gate_waits_for_all_tiles_and_then_for_the_retakes(
    data_folder, processor, gate, recorder
):
    montage = SimulatedMontage(data_folder)
    again = Taken(2, attempt=2)
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    frames.append(frames[2].copy())
    frames[2][:] = 5
    montage.write(frames, range(100, 100 + len(frames)))
    documents = list(montage.documents([*montage.all_tiles(), again], write=False))
    raw_uid = documents[0][1]["uid"]
    before_last = len(documents) - 5  # without the sixth tile, the retake and the stop
    feed(processor, documents[:before_last])
    wait_until(lambda: len(recorder.table("tile")) == 5, WAIT)
    with pytest.raises(TimeoutError, match="5 of 6 tiles"):
        gate.failed(raw_uid, 0.05)

    answers: list[list[int]] = []
    asking = threading.Thread(target=lambda: answers.append(gate.failed(raw_uid, WAIT)))
    asking.start()
    feed(processor, documents[before_last : before_last + 2])
    asking.join(WAIT)
    assert [list(answer) for answer in answers] == [[2]]

    with pytest.raises(TimeoutError):  # the tile is not judged anew
        gate.failed(raw_uid, 0.05)
    feed(processor, documents[before_last + 2 :])
    assert list(gate.failed(raw_uid, WAIT)) == []
    assert processor.wait(WAIT)
    newest = [tile for tile in recorder.table("tile") if tile["tile_index"] == 2]
    assert [tile["verdict"] for tile in newest] == ["fail", "pass"]


def test_the_gate_knows_no_other_run(gate):
    with pytest.raises(TimeoutError, match="run nobody"):
        gate.failed("nobody", 0.01)


def test_an_aborted_montage_does_not_keep_the_gate_waiting(data_folder, processor, gate):
    montage = SimulatedMontage(data_folder)
    uid = feed(processor, montage.documents(montage.all_tiles()[:2], exit_status="abort"))
    assert processor.wait(WAIT)
    assert list(gate.failed(uid, 1)) == []


def documents_of(raw_uid="raw", n_tiles=6, first=0):
    """Documents of a processed run, as far as the gate reads them."""
    tiles = [[0, column, float(column), 0.0] for column in range(n_tiles)]
    yield "start", {"uid": f"p-{raw_uid}", "raw_uid": raw_uid, "montage": {"tiles": tiles}}
    for stream in ("tile", "fault", "match"):
        yield (
            "descriptor",
            {"uid": f"{stream}-{raw_uid}", "name": stream, "run_start": f"p-{raw_uid}"},
        )


def tile_event(index, raw_uid="raw", attempt=1, faults="", focus=0.5):
    data = {"tile_index": index, "tile_attempt": attempt, "faults": faults, "textured": True}
    data |= {"verdict": "fail" if faults else "pass", "focus": focus}
    return "event", {"descriptor": f"tile-{raw_uid}", "data": data}


def fault_event(index, fault, scope="transient", raw_uid="raw"):
    data = {"tile_index": index, "tile_attempt": 1, "fault": fault, "severity": 0.5, "scope": scope}
    return "event", {"descriptor": f"fault-{raw_uid}", "data": data}


def tell(gate, *documents):
    for name, doc in documents:
        gate(name, doc)


def test_advice_is_what_plans_read(gate):
    tell(gate, *documents_of(), tile_event(0), tile_event(1, faults="drifted"))
    advice = gate.advice("raw")
    assert advice["decision"] == "retake"
    assert advice["retake"] == [1]
    assert "1: drifted" in advice["reason"]
    assert (advice["refocus"], advice["behind"]) == (False, 0)
    tell(gate, tile_event(1, attempt=2))
    assert gate.advice("raw")["decision"] == "good"


def test_a_run_that_is_not_known_is_good():
    gate = QualityGate(behind=lambda: 7)
    assert gate.advice("nobody") == {
        "decision": "good", "reason": "", "retake": [], "refocus": False, "behind": 7,
    }  # fmt: skip


def test_a_fault_that_a_match_shows_later_is_heard(gate):
    tell(gate, *documents_of(), tile_event(0), tile_event(1), fault_event(0, "no_match"))
    assert gate.advice("raw")["retake"] == [0]


def test_a_critical_fault_stops_the_run(gate):
    tell(gate, *documents_of(), tile_event(0, faults="dim"), fault_event(0, "dim", "critical"))
    advice = gate.advice("raw")
    assert advice["decision"] == "stop_now"
    assert "dim" in advice["reason"]


def test_runs_do_not_mix(gate):
    tell(gate, *documents_of("a"), *documents_of("b"))
    tell(gate, tile_event(0, "a", faults="dim"), tile_event(0, "b"))
    assert gate.advice("a")["retake"] == [0]
    assert gate.advice("b")["retake"] == []


def test_advice_never_waits_while_another_waits_for_the_last_tile(gate):
    tell(gate, *documents_of(n_tiles=2), tile_event(0, faults="dim"))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(gate.failed("raw", WAIT)))
    asking.start()
    assert gate.advice("raw")["decision"] == "retake"
    tell(gate, tile_event(1))
    asking.join(WAIT)
    assert [list(answer) for answer in answers] == [[0]]


def test_old_montages_are_forgotten():
    gate = QualityGate(keep=1)
    tell(gate, *documents_of("a"), *documents_of("b"), ("stop", {"run_start": "p-b"}))
    tell(gate, tile_event(0, "a"))
    assert list(gate.failed("b", 0)) == []
    with pytest.raises(TimeoutError):
        gate.failed("a", 0)
