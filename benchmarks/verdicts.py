"""Verdicts against known truth: how many faults of each kind are found, and how many are alleged.

Simulated montages with faults go through the real chain, the matching and the rules.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

from benchmarks._faults import (
    LESS_IS_STRONGER,
    STATED,
    FaultyMicroscope,
    Injected,
    OnFilm,
    Shot,
    choose_faults,
    is_stated,
)
from benchmarks._report import Result, run_in_worlds
from formats.images import open_image
from processing.chain import StepSettings, TileState, make_chain
from processing.flatfield import References
from processing.geometry.grid import Grid, GridTile
from processing.matching import MatchTile, Side, match
from processing.quality import Judge, Thresholds, Verdict
from processing.quality import faults as named
from simulation import MicroscopeSettings, SectionSettings, World
from simulation.specimen import ImageSpecimen, NeuropilSection

STEPS = tuple(map(StepSettings, ("flip", "flat_field", "statistics", "focus", "light", "match")))
SIDE = 512  # px of a tile
TILES = 13  # along each side of a montage
OVERLAP = 20.0  # %
# A tile of 512 px is too small for the offset that one of 4096 px may have; the virtual stage is
# up to 260 nm off between neighbours.
MOST_OFFSET, SEARCHED = (75.0, 200.0), 220.0  # px, or nm if that is more; px
MIDDLE = 28.0  # µm from a section's middle, within which montages have theirs
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
    """A way to take montages: how many, how, whether with faults, and whether half on resin."""

    name: str
    montages: int = 4
    magnification: int = 5000
    exposure: float = 0.1
    faults: bool = True
    resin: bool = False


CASES = (
    Case("4 nm"),
    Case("4 nm, a tenth of the dose", exposure=0.01),
    Case("8 nm", magnification=2500),
    Case("2 nm", magnification=10000),
    Case("4 nm, no fault", montages=2, faults=False),
    Case("4 nm, resin, no fault", montages=2, faults=False, resin=True),
)


@dataclass(frozen=True)
class Taken:
    """A montage that was taken: what was done to its tiles, and what is judged, in order."""

    faults: Sequence[Injected]
    limits: Thresholds
    events: Sequence[tuple[Literal["tile", "match"], dict[str, Any]]]


@dataclass
class Count:
    """What became of the faults of one kind and strength, or of the good tiles of one case."""

    tiles: int = 0
    named: int = 0
    failed: int = 0
    instead: Counter[str] = field(default_factory=Counter)

    def add(self, fault: str, verdict: Verdict) -> None:
        """Count a tile with a fault; "" is one without."""
        found = [each.name for each in verdict.faults]
        self.tiles += 1
        self.named += fault in found
        self.failed += bool(verdict.harmful)
        self.instead.update({",".join(found) or "none"} if fault not in found else ())

    def __add__(self, other: Count) -> Count:
        return Count(
            self.tiles + other.tiles,
            self.named + other.named,
            self.failed + other.failed,
            self.instead + other.instead,
        )


def take_montage(case: Case, number: int, seed: int, world: World = "kind") -> Taken:
    """Take a montage at a place of its own, process and match its tiles as they come."""
    rng = np.random.default_rng((seed, CASES.index(case), number))
    settings = MicroscopeSettings.of_world(world)
    specimen = _specimen(int(rng.integers(2**31)), settings.section)
    scope = FaultyMicroscope(
        specimen,
        settings.updated(
            {
                "seed": int(rng.integers(2**31)),
                "camera": {"sensor": [SIDE, SIDE]},
                "column": {"magnification": case.magnification},
            }
        ),
        case.exposure,
    )
    references = scope.references()
    size = TILES * SIDE * scope.geometry.pixel_size / 1000  # µm, at most
    grid = scope.grid(*_place(specimen, size, case.resin, rng), TILES, OVERLAP)
    n = len(grid.tiles)
    faults = choose_faults(n, rng) if case.faults else [Injected()] * n
    # In bare resin there is nothing by which anybody could see most faults.
    faults = [
        Injected() if _is_bare(specimen, tile, size / TILES) else fault
        for tile, fault in zip(grid.tiles, faults, strict=True)
    ]
    events = tuple(_events(scope, grid, references, faults))
    scope.close()
    specimen.close()
    most_offset = max(MOST_OFFSET[0], MOST_OFFSET[1] / grid.geometry.pixel_size)
    return Taken(faults, Thresholds(most_offset=most_offset), events)


def judge_montage(taken: Taken) -> list[tuple[Injected, Verdict]]:
    """Judge a montage as it comes; give the last verdict on each tile beside its fault."""
    judge = Judge(taken.limits, len(taken.faults))
    for stream, data in taken.events:
        getattr(judge, stream)(data)
    return [(taken.faults[index], verdict) for index, verdict in judge.verdicts().items()]


def _specimen(seed: int, section: SectionSettings) -> Any:
    """Make a section, or the micrograph that the environment names."""
    if path := os.environ.get("TEMLINE_SPECIMEN"):
        picture = open_image(path)
        section_on_film = ImageSpecimen(picture.read(), picture.pixel_size or 4.0, seed=seed)
        return OnFilm(section_on_film)
    return NeuropilSection(seed=seed, section=section)


def _place(
    specimen: Any, size: float, resin: bool, rng: np.random.Generator
) -> tuple[float, float]:
    """Choose the middle of a montage: clear of blemishes, or at the end of a resin area.

    Vessels are everywhere: that there is resin beside tissue is no blemish.
    """
    features = [each for each in getattr(specimen, "features", tuple)() if each.kind != "vessel"]
    if resin and features:
        areas = [each for each in features if each.kind == "resin"]
        area = areas[rng.integers(len(areas))]
        turn = np.radians(area.angle)
        return (
            float(area.x + area.length / 2 * np.cos(turn)),
            float(area.y + area.length / 2 * np.sin(turn)),
        )
    half = 0.75 * size  # the grid may lie askew
    while True:
        x, y = rng.uniform(-MIDDLE, MIDDLE, 2)
        boxes = [each.box for each in features]
        if not any(
            left < x + half and x - half < right and bottom < y + half and y - half < top
            for left, right, bottom, top in boxes
        ):
            return float(x), float(y)


def _is_bare(specimen: Any, tile: GridTile, side: float) -> bool:
    """Whether a tile shows nothing but the resin of a vessel; its side is in µm."""
    corners = np.array([tile.x, tile.y]) + 0.5 * side * np.array(
        [(i, j) for i in (-1, 1) for j in (-1, 1)]
    )
    return any(
        each.kind == "vessel" and bool((each.distance(corners) < 1).all())
        for each in getattr(specimen, "features", tuple)()
    )


def _events(
    scope: FaultyMicroscope, grid: Grid, references: References, faults: Sequence[Injected]
) -> Iterator[tuple[Literal["tile", "match"], dict[str, Any]]]:
    """Take, process and match the tiles of a montage as they come."""
    chain = make_chain(STEPS)
    neighbours = defaultdict(list)
    for a, b in grid.neighbours():
        neighbours[max(a.index, b.index)].append((a, b))
    edges: dict[int, dict[Side, MatchTile]] = {}
    tiles = {tile.index: tile for tile in grid.tiles}
    for shot in scope.take(grid, faults):
        state = _process(shot, references, grid, chain)
        edges[shot.tile.index] = state.edges
        yield "tile", _tile_data(shot, state.figures)
        for a, b in neighbours[shot.tile.index]:
            yield "match", _match_data(grid, edges, tiles[a.index], tiles[b.index])


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


def measure(quick: bool, world: World) -> Iterable[Result]:
    """Judge all cases, and tell recall by fault, and false alarms by fault and by case."""
    seed = int(os.environ.get("TEMLINE_SEED", "0"))
    found: dict[Injected, Count] = defaultdict(Count)
    good: dict[str, Count] = defaultdict(Count)
    alleged: Counter[str] = Counter()
    jobs = [(case, n, seed, world) for case in CASES for n in range(1 if quick else case.montages)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        taken_ones = pool.map(take_montage, *zip(*jobs, strict=True))
        for (case, *_), taken in zip(jobs, taken_ones, strict=True):
            for fault, verdict in judge_montage(taken):
                (found[fault] if fault.name else good[case.name]).add(fault.name, verdict)
                alleged.update(each.name for each in verdict.harmful if not fault.name)
    n_good = sum(count.tiles for count in good.values())
    for name in STATED:
        yield from _recalls(name, found)
        yield _false_alarms(f"{name}: false alarms", alleged[name], n_good)
    for name, count in good.items():
        yield _false_alarms(f"{name}: good tiles that fail", count.failed, count.tiles)


def _recalls(name: str, found: dict[Injected, Count]) -> Iterator[Result]:
    """Tell the recall at the stated strengths, then at each weaker one."""
    kind = sorted((each for each in found if each.name == name), key=lambda each: each.strength)
    stated = sum((found[each] for each in kind if is_stated(each)), Count())
    sign = "≤" if name in LESS_IS_STRONGER else "≥"
    yield _recall(f"{name} {sign} {STATED[name]:g} {UNITS[name]}: recall", stated, LEAST_RECALL)
    for each in kind:
        if not is_stated(each):
            yield _recall(f"{name} {each.strength:g} {UNITS[name]}: recall", found[each], None)


def _recall(name: str, count: Count, goal: float | None) -> Result:
    others = ", ".join(f"{n} {fault}" for fault, n in count.instead.most_common(3))
    seen = _of(count.named, count.tiles) + (f"; else {others}" if others else "")
    return Result(name, 100 * count.named / count.tiles, "%", seen, goal=goal, better="more")


def _false_alarms(name: str, n: int, tiles: int) -> Result:
    return Result(name, 100 * n / tiles, "%", _of(n, tiles), goal=MOST_FALSE)


def _of(n: int, tiles: int) -> str:
    """Tell a share in whole numbers, with its interval of 95 % confidence (Wilson, 1927)."""
    interval = binomtest(n, tiles).proportion_ci(method="wilson")
    return f"{n} of {tiles}, {100 * interval.low:.1f}–{100 * interval.high:.1f} %"


if __name__ == "__main__":
    run_in_worlds("verdicts", __doc__.splitlines()[0], measure)
