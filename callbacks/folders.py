"""Where processing keeps its files, below the folder of all data.

One place knows the names, so that who writes a file and who waits for it agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
