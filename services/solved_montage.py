"""A montage of files with its solution: its figures, whether it is accepted, and where tiles lie.

What `temline solve` and `temline stitch` have in common.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from formats.montage import Montage, MontageFileError, PlacedMontage, PlacedTile, in_xy
from processing.mosaic import mosaic_origin
from processing.quality import Agreement, AgreementLimits
from processing.solve import Freedom, MapSolution, solve_maps

AFFINE = "affine", "affine+lens"


@dataclass(frozen=True, eq=False)
class Solved:
    """A montage with its solution.

    Attributes
    ----------
    montage : Montage
    solution : MapSolution
    seconds : float
        Of solving.
    limits : AgreementLimits
    textured : ndarray of bool, shape (n,), or None
        Whether each tile shows anything to be matched by; None if nobody looked.
    """

    montage: Montage
    solution: MapSolution
    seconds: float
    limits: AgreementLimits = field(default_factory=AgreementLimits)
    textured: NDArray[np.bool_] | None = None

    @property
    def agreement(self) -> Agreement:
        """How well it agrees with all matches that were believed."""
        return Agreement.of(self.solution, self.textured)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not accepted; empty if it is."""
        return self.montage.doubts + self.limits.reasons(self.agreement)

    @property
    def accepted(self) -> bool:
        """Whether it keeps all limits."""
        return not self.reasons

    def figures(self) -> dict[str, Any]:
        """Return the figures of the solution by name, lengths in px; None if not known."""
        agreement, trials = self.agreement, self.solution.trials
        figures = {
            "tiles": agreement.tiles,
            "edges": agreement.matches,
            "edges_rejected": agreement.rejected,
            "edges_rejected_share": agreement.rejected_share,
            "edges_without_match": self.montage.n_unmatched,
            "islands": agreement.islands,
            "tiles_placed_by_stage": agreement.unplaced,
            "tiles_well_connected": int(self.solution.translation.well_connected.sum()),
            "model": str(self.solution.model),
            "held_out_px": trials[-1].held_out_px,
            "held_out_px_translations": trials[0].held_out_px,
            "residual_px_median": agreement.median,
            "residual_px_p95": agreement.p95,
            "residual_px_max": agreement.largest,
            "closing_px_p95": agreement.closing_p95,
            "closing_px_max": agreement.closing_largest,
            "offset_px_median": self._offset(),
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "seconds": self.seconds,
        }
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }

    def _offset(self) -> float:
        """Return how far the edges are from nominal, in px, median; NaN if there are none."""
        edges, nominal = self.montage.edges, self.montage.nominal
        if not len(edges.pairs):
            return math.nan
        a, b = edges.pairs.T
        return float(np.median(np.linalg.norm(edges.offsets - nominal[b] + nominal[a], axis=1)))

    def table(self) -> Table:
        """Lay the figures out for the terminal."""
        montage, figures = self.montage, self.figures()
        height, width = montage.shape
        rows, columns = np.ptp(montage.cells, axis=0) + 1
        size = f", {montage.pixel_size:g} nm/px" if math.isfinite(montage.pixel_size) else ""
        lines = {
            "tiles": f"{figures['tiles']} of {height} × {width} px{size}, "
            f"{rows} × {columns} places",
            **montage.notes,
            "matches": f"{figures['edges']}, of which {figures['edges_rejected']} "
            f"({figures['edges_rejected_share']:.1%}) were rejected; "
            f"{figures['edges_without_match']} pairs without one",
            "solved by": self._model(figures),
            "neighbours disagree": f"{_px(figures['residual_px_median'])} median, "
            f"{_px(figures['residual_px_p95'])} p95, {_px(figures['residual_px_max'])} at most, "
            "over all matches",
            "on loops that close": f"{_px(figures['closing_px_p95'])} p95, "
            f"{_px(figures['closing_px_max'])} at most",
            "islands": f"{figures['islands']}",
            "placed by no match": f"{figures['tiles_placed_by_stage']}",
            "well connected": f"{figures['tiles_well_connected']}, whose matches all lie on loops "
            "that close",
            "offset from nominal": f"{_px(figures['offset_px_median'])} median",
            "time": f"{figures['seconds']:.2f} s",
        }
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in lines.items():
            table.add_row(name, Text(value))  # a text: names of files may hold brackets
        return table

    @staticmethod
    def _model(figures: dict[str, Any]) -> str:
        chosen, first = figures["held_out_px"], figures["held_out_px_translations"]
        if chosen is None:
            return figures["model"]
        text = f"{figures['model']}; matches held out are told to {_px(chosen)}"
        return text + f", by translations to {_px(first)}" * (chosen != first)

    def verdict(self) -> str:
        """Return the last line: whether it is accepted, and if not, why."""
        if self.accepted:
            return f"accepted: neighbours disagree by {_px(self.figures()['residual_px_median'])}"
        return f"not accepted: {'; '.join(self.reasons)}"


def solve_montage(montage: Montage, freedom: Freedom = "auto") -> Solved:
    """Solve a montage whose file holds matches.

    Parameters
    ----------
    montage : Montage
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
        What tiles may do; "auto": what matches that are held out bear out.

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
    if freedom not in ("auto", "translation") and not any(map(len, edges.points)):
        raise MontageFileError(
            f"{montage.path} holds no points (pX, pY, qX, qY), which maps of tiles need; solve it "
            "with --model translation"
        )
    return solve_edges(montage, freedom)


def solve_edges(montage: Montage, freedom: Freedom = "auto") -> Solved:
    """Solve a montage by its edges, also by none: then all tiles stay at their nominal places.

    Parameters
    ----------
    montage : Montage
    freedom : {"auto", "translation", "affine", "lens", "affine+lens"}
    """
    edges = montage.edges
    began = time.perf_counter()
    solution = solve_maps(
        montage.nominal,
        edges.pairs,
        edges.offsets,
        edges.points,
        montage.shape,
        sd=edges.sd,
        freedom=freedom,
    )
    return Solved(montage, solution, time.perf_counter() - began)


def place(solved: Solved) -> PlacedMontage:
    """Return a solved montage as exporters take it, its mosaic's first pixel at (0, 0)."""
    montage, solution = solved.montage, solved.solution.translation
    maps = solved.solution.maps
    places = maps.positions
    origin = mosaic_origin(maps)
    stage = montage.stage + (places - montage.nominal) @ montage.to_stage.T
    bent, matrices = solved.solution.model.freedom != "translation", maps.moved(-origin).matrices
    tiles = tuple(
        PlacedTile(
            tile=_without_suffix(name),
            row=int(montage.cells[number, 0]),
            column=int(montage.cells[number, 1]),
            x_px=float(places[number, 1] - origin[1]),
            y_px=float(places[number, 0] - origin[0]),
            sd_x_px=float(solution.sd[number, 1]),
            sd_y_px=float(solution.sd[number, 0]),
            residual_px=float(solved.solution.tile_residuals[number]),
            placed_by=solution.placed_by[number],
            component=int(solution.component[number]),
            stage_x_um=float(stage[number, 0]),
            stage_y_um=float(stage[number, 1]),
            image=montage.images[number],
            map=in_xy(matrices[number]) if bent else None,
        )
        for number, name in enumerate(montage.names)
    )
    lens = None if maps.lens is None else maps.lens.powers
    return PlacedMontage(
        montage.path.stem, tiles, montage.shape, montage.pixel_size, montage.angle, lens
    )


def _without_suffix(name: str) -> str:
    """Return a tile's name without the suffix of its image, but with its folders."""
    return re.sub(r"(?<=[^/])\.\w{1,5}$", "", name)


def _px(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} px"
