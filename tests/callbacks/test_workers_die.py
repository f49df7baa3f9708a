"""Montages on worker processes and on a Dask cluster, some of which are killed on the way."""

from __future__ import annotations

import logging
import os
import signal

import numpy as np
import pytest

from callbacks.folders import DataFolders
from callbacks.tile_processor import TileProcessor
from config import load
from services.workers import make_executor
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import SimulatedMontage
from tests.support import wait_until

WAIT = 120
KINDS = ["processes", "dask"]


@pytest.fixture
def make_workers():
    """Make executors of two processes; Dask's own log of dying workers is kept out."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    made = []

    def make(kind):
        environ = {"TEMLINE_PROCESSING__EXECUTOR": kind, "TEMLINE_PROCESSING__WORKERS": "2"}
        made.append(make_executor(load(environ=environ).config))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)
    logger.setLevel(level)


def check(montage, recorder):
    """See that nothing was lost, and that the solution is right."""
    recorder.check()
    tiles = recorder.table("tile")
    assert [tile["tile_index"] for tile in tiles] == list(range(montage.n_tiles))
    assert not [tile["error"] for tile in tiles if tile["error"]]
    n_pairs = montage.rows * (montage.columns - 1) + montage.columns * (montage.rows - 1)
    assert len(recorder.table("match")) == n_pairs
    table = sorted(recorder.table("position"), key=lambda row: row["tile_index"])
    error = np.array([(row["row_px"], row["column_px"]) for row in table]) - montage.true
    assert np.abs(error - error.mean(axis=0)).max() < 0.2
    assert recorder.table("mosaic")
    assert recorder.stops[0]["exit_status"] == "success"


@pytest.mark.parametrize("kind", KINDS)
def test_a_montage_with_workers_that_are_killed_loses_nothing(
    kind, make_workers, data_folder, recorder, tmp_path
):
    montage = SimulatedMontage(data_folder, rows=4, columns=5)
    executor = make_workers(kind)
    pids = {executor.submit(os.getpid).result(WAIT) for _ in range(8)}
    processor = TileProcessor(executor, recorder, SETTINGS, DataFolders(tmp_path))
    documents = list(montage.documents())
    third = len(documents) // 3
    for name, doc in documents[:third]:
        processor(name, doc)
    wait_until(lambda: recorder.table("tile"), WAIT, "the first tile")
    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)
    for name, doc in documents[third:]:
        processor(name, doc)
    assert processor.close(WAIT)
    check(montage, recorder)
    assert executor.submit(os.getpid).result(WAIT) != victim


def test_a_poisonous_tile_is_a_faulted_tile(make_workers, data_folder, recorder, tmp_path):
    """One that kills each worker which reads it; the tiles about it are none the worse."""
    montage = SimulatedMontage(data_folder, rows=2, columns=3)
    executor = Poisoned(make_workers("processes"), frame_number=102)
    processor = TileProcessor(executor, recorder, SETTINGS, DataFolders(tmp_path))
    for name, doc in montage.documents():
        processor(name, doc)
    assert processor.close(WAIT)
    recorder.check()
    errors = [tile["error"] for tile in recorder.table("tile")]
    assert [bool(error) for error in errors] == [index == 2 for index in range(6)]
    assert "the worker process died 3 times in a row" in errors[2]
    assert recorder.stops[0]["exit_status"] == "success"


class Poisoned:
    """An executor whose worker dies on one frame."""

    def __init__(self, executor, frame_number):
        self._executor, self._number = executor, frame_number

    def submit(self, fn, *args):
        task = args[0]
        if getattr(getattr(task, "reference", None), "number", None) == self._number:
            return self._executor.submit(os._exit, 139)
        return self._executor.submit(fn, *args)
