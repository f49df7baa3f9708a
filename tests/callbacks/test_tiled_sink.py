"""The Tiled sink: it never blocks, it loses nothing, and `replay` writes what was kept."""

from __future__ import annotations

import fcntl
import json
import logging
import subprocess
import sys
import time

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det
from tiled.client.array import ArrayClient

from callbacks.tiled_sink import TiledSink, kept_runs, replay
from tests.callbacks.montage import SimulatedMontage, feed
from tests.callbacks.tiled import KEY
from tests.support import REPOSITORY, free_port, wait_until

NOBODY = f"http://127.0.0.1:{free_port()}"
WAIT = 90


@pytest.fixture
def make_sink(tmp_path):
    made = []

    def make(uri, key=KEY):
        made.append(TiledSink(uri, key, tmp_path / "kept"))
        return made[-1]

    yield make
    for sink in made:
        assert sink.close(WAIT)


def simulated_run(folder, seed=1):
    return list(SimulatedMontage(folder, seed=seed).documents())


def uid_of(documents):
    return documents[0][1]["uid"]


def test_a_run_reaches_tiled_and_leaves_no_journal(tiled, tiled_folder, make_sink):
    sink = make_sink(tiled.uri)
    documents = simulated_run(tiled_folder)
    feed(sink, documents)
    assert sink.flush(WAIT)
    run = tiled.client()[uid_of(documents)]
    assert run.metadata["stop"]["exit_status"] == "success"
    assert list(run["primary"]["tile_index"].read()) == list(range(6))
    assert not kept_runs(sink.backup_directory)


def test_a_call_costs_next_to_nothing(make_sink, data_folder):
    sink = make_sink(NOBODY)
    documents = simulated_run(data_folder)
    began = time.perf_counter()
    feed(sink, documents)
    assert time.perf_counter() - began < 0.5  # to find that nobody is there takes longer


def test_tiled_down_at_the_start_stalls_nothing_and_loses_nothing(make_sink, tiled, caplog):
    tiled.kill()
    began = time.monotonic()
    sink = make_sink(tiled.uri)
    engine = RunEngine({}, context_managers=[], call_returns_result=True)
    engine.subscribe(sink)
    with caplog.at_level(logging.WARNING, logger="callbacks.tiled_sink"):
        uids = [engine(count([det], 3)).run_start_uids[0] for _ in range(2)]
        assert time.monotonic() - began < 5
        assert sink.flush(WAIT)
    assert len(kept_runs(sink.backup_directory)) == 2
    said = [record.message for record in caplog.records]
    assert len(said) == 1  # once, not for each run
    assert "temline replay" in said[0]
    assert tiled.uri in said[0]
    assert str(sink.backup_directory) in said[0]
    caplog.clear()

    tiled.start()
    with caplog.at_level(logging.WARNING, logger="callbacks.tiled_sink"):
        later = engine(count([det], 2)).run_start_uids[0]
        assert sink.flush(WAIT)
    assert "answers again" in caplog.text
    client = tiled.client()
    assert later in client
    assert len(kept_runs(sink.backup_directory)) == 2

    report = replay(sink.backup_directory, client)
    assert sorted(report.written) == sorted(uids)
    for uid in uids:
        np.testing.assert_array_equal(client[uid]["primary"]["det"].read(), [1, 1, 1])
    assert not kept_runs(sink.backup_directory)
    assert len(list((sink.backup_directory / "done").iterdir())) == 2
    assert replay(sink.backup_directory, client).written == []


def test_tiled_that_dies_in_mid_run_loses_nothing(make_sink, tiled, tiled_folder, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 2)
    sink = make_sink(tiled.uri)
    documents = simulated_run(tiled_folder, seed=7)
    uid = uid_of(documents)
    half = len(documents) // 2
    feed(sink, documents[:half])
    assert sink.flush(WAIT)
    client = tiled.client()
    assert uid in client
    tiled.kill()
    feed(sink, documents[half:])
    assert sink.flush(WAIT)
    (kept,) = kept_runs(sink.backup_directory)
    assert kept.stem == uid
    report = replay(sink.backup_directory, client)  # too early
    assert list(report.failed) == [kept.name]
    assert kept_runs(sink.backup_directory) == [kept]

    tiled.start()
    client = tiled.client()
    assert "stop" not in client[uid].metadata  # it is there in part
    later = simulated_run(tiled_folder, seed=2)
    feed(sink, later)
    assert sink.flush(WAIT)
    assert client[uid_of(later)].metadata["stop"]
    report = replay(sink.backup_directory, client)
    assert report.written == [uid]
    run = tiled.client()[uid]
    assert run.metadata["stop"]["exit_status"] == "success"
    assert list(run["primary"]["tile_index"].read()) == list(range(6))
    frames = SimulatedMontage(tiled_folder, seed=7)  # the camera's file is still there, and read
    np.testing.assert_array_equal(run["primary"]["camera_image"][3].squeeze(), frames.frame(3, 1))


def test_a_wrong_key_keeps_the_runs_and_says_so(tiled, make_sink, data_folder, caplog):
    sink = make_sink(tiled.uri, key="wrong")
    feed(sink, simulated_run(data_folder))
    assert sink.flush(WAIT)
    assert len(kept_runs(sink.backup_directory)) == 1
    assert "401" in caplog.text
    assert "temline replay" in caplog.text


def test_a_run_that_is_in_tiled_already_is_skipped(tiled, tiled_folder, make_sink, tmp_path):
    sink = make_sink(tiled.uri)
    documents = simulated_run(tiled_folder, seed=3)
    feed(sink, documents)
    assert sink.flush(WAIT)
    folder = tmp_path / "again"
    folder.mkdir()
    lines = [json.dumps({"name": name, "doc": doc}) for name, doc in documents]
    (folder / f"{uid_of(documents)}.jsonl").write_text("\n".join(lines) + "\n")
    report = replay(folder, tiled.client())
    assert (report.skipped, report.written) == ([uid_of(documents)], [])
    assert not kept_runs(folder)
    assert "1 in Tiled already" in str(report)


def test_a_run_whose_process_died_gets_an_end(tiled, tmp_path):
    """A process takes half a run in, and is killed."""
    folder = tmp_path / "kept"
    script = f"""
import os, signal
from callbacks.tiled_sink import TiledSink
from tests.callbacks.montage import SimulatedMontage
from pathlib import Path
sink = TiledSink({NOBODY!r}, None, {str(folder)!r})
documents = list(SimulatedMontage(Path({str(tmp_path / "data")!r})).documents())
for name, doc in documents[:-4]:
    sink(name, doc)
sink.flush(30)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60, check=False)
    (kept,) = kept_runs(folder)
    with kept.open("a") as journal:
        journal.write('{"name": "event", "doc": {"uid": "cut o')  # the last line is cut off
    report = replay(folder, tiled.client())
    assert report.written == [kept.stem]
    stop = tiled.client()[kept.stem].metadata["stop"]
    assert stop["exit_status"] == "abort"
    assert "ended before the run did" in stop["reason"]
    assert stop["num_events"] == {"primary": 4}
    assert len(tiled.client()[kept.stem]["primary"]["tile_index"].read()) == 4


def test_a_run_that_is_being_acquired_is_left_alone(tiled, tmp_path, data_folder, make_sink):
    sink = make_sink(NOBODY)
    documents = simulated_run(data_folder)
    feed(sink, documents[:-1])
    wait_until(lambda: kept_runs(sink.backup_directory))
    report = replay(sink.backup_directory, tiled.client())
    assert report.in_use == [uid_of(documents)]
    assert kept_runs(sink.backup_directory)
    feed(sink, documents[-1:])
    assert sink.flush(WAIT)
    assert replay(sink.backup_directory, tiled.client()).written == [uid_of(documents)]


def test_a_journal_that_is_no_run_is_reported_and_stays(tiled, tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"name": "stop", "doc": {}}\n')
    (tmp_path / "torn.jsonl").write_text('{"name": "sta\n{"name": "stop", "doc": {}}\n')
    report = replay(tmp_path, tiled.client())
    assert sorted(report.failed) == ["odd.jsonl", "torn.jsonl"]
    assert "does not begin with a start document" in report.failed["odd.jsonl"]
    assert len(kept_runs(tmp_path)) == 2


def test_replay_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="backup_directory"):
        replay(tmp_path / "nothing", None)


def test_numpy_values_survive_the_journal(make_sink, tiled):
    sink = make_sink(NOBODY)
    now = time.time()
    start = {"uid": "numpy-run", "time": now, "limits": np.array([1.5, 2]), "n": np.int64(3)}
    sink("start", {**start, "when": np.datetime64("2026-01-01")})
    stop = {"uid": "s", "time": now, "run_start": "numpy-run", "exit_status": "success"}
    sink("stop", stop)
    assert sink.flush(WAIT)
    assert replay(sink.backup_directory, tiled.client()).written == ["numpy-run"]
    written = tiled.client()["numpy-run"].metadata["start"]
    assert written["limits"] == [1.5, 2]
    assert (written["n"], written["when"]) == (3, "2026-01-01")


def test_a_journal_that_cannot_be_made_does_not_stop_the_writing(
    tiled, tiled_folder, make_sink, caplog
):
    sink = make_sink(tiled.uri)
    documents = simulated_run(tiled_folder, seed=4)
    (sink.backup_directory / f"{uid_of(documents)}.jsonl").mkdir()
    feed(sink, documents)
    assert sink.flush(WAIT)
    assert "no journal" in caplog.text
    assert tiled.client()[uid_of(documents)].metadata["stop"]


def test_closing_while_tiled_hangs_keeps_all_in_the_journal(tmp_path, data_folder, monkeypatch):
    hanging = []
    monkeypatch.setattr(TiledSink, "_connect", lambda self: hanging.append(1) or time.sleep(3))
    sink = TiledSink(NOBODY, None, tmp_path / "kept")
    documents = simulated_run(data_folder)
    feed(sink, documents)
    wait_until(lambda: hanging)
    began = time.monotonic()
    assert not sink.close(0.5)
    assert time.monotonic() - began < 2
    (kept,) = kept_runs(tmp_path / "kept")
    names = [json.loads(line)["name"] for line in kept.read_text().splitlines()]
    assert (names[0], names[-1]) == ("start", "stop")
    assert len(names) == len(documents)
    # The hanging thread still holds it.
    with kept.open() as journal, pytest.raises(BlockingIOError):
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert sink.close(WAIT)


def test_interleaved_runs_are_told_apart(tiled, tiled_folder, make_sink):
    """As the raw run goes on while the processed one is written."""
    sink = make_sink(tiled.uri)
    first, second = simulated_run(tiled_folder, seed=5), simulated_run(tiled_folder, seed=6)
    for one, other in zip(first, second, strict=True):
        sink(*one)
        sink(*other)
    assert sink.flush(WAIT)
    for documents in (first, second):
        run = tiled.client()[uid_of(documents)]
        assert isinstance(run["primary"]["camera_image"], ArrayClient)
        assert len(run["primary"]["tile_x"].read()) == 6
    assert not kept_runs(sink.backup_directory)
