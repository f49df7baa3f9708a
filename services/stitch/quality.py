"""The verdict on each tile of a montage that was taken long ago, by the rules of a live one.

Nothing is taken again for it, but who looks at a mosaic wants to know which tiles are blurred.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.matching import Match
from processing.quality import Judge, Thresholds, Verdict

# Files tell no counts that could be too few, nor where the stage should have been.
LIMITS = Thresholds(least_mean=0.0, most_offset=math.inf)


@dataclass(frozen=True, eq=False)
class TileQuality:
    """What was measured of tiles, and what is wrong with them.

    Attributes
    ----------
    figures : tuple of mapping, length n
        As the stream `tile` of a live montage has them.
    verdicts : tuple of Verdict, length n
    textured : ndarray of bool, shape (n,)
        Whether each tile shows anything to be matched by.
    """

    figures: tuple[Mapping[str, float | bool], ...]
    verdicts: tuple[Verdict, ...]
    textured: NDArray[np.bool_]

    def values(self, name: str) -> NDArray[np.float64]:
        """Return a figure of all tiles; NaN where it was not measured."""
        return np.array([float(one.get(name, math.nan)) for one in self.figures])

    def told(self) -> str:
        """Return what is wrong, in one line."""
        failed = sum(verdict.verdict == "fail" for verdict in self.verdicts)
        counted = Counter(fault.name for verdict in self.verdicts for fault in verdict.faults)
        named = ", ".join(f"{name} {count}" for name, count in counted.most_common())
        return f"{failed} of {len(self.verdicts)} fail" + (f" ({named})" if named else "")


def judge_tiles(
    figures: Sequence[Mapping[str, float | bool]],
    cells: NDArray[np.intp],
    nominal: NDArray[np.float64],
    matches: Mapping[tuple[int, int], Match],
) -> TileQuality:
    """Judge all tiles of a montage, by themselves and beside their neighbours.

    Parameters
    ----------
    figures : sequence of mapping, length n
        What was measured of each tile.
    cells : ndarray of int, shape (n, 2)
    nominal : ndarray of float64, shape (n, 2)
        In px.
    matches : mapping of (int, int) to Match
        Of neighbours; empty if they were not matched.
    """
    judge = Judge(LIMITS, len(figures))
    for index, (row, column) in enumerate(cells.tolist()):
        place = {"tile_index": index, "tile_row": row, "tile_column": column}
        judge.tile({**figures[index], **place, "tile_attempt": 1, "error": ""})
    for (a, b), match in matches.items():
        down, right = nominal[b] - nominal[a]
        judge.match(
            {
                "tile_a": a,
                "tile_b": b,
                "attempt_a": 1,
                "attempt_b": 1,
                "good": match.good,
                "reason": match.reason,
                "drow": match.drow,
                "dcol": match.dcol,
                "nominal_drow": down,
                "nominal_dcol": right,
            }
        )
    textured = judge.textured()
    return TileQuality(
        tuple(figures),
        tuple(judge.verdicts().values()),
        np.array([textured[index] for index in range(len(figures))]),
    )
