"""Where the tiles of a montage of files lie, before and after they were matched.

Between the montage as its files tell it, and the solver, which wants places and edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from formats.montage import Edges, Montage
from processing.geometry import FrameGeometry
from processing.matching import Match
from processing.stitch import Placement

MIN_TURN, MIN_SCALE = 1.0, 0.01  # degrees, and relative: less is not worth telling


def placed_montage(montage: Montage, placement: Placement) -> Montage:
    """Return a montage with its tiles where some matches have found them to lie.

    Parameters
    ----------
    montage : Montage
    placement : Placement
        Of its tiles.
    """
    notes = montage.notes | {"overlap": _overlap(placement, montage.shape)}
    if found := _found(placement, by_plan=bool(np.isfinite(montage.nominal).all())):
        notes["lies"] = found
    return replace(
        montage,
        cells=placement.cells,
        nominal=placement.nominal,
        to_stage=montage.to_stage @ np.linalg.inv(placement.matrix),
        notes=notes,
    )


def matched_montage(montage: Montage, matches: Mapping[tuple[int, int], Match]) -> Montage:
    """Return a montage with the matches that are good as its edges.

    Parameters
    ----------
    montage : Montage
    matches : mapping of (int, int) to Match
        Those for want of texture are no pairs of which something was to be expected.
    """
    good = {pair: match for pair, match in matches.items() if match.good}
    edges = Edges(
        np.array(list(good), dtype=np.intp).reshape(-1, 2),
        np.array([(match.drow, match.dcol) for match in good.values()]).reshape(-1, 2),
        np.array([match.sd for match in good.values()]),
        tuple(np.asarray(match.points, np.float64) for match in good.values()),
    )
    lost = sum(not match.good and match.reason != "no texture" for match in matches.values())
    return replace(montage, edges=edges, n_unmatched=lost)


def frame_geometry(montage: Montage) -> tuple[FrameGeometry | None, tuple[float, float]]:
    """Return how pixels lie on the stage, and the stage at the place (0, 0), in µm.

    None if the size of a pixel is not known; angle and stage are 0 where they are not told.
    """
    if not np.isfinite(montage.pixel_size):
        return None, (0.0, 0.0)
    angle = montage.angle if np.isfinite(montage.angle) else 0.0
    if not np.isfinite(montage.to_stage).all():
        return FrameGeometry(montage.pixel_size, angle), (0.0, 0.0)
    mirrored = bool(np.linalg.det(montage.to_stage) < 0)
    at_zero = montage.stage - montage.nominal @ montage.to_stage.T
    x, y = np.nanmedian(at_zero, axis=0).tolist()
    return FrameGeometry(montage.pixel_size, angle, flip_rows=mirrored), (x, y)


def _overlap(placement: Placement, shape: tuple[int, int]) -> str:
    down, across = placement.overlaps(shape)
    shares = ((across, "beside"), (down, "below each other"))
    told = ", ".join(f"{share:.1f} % {where}" for share, where in shares if np.isfinite(share))
    if not told:
        return "none; no two tiles are neighbours"
    return f"{told}; neighbours looked for within {placement.reach:.0f} px"


def _found(placement: Placement, *, by_plan: bool) -> str:
    """Return in what tiles lie otherwise than told; empty if in nothing."""
    found = ["rows and columns are swapped"] * placement.swapped
    rows, columns = placement.reversed
    found += ["rows run upwards"] * rows + ["columns run leftwards"] * columns
    if abs(placement.turn) >= MIN_TURN:
        found.append(f"rows are turned by {placement.turn:.2f}°")
    if by_plan and abs(placement.scale - 1) >= MIN_SCALE:
        found.append(f"steps are {placement.scale:.3f} times as long: look at the pixel size")
    return ", ".join(found)
