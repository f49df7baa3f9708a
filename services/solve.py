"""`temline solve` and `temline export`: montages to the files of a lab's other tools.

For montages that were taken by other systems, long ago or today, and for this stack's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from formats.conventions import Offsets
from formats.errors import FormatError
from formats.images import open_image
from formats.montage import MontageFileError, PlacedMontage
from formats.ome_tiff import write_ome_tiff
from formats.positions import write_csv
from formats.render import write_render
from formats.serialem import write_autodoc
from formats.tilem import read_tilem
from processing.solve import Freedom
from services.errors import PlainError
from services.output_files import require_apart
from services.solved_montage import place, solve_montage

Frames = Callable[[], Iterator[NDArray[np.generic]]]


@dataclass(frozen=True)
class Outputs:
    """Where to write a solved montage; nowhere if it is None.

    Attributes
    ----------
    csv : Path or None
        Positions.
    render : Path or None
        Tile specs of `render`, JSON.
    ome : Path or None
        Folder of the OME-TIFF file.
    autodoc : Path or None
        Where tiles lie as SerialEM would align them: ``.mdoc`` or ``.idoc``.
    """

    csv: Path | None = None
    render: Path | None = None
    ome: Path | None = None
    autodoc: Path | None = None

    @property
    def files(self) -> dict[str, Path | None]:
        """The files, by their options."""
        return {"--csv": self.csv, "--render": self.render, "--mdoc": self.autodoc}

    def write(self, montage: PlacedMontage, frames: Frames, progress: Progress) -> list[Path]:
        """Write what is asked for; give the files written."""
        written = []
        if self.csv is not None:
            write_csv(self.csv, montage)
            written.append(self.csv)
        if self.render is not None:
            write_render(self.render, montage)
            written.append(self.render)
        if self.autodoc is not None:
            write_autodoc(self.autodoc, montage)
            written.append(self.autodoc)
        if self.ome is not None:
            tracked = progress.track(frames(), len(montage.tiles), description="OME-TIFF")
            written.append(write_ome_tiff(self.ome, montage, tracked))
        return written


def run_solve(
    path: Path,
    outputs: Outputs,
    *,
    freedom: Freedom = "auto",
    offsets: Offsets | None = None,
    json_file: Path | None = None,
) -> bool:
    """Solve the montage of a file, print how well that went, and write what is asked for.

    Parameters
    ----------
    path : Path
        As `read_tilem` takes it.
    outputs : Outputs
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
        What tiles may do.
    offsets : Offsets, optional
        What dX and dY mean in this file, if it is known.
    json_file : Path, optional
        Where to write the figures.

    Returns
    -------
    bool
        Whether the solution is accepted.

    Raises
    ------
    PlainError
        If the file cannot be read, tells nothing to solve, or something cannot be written.
    """
    files = outputs.files | {"--json": json_file}
    require_apart(files, [path])
    console = Console()
    with Progress(console=console, transient=True) as progress:
        with _step(progress, "reading"):
            montage = read_tilem(path, offsets)
        require_apart(files, (image.path for image in montage.images))
        with _step(progress, "solving"):
            solved = solve_montage(montage, freedom)
        placed = place(solved)
        written = outputs.write(placed, lambda: _images(placed), progress)
    figures = solved.figures()
    console.print(solved.table())
    console.print(f"\n{solved.verdict()}", highlight=False, soft_wrap=True)
    if json_file is not None:
        told = {**figures, "read_as": montage.notes, "file": str(path)}
        try:
            json_file.write_text(json.dumps(told, indent=2, ensure_ascii=False), "utf-8")
        except OSError as error:
            raise PlainError(f"{json_file} cannot be written: {error.strerror}") from error
        written.append(json_file)
    _tell(console, written)
    return solved.accepted


def run_export(uid: str, outputs: Outputs, site: Path | None) -> None:
    """Write a processed run, or that of a raw one, to the files asked for.

    Parameters
    ----------
    uid : str
    outputs : Outputs
    site : Path, optional
        The site's configuration.

    Raises
    ------
    PlainError
        If Tiled does not answer, has no such run, or something cannot be written.
    """
    from services.processes import tiled_access
    from services.runtime import load_joined
    from services.tiled_server import answers

    if outputs == Outputs():
        raise PlainError("nothing to write: give --csv, --render or --ome")
    uri, key = tiled_access(load_joined(site).config)
    if not answers(uri):
        raise PlainError(f"Tiled does not answer at {uri}: start it with `temline tiled`")
    from tiled.client import from_uri

    export(from_uri(uri, api_key=key), uid, outputs)


def export(client: Any, uid: str, outputs: Outputs) -> None:
    """Write a run of a catalogue to the files asked for: `run_export` with a Tiled client."""
    from services.processed_montage import read_run

    console = Console()
    with Progress(console=console, transient=True) as progress:
        with _step(progress, "reading"):
            run = read_run(client, uid)
        written = outputs.write(run.montage, run.frames, progress)
    console.print(f"{len(run.montage.tiles)} tiles of run {run.montage.name}", highlight=False)
    _tell(console, written)


def parse_offsets(text: str) -> Offsets:
    """Read what dX and dY mean, such as "-x,y" or "y,x beyond raster".

    Parameters
    ----------
    text : str
        The offset of a tile beyond its left neighbour, columns before rows, of x (dX) and y (dY);
        then, if not the stage, what it comes on top of: ``raster`` or ``nothing``.

    Raises
    ------
    PlainError
        If it is none of that.
    """
    places, _, base = text.lower().replace("beyond", "").partition(" ")
    base = base.strip() or "stage"
    parts = [part.strip() for part in places.split(",")]
    names = [part.lstrip("+-") for part in parts]
    if sorted(names) != ["x", "y"] or base not in ("stage", "raster", "nothing"):
        raise PlainError(
            f"offsets are {text!r}; expected x and y with their signs, such as 'x,-y' or 'y,x', "
            "and then, if not the stage, 'raster' or 'nothing'"
        )
    across, down = (-1 if part.startswith("-") else 1 for part in parts)
    return Offsets(base, names == ["y", "x"], down, across)  # type: ignore[arg-type]


def _images(montage: PlacedMontage) -> Iterator[NDArray[np.generic]]:
    """Read the images of tiles that lie in files of their own."""
    for tile in montage.tiles:
        if tile.image is None:
            raise MontageFileError(f"tile {tile.tile} has no image; OME-TIFF needs all")
        try:
            image = open_image(tile.image.path, tile.image.page).read()
        except FormatError as error:
            raise MontageFileError(
                f"the image of tile {tile.tile} cannot be read: {error}"
            ) from error
        yield image


def _step(progress: Progress, name: str) -> ExitStack:
    """Show a step of unknown length while it lasts."""
    stack = ExitStack()
    task = progress.add_task(name, total=None)
    stack.callback(progress.remove_task, task)
    return stack


def _tell(console: Console, written: list[Path]) -> None:
    for path in written:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
