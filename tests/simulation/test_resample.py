"""The loops that frames are made by give the same bits, just compiled or from numba's cache."""

import os
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

FRAME = """
import hashlib
import numpy as np
from simulation.resample import BLOCK, Light, Places, blur_by_pairs, expose

rng = np.random.default_rng(1)
texture = rng.random((96, 112), np.float32)
blurred = np.empty_like(texture)
blur_by_pairs(texture, rng.random((2, 9), np.float32), rng.random((2, 9), np.float32), blurred)
rows, columns = np.zeros((2, 64, 5))
rows[:, 0] = 16 + np.arange(64)
rows[:, 1:3] = 0.05, 1e-3
columns[:, 0], columns[:, 1], columns[:, 3] = 48, 1.01, 1e-5
fine = 0.2 * rng.standard_normal((2, 3, 5))
light = Light(rng.random((64, 64), np.float32), rng.random((3, 5), np.float32), 32)
signal = np.empty((64, 64), np.float32)
expose(blurred, Places(rows, columns, fine, 32), light, 1, signal)
print(hashlib.sha256(signal.tobytes()).hexdigest())
"""


@pytest.mark.timeout(170)
def test_a_frame_has_the_same_bits_when_its_loops_come_from_the_cache(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    compiled, cached = (
        subprocess.run(
            [sys.executable, "-c", FRAME],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=80,
            check=True,
        ).stdout
        for _ in range(2)
    )
    assert len(compiled) > 60
    assert compiled == cached
