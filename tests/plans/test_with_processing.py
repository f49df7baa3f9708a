"""A montage steered by the real processing, which sees and mends what the microscope does wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from callbacks.folders import DataFolders
from callbacks.quality import QualityGate
from callbacks.tile_jobs import ProcessorSettings
from callbacks.tile_processor import TileProcessor
from plans import QualityGate as GateOfPlans
from plans import autofocus, gate, montage
from tests.callbacks.recorder import Recorder
from tests.devices.lab import Lab, Session, check_documents
from tests.support import IocProcess, wait_until

SENSOR = (512, 512)
EXPOSURE = 0.05  # s; light enough for a focus score
ROI = {"centre": (20.0, 10.0), "width": 8.4, "height": 4.9}  # 3 rows of 5 tiles
DEFOCUS = 20.0  # µm; the specimen's detail is blurred, but still there
ADVICE_TIMEOUT = 30.0  # s
WAIT = 60.0  # s


@pytest.fixture(scope="module")
def shared_lab(module_ioc: Callable[..., IocProcess]) -> Lab:
    return Lab.over(module_ioc(seed=4, sensor=SENSOR))


class Processing:
    """The tile processor and the gate, as the engine joins them."""

    def __init__(self, session: Session, executor: ThreadPoolExecutor, folder: Path) -> None:
        self.session = session
        self.documents = Recorder()
        self._gate = QualityGate(behind=lambda: self.tiles.tiles_behind)
        self.tiles = TileProcessor(
            executor, self._publish, ProcessorSettings(), DataFolders(folder)
        )
        session.RE.subscribe(self.tiles)

    def _publish(self, name: str, doc: dict[str, Any]) -> None:
        self._gate(name, doc)
        self.documents(name, doc)

    # The gate of the plan waits for all verdicts, so that a busy machine takes the same tiles.

    def advice(self, raw_uid: str) -> dict[str, Any]:
        n_taken = len(self.session.events())
        wait_until(lambda: len(self.documents.table("tile")) >= n_taken, ADVICE_TIMEOUT)
        return self._gate.advice(raw_uid)

    def failed(self, raw_uid: str, timeout: float) -> Sequence[int]:
        return self._gate.failed(raw_uid, timeout)

    def verdicts(self) -> dict[int, list[tuple[str, str]]]:
        """Give verdict and faults of each take of each tile."""
        assert self.tiles.wait(WAIT)
        self.documents.check()
        key = "tile_index"
        tiles = sorted(self.documents.table("tile"), key=lambda t: (t[key], t["tile_attempt"]))
        return {
            index: [(take["verdict"], take["faults"]) for take in takes]
            for index, takes in groupby(tiles, lambda tile: tile[key])
        }

    def when_taken(self, n: int, act: Callable[[], Any]) -> None:
        """Do something when so many tiles are taken, before the next."""

        def watch(name: str, doc: dict[str, Any]) -> None:
            if name == "event" and len(self.session.events()) == n and "tile_index" in doc["data"]:
                act()

        self.session.RE.subscribe(watch)


@pytest.fixture
def processing(session: Session, tmp_path: Path, monkeypatch) -> Iterator[Processing]:
    monkeypatch.setattr(gate, "ADVICE_TIMEOUT", ADVICE_TIMEOUT)
    with ThreadPoolExecutor(2) as executor:
        made = Processing(session, executor, tmp_path)
        yield made
        made.tiles.close(WAIT)


def take(lab: Lab, processing: Processing, **options: Any) -> Any:
    options = {"exposure": EXPOSURE, "overlap": 15, **options}
    return montage(lab.camera, lab.stage, lab.scope, ROI, gate=processing, **options)


def focus(lab: Lab, session: Session) -> float:
    """Bring the specimen into focus; give the defocus."""
    lab.stage.x.set(20.0).wait(20)
    lab.stage.y.set(10.0).wait(20)
    found = session(autofocus(lab.camera, lab.scope, exposure=EXPOSURE))
    session.documents.clear()
    return float(found.defocus)


def test_tiles_without_beam_are_taken_again_at_the_end_of_their_row(
    lab: Lab, session: Session, processing: Processing
):
    assert isinstance(processing._gate, GateOfPlans)
    focus(lab, session)
    processing.when_taken(6, lambda: lab.fault("BeamDrop", 2))
    result = session(take(lab, processing))
    check_documents(session.documents)
    verdicts = processing.verdicts()
    again = {index: takes for index, takes in verdicts.items() if len(takes) > 1}
    assert set(again) == {6, 7}
    for first, second in again.values():
        assert first[0] == "fail"
        assert "dim" in first[1].split(",")
        assert second == ("pass", "")
    assert {takes[-1][0] for takes in verdicts.values()} == {"pass"}
    order = [event["tile_index"] for event in session.events()]
    assert (order[:10], set(order[10:12]), order[12:]) == ([*range(10)], {6, 7}, [*range(10, 15)])
    assert (result.retaken, result.failed, result.stop) == (2, (), "")
    assert lab.is_safe()


def test_a_defocus_in_mid_montage_is_seen_and_focused_away(
    lab: Lab, session: Session, processing: Processing
):
    best = focus(lab, session)
    processing.when_taken(5, lambda: lab.put("SCOPE:Defocus", best + DEFOCUS))
    result = session(take(lab, processing, retakes=2))
    check_documents(session.documents)
    verdicts = processing.verdicts()
    blurred = [index for index, (first, *_) in verdicts.items() if first[0] == "fail"]
    assert min(blurred) == 5
    assert "out_of_focus" in verdicts[5][0][1].split(",")
    (fit,) = session.events("autofocus")
    assert fit["autofocus_succeeded"] == 1
    assert fit["autofocus_defocus"] == pytest.approx(best, abs=2.0)
    assert fit["autofocus_tile"] == 8, "after three tiles in a row"
    assert {takes[-1][0] for takes in verdicts.values()} == {"pass"}, "all are sharp at the end"
    assert result.failed == ()
    last_takes = {event["tile_index"]: event for event in session.events()}
    for event in last_takes.values():
        assert event["scope_defocus"] == pytest.approx(best, abs=2.0)


def test_a_beam_that_does_not_come_back_ends_the_montage_and_what_there_is_is_solved(
    lab: Lab, session: Session, processing: Processing
):
    focus(lab, session)
    processing.when_taken(5, lambda: lab.put("SIM:Fault:BeamDrop", 1))
    result = session(take(lab, processing, retakes=0))
    assert result.stop == "now"
    assert "dim" in result.reason
    assert result.tiles == 5 + 8, "after eight tiles in a row"
    stop = session.one("stop")
    assert stop["exit_status"] == "abort"
    assert result.reason in stop["reason"]
    assert lab.is_safe()
    processing.verdicts()
    (processed,) = processing.documents.stops
    assert processed["exit_status"] == "abort"
    (summary,) = processing.documents.table("montage")
    assert summary["tiles"] == result.tiles
    assert len(processing.documents.table("position")) == result.tiles


def test_tiles_taken_in_blocks_are_matched_judged_and_solved_like_any_others(
    lab: Lab, session: Session, processing: Processing
):
    focus(lab, session)
    processing.when_taken(5, lambda: lab.fault("BeamDrop", 1))
    result = session(take(lab, processing, pattern="blocks", block=2))
    check_documents(session.documents)
    verdicts = processing.verdicts()
    assert [index for index, takes in verdicts.items() if len(takes) > 1] == [5]
    assert {takes[-1][0] for takes in verdicts.values()} == {"pass"}
    order = [event["tile_index"] for event in session.events()]
    assert order.index(5, 6) <= 11, "again at the end of the row of blocks: 2 × 5 tiles"
    assert (result.tiles, result.retaken, result.failed) == (15, 1, ())
    assert len(processing.documents.table("position")) == 15
    good = {
        (match["tile_a"], match["tile_b"])
        for match in processing.documents.table("match")
        if match["good"]
    }
    assert 20 <= len(good) <= 22, "of 3 × 4 pairs across and 2 × 5 down; noise may hide one"
    assert lab.is_safe()
