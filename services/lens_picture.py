"""Draws a fitted lens: the correction over the frame, and what it leaves of the matches.

A lens that is too simple leaves a pattern where only noise should be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.lens import field_of
from processing.lens import LensFit
from services.errors import PlainError

ARROW = 0.12  # of the frame's longer side: the longest arrow


def draw_lens(fit: LensFit, path: Path) -> None:
    """Draw the correction of a lens and the mean residuals of its matches.

    Parameters
    ----------
    fit : LensFit
    path : Path
        The suffix says in which format, such as ``.png`` or ``.pdf``.

    Raises
    ------
    PlainError
        If it cannot be written, or in no such format.
    """
    from matplotlib.figure import Figure

    rows = field_of(fit)
    places = _columns(rows, "row_px", "column_px")
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    _draw(panels[0], places, _columns(rows, "shift_row", "shift_column"), "correction")
    left = _columns(rows, "residual_row", "residual_column")
    _draw(panels[1], places, left, f"mean residual, degree {fit.model.degree}")
    panels[0].set_ylabel("row, px")
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise PlainError(f"{path} cannot be written: {error.strerror}") from error
    except ValueError as error:  # matplotlib names the formats that it knows
        raise PlainError(f"{path} cannot be drawn: {error}") from error


def _columns(rows: list[dict[str, float]], *names: str) -> NDArray[np.float64]:
    return np.array([[row[name] for name in names] for row in rows])


def _draw(axes: Any, places: NDArray[np.float64], vectors: NDArray[np.float64], title: str) -> None:
    """Draw vectors, (row, column) in px, on a grid over the frame: shades, and arrows."""
    side = round(len(places) ** 0.5)
    down, right = vectors.T
    sizes = np.hypot(down, right)
    longest = float(np.nanmax(sizes, initial=0.0)) or 1.0
    row, column = (line.reshape(side, side) for line in places.T)
    shade = axes.pcolormesh(column, row, sizes.reshape(side, side), shading="gouraud", cmap="Blues")
    scale = longest / (ARROW * places.max())
    axes.quiver(*places.T[::-1], right, down, angles="xy", scale_units="xy", scale=scale)
    rows_down = places[:, 0].max(), 0
    axes.set(title=title, xlabel="column, px", aspect="equal", ylim=rows_down)
    axes.figure.colorbar(shade, ax=axes, label=f"px; the longest arrow is {longest:.2g}")
