"""Matching and solving against other stitchers, against the noise's own limit, and against chance.

Montages of a virtual section with known truth, and of the virtual microscope in both of its worlds;
every stitcher gets the same tiles in the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks._report import Result, run_in_worlds
from benchmarks._world_stitching import measure_world
from benchmarks.peers import Stitched
from processing.matching import Side, match, prepare, prepare_edges
from processing.solve import solve_matches
from processing.stitch import match_neighbours
from simulation import World
from simulation.specimen import NeuropilSection
from tests.processing.scenes import REPEATS, cut, expose, texture

PIXEL = 4.0  # nm
RESIN = 1.5  # how bright bare resin is, in standard deviations of tissue above its mean
RIGHT = 1.0  # px within which a tile counts as placed
PEER_NAMES = {
    "ashlar": "ASHLAR",
    "m2stitch": "m2stitch",
    "multiview_stitcher": "multiview-stitcher",
}
UNRELATED = 15_000  # pairs of tiles that show different places
REPEATED = 80  # pairs of tiles with marks or fringes as strong as the tissue


@dataclass(frozen=True)
class Case:
    """A montage to stitch.

    Attributes
    ----------
    name : str
    snr : float
        Standard deviation of the tissue over that of the noise, in one pixel.
    overlap : float
        Of neighbours, as a share of the tile.
    tiles : int
        Along each axis.
    goal : float or None
        Greatest RMS error, in px.
    resin : float
        Share of the montage that is bare.
    gain : float
        By how much the brightness of tiles differs at most, relative.
    distortion : float
        Of the lens at a tile's corners, in px.
    """

    name: str
    snr: float = 3.0
    overlap: float = 0.1
    tiles: int = 5
    goal: float | None = None
    resin: float = 0.0
    gain: float = 0.0
    distortion: float = 0.0


CASES = (
    Case("neuropil, SNR 3", tiles=10, goal=0.02),
    Case("low dose, SNR 1", snr=1.0, tiles=10, goal=0.12),
    Case("30 % resin", resin=0.3),
    Case("5 % overlap", overlap=0.05),
    Case("gain ± 10 % a tile", gain=0.1),
    Case("lens distortion of 10 px", distortion=10.0),
)


@dataclass(frozen=True, eq=False)
class Montage:
    """Tiles, where they are said to be and where they are: (row, column) of first px."""

    tiles: NDArray[np.uint16]
    grid: NDArray[np.int64]
    nominal: NDArray[np.float64]
    true: NDArray[np.float64]
    reach: float


# --- tiles with known truth


def make_montage(case: Case, side: int, section: NeuropilSection) -> Montage:
    """Image a montage of square tiles whose nominal places are wrong by up to a quarter overlap."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[range(case.tiles)] * 2, indexing="ij"), -1).reshape(-1, 2)
    overlap = round(case.overlap * side)
    nominal = grid * float(side - overlap)
    error = overlap / 8
    true = nominal + rng.uniform(-error, error, nominal.shape)
    usual = _sample(section, np.zeros(2), side, 0.0)
    bare = _resin(case.resin, float(nominal.max()) + side, rng)
    tiles = []
    for number, place in enumerate(true):
        scene = (_sample(section, place, side, case.distortion) - usual.mean()) / usual.std()
        scene[bare(place, side)] = RESIN
        tile = expose(scene, case.snr, seed=number)
        tiles.append((tile * (1 + rng.uniform(-case.gain, case.gain))).astype(np.uint16))
    return Montage(np.stack(tiles), grid, nominal, true, 2 * error + 2)


def _sample(
    section: NeuropilSection, place: NDArray[np.float64], side: int, distortion: float
) -> NDArray[np.float32]:
    """Image the section at a place, through a lens whose cubic distortion is so much at corners."""
    margin = int(distortion) + 4 if distortion else 0
    middle = (place + (side - 1) / 2) * PIXEL / 1000
    wide = side + 2 * margin
    image = section.region(float(middle[1]), -float(middle[0]), wide, wide, PIXEL)
    if not distortion:
        return image
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    outward = np.float32(distortion / np.sqrt(2)) * (rows**2 + columns**2) / 2
    at = (np.float32((side - 1) / 2) * line + margin + (side - 1) / 2 for line in (columns, rows))
    across, down = (
        (line + outward * unit).astype(np.float32)
        for line, unit in zip(at, (columns, rows), strict=True)
    )
    return np.asarray(cv2.remap(image, across, down, cv2.INTER_LANCZOS4), dtype=np.float32)


def _resin(
    share: float, extent: float, rng: np.random.Generator
) -> Callable[[NDArray[np.float64], int], NDArray[np.bool_]]:
    """Give a function that tells which pixels of a tile show bare resin, in smooth patches."""
    waves = rng.normal(size=(12, 2)) * 2 * np.pi / 1500
    phases = rng.uniform(0, 2 * np.pi, 12)

    def field(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(
            sum(
                np.cos(wave[0] * rows[:, None] + wave[1] * columns + phase)
                for wave, phase in zip(waves, phases, strict=True)
            )
        )

    everywhere = np.linspace(0, extent, 200)
    level = np.quantile(field(everywhere, everywhere), share)

    def bare(place: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
        if not share:
            return np.zeros((side, side), bool)
        return field(place[0] + np.arange(side), place[1] + np.arange(side)) < level

    return bare


# --- stitchers


def stitch(montage: Montage) -> tuple[Stitched, int]:
    """Stitch with temline; count the matches that it believes although they are wrong."""
    start = time.process_time()
    matches = match_neighbours(
        montage.tiles.__getitem__,
        montage.nominal,
        montage.tiles.shape[1:],
        reach=montage.reach,
        workers=1,
    )
    positions = solve_matches(montage.nominal, matches).positions
    seconds = time.process_time() - start
    wrong = 0
    for (a, b), found in matches.items():
        off = montage.true[b] - montage.true[a] - (found.drow, found.dcol)
        wrong += found.good and bool(np.abs(off).max() > RIGHT)
    return Stitched(positions, seconds), wrong


def errors(
    montage: Montage, positions: NDArray[np.float64], *, affine: bool
) -> NDArray[np.float64]:
    """Give what positions are off by, shape (n, 2), in px.

    No stitcher can know where the whole lies, so the mean is taken off; and a lens that is not
    corrected scales the whole, so an affine map is where there is one.
    """
    off = positions - montage.true
    terms = np.column_stack([np.ones(len(off)), montage.true] if affine else [np.ones(len(off))])
    # Tiles that are far off must not drag the others: fit to those that fit.
    near = np.ones(len(off), bool)
    for _ in range(5):
        rest = off - terms @ np.linalg.lstsq(terms[near], off[near], rcond=None)[0]
        size = np.hypot(*rest.T)
        near = size <= 3 * np.median(size) + 1e-6
    return np.asarray(rest)


def judge(case: Case, montage: Montage, answers: dict[str, Stitched], wrong: int) -> list[Result]:
    """Lay out one case: temline beside ASHLAR, then every peer."""
    figures = {}
    for name, answer in answers.items():
        if answer.positions is None:
            figures[name] = (np.nan, np.nan, np.nan)
            continue
        off = errors(montage, answer.positions, affine=case.distortion > 0)
        figures[name] = (
            float(np.sqrt(np.square(off).mean())),
            100 * float((np.hypot(*off.T) < RIGHT).mean()),
            1e3 * answer.seconds / len(off),
        )
    labels = (("RMS error", "px"), ("placed within 1 px", "%"), ("CPU time a tile", "ms"))
    least_time = 6.0 if montage.tiles.shape[1] == 1024 else None
    goals = (case.goal, None, least_time)
    ashlar = figures.get("ashlar", (None, None, None))
    results = [
        Result(
            f"{case.name}: {label}", ours, unit, "" if theirs is None else "ASHLAR", theirs, goal
        )
        for (label, unit), ours, theirs, goal in zip(
            labels, figures.pop("temline"), ashlar, goals, strict=True
        )
    ]
    if not case.distortion:  # which moves what two tiles share by more than that
        results.append(Result(f"{case.name}: wrong matches believed", wrong, "", goal=0))
    for name, values in figures.items():
        said = answers[name].said
        results += [
            Result(f"{case.name}: {label}, {PEER_NAMES[name]}", value, unit, said)
            for (label, unit), value in zip(labels, values, strict=True)
        ]
    return results


# --- limits


def noise_limit(scene: NDArray[np.float64], snr: float, area: float) -> float:
    """Give the least standard deviation of a shift between two noisy copies of a texture, in px.

    The Cramér–Rao bound for the delay between two noisy copies of one random signal (G. C. Carter,
    Proc. IEEE 75, 1987, in two dimensions): with spectra S of the signal and N of the noise,
    ``var⁻¹ = A ∫∫ (2π f_x)² S² / (N² + 2 S N) df_x df_y`` over an overlap of area A. The texture is
    the same in all directions, so its spectrum is averaged over rings.
    """
    side = len(scene)
    power = np.abs(scipy.fft.fft2(scene)) ** 2 / side**2
    down, across = scipy.fft.fftfreq(side)[:, None], scipy.fft.fftfreq(side)[None]
    ring = (np.hypot(down, across) * side / 2).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    signal, noise = mean[ring].reshape(power.shape), snr**-2
    known = (2 * np.pi * across) ** 2 * signal**2 / (noise**2 + 2 * signal * noise)
    return float((known.sum() * area / side**2) ** -0.5)


def pair_errors(snr: float, pairs: int, side: int) -> tuple[float, float]:
    """Measure the RMS error of pairs of tiles at 10 % overlap, and how many of their sd it is."""
    scene = texture(2 * side, 3)
    off, relative = [], []
    for k in range(pairs):
        rng = np.random.default_rng(k)
        nominal = np.array([0, side - side // 10])[:: 1 if k % 2 else -1]
        offset, corner = nominal + rng.uniform(-8, 8, 2), rng.uniform(0, len(scene), 2)
        a, b = (
            prepare(
                expose(
                    cut(scene, tuple(place), (side, side)), snr, seed=1000 * round(snr) + 2 * k + n
                )
            )
            for n, place in enumerate((corner, corner + offset))
        )
        found = match(a, b, (float(nominal[0]), float(nominal[1])))
        error = np.array([found.drow, found.dcol]) - offset
        off.append(error)
        relative.append(error / (found.sd_row, found.sd_col))
    return float(np.sqrt(np.square(off).mean())), float(np.sqrt(np.square(relative).mean()))


def false_matches(pairs: int, *, repeated: bool = False) -> tuple[int, int]:
    """Count the matches that are believed between tiles that share nothing; and all pairs.

    Nothing, or only what repeats in all of them: marks as neighbours see them, or fringes.
    """
    believed = tried = scene = 0
    shape = 256, 256
    while tried < pairs:
        rng = np.random.default_rng(scene)
        repeats = list(REPEATS.values())[scene // 32 % len(REPEATS)]
        tiles = []
        for seed in range(100 + scene, 132 + scene):
            image = cut(texture(1024, seed, (1.0, 1.5)[seed % 2]), (0, 0), shape)
            if repeated:
                place = np.array([0.0, 230.0 * (seed % 2)]) + rng.uniform(-30, 30, 2)
                image = image + repeats(place, shape)
            tiles.append(prepare(expose(image, 5, seed=seed)))
        scene += 32
        for a, b in permutations(tiles, 2):
            for nominal in ((0.0, 230.0), (230.0, 0.0)):
                if tried < pairs:
                    believed += match(a, b, nominal, 120).good
                    tried += 1
    return believed, tried


def repeated_matches(pairs: int, side: int) -> tuple[int, int, float]:
    """Match tiles in which something repeats; count the right and wrong ones, and their error."""
    scene = texture(2 * side, 3)
    right, wrong, errors = 0, 0, []
    for k, repeats in zip(range(pairs), cycle(REPEATS.values()), strict=False):
        rng = np.random.default_rng(k)
        nominal = np.array([0, side - side // 8])[:: 1 if k // len(REPEATS) % 2 else -1]
        corner, offset = rng.uniform(0, len(scene), 2), nominal + rng.uniform(-30, 30, 2)
        a, b = (
            prepare(
                expose(
                    cut(scene, tuple(place), (side, side)) + repeats(place, (side, side)),
                    5,
                    seed=2 * k + n,
                )
            )
            for n, place in enumerate((corner, corner + offset))
        )
        found = match(a, b, (float(nominal[0]), float(nominal[1])), 100)
        off = np.subtract((found.drow, found.dcol), offset)
        near = bool(np.abs(off).max() < RIGHT)
        right += found.good and near
        wrong += found.good and not near
        errors += [*off] if found.good and near else []
    return right, wrong, float(np.sqrt(np.square(errors).mean()))


def times(height: int, width: int) -> tuple[float, float]:
    """Give the shortest times of preparing all edges of a tile and of a match, in ms."""
    side = scipy.fft.next_fast_len(max(height, width) + 512)
    scene = texture(side, 3)
    nominal = 0.0, round(0.9 * width)
    a, b = (
        expose(
            scene[np.ix_(np.arange(height) % side, np.arange(left, left + width) % side)], 3, seed=s
        )
        for s, left in enumerate((0, int(nominal[1]) + 31))
    )
    across, down = 0.1 * width + 255, 0.1 * height + 255
    widths: dict[Side, float] = {"top": down, "bottom": down, "left": across, "right": across}
    right, left = prepare_edges(a, widths)["right"], prepare_edges(b, widths)["left"]
    return (
        _shortest(lambda: prepare_edges(a, widths)),
        _shortest(lambda: match(right, left, nominal)),
    )


def _shortest(action: Callable[[], Any], repeats: int = 15) -> float:
    taken = []
    for _ in range(repeats):
        start = time.thread_time()
        action()
        taken.append(time.thread_time() - start)
    return 1e3 * min(taken)


# --- the benchmark


def measure(quick: bool, world: World) -> Iterator[Result]:
    """Measure montages of the microscope; if its world is kind, limits, speed and cases before.

    If quick, small ones and without peers.
    """
    cv2.setNumThreads(1)
    if world == "kind":
        yield from _measure_matching(quick)
    yield from measure_world(quick, world)


def _measure_matching(quick: bool) -> Iterator[Result]:
    """Measure limits and speed, then all cases."""
    side = 512 if quick else 1024
    for snr in (1.0, 3.0, 10.0, 30.0):
        error, relative = pair_errors(snr, 8 if quick else 40, side)
        limit = noise_limit(texture(2 * side, 3), snr, side * (side // 10))
        name = f"a pair's error, SNR {snr:g}"
        yield Result(name, error, "px", "Cramér–Rao limit", limit, 2.0, goal_is_ratio=True)
        yield Result(f"{name}, over its sd", relative, "")
    believed, tried = false_matches(500 if quick else UNRELATED)
    yield Result(f"matches believed of {tried} unrelated pairs", believed, "", goal=0)
    believed, tried = false_matches(500 if quick else UNRELATED, repeated=True)
    name = f"matches believed of {tried} unrelated pairs with the same marks or fringes"
    yield Result(name, believed, "", goal=0)
    pairs = 16 if quick else REPEATED
    right, wrong, error = repeated_matches(pairs, side)
    name = f"{pairs} pairs with marks or fringes as strong as the tissue"
    yield Result(f"{name}: matched", 100 * right / pairs, "%", goal=90.0, better="more")
    yield Result(f"{name}: wrong matches believed", wrong, "", goal=0)
    yield Result(f"{name}: RMS error", error, "px")
    for shape, goals in _speeds(quick):
        prepared, matched = times(*shape)
        size = f"{shape[1]} × {shape[0]}"
        yield Result(f"prepare all edges of {size}", prepared, "ms", goal=goals[0])
        yield Result(f"a match of {size}", matched, "ms", goal=goals[1])
    yield from _montages(quick)


def _speeds(quick: bool) -> list[tuple[tuple[int, int], tuple[float | None, float | None]]]:
    small = ((1024, 1024), (None, None))
    large = [((2048, 2048), (2.0, 4.0)), ((3840, 5120), (None, 12.0))]
    return [small] if quick else [small, *large]


def _montages(quick: bool) -> Iterator[Result]:
    """Stitch every case with everything that is there."""
    said = {} if quick else {name: peers.install(name) for name in PEER_NAMES}
    section = NeuropilSection(seed=1, size_um=(200.0, 200.0))
    try:
        with tempfile.TemporaryDirectory() as name:
            for case in CASES:
                small = Case(**{**vars(case), "tiles": 3, "goal": None})
                montage = make_montage(small if quick else case, 512 if quick else 1024, section)
                stitch(montage)  # the first run of all may compile
                ours, wrong = stitch(montage)
                answers = {"temline": ours, **_others(montage, said, Path(name))}
                yield from judge(small if quick else case, montage, answers, wrong)
    finally:
        section.close()


def _others(montage: Montage, said: dict[str, str], folder: Path) -> dict[str, Stitched]:
    """Let every peer that is installed stitch a montage."""
    tiles = folder / "tiles.npz"
    if said:
        np.savez(
            tiles,
            tiles=montage.tiles,
            nominal=montage.nominal,
            grid=montage.grid,
            reach=montage.reach,
        )
    return {
        name: Stitched(None, said=f"not installed: {why}")
        if why
        else peers.stitch(name, tiles, folder)
        for name, why in said.items()
    }


if __name__ == "__main__":
    run_in_worlds(
        "stitching", "Accuracy and speed of matching and solving, against other stitchers.", measure
    )
