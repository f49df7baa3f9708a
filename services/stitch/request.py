"""What is to be stitched and where to, and whether that can be done: asked before anything starts.

A montage may take an hour; what is wrong with a name or a disk must not be told at its end.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formats.conventions import Offsets
from formats.montage import Montage
from formats.options import ReadOptions
from formats.serialem import require_autodoc
from formats.tile_folder import REVIEW
from processing.matching.tile import LEAST_TILE
from processing.mosaic import Seam
from processing.solve import Freedom
from services.errors import PlainError
from services.output_files import require_apart
from services.solve import Outputs

GIGA = 1e9
# Bytes of a mosaic on disk for each of its pixels: two, a third more for its smaller levels, of
# which compression leaves two thirds of noisy frames, and all at worst.
BYTES_A_PIXEL = 2 * 4 / 3
ZARR = ".ome.zarr"


@dataclass(frozen=True)
class StitchRequest:
    """What to stitch, how, and where to.

    Attributes
    ----------
    inputs : tuple of Path
        As `formats.readers.read_montage` takes them.
    output : Path
        Of the OME-Zarr store, which must not exist.
    options : ReadOptions
        What the files leave open.
    offsets : Offsets or None
        What dX and dY mean in metadata of TilEM.
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
        What tiles may do.
    bright, dark : Path or None
        Images of the beam without specimen, and without beam.
    flat : bool
        Whether to estimate uneven light from the tiles, if there is no bright image.
    match_anew : bool
        Whether to match although the input holds matches.
    reach : float or None
        How far a neighbour may lie from where it should, in px; None: found by some.
    seam : {"blend", "cut"}
    outputs : Outputs
        Other files to write.
    json : Path or None
        Where to write the figures of the montage and of its tiles.
    workers : int or None
        Threads; None: one for each processor.
    """

    inputs: tuple[Path, ...]
    output: Path
    options: ReadOptions = field(default_factory=ReadOptions)
    offsets: Offsets | None = None
    freedom: Freedom = "auto"
    bright: Path | None = None
    dark: Path | None = None
    flat: bool = True
    match_anew: bool = False
    reach: float | None = None
    seam: Seam = "blend"
    outputs: Outputs = field(default_factory=Outputs)
    json: Path | None = None
    workers: int | None = None

    @property
    def review(self) -> Path:
        """Where the page with the review figures goes: beside the mosaic."""
        return self.output.with_name(self.output.name.removesuffix(ZARR) + REVIEW)

    @property
    def files(self) -> dict[str, Path | None]:
        """The files that are to be written besides the mosaic, by their options."""
        return {"the review page": self.review, **self.outputs.files, "--json": self.json}

    def require_outputs(self) -> None:
        """Refuse outputs that cannot be written.

        Raises
        ------
        PlainError
        """
        require_apart({"--output": self.output}, [])
        if self.output.exists():
            raise PlainError(f"{self.output} exists; move it away, or give another --output")
        if self.output.suffix != ".zarr":
            raise PlainError(
                f"{self.output} is no name of the mosaic, which is an OME-Zarr store; give an "
                "--output that ends in .ome.zarr"
            )
        if self.dark is not None and self.bright is None:
            raise PlainError("--dark tells nothing without --bright; give both")
        for path in filter(None, (self.output, *self.files.values())):
            _require_folder(path)
            if path.is_dir():
                raise PlainError(f"{path} is a folder; give the name of a file")
        read = filter(None, (*self.inputs, self.bright, self.dark))
        require_apart({"--output": self.output, **self.files}, read)
        if self.outputs.ome is not None:
            _require_folder(self.outputs.ome / "x")

    def require_fit(self, montage: Montage) -> None:
        """Refuse tiles that are too small or would be written over, and a disk that is too small.

        Parameters
        ----------
        montage : Montage
            As it was read.

        Raises
        ------
        PlainError, MontageFileError
        """
        require_apart(self.files, (image.path for image in montage.images))
        if min(montage.shape) < LEAST_TILE:
            height, width = montage.shape
            raise PlainError(
                f"{montage.path}: tiles have {height} × {width} px; they must have {LEAST_TILE} px "
                "or more on each side"
            )
        if self.outputs.autodoc is not None:
            require_autodoc(self.outputs.autodoc, montage.images)
        needed = BYTES_A_PIXEL * _pixels(montage)
        if self.outputs.ome is not None:
            needed += 2.0 * len(montage.images) * montage.shape[0] * montage.shape[1]
        free = shutil.disk_usage(_existing(self.output)).free
        if free < needed:
            raise PlainError(
                f"{self.output}: {needed / GIGA:.1f} GB may be needed and {free / GIGA:.1f} GB are "
                "free: make room, or give an --output on another disk"
            )


def _pixels(montage: Montage) -> float:
    """Return how many pixels a mosaic may have: of the box round the tiles, or of all tiles."""
    of_tiles = float(len(montage.images) * montage.shape[0] * montage.shape[1])
    if not np.isfinite(montage.nominal).all():
        return of_tiles
    return float(np.prod(np.ptp(montage.nominal, axis=0) + montage.shape))


def _require_folder(path: Path) -> None:
    """Refuse a path whose folder cannot be made or written to."""
    folder = _existing(path)
    if not folder.is_dir():
        raise PlainError(f"{path} cannot be written: {folder} is a file, and no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PlainError(f"{path} cannot be written: {folder} may not be written to")


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))
