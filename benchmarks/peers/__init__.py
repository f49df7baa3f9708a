"""Other stitchers, run on the same tiles: each in an environment and a process of its own.

A peer's script takes tiles from a file and leaves positions in another; nothing else is shared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".venv-peers"
REQUIREMENTS = {
    "ashlar": "ashlar==1.20.0",
    "bigfeta": "bigfeta==1.1.4",
    "feabas": "feabas==3.0.6",
    "m2stitch": "m2stitch==0.7.2",
    "multiview_stitcher": "multiview-stitcher==0.1.62",
}
INSTALL_TIMEOUT, RUN_TIMEOUT = 900.0, 900.0  # s
# Threads that wait for each other count as work; one does not.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, eq=False)
class Stitched:
    """What a stitcher made of a montage.

    Attributes
    ----------
    positions : ndarray of float64, shape (n, 2), or None
        (row, column) of each tile's first pixel, in px; None if there is none.
    places : ndarray of float64, shape (…, n, k, 2), or None
        Where pixels of each tile lie, (row, column) in px, of those that bend tiles; of several
        solutions one after another.
    seconds : float
        Time of the processor, all threads, without reading tiles and importing libraries.
    said : str
        Why there are no positions.
    """

    positions: NDArray[np.float64] | None
    seconds: float = float("nan")
    said: str = ""
    places: NDArray[np.float64] | None = None


def install(name: str) -> str:
    """Make the environment of a peer if it is not there; say what failed, or nothing."""
    home = ENVIRONMENTS / name
    done = home / "installed"
    if done.exists() and done.read_text(encoding="utf-8") == REQUIREMENTS[name]:
        return ""
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", REQUIREMENTS[name]]
    for command in ([sys.executable, "-m", "venv", "--clear", str(home)], pip):
        said = _run(command, INSTALL_TIMEOUT)
        if said:
            return said
    done.write_text(REQUIREMENTS[name], encoding="utf-8")
    return ""


def stitch(name: str, tiles: Path, folder: Path) -> Stitched:
    """Let a peer stitch a montage.

    Parameters
    ----------
    name : str
        A key of `REQUIREMENTS`.
    tiles : Path
        An ``.npz`` file of `tiles` (n, height, width), `nominal` (n, 2) in px, `grid` (n, 2) and
        `reach`, by how much nominal places may be wrong along each axis, in px. For those that
        bend tiles, `pixels` (k, 2) whose places are asked for; for those that match nothing,
        `pairs` (m, 2) and `points` (l, 7): those of matches, with the number of the pair before.
    folder : Path
        Where it leaves its result.

    Returns
    -------
    Stitched
    """
    result = folder / f"{name}.npz"
    result.unlink(missing_ok=True)
    python = ENVIRONMENTS / name / "bin" / "python"
    command = [str(python), str(HERE / f"{name}.py"), str(tiles), str(result)]
    said = _run(command, RUN_TIMEOUT)
    if said:
        return Stitched(None, said=said)
    with np.load(result) as stored:
        found = {name: stored[name] for name in ("positions", "places") if name in stored}
        return Stitched(
            found.get("positions"), float(stored["seconds"]), places=found.get("places")
        )


def _run(command: list[str], timeout: float) -> str:
    """Run a program to its end; give its last words if it failed."""
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | ONE_THREAD,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {timeout:g} s"
    except OSError as error:
        return str(error)
    words = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
    return words[-1][:120] if ended.returncode else ""
