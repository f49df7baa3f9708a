"""Draws a fitted lens: the correction over the frame, and what it leaves of the matches.

A lens that is too simple leaves a pattern where only noise should be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.lens import FIELD, cell_means
from processing.lens import LensFit
from processing.lens.model import grid_places
from services.errors import PlainError

DPI = 80
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

    places = grid_places(fit.model.shape, count=FIELD)
    both_ends = np.concatenate([fit.places, fit.others])
    left, _ = cell_means(
        fit.model.shape, both_ends, np.concatenate([fit.residuals, -fit.residuals])
    )
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw(panels[0], places, fit.model.shift(places), "correction")
    _draw(
        panels[1], places, left.reshape(places.shape), f"mean residual, degree {fit.model.degree}"
    )
    panels[0].set_ylabel("row, px")
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise PlainError(f"{path} cannot be written: {error.strerror}") from error
    except ValueError as error:  # matplotlib names the formats that it knows
        raise PlainError(f"{path} cannot be drawn: {error}") from error


def _draw(axes: Any, places: NDArray[np.float64], vectors: NDArray[np.float64], title: str) -> None:
    """Draw vectors on a grid over the frame, (rows, columns, 2) in px: shades, and arrows."""
    (row, column), (down, right) = (np.moveaxis(one, -1, 0) for one in (places, vectors))
    sizes = np.hypot(down, right)
    longest = float(np.nanmax(sizes, initial=0.0)) or 1.0
    # Between cells of which one has no match nothing can be shaded.
    shading = "gouraud" if np.isfinite(sizes).all() else "nearest"
    shade = axes.pcolormesh(column, row, sizes, shading=shading, cmap="Blues")
    scale = longest / (ARROW * places.max())
    axes.quiver(column, row, right, down, angles="xy", scale_units="xy", scale=scale)
    limits = {"xlim": (0, column.max()), "ylim": (row.max(), 0)}
    axes.set(title=title, xlabel="column, px", aspect="equal", **limits)
    axes.figure.colorbar(shade, ax=axes, label=f"px; the longest arrow is {longest:.2g}")
