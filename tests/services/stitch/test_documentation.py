"""The Python of docs/stitching.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import tifffile

from tests.services.stitch.files import write_folder
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "stitching.md"


def test_ten_lines_of_python_stitch_a_folder(montage, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in code.splitlines() if line and not re.match("from|import", line)]
    assert len(lines) <= 10
    write_folder(tmp_path / "tiles", montage)
    code += "\nimport sys; assert not {'services', 'callbacks', 'bluesky'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    mosaic = tifffile.imread(tmp_path / "mosaic.tif")
    assert done.stdout.startswith(f"{mosaic.shape} ")
    assert np.abs(np.subtract(mosaic.shape, montage.nominal.max(axis=0) + 512)).max() < 120
    assert (mosaic > 0).mean() > 0.85
