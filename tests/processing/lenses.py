"""Known lenses, and matches of tiles taken through them: what lens models are judged by."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.geometry import PairMatches
from processing.lens import LensModel
from processing.lens.model import grid_places, terms
from tests.processing.scenes import expose, texture

STAGE_ERROR = 100.0  # px, standard deviation


def some_lens(shape: tuple[int, int], largest: float, seed: int = 0, degree: int = 3) -> LensModel:
    """Make a lens with random terms, the longest shift of which is `largest` px."""
    rng = np.random.default_rng(seed)
    orders = np.sum(terms(degree), axis=1)
    coefficients = rng.normal(size=(2, len(orders))) / orders
    unit = LensModel(shape, as_lines(coefficients * 0.01 * min(shape)), degree)
    return LensModel(shape, as_lines(unit.coefficients, largest / unit.largest_shift), degree)


def as_lines(
    coefficients: object, factor: float = 1.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rows, columns = (np.asarray(coefficients) * factor).tolist()
    return tuple(rows), tuple(columns)


def barrel(shape: tuple[int, int], corner: float) -> LensModel:
    """Make the classical radial lens: `corner` px at the corner before its scale is taken off."""
    places = grid_places(shape).reshape(-1, 2)
    middle = (np.asarray(shape) - 1) / 2
    out = (places - middle) / np.linalg.norm(middle)
    return LensModel.from_shifts(places, -corner * out * (out**2).sum(axis=1, keepdims=True), shape)


def positions(
    shape: tuple[int, int], rows: int = 3, columns: int = 3, overlap: float = 0.6, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Place tiles on a grid, with errors as a stage makes them, in px."""
    rng = np.random.default_rng((seed, 7))
    pitch = np.asarray(shape) * (1 - overlap)
    error = STAGE_ERROR * min(shape) / 2048
    return {
        f"tile-{row}-{column}": pitch * (row, column) + rng.normal(0, error, 2)
        for row in range(rows)
        for column in range(columns)
    }


def some_bends(
    places: dict[str, NDArray[np.float64]], turn: float = 3e-4, scale: float = 3e-4, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Turn and scale tiles about their middles, by so much RMS, and by nothing on the mean.

    Neither does it grow from one side to the other: what does, a lens would look like.
    """
    rng = np.random.default_rng((seed, 13))
    where = np.array(list(places.values()))
    common = np.column_stack([np.ones(len(where)), where])
    numbers = rng.normal(size=(len(where), 2))
    numbers -= common @ np.linalg.lstsq(common, numbers, rcond=None)[0]
    scales, turns = (numbers / numbers.std(axis=0) * (scale, turn)).T
    return {
        tile: np.array([[one, -angle], [angle, one]])
        for tile, one, angle in zip(places, scales, turns, strict=True)
    }


def put(
    lens: LensModel, place: object, bend: object, pixels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take pixels of a tile to where they lie: corrected, bent about the middle, and shifted."""
    middle = (np.asarray(lens.shape) - 1) / 2
    straight = lens.to_corrected(pixels) - middle
    return straight @ (np.eye(2) + np.asarray(bend)).T + middle + np.asarray(place)


def taken(
    lens: LensModel, place: object, bend: object, at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the pixels of a tile, corrected but not distorted, that lie at some places."""
    middle = (np.asarray(lens.shape) - 1) / 2
    straight = np.linalg.solve(np.eye(2) + np.asarray(bend), (at - place - middle).T).T
    return straight + middle


def matches(
    lens: LensModel,
    places: dict[str, NDArray[np.float64]],
    *,
    bends: dict[str, NDArray[np.float64]] | None = None,
    per_pair: int = 60,
    noise: float = 0.5,
    stretch: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> list[PairMatches]:
    """Make the matches of all pairs that overlap.

    `noise` is the RMS length of the error of a match, in px, and `stretch` that of an error which
    all matches of a pair share, as waves over its overlap; a share of the matches are `outliers`,
    anywhere in the two tiles, and not marked.
    """
    rng = np.random.default_rng((seed, 11))
    found = []
    shape = np.asarray(lens.shape)
    own = bends or dict.fromkeys(places, np.zeros((2, 2)))
    for a, b in combinations(places, 2):
        p = rng.uniform(0, shape - 1, (4 * per_pair, 2))
        corrected = taken(lens, places[b], own[b], put(lens, places[a], own[a], p))
        near = ((corrected > -0.04 * shape) & (corrected < 1.04 * shape)).all(axis=1)
        p, q = p[near], lens.to_distorted(corrected[near])
        seen = ((q >= 0) & (q <= shape - 1)).all(axis=1)
        p, q = p[seen][:per_pair], q[seen][:per_pair]
        if len(p) < 5:
            continue
        if stretch:
            q = q + stretch * _waves(rng, p / shape)
        q = np.clip(q + rng.normal(0, noise / np.sqrt(2), q.shape), 0, shape - 1)
        wrong = rng.random(len(q)) < outliers
        q[wrong] = rng.uniform(0, shape - 1, (int(wrong.sum()), 2))
        found.append(PairMatches(a, b, p, q, np.ones(len(p))))
    return found


def _waves(rng: np.random.Generator, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make a smooth vector field with an RMS length of about 1, of some waves over a frame."""
    waves = rng.normal(0, 2.5 * 2 * np.pi, (4, 2, 2))
    phases = rng.uniform(0, 2 * np.pi, (4, 2))
    return np.cos(np.einsum("kx,wxc->kwc", at, waves) + phases).sum(axis=1) / 2


def error(found: LensModel, truth: LensModel) -> float:
    """RMS distance between two corrections over the frame, in px; neither holds an affine part."""
    places = grid_places(truth.shape, count=65)
    apart = found.shift(places) - truth.shift(places)
    return float(np.sqrt((apart**2).sum(axis=-1).mean()))


def tiles_through(
    lens: LensModel, places: dict[str, NDArray[np.float64]], snr: float = 5.0, seed: int = 0
) -> dict[str, NDArray[np.uint16]]:
    """Take tiles of one scene through a lens, at true places in px; noise is of each its own."""
    scene = texture(1024, seed).astype(np.float32)
    seen = lens.to_corrected(np.stack(np.indices(lens.shape), axis=-1))
    tiles = {}
    for number, (tile, place) in enumerate(places.items()):
        row, column = np.moveaxis((seen + place + 64).astype(np.float32), -1, 0)
        sampled = cv2.remap(scene, column, row, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_WRAP)
        tiles[tile] = expose(sampled, snr, seed=number)
    return tiles
