"""Where processing keeps its files, below the folder of all data.

One place knows the names, so that who writes a file and who waits for it agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class DataFolders:
    """The folders of processed data; each is made by who first writes to it.

    Attributes
    ----------
    root : Path
    """

    root: Path

    @property
    def references(self) -> Path:
        """Averaged bright and dark frames, by the uid of the run that took them."""
        return self.root / "references"

    @property
    def lenses(self) -> Path:
        """Models of the lens, by the uid of the run that took the tiles for it."""
        return self.root / "lenses"

    @property
    def processed(self) -> Path:
        """Processed tiles, a file for each processed run."""
        return self.root / "processed"

    @property
    def mosaics(self) -> Path:
        """Mosaics, a store for each processed run."""
        return self.root / "mosaics"

    @property
    def minimaps(self) -> Path:
        """Minimaps, a store and a picture for each processed run."""
        return self.root / "minimaps"


def await_files(paths: Iterable[str | Path], what: str, timeout: float) -> None:
    """Wait until another part of processing has written files.

    Parameters
    ----------
    paths : iterable of str or Path
    what : str
        What each holds, for the error.
    timeout : float
        For all of them together, in s.

    Raises
    ------
    FileNotFoundError
        If one is missing after the time-out.
    """
    deadline = time.monotonic() + timeout
    for path in paths:
        while not Path(path).exists():
            if time.monotonic() >= deadline:
                raise FileNotFoundError(f"there is no {what} {path} after {timeout:g} s")
            time.sleep(POLL_SECONDS)
