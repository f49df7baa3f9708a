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
        # As real files have it, dX and dY move the neighbour.
        dy, dx = (base[tile] - base[other] - step) * self.signs.get(side, 1)
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


@dataclass
class RealTemca:
    """A montage in the form that TEMCA wrote in 2019, with every key, each with its real meaning.

    Ten patches an edge, in whole px, p in the neighbour; `row` and `col` of an entry are the tile's
    own, `position` is the side (2 left, 3 top), `match_quality` counts the patches, 0 if none
    matched and −1 if there is no neighbour; then all numbers are 0. One patch of some edges has
    slipped. Stage positions are whole nm in a frame turned by `angle`. Tiles are not congruent:
    each is bent a little, all by one lens, and the pitch of columns grows from row to row.
    """

    rows: int = 12
    columns: int = 14
    side: int = 3840
    overlap: float = 0.08
    pixel_size: float = 3.85
    angle: float = 183.6
    spread: float = 60.0  # px, of places about their nominal ones
    bend: float = 0.0012  # of the tiles' own maps
    lens: float = 8.0  # px, of a cubic at the corners
    drift: float = 2e-5  # of the pitch, from row to row
    noise: float = 0.5  # px, of a patch
    slipped: float = 0.05  # share of the edges
    unmatched: int = 4
    p_in_tile: bool = False
    codes: tuple[int, int] = (2, 3)  # of the left and the top
    again: int = 0  # tiles taken twice, at first elsewhere
    seed: int = 1

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.cells = [
            (row, column)
            for row in range(self.rows)
            for column in range(self.columns)
            if self._inside(row, column)
        ]
        places = np.array(self.cells, dtype=float)
        pitch = self.side * (1 - self.overlap)
        self.nominal = places * pitch
        self.true = self.nominal + rng.normal(0, self.spread, places.shape)
        self.true[:, 1] += self.drift * pitch * places[:, 0] * (places[:, 1] - self.columns / 2)
        count = len(self.cells)
        self.maps = np.eye(2) + self.bend / 2 * rng.standard_normal((count, 2, 2))
        self.maps[:, 1, 1] += self.drift * places[:, 0]
        self._index = {cell: number for number, cell in enumerate(self.cells)}
        self._rng = rng
        self.tiles = [self._tile(number) for number in range(count)]
        matched = [
            entry for tile in self.tiles for entry in tile["matcher"] if entry["match_quality"] > 0
        ]
        for entry in rng.choice(len(matched), self.unmatched, replace=False):
            matched[entry] |= self._nothing() | {"match_quality": 0}
        self.n_edges = len(matched)
        for number in range(self.again):  # the first take comes first, and lies elsewhere
            taken = json.loads(json.dumps(self.tiles[number * 7 + 3]))
            taken["img_path"] = taken["img_path"].replace(".tif", "_first.tif")
            taken["img_meta"]["stage_pos"][0] += 40_000
            self.tiles.insert(number, taken)

    def _inside(self, row: int, column: int) -> bool:
        y, x = abs(2 * row / (self.rows - 1) - 1), abs(2 * column / (self.columns - 1) - 1)
        return x + y < 1.6

    def bent(self, number: int, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where pixels (row, column) of a tile lie, in px."""
        middle = (self.side - 1) / 2
        arms = (pixels - middle) / middle
        cubic = self.lens / 2**1.5 * arms * (arms**2).sum(axis=-1, keepdims=True)
        return (pixels - middle + cubic) @ self.maps[number].T + middle + self.true[number]

    def _seen(self, number: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return which pixels of a tile show places: `bent` inverted by steps."""
        pixels = places - self.true[number]
        for _ in range(30):
            pixels = pixels + places - self.bent(number, pixels)
        return pixels

    def _nothing(self) -> dict[str, Any]:
        zeros = dict.fromkeys(("dX", "dY", "dXsd", "dYsd", "distance", "rotation"), 0.0)
        return zeros | {name: [0] * 10 for name in ("pX", "pY", "qX", "qY")}

    def _entry(self, number: int, step: tuple[int, int], code: int) -> dict[str, Any]:
        row, column = self.cells[number]
        own = {"row": row, "col": column}
        other = self._index.get((row + step[0], column + step[1]))
        if other is None:
            return own | self._nothing() | {"match_quality": -1, "position": code}
        along = np.linspace(0.09, 0.9, 10) * self.side
        deep = self.overlap * self.side * np.tile([0.3, 0.6], 5)
        q = np.column_stack([along, deep] if step[1] else [deep, along]).round()
        p = (
            self._seen(other, self.bent(number, q)) + self._rng.normal(0, self.noise, q.shape)
        ).round()
        quality = 10
        if self._rng.random() < self.slipped:
            q[9], quality = q[9] + self._rng.integers(150, 300, 2), 9
        if self.p_in_tile:
            p, q = q, p
        apart = q - p
        off = apart - np.median(apart, axis=0)
        numbers = {
            "dX": float(np.median(apart[:, 1])),
            "dY": float(np.median(apart[:, 0])),
            "dXsd": float(off[:, 1].std()),
            "dYsd": float(off[:, 0].std()),
            "distance": float(np.hypot(*np.median(apart, axis=0))),
            "rotation": 1.9,
        }
        points = {
            name: values.astype(int).tolist()
            for name, values in zip(("pX", "pY", "qX", "qY"), (*p.T[::-1], *q.T[::-1]), strict=True)
        }
        return own | numbers | {"match_quality": quality, "position": code} | points

    def _tile(self, number: int) -> dict[str, Any]:
        row, column = self.cells[number]
        return {
            "img_path": f"20190411094131_mag_comparison_001926_0_{column}_{row}.tif",
            "img_meta": {
                "raster_index": number,
                "stage_pos": self._stage[number].tolist(),
                "raster_pos": [column, row],
                "pixel_size": self.pixel_size,
                "pixel_size_x_move": self.pixel_size,
                "pixel_size_y_move": self.pixel_size,
                "angle": self.angle,
                "fps": "3.57",
            },
            "focus_score": 22.7,
            "astig_score": 0,
            "astig_angle": 0,
            "min": 0,
            "max": 43916,
            "mean": 36335,
            "std_dev": 5,
            "matcher": [
                self._entry(number, (-1, 0), self.codes[1]),
                self._entry(number, (0, -1), self.codes[0]),
            ],
        }

    @property
    def _stage(self) -> NDArray[np.int64]:
        c, s = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        y, x = (self.nominal * self.pixel_size).T
        return np.column_stack([x * c - y * s, x * s + y * c]).round().astype(int)

    def metadata(self) -> list[dict[str, Any]]:
        """Return the content of the file."""
        high = dict.fromkeys(("nm_per_pix", "x_nm_per_pix", "y_nm_per_pix"), self.pixel_size)
        low = dict.fromkeys(high, 261.27)
        return [
            {
                "metadata": {
                    "aperture_centroid": {"x": 108763.0, "y": -870349.5},
                    "autofocus_value": 0.0,
                    "beam_centering": {
                        "beam_center_active": True,
                        "beam_center_changed": False,
                        "offset": [0.0, 0.0],
                    },
                    "calibration": {
                        "lowmag": low | {"angle": 123.7},
                        "highmag": high | {"angle": self.angle},
                    },
                    "camera_info": {
                        "width": self.side,
                        "height": self.side,
                        "pixel_depth": 1,
                        "camera_bpp": 8,
                        "camera_model": "CB200MG",
                        "camera_id": "1",
                        "exposure": 96906,
                        "gain": 3200,
                    },
                    "grid": "001926",
                    "lims_specimen_id": "",
                    "media": "tape",
                    "media_id": "0147",
                    "montage_settings": {"auto_focus": True, "use_matcher": True},
                    "notes": "",
                    "objective_focus": 21,
                    "overlap": self.overlap,
                    "placement_id": "",
                    "roi_center": [82763.0, -783778.5],
                    "roi_creation_time": "20190411094129",
                    "roi_index": 0,
                    "session_id": "mag_comparison",
                    "server_copy_destination": "",
                    "specimen_id": "17797_1R",
                    "temca_id": "temca4",
                    "z_index": 1926,
                }
            },
            {"data": self.tiles},
            {
                "tile_qc": {
                    "failed": False,
                    "match_0": 0,
                    "match_1": 0,
                    "mean_std_dev": 8.6,
                    "focus_mean": 23.65,
                    "focus_std_dev": 0.83,
                },
                "errors": [],
                "alerts": [],
                "thumbnail": "",
                "sharedTransform": {
                    "type": "leaf",
                    "className": "mpicbg.trakem2.transform.ThinPlateSplineTransform",
                    "dataString": "",
                    "id": "20190411094058",
                },
            },
        ]


if __name__ == "__main__":
    big = RealTemca(70, 90, unmatched=20, again=3)
    Path(sys.argv[1]).write_text(json.dumps(big.metadata()), encoding="utf-8")
