"""A Tiled that answers late: the acquisition and the processing do not wait, and all arrives."""

from __future__ import annotations

import time

import numpy as np

from callbacks.folders import DataFolders
from callbacks.tile_processor import TileProcessor
from callbacks.tiled_sink import TiledSink, kept_runs
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import SimulatedMontage
from tests.callbacks.slow_proxy import slow_proxy
from tests.callbacks.tiled import KEY

DELAY = 0.03  # s; a montage takes Tiled some two hundred answers
WAIT = 120


def test_a_slow_tiled_slows_nothing_and_loses_nothing(
    tiled, tiled_folder, executor, recorder, tmp_path
):
    montage = SimulatedMontage(tiled_folder, rows=3, columns=3, seed=77)
    with slow_proxy(tiled.uri, DELAY) as uri:
        sink = TiledSink(uri, KEY, tmp_path / "kept")

        def publish(name, doc):
            recorder(name, doc)
            sink(name, doc)

        processor = TileProcessor(executor, publish, SETTINGS, DataFolders(tiled_folder))
        calls = []
        for name, doc in montage.documents():
            began = time.perf_counter()
            sink(name, doc)
            processor(name, doc)
            calls.append(time.perf_counter() - began)
        assert np.median(calls) < 0.002, "the RunEngine's thread only puts documents into queues"
        assert processor.close(WAIT)
        recorder.check()
        assert not sink.flush(0), "Tiled is still writing: the processing did not wait for it"
        began = time.monotonic()
        assert sink.flush(WAIT)
        assert time.monotonic() - began > DELAY
        assert sink.close(WAIT)
    assert not kept_runs(sink.backup_directory)
    run = tiled.client()[recorder.starts[0]["uid"]]
    assert run.stop["exit_status"] == "success"
    table = run["tile"].base["internal"].read()
    assert list(table["tile_index"]) == list(range(montage.n_tiles))
    assert run["tile"]["mini"].shape[0] == montage.n_tiles
    assert len(run["match"]["drow"].read()) == 12
    assert run["mosaic"]["mosaic_0"].shape[1] > 500
