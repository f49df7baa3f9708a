"""What is told of a stitched montage: to a person in the terminal, and to programs as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from rich.console import Console

from callbacks.mosaic import MosaicFile
from services.solved_montage import Solved, place
from services.stitch.picture import show_picture
from services.stitch.quality import TileQuality
from services.stitch.request import StitchRequest

MIN_SECONDS = 0.05  # of a phase that is worth telling


@dataclass(frozen=True, eq=False)
class Stitched:
    """A montage that was stitched.

    Attributes
    ----------
    request : StitchRequest
    solved : Solved
    quality : TileQuality
    mosaic : MosaicFile
    seconds : mapping of str to float
        How long each phase took.
    files : tuple of Path
        What was written.
    """

    request: StitchRequest
    solved: Solved
    quality: TileQuality
    mosaic: MosaicFile
    seconds: Mapping[str, float]
    files: tuple[Path, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the mosaic, in px."""
        rows, columns = self.mosaic.arrays[0].shape
        return rows, columns

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The mosaic, small, in 256 grey levels."""
        group = zarr.open_array(self.request.output / "thumbnail", mode="r")
        return np.asarray(group[0], dtype=np.uint8)

    def figures(self) -> dict[str, Any]:
        """Return all that is known, of the montage and of each tile, as JSON has it."""
        return {
            **self.solved.figures(),
            "read_as": self.solved.montage.notes,
            "input": [str(path) for path in self.request.inputs],
            "mosaic": str(self.request.output),
            "mosaic_shape": list(self.shape),
            "phases_seconds": dict(self.seconds),
            "tile_figures": list(self._of_tiles()),
        }

    def _of_tiles(self) -> Iterator[dict[str, Any]]:
        for tile, verdict, figures in zip(
            place(self.solved).tiles, self.quality.verdicts, self.quality.figures, strict=True
        ):
            told = {
                "tile": tile.tile,
                "row": tile.row,
                "column": tile.column,
                "x_px": tile.x_px,
                "y_px": tile.y_px,
                "placed_by": tile.placed_by,
                "residual_px": tile.residual_px,
                "verdict": verdict.verdict,
                "faults": verdict.names,
                **figures,
            }
            yield {name: _as_json(value) for name, value in told.items()}


def tell(console: Console, stitched: Stitched) -> None:
    """Print the picture, the table, the verdict and the files.

    Parameters
    ----------
    console : Console
    stitched : Stitched
    """
    solved, (height, width) = stitched.solved, stitched.shape
    show_picture(console, stitched.thumbnail)
    table = solved.table()
    table.add_row("tiles by themselves", stitched.quality.told())
    table.add_row("mosaic", f"{height} × {width} px")
    table.add_row("all phases", _told(stitched.seconds))
    console.print(table)
    for index, reason in sorted(stitched.mosaic.missing.items()):
        name = solved.montage.names[index]
        console.print(f"missing in the mosaic: {name}: {reason}", highlight=False)
    console.print(f"\n{solved.verdict()}", highlight=False, soft_wrap=True)
    for path in stitched.files:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _told(seconds: Mapping[str, float]) -> str:
    parts = [f"{name} {value:.1f}" for name, value in seconds.items() if value >= MIN_SECONDS]
    return f"{sum(seconds.values()):.1f} s ({', '.join(parts)})"


def _as_json(value: Any) -> Any:
    """Return a number of numpy as Python's; what is not finite as None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
