"""Makes montage metadata as TilEM and TEMCA write it, whose true places are known.

``python -m tests.formats.temca _metadata_1.json`` writes a file of a real montage's size.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDES = {"left": (2, (0, -1)), "top": (3, (-1, 0)), "right": (4, (0, 1)), "bottom": (5, (1, 0))}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
POINT_SD = 0.4  # px
WRONG = 255.0  # px; how far wrong edges stray from nominal


@dataclass
class Temca:
    """A montage of tiles that lie at random about their nominal places.

    `stray` is how far the stage's own positions lie from the grid, in px: `true` lies about them.
    What dX and dY are is told by `base`, `signs` (by side) and `swapped`. `rows_down` and
    `stage_up` are the ways in which files count.
    """

    rows: int = 12
    columns: int = 15
    side: int = 3840
    overlap: float = 0.13
    pixel_size: float = 3.95
    angle: float = 185.0
    spread: float = 133.0  # px, of places, which makes the offsets' median 221 px
    stray: float = 0.0
    wrong: float = 0.01
    unmatched: int = 5
    sides: tuple[str, ...] = ("left", "top")
    points: bool = True
    base: str = "stage"
    signs: dict[str, int] = field(default_factory=dict)
    swapped: bool = False
    rows_down: bool = True
    stage_up: bool = False
    polygon: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.cells = [
            (row, column)
            for row in range(self.rows)
            for column in range(self.columns)
            if not self.polygon or self._inside(row, column)
        ]
        self.raster = np.array(self.cells) * self.side * (1 - self.overlap)
        self.staged = self.raster + rng.normal(0, self.stray, self.raster.shape)
        self.true = self.staged + rng.normal(0, self.spread, self.raster.shape)
        self.matchers = self._matchers(rng)

    def _inside(self, row: int, column: int) -> bool:
        """Cut the corners of the grid, as a polygon does."""
        y, x = abs(2 * row / (self.rows - 1) - 1), abs(2 * column / (self.columns - 1) - 1)
        return x + y < 1.371

    def _matchers(self, rng: np.random.Generator) -> list[list[dict[str, Any]]]:
        index = {cell: number for number, cell in enumerate(self.cells)}
        found: list[list[dict[str, Any]]] = [[] for _ in self.cells]
        edges: list[tuple[int, int, str]] = []
        for number, (row, column) in enumerate(self.cells):
            for side in ("left", "top"):
                down, across = SIDES[side][1]
                if (other := index.get((row + down, column + across))) is not None:
                    edges.append((number, other, side))
        without = set(rng.choice(len(edges), self.unmatched, replace=False).tolist())
        self.n_edges, self.n_wrong = len(edges), 0
        for count, (tile, other, side) in enumerate(edges):
            step = self.true[tile] - self.true[other]
            if count not in without and rng.random() < self.wrong:
                self.n_wrong += 1
                step = self.staged[tile] - self.staged[other] + rng.uniform(-WRONG, WRONG, 2)
            for owner, neighbour, name, offset in (
                (tile, other, side, step),
                (other, tile, OPPOSITE[side], -step),
            ):
                if name in self.sides:
                    entry = self._entry(rng, owner, neighbour, name, offset)
                    if count in without:
                        entry |= {"match_quality": -1}
                    found[owner].append(entry)
        return found

    def _entry(
        self,
        rng: np.random.Generator,
        tile: int,
        other: int,
        side: str,
        step: NDArray[np.float64],
    ) -> dict[str, Any]:
        base = {"stage": self.staged, "raster": self.raster, "nothing": 0 * self.staged}[self.base]
        dy, dx = (step - (base[tile] - base[other])) * self.signs.get(side, 1)
        if self.swapped:
            dx, dy = dy, dx
        entry: dict[str, Any] = {
            "position": SIDES[side][0] if self.rows_down else side,
            "match_quality": 0.9,
            "dX": float(dx),
            "dY": float(dy),
        }
        if self.points:
            q = rng.uniform(self.side / 8, self.side * 7 / 8, (3, 2)).round()
            p = q + step + rng.normal(0, POINT_SD, (3, 2))
            entry |= {"pX": p[:, 1].tolist(), "pY": p[:, 0].tolist()}
            entry |= {"qX": q[:, 1].tolist(), "qY": q[:, 0].tolist(), "rotation": 0.0}
        return entry

    @property
    def stage(self) -> NDArray[np.float64]:
        """Stage (x, y) of each tile in nm, whole numbers as in the files."""
        c, s = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        y, x = (self.staged * self.pixel_size).T
        y = -y if self.stage_up else y
        return np.column_stack([x * c - y * s, x * s + y * c]).round()

    def raster_pos(self, number: int) -> list[int]:
        row, column = self.cells[number]
        return [column, row if self.rows_down else self.rows - 1 - row]

    def metadata(self) -> list[dict[str, Any]]:
        """Give the content of a file of TEMCA."""
        tiles = [
            {
                "img_path": f"20170_T4_{column}_{row}.tif",
                "img_meta": {
                    "raster_index": number,
                    "stage_pos": self.stage[number].astype(int).tolist(),
                    "raster_pos": self.raster_pos(number),
                    "pixel_size": self.pixel_size,
                    "pixel_size_x_move": self.pixel_size,
                    "angle": self.angle,
                    "fps": "2.8",
                },
                "focus_score": 22.0,
                "matcher": self.matchers[number],
            }
            for number, (row, column) in enumerate(self.cells)
        ]
        high = {"nm_per_pix": self.pixel_size, "angle": self.angle}
        return [
            {
                "metadata": {
                    "temca_id": "temca4",
                    "overlap": self.overlap,
                    "calibration": {"highmag": high},
                    "camera_info": {"width": self.side, "height": self.side},
                    "roi_index": 0,
                }
            },
            {"data": tiles},
            {"sharedTransform": None},
        ]

    def errors(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give how far each position is from the truth, in px, but for a common shift."""
        apart = positions - self.true
        return np.asarray(np.linalg.norm(apart - np.median(apart, axis=0), axis=1))


if __name__ == "__main__":
    big = Temca(69, 51, polygon=True, unmatched=20)
    Path(sys.argv[1]).write_text(json.dumps(big.metadata()), encoding="utf-8")
