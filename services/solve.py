"""`temline solve` and `temline export`: montages to the files of a lab's other tools.

For montages that were taken by other systems, long ago or today, and for this stack's own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from formats.conventions import Offsets
from formats.exporters import write_csv, write_ome_tiff, write_render
from formats.images import ImageFormatError, open_image
from formats.montage import Montage, MontageFileError, PlacedMontage, PlacedTile
from formats.tilem import read_tilem
from processing.solve import MATCHED, AffineSolution, Solution, solve, solve_affine
from services.errors import PlainError

MAX_RESIDUAL = 5.0  # px, median, up to which TilEM's stitches are accepted
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
    """

    csv: Path | None = None
    render: Path | None = None
    ome: Path | None = None

    def write(self, montage: PlacedMontage, frames: Frames, progress: Progress) -> list[Path]:
        """Write what is asked for; give the files written."""
        written = []
        if self.csv is not None:
            write_csv(self.csv, montage)
            written.append(self.csv)
        if self.render is not None:
            write_render(self.render, montage)
            written.append(self.render)
        if self.ome is not None:
            tracked = progress.track(frames(), len(montage.tiles), description="OME-TIFF")
            written.append(write_ome_tiff(self.ome, montage, tracked))
        return written


@dataclass(frozen=True, eq=False)
class Solved:
    """A montage of a file with its solution.

    Attributes
    ----------
    montage : Montage
    solution : Solution
    affine : AffineSolution or None
    seconds : float
        Of solving.
    """

    montage: Montage
    solution: Solution
    affine: AffineSolution | None
    seconds: float

    @property
    def residuals(self) -> NDArray[np.float64]:
        """Residuals of the edges that were kept, in px."""
        if self.affine is not None:
            return self.affine.residuals[np.isfinite(self.affine.residuals)]
        return np.delete(self.solution.residuals, self.solution.outliers)

    @property
    def accepted(self) -> bool:
        """Whether the residuals are as small as a stitch needs."""
        return bool(len(self.residuals) and np.median(self.residuals) < MAX_RESIDUAL)

    def figures(self) -> dict[str, Any]:
        """Give the figures of the solution by name, lengths in px."""
        solution, left = self.solution, self.residuals
        known = len(left) > 0
        return {
            "tiles": len(self.montage.names),
            "edges": len(self.montage.edges.pairs),
            "edges_rejected": len(solution.outliers),
            "edges_without_match": self.montage.n_unmatched,
            "islands": int((np.bincount(solution.component)[1:] > 1).sum()),
            "tiles_placed_by_stage": sum(by != MATCHED for by in solution.placed_by),
            "tiles_well_connected": int(solution.well_connected.sum()),
            "residual_px_median": float(np.median(left)) if known else None,
            "residual_px_p95": float(np.percentile(left, 95)) if known else None,
            "offset_px_median": _offset(self.montage),
            "accepted": self.accepted,
            "seconds": self.seconds,
        }


def run_solve(
    path: Path,
    outputs: Outputs,
    *,
    affine: bool = False,
    offsets: Offsets | None = None,
    json_file: Path | None = None,
) -> bool:
    """Solve the montage of a file, print how well that went, and write what is asked for.

    Parameters
    ----------
    path : Path
        As `read_tilem` takes it.
    outputs : Outputs
    affine : bool
        Whether tiles may be turned, scaled and sheared, besides being moved.
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
    console = Console()
    with Progress(console=console, transient=True) as progress:
        with _step(progress, "reading"):
            montage = read_tilem(path, offsets)
        with _step(progress, "solving"):
            solved = solve_montage(montage, affine=affine)
        placed = place(solved)
        written = outputs.write(placed, lambda: _images(placed), progress)
    figures = solved.figures()
    console.print(_table(montage, figures))
    console.print(
        f"\n{'accepted' if solved.accepted else 'not accepted'}: median residual "
        f"{_px(figures['residual_px_median'])}, limit {MAX_RESIDUAL:g} px",
        highlight=False,
    )
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


def solve_montage(montage: Montage, *, affine: bool = False) -> Solved:
    """Solve a montage by translations, or by affine maps.

    Raises
    ------
    MontageFileError
        If the file told no match, or no points where maps are asked for.
    """
    edges = montage.edges
    if not len(edges.pairs):
        raise MontageFileError(
            f"{montage.path}: none of its {len(montage.names)} tiles tells of a match with a "
            "neighbour; expected `matcher` entries with pX, pY, qX, qY or dX, dY"
        )
    if affine and not any(len(points) for points in edges.points):
        raise MontageFileError(
            f"{montage.path} holds no points (pX, pY, qX, qY), which affine maps need; solve it "
            "without --affine"
        )
    began = time.perf_counter()
    maps = None
    solution = solve(montage.nominal, edges.pairs, edges.offsets, edges.sd)
    if affine:
        maps = solve_affine(montage.nominal, edges.pairs, edges.points, montage.shape)
    return Solved(montage, solution, maps, time.perf_counter() - began)


def place(solved: Solved) -> PlacedMontage:
    """Give a solved montage as exporters take it, its mosaic's first pixel at (0, 0)."""
    montage, solution = solved.montage, solved.solution
    if solved.affine is None:
        places = solution.positions
        linear = np.tile(np.eye(2), (len(places), 1, 1))
    else:
        places, linear = solved.affine.matrices[:, :, 2], solved.affine.matrices[:, :, :2]
    origin = np.floor(places.min(axis=0))
    stage = montage.stage + (solution.positions - montage.nominal) @ montage.to_stage.T
    tiles = tuple(
        PlacedTile(
            tile=Path(name).stem,
            row=int(montage.cells[number, 0]),
            column=int(montage.cells[number, 1]),
            x_px=float(places[number, 1] - origin[1]),
            y_px=float(places[number, 0] - origin[0]),
            sd_x_px=float(solution.sd[number, 1]),
            sd_y_px=float(solution.sd[number, 0]),
            residual_px=float(solution.tile_residuals[number]),
            placed_by=solution.placed_by[number],
            component=int(solution.component[number]),
            stage_x_um=float(stage[number, 0]),
            stage_y_um=float(stage[number, 1]),
            image=montage.images[number],
            # From (row, column) to (x, y): m00 and m10 are what a step along x does.
            linear=(
                float(linear[number, 1, 1]),
                float(linear[number, 0, 1]),
                float(linear[number, 1, 0]),
                float(linear[number, 0, 0]),
            ),
        )
        for number, name in enumerate(montage.names)
    )
    return PlacedMontage(montage.path.stem, tiles, montage.shape, montage.pixel_size, montage.angle)


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
        try:
            yield open_image(tile.image or tile.tile).read()
        except ImageFormatError as error:
            raise MontageFileError(
                f"the image of tile {tile.tile} cannot be read: {error}; OME-TIFF needs all "
                "images, beside the metadata"
            ) from error


def _offset(montage: Montage) -> float:
    """Give how far the edges are from nominal, in px, median."""
    a, b = montage.edges.pairs.T
    beyond = montage.edges.offsets - (montage.nominal[b] - montage.nominal[a])
    return float(np.median(np.linalg.norm(beyond, axis=1)))


def _table(montage: Montage, figures: dict[str, Any]) -> Table:
    """Lay the figures out for the terminal."""
    height, width = montage.shape
    rows, columns = np.ptp(montage.cells, axis=0) + 1
    used = figures["edges"] - figures["edges_rejected"]
    size = f", {montage.pixel_size:g} nm/px" if math.isfinite(montage.pixel_size) else ""
    lines = {
        "tiles": f"{figures['tiles']} of {height} × {width} px{size}, {rows} × {columns} places",
        **montage.notes,
        "edges": f"{used} used, {figures['edges_rejected']} rejected, "
        f"{figures['edges_without_match']} without a match",
        "islands": f"{figures['islands']}",
        "placed by the stage": f"{figures['tiles_placed_by_stage']}",
        "well connected": f"{figures['tiles_well_connected']}, whose edges all lie on loops that "
        "close",
        "offset from nominal": f"{figures['offset_px_median']:.1f} px median",
        "residual": f"{_px(figures['residual_px_median'])} median, "
        f"{_px(figures['residual_px_p95'])} p95",
        "time": f"{figures['seconds']:.2f} s",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _px(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} px"


def _step(progress: Progress, name: str) -> ExitStack:
    """Show a step of unknown length while it lasts."""
    stack = ExitStack()
    task = progress.add_task(name, total=None)
    stack.callback(progress.remove_task, task)
    return stack


def _tell(console: Console, written: list[Path]) -> None:
    for path in written:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
