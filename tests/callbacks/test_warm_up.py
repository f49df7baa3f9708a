"""Warming up: a montage after it compiles nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.support import REPOSITORY

# In a process of its own: what other tests compiled does not count. What is on disk already is
# compiled here too, as far as the first call of a function must be looked up and loaded.
PROGRAM = """
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher

from callbacks.folders import DataFolders
from callbacks.references import reference_path, write_average
from callbacks.tile_jobs import ProcessorSettings
from callbacks.tile_processor import TileProcessor
from callbacks.warm_up import warm_up
from processing.geometry import FrameGeometry
from tests.callbacks.montage import PIXEL_SIZE, SIDE, SimulatedMontage, feed


def compiled():
    made = [item for item in gc.get_objects() if isinstance(item, Dispatcher)]
    return {(str(item.py_func), str(types)) for item in made for types in item.signatures}


folder = Path(sys.argv[1])
folders = DataFolders(folder)
bright, dark = np.full((SIDE, SIDE), 5000, np.float32), np.full((SIDE, SIDE), 100, np.float32)
bright[5:100:40, 7] = 0  # some bad pixels
for name, average in (("bright", bright), ("dark", dark)):
    write_average(reference_path(folders.references, name), average, {})
montage = SimulatedMontage(
    folder / "raw",
    geometry=FrameGeometry(PIXEL_SIZE, flip_columns=True),
    md={"references": {"bright": "bright", "dark": "dark"}},
)
published = []
warm_up(ProcessorSettings())
before = compiled()
with ThreadPoolExecutor(2) as pool:
    processor = TileProcessor(
        pool, lambda name, doc: published.append((name, doc)), ProcessorSettings(), folders
    )
    feed(processor, montage.documents())
    assert processor.close(60)
(outcome,) = [doc["data"] for _, doc in published if "flat_fielded" in doc.get("data", {})]
assert outcome["flat_fielded"] and not outcome["tiles_failed"] and outcome["matches_good"] == 7
print(sorted(compiled() - before))
"""


def test_after_warming_up_a_montage_compiles_nothing(tmp_path):
    out = subprocess.check_output(
        [sys.executable, "-c", "import sys" + PROGRAM, str(tmp_path)],
        cwd=REPOSITORY,
        text=True,
        timeout=150,
    )
    assert out.splitlines()[-1] == "[]"
