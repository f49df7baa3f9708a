"""Verdicts against known truth: how many faults of each kind are found, and how many are alleged.

Simulated montages with faults go through the real chain, the matching and the rules.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._faults import FaultyMicroscope, Injected, Shot, choose_faults
from benchmarks._report import Result, run
from processing.chain import StepSettings, TileState, make_chain
from processing.flatfield import References
from processing.geometry.grid import Grid
from processing.matching import MatchTile, Side, match
from processing.quality import Judge, Thresholds, Verdict
from processing.quality import faults as named
from simulation.specimen import ImageSpecimen, NeuropilSection
from simulation.specimen.files import load_micrograph

STEPS = tuple(map(StepSettings, ("flip", "flat_field", "statistics", "focus", "light", "match")))
SIDE = 512  # px of a tile
OVERLAP = 20.0  # %
SHARE = 0.4  # of the tiles that get a fault
# A tile of 512 px is too small for the offset that one of 4096 px may have; the virtual stage is
# up to 150 nm off between neighbours.
MOST_OFFSET, SEARCHED = (60.0, 200.0), 220.0  # px, or nm if that is more; px
# From these strengths on a fault must be found; weaker ones are told beside.
STATED = {
    named.OUT_OF_FOCUS: 0.7,
    named.ASTIGMATIC: 0.7,
    named.DRIFTED: 3.0,
    named.DIM: 0.4,
    named.SATURATED: 2.0,
    named.BEAM_EDGE: 0.1,
    named.OBSTRUCTED: 0.1,
    named.NO_MATCH: 1.0,
    named.OFFSET_BEYOND_LIMIT: 150.0,
}
UNITS = {
    named.OUT_OF_FOCUS: "px blur",
    named.ASTIGMATIC: "px blur",
    named.DRIFTED: "px",
    named.DIM: "of the light",
    named.SATURATED: "of full scale",
    named.BEAM_EDGE: "of the tile",
    named.OBSTRUCTED: "of the tile",
    named.NO_MATCH: "elsewhere",
    named.OFFSET_BEYOND_LIMIT: "px",
}
LEAST_RECALL, MOST_FALSE = 95.0, 2.0  # %


@dataclass(frozen=True)
class Case:
    """A montage: where it lies, how it is taken."""

    name: str
    magnification: int = 5000
    exposure: float = 0.1
    place: tuple[float, float] | None = None  # in µm; None: on resin
    seed: int = 1


CASES = (
    Case("4 nm", place=(20.0, 10.0)),
    Case("4 nm, a tenth of the dose", exposure=0.01, place=(-25.0, 20.0), seed=2),
    Case("8 nm", 2500, place=(-20.0, -30.0), seed=3),
    Case("2 nm", 10000, place=(15.0, -18.0), seed=4),
    Case("4 nm, resin", seed=5),
    Case("4 nm, no fault", place=(30.0, -25.0), seed=6),
)


@dataclass
class Count:
    """What became of the faults of one kind and strength, or of the tiles of one case."""

    tiles: int = 0
    named: int = 0
    failed: int = 0
    instead: Counter[str] = field(default_factory=Counter)

    def add(self, fault: str, verdict: Verdict) -> None:
        """Count a tile with a fault."""
        found = [each.name for each in verdict.faults]
        self.tiles += 1
        self.named += fault in found
        self.failed += bool(verdict.harmful)
        self.instead.update({",".join(found) or "none"} if fault not in found else ())


def judge_montage(
    scope: FaultyMicroscope, grid: Grid, references: References, faults: list[Injected]
) -> Iterator[tuple[Injected, Verdict]]:
    """Take a montage, process, match and judge it as it comes; give the last verdicts."""
    most_offset = max(MOST_OFFSET[0], MOST_OFFSET[1] / grid.geometry.pixel_size)
    limits = Thresholds(most_offset=most_offset)
    judge = Judge(limits, len(grid.tiles))
    chain = make_chain(STEPS)
    neighbours = defaultdict(list)
    for a, b in grid.neighbours():
        neighbours[max(a.index, b.index)].append((a, b))
    edges: dict[int, dict[Side, MatchTile]] = {}
    tiles = {tile.index: tile for tile in grid.tiles}
    for shot in scope.take(grid, faults):
        state = _process(shot, references, grid, chain)
        edges[shot.tile.index] = state.edges
        judge.tile(_tile_data(shot, state.figures))
        for a, b in neighbours[shot.tile.index]:
            judge.match(_match_data(grid, edges, tiles[a.index], tiles[b.index]))
    for index, verdict in judge.verdicts().items():
        yield faults[index], verdict


def _process(shot: Shot, references: References, grid: Grid, chain: Any) -> TileState:
    margin = SEARCHED
    widths: dict[Side, float] = {
        "left": grid.overlap_px[1] + margin, "right": grid.overlap_px[1] + margin,
        "top": grid.overlap_px[0] + margin, "bottom": grid.overlap_px[0] + margin,
    }  # fmt: skip
    state = TileState(shot.frame, grid.geometry, references, widths=widths)
    chain(state)
    return state


def _tile_data(shot: Shot, figures: dict[str, float | bool]) -> dict[str, Any]:
    tile = shot.tile
    place = {"tile_index": tile.index, "tile_row": tile.row, "tile_column": tile.column}
    return {**place, "tile_attempt": 1, "error": "", **figures}


def _match_data(grid: Grid, edges: Any, a: Any, b: Any) -> dict[str, Any]:
    nominal = grid.geometry.pixel_vector((b.x - a.x, b.y - a.y)).tolist()
    sides: tuple[Side, Side] = ("right", "left") if a.row == b.row else ("bottom", "top")
    found = match(
        edges[a.index][sides[0]], edges[b.index][sides[1]], tuple(nominal), max_offset=SEARCHED
    )
    return {
        "tile_a": a.index, "tile_b": b.index, "attempt_a": 1, "attempt_b": 1,
        "nominal_drow": nominal[0], "nominal_dcol": nominal[1],
        "drow": found.drow, "dcol": found.dcol, "good": found.good, "reason": found.reason,
    }  # fmt: skip


def measure(quick: bool) -> Iterable[Result]:
    """Judge all cases, and tell recall by fault, and false alarms by fault and by case."""
    specimen: Any = NeuropilSection(seed=4)
    if path := os.environ.get("TEMLINE_SPECIMEN"):
        picture = load_micrograph(Path(path))
        specimen = ImageSpecimen(picture.pixels, picture.pixel_size or 4.0)
    rng = np.random.default_rng(0)
    found: dict[tuple[str, float], Count] = defaultdict(Count)
    clean: dict[str, Count] = {}
    alleged: Counter[str] = Counter()
    for case in CASES[:2] if quick else CASES:
        clean[case.name] = Count()
        for fault, verdict in _judge_case(specimen, case, 6 if quick else 13, rng):
            if fault.name:
                found[fault.name, fault.strength].add(fault.name, verdict)
                continue
            clean[case.name].add("", verdict)
            alleged.update(each.name for each in verdict.harmful)
    specimen.close()
    n_clean = sum(count.tiles for count in clean.values())
    for name, least in STATED.items():
        yield from _recalls(name, least, found)
        yield Result(
            f"{name}: false alarms", 100 * alleged[name] / n_clean, "%", f"of {n_clean} good tiles",
            goal=MOST_FALSE,
        )  # fmt: skip
    for name, count in clean.items():
        yield Result(
            f"{name}: good tiles that fail", 100 * count.failed / count.tiles, "%",
            f"of {count.tiles}", goal=MOST_FALSE,
        )  # fmt: skip


def _judge_case(
    specimen: Any, case: Case, tiles: int, rng: np.random.Generator
) -> Iterator[tuple[Injected, Verdict]]:
    scope = FaultyMicroscope(specimen, case.magnification, SIDE, case.exposure, case.seed)
    references = scope.references()
    grid = scope.grid(*(case.place or _beside_resin(specimen)), tiles, OVERLAP)
    share = 0.0 if "no fault" in case.name or case.place is None else SHARE
    yield from judge_montage(scope, grid, references, choose_faults(len(grid.tiles), share, rng))


def _beside_resin(specimen: Any) -> tuple[float, float]:
    """Give a place at the end of the largest resin area, half on tissue."""
    areas = [each for each in getattr(specimen, "features", list)() if each.kind == "resin"]
    if not areas:
        return 0.0, 0.0
    area = max(areas, key=lambda each: each.length)
    turn = np.radians(area.angle)
    return (
        float(area.x + area.length / 2 * np.cos(turn)),
        float(area.y + area.length / 2 * np.sin(turn)),
    )


def _recalls(name: str, least: float, found: dict[tuple[str, float], Count]) -> Iterator[Result]:
    """Tell the recall at the stated strengths, then at each weaker one."""
    weaker_is_more = name == named.DIM
    stated, weaker = Count(), {}
    for (kind, strength), count in sorted(found.items()):
        if kind != name:
            continue
        if (strength > least) if weaker_is_more else (strength < least):
            weaker[strength] = count
        else:
            stated.tiles += count.tiles
            stated.named += count.named
            stated.failed += count.failed
            stated.instead += count.instead
    if stated.tiles:
        sign = "≤" if weaker_is_more else "≥"
        yield _recall(f"{name} {sign} {least:g} {UNITS[name]}: recall", stated, LEAST_RECALL)
    for strength, count in weaker.items():
        yield _recall(f"{name} {strength:g} {UNITS[name]}: recall", count, None)


def _recall(name: str, count: Count, goal: float | None) -> Result:
    others = ", ".join(f"{n} {fault}" for fault, n in count.instead.most_common(3))
    return Result(
        name, 100 * count.named / count.tiles, "%",
        f"of {count.tiles}, {count.failed} fail" + (f"; else {others}" if others else ""),
        goal=goal, better="more",
    )  # fmt: skip


if __name__ == "__main__":
    run("verdicts", __doc__.splitlines()[0], measure)
