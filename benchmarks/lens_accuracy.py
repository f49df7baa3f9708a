"""How right lens corrections are, and what correcting a frame costs.

Flat-fielded tiles of the virtual microscope, with 30 px of distortion in the kind world and with a
real lens field in the real one, go through matching and the fit; the model is judged by the
simulator's truth. What an affine map of the frame could do is nobody's error: a
montage cannot tell it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks._microscope import QuickMicroscope
from benchmarks._report import Result, best, run_in_worlds
from plans.lens_correction import square
from processing.flatfield import flat_field
from processing.lens import LensMap, LensModel, fit_lens
from processing.lens.model import MAX_DEGREE, grid_places
from processing.lens.overlaps import measure_lens
from simulation import MicroscopeSettings, VirtualMicroscope, World
from simulation.specimen import NeuropilSection
from tests.processing.lenses import barrel, error, matches, positions, some_lens

DISTORTION = 30.0  # px, at the corner of the frame
GOAL_PX = 0.3
GOAL_FIT_PX = 0.6  # RMS of a real set, with noise of 0.5 px
GOAL_MS = 4.0  # a frame of 2048²
CENTRE = (20.0, 10.0)  # µm


def microscope(world: World, side: int, exposure: float) -> QuickMicroscope:
    """Make a microscope whose lens is bad."""
    settings = MicroscopeSettings.of_world(world).updated(
        {"seed": 5, "camera": {"sensor": [side, side]}}
    )
    if world == "kind":
        shares = {"radial_distortion": 0.75, "field_distortion": 0.25}
        optics = {name: share * DISTORTION for name, share in shares.items()}
        settings = settings.updated({"optics": optics})
    return QuickMicroscope(settings, NeuropilSection(seed=4, section=settings.section), exposure)


def true_lens(scope: VirtualMicroscope) -> LensModel:
    """Tell the truth about a lens, up to an affine map."""
    shape = scope.settings.camera.sensor
    places = grid_places(shape).reshape(-1, 2)
    shifts = scope.distortion.shift(places[:, 0], places[:, 1])
    return LensModel.from_shifts(places, shifts, shape, MAX_DEGREE)


def take_tiles(
    world: World, side: int, exposure: float
) -> tuple[dict[str | int, NDArray], dict[str | int, tuple[float, float]], LensModel]:
    """Take 3 × 3 tiles at 60 % through a bad lens.

    Returns
    -------
    tiles, nominal : dict
        By index: flat-fielded frames, and where the stage says they lie, in px.
    LensModel
        The truth.
    """
    quick = microscope(world, side, exposure)
    references = quick.references()
    geometry = quick.scope.column.geometry
    tiles: dict[str | int, NDArray] = {}
    nominal: dict[str | int, tuple[float, float]] = {}
    for tile in square(CENTRE, 3, geometry, (side, side), 60.0).tiles:
        tiles[tile.index] = flat_field(quick.shoot(tile.x, tile.y), references)
        row, column = geometry.pixel_vector((tile.x, tile.y))
        nominal[tile.index] = float(row), float(column)
    quick.scope.close()
    return tiles, nominal, true_lens(quick.scope)


def measured(world: World, side: int, exposure: float, what: str) -> Iterator[Result]:
    """Measure the lens from tiles, and compare with the truth."""
    tiles, nominal, truth = take_tiles(world, side, exposure)
    start = time.thread_time()
    fit = measure_lens(tiles, nominal)
    seconds = time.thread_time() - start
    name = f"lens of {side}² tiles, {what}"
    yield Result(
        f"{name}: error after correction",
        error(fit.model, truth),
        "px RMS",
        "without, up to an affine map",
        error(LensModel.none((side, side)), truth),
        GOAL_PX if world == "kind" else None,
    )
    yield Result(f"{name}: residual", fit.residual_px_rms, "px RMS", f"of {fit.matches} matches")
    yield Result(f"{name}: matching and fit, time of one core", seconds, "s")


def collections(outliers: float) -> Iterator[Result]:
    """Fit a set of matches of the scale of a real one."""
    shape = (3840, 3840)
    lens = some_lens(shape, 90.0, seed=3)
    pairs = matches(lens, positions(shape), per_pair=300, outliers=outliers)
    start = time.thread_time()
    fit = fit_lens(pairs)
    seconds = time.thread_time() - start
    name = f"{fit.matches} matches of 3840² tiles, {outliers:.0%} wrong"
    yield Result(
        f"{name}: residual",
        fit.residual_px_rms,
        "px RMS",
        "translation only, median",
        fit.uncorrected_px_median,
        GOAL_FIT_PX,
    )
    fit = fit_lens(pairs, shape)
    yield Result(f"{name}: error of the model", error(fit.model, lens), "px RMS", goal=GOAL_PX)
    yield Result(f"{name}: time of the fit", 1e3 * seconds, "ms")


def correction(side: int, goal: float | None, repeats: int) -> Iterator[Result]:
    """Time the correction of a frame, beside a copy of it and OpenCV's."""
    shape = (side, side)
    lens = barrel(shape, DISTORTION)
    frame = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    out = np.empty_like(frame)
    made = LensMap(lens)
    made.correct(frame, out)
    source = opencv_map(lens)
    mine = best(lambda: made.correct(frame, out), repeats)
    copy = best(lambda: np.copyto(out, frame), repeats)
    opencv = best(
        lambda: cv2.remap(frame, *source, cv2.INTER_LINEAR, out, cv2.BORDER_REPLICATE), repeats
    )
    name = f"correction of a frame of {side}²"
    yield Result(name, mine, "ms", "cv2.remap", opencv, goal)
    yield Result(name, mine, "ms", "memory copy", copy)
    start = time.thread_time()
    LensMap(lens)
    seconds = time.thread_time() - start
    yield Result("its map, once a model", 1e3 * seconds, "ms")


def opencv_map(lens: LensModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give what `cv2.remap` needs, from the inverse on a grid of every 16th pixel."""
    coarse = grid_places(lens.shape, count=lens.shape[0] // 16 + 1)
    source = lens.to_distorted(coarse).astype(np.float32)
    rows, columns = np.mgrid[: lens.shape[0], : lens.shape[1]].astype(np.float32)
    step = (lens.shape[0] - 1) / (len(coarse) - 1)
    fine = cv2.remap(source, columns / step, rows / step, cv2.INTER_CUBIC)
    return np.ascontiguousarray(fine[..., 1]), np.ascontiguousarray(fine[..., 0])


def measure(quick: bool, world: World) -> Iterator[Result]:
    """Measure all cases, or small ones."""
    cv2.setNumThreads(1)
    if world == "kind":  # what has nothing to do with a microscope
        yield from correction(2048, GOAL_MS, repeats=15)
        yield from collections(outliers=0.15)
        if not quick:
            yield from correction(5376, None, repeats=7)
            yield from collections(outliers=0.35)
    yield from measured(world, 512 if quick else 2048, 0.1, "0.1 s")
    if not quick:
        yield from measured(world, 1024, 0.005, "5 ms, low dose")


if __name__ == "__main__":
    run_in_worlds("lens_accuracy", "How right lens corrections are, and what they cost.", measure)
