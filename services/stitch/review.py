"""The page that people look at to review a stitched montage: the mosaic, and maps of its tiles.

What reviewers ask of a montage: is it sharp, do neighbours agree, did the stage stray, is it even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from formats.whole_file import whole_file
from services.errors import PlainError
from services.stitch.report import Stitched

WIDTH, DPI = 15.0, 110  # inches
MIN_HEIGHT, MAX_HEIGHT, TITLES = 4.5, 14.0, 1.2
COLOURS = "viridis"
FAULTY, REJECTED, UNKNOWN = "#d62728", "#d62728", "#dddddd"
RANGE = 2, 98  # percentiles of what a map shows, so that no single tile takes all colours
MAX_ARROWS = 400


@dataclass(frozen=True, eq=False)
class _Page:
    """What the panels draw, and where.

    Attributes
    ----------
    figure : Figure
    stitched : Stitched
    """

    figure: Figure
    stitched: Stitched

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """(row, column) of the first pixel of each tile in the mosaic, in px."""
        positions = self.stitched.solved.solution.maps.positions
        return np.asarray(positions - positions.min(axis=0))

    @property
    def middles(self) -> NDArray[np.float64]:
        """(x, y) of the middle of each tile."""
        return (self.places + np.asarray(self.stitched.solved.montage.shape) / 2)[:, ::-1]

    @property
    def corners(self) -> NDArray[np.float64]:
        """The four corners (x, y) of each tile, shape (n, 4, 2)."""
        height, width = self.stitched.solved.montage.shape
        box = np.array([(0, 0), (0, width), (height, width), (height, 0)], dtype=float)
        return (self.places[:, None] + box)[:, :, ::-1]

    @property
    def faulty(self) -> NDArray[np.bool_]:
        """Which tiles are at fault."""
        verdicts = self.stitched.quality.verdicts
        return np.array([verdict.verdict == "fail" for verdict in verdicts])


def draw_review(stitched: Stitched) -> None:
    """Draw the page, as a PNG that appears complete or not at all.

    Parameters
    ----------
    stitched : Stitched
        Its request says where to.

    Raises
    ------
    PlainError
        If it cannot be written.
    """
    rows, columns = stitched.shape
    height = min(max(WIDTH / 2 * rows / columns + TITLES, MIN_HEIGHT), MAX_HEIGHT)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="compressed")
    page = _Page(figure, stitched)
    panels = figure.subplot_mosaic(
        [["mosaic", "mosaic", "focus", "apart"], ["mosaic", "mosaic", "moved", "mean"]]
    )
    for name, draw in PANELS.items():
        draw(page, panels[name])
    solved = stitched.solved
    figure.suptitle(
        f"{solved.montage.path.name}: {len(page.places)} tiles, {page.faulty.sum()} at fault "
        f"(red); {solved.verdict()}",
        wrap=True,
    )
    path = stitched.request.review
    try:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, format="png", bbox_inches="tight")
    except OSError as error:
        raise PlainError(f"{path} cannot be written: {error.strerror or error}") from error


def _draw_mosaic(page: _Page, axes: Axes) -> None:
    height, width = page.stitched.shape
    axes.imshow(page.stitched.thumbnail, cmap="gray", extent=(0, width, height, 0))
    axes.set_title("mosaic, px")


def _draw_focus(page: _Page, axes: Axes) -> None:
    _draw_tiles(page, axes, page.stitched.quality.values("focus"), "focus score")


def _draw_mean(page: _Page, axes: Axes) -> None:
    _draw_tiles(page, axes, page.stitched.quality.values("mean"), "mean, counts")


def _draw_moved(page: _Page, axes: Axes) -> None:
    """Draw how far tiles lie from where they were planned, and which way."""
    moved = page.stitched.solved.solution.maps.middles - page.stitched.solved.montage.nominal
    moved -= np.median(moved, axis=0)
    distance = np.linalg.norm(moved, axis=1)
    _draw_tiles(page, axes, distance, "moved from nominal, px")
    if not distance.any():  # arrows have no length to be scaled by
        return
    some = slice(None, None, -(-len(moved) // MAX_ARROWS))
    x, y = page.middles[some].T
    axes.quiver(x, y, moved[some, 1], moved[some, 0], angles="xy", color="white", pivot="mid")


def _draw_apart(page: _Page, axes: Axes) -> None:
    """Draw how far neighbours disagree, as lines from tile to tile; dotted ones were rejected."""
    solution, pairs = page.stitched.solved.solution, page.stitched.solved.montage.edges.pairs
    _outline(page, axes)
    lines = page.middles[pairs]
    kept = np.ones(len(pairs), dtype=bool)
    kept[list(solution.translation.outliers)] = False
    shown = LineCollection(list(lines[kept]), cmap=COLOURS, linewidths=2.5)
    shown.set_array(solution.disagreement[kept])
    axes.add_collection(shown)
    axes.add_collection(LineCollection(list(lines[~kept]), colors=REJECTED, linestyles="dotted"))
    axes.set_title("neighbours apart, px")
    _scale(page, axes, shown, solution.disagreement[kept])


def _draw_tiles(page: _Page, axes: Axes, values: NDArray[np.float64], title: str) -> None:
    """Draw each tile at its place, in the colour of its value; those at fault with a red rim."""
    known = np.isfinite(values)
    corners = page.corners
    axes.add_collection(PolyCollection(list(corners[~known]), facecolors=UNKNOWN))
    shown = PolyCollection(list(corners[known]), cmap=COLOURS, alpha=0.85)
    shown.set_array(values[known])
    axes.add_collection(shown)
    rims = PolyCollection(list(corners[page.faulty]), facecolors="none", edgecolors=FAULTY)
    axes.add_collection(rims)
    axes.set_title(title)
    _frame(page, axes)
    _scale(page, axes, shown, values[known])


def _outline(page: _Page, axes: Axes) -> None:
    axes.add_collection(PolyCollection(list(page.corners), facecolors=UNKNOWN, edgecolors="white"))
    _frame(page, axes)


def _frame(page: _Page, axes: Axes) -> None:
    height, width = page.stitched.shape
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])


def _scale(page: _Page, axes: Axes, shown: Any, values: NDArray[np.float64]) -> None:
    """Show what the colours mean, without what is far from most."""
    if not len(values):
        return
    low, high = np.percentile(values, RANGE)
    shown.set_clim(low, max(high, low + 1e-6))
    page.figure.colorbar(shown, ax=axes, shrink=0.7)


PANELS: dict[str, Callable[[_Page, Axes], None]] = {
    "mosaic": _draw_mosaic,
    "focus": _draw_focus,
    "apart": _draw_apart,
    "moved": _draw_moved,
    "mean": _draw_mean,
}
