"""How well a solved montage agrees with all matches that the matcher believed.

Not with those that the solver kept: what it threw out may be what it tore apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # these limits are asked for where nothing is solved
    from processing.solve import MapSolution

NAN = float("nan")


@dataclass(frozen=True)
class Agreement:
    """Figures of a solved montage, lengths in px.

    A disagreement is how far two tiles that overlap show the same places from each other: the
    median over the points of their match.

    Attributes
    ----------
    tiles, matches : int
        Matches that the matcher believed.
    rejected : int
        Matches that the solver left out.
    unplaced : int
        Tiles that no match ties to the largest set that hangs together, or fewer than were left
        out there; of those that show anything to be matched by.
    islands : int
        Sets of tiles apart from the largest, of two or more.
    median, p95, largest : float
        Disagreement of all matches; NaN if there is none.
    closing_p95, closing_largest : float
        Of those on loops that close: these are right, so it must be small.
    """

    tiles: int
    matches: int
    rejected: int
    unplaced: int
    islands: int
    median: float
    p95: float
    largest: float
    closing_p95: float
    closing_largest: float

    @property
    def rejected_share(self) -> float:
        """Share of the matches that the solver left out; 0 if there is none."""
        return self.rejected / self.matches if self.matches else 0.0

    @property
    def unplaced_share(self) -> float:
        """Share of the tiles that no match ties to the largest set."""
        return self.unplaced / self.tiles

    @classmethod
    def of(cls, solution: MapSolution, textured: NDArray[np.bool_] | None = None) -> Agreement:
        """Sum a solution up.

        Parameters
        ----------
        solution : MapSolution
        textured : ndarray of bool, shape (n,), optional
            Whether each tile shows anything to be matched by; those that do not may be without a
            match.
        """
        translation, apart = solution.translation, solution.disagreement
        apart_from_all = (translation.component > 0) | translation.outvoted
        closing = apart[translation.closing]
        sizes = np.bincount(translation.component)
        return cls(
            tiles=len(translation.positions),
            matches=len(apart),
            rejected=len(translation.outliers),
            unplaced=int((apart_from_all & (True if textured is None else textured)).sum()),
            islands=int((sizes[1:] > 1).sum()),
            median=float(np.median(apart)) if len(apart) else NAN,
            p95=float(np.percentile(apart, 95)) if len(apart) else NAN,
            largest=float(apart.max(initial=0.0)) if len(apart) else NAN,
            closing_p95=float(np.percentile(closing, 95)) if len(closing) else NAN,
            closing_largest=float(closing.max()) if len(closing) else NAN,
        )


@dataclass(frozen=True)
class AgreementLimits:
    """What a solved montage must keep to be accepted.

    Attributes
    ----------
    most_residual : float
        Median disagreement, in px: up to where TilEM accepts a stitch.
    most_disagreement : float
        Of matches on loops that close, 95 of 100, in px.
    most_torn : float
        Of any of them, in px: a tear.
    most_rejected : float
        Share of the matches that the solver left out.
    most_unplaced : float
        Share of the tiles that no match ties to the largest set that hangs together.
    """

    most_residual: float = 5.0
    most_disagreement: float = 8.0
    most_torn: float = 12.0
    most_rejected: float = 0.1
    most_unplaced: float = 0.1

    def reasons(self, agreement: Agreement) -> tuple[str, ...]:
        """Return why a montage is not accepted; nothing if it is."""
        if not agreement.matches:
            return ("no two tiles match",) if agreement.tiles > 1 else ()
        found = []
        for what, value, limit, unit in (
            ("the median disagreement of neighbours", agreement.median, self.most_residual, " px"),
            (
                "the disagreement of neighbours on loops that close, 95 %,",
                agreement.closing_p95,
                self.most_disagreement,
                " px",
            ),
            (
                "the largest disagreement of neighbours on loops that close",
                agreement.closing_largest,
                self.most_torn,
                " px",
            ),
            (
                "of the matches, the share rejected",
                agreement.rejected_share,
                self.most_rejected,
                "",
            ),
            (
                "of the tiles, the share placed by no match",
                agreement.unplaced_share,
                self.most_unplaced,
                "",
            ),
        ):
            if value > limit:
                found.append(f"{what} is {value:.3g}{unit}, over {limit:g}{unit}")
        return tuple(found)
