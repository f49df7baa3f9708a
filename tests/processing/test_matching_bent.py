"""Tiles that a lens, a turn or a stretch bends against each other, as raw tiles of microscopes are.

Each point must tell the truth of its own place, and by how much it may be off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from processing.matching import match, match_points, prepare
from tests.processing.scenes import cut, expose, texture

SIDE, SCENE = 512, 1024
MIDDLE = (SIDE - 1) / 2


def cubic(places, most):
    """A pincushion: how far a lens moves what lies at places (row, column), at most in corners."""
    unit = (places - MIDDLE) / MIDDLE
    return most / np.sqrt(2) * unit * np.square(unit).sum(axis=-1, keepdims=True) / 2


def quadratic(places, most):
    """The larger part of a real lens's field: its scale changes over the frame."""
    unit = (places - MIDDLE) / MIDDLE
    v, u = unit[..., 0], unit[..., 1]
    return most * np.stack([0.3 * v * v - 0.6 * u * v, 0.35 * u * u + 0.45 * u * v], axis=-1)


@dataclass(frozen=True)
class Camera:
    """Takes tiles of the scene through a lens, turned and stretched."""

    lens: partial
    turn: float = 0.0  # degrees
    scale: float = 1.0

    def to_scene(self, pixels: NDArray, corner: NDArray) -> NDArray:
        sine, cosine = np.sin(np.radians(self.turn)), np.cos(np.radians(self.turn))
        turned = self.scale * np.array([[cosine, -sine], [sine, cosine]])
        return corner + MIDDLE + (pixels + self.lens(pixels) - MIDDLE) @ turned.T

    def to_pixels(self, scene: NDArray, corner: NDArray) -> NDArray:
        pixels = scene - corner
        for _ in range(30):
            pixels = pixels - (self.to_scene(pixels, corner) - scene)
        return pixels

    def take(self, corner: NDArray, snr: float, seed: int) -> NDArray:
        grid = np.stack(np.indices((SIDE, SIDE)), axis=-1).astype(float)
        at = self.to_scene(grid, np.asarray(corner, float))
        low = np.floor(at.min(axis=(0, 1))).astype(int) - 6
        size = np.ceil(at.max(axis=(0, 1))).astype(int) + 7 - low
        part = cut(texture(SCENE, 1), tuple(low), tuple(size)).astype(np.float32)
        rows, columns = np.moveaxis((at - low).astype(np.float32), -1, 0)
        return expose(cv2.remap(part, columns, rows, cv2.INTER_LANCZOS4), snr, seed=seed)


STRAIGHT = Camera(partial(cubic, most=0.0))
BENT = {
    "a turn of 0.2°": (STRAIGHT, Camera(partial(cubic, most=0.0), turn=0.2)),
    "a lens of 30 px at 2048": (Camera(partial(cubic, most=7.5)),) * 2,
    "that and a turn and a stretch": (
        Camera(partial(cubic, most=7.5)),
        Camera(partial(cubic, most=7.5), turn=0.2, scale=1.001),
    ),
    "a real lens": (Camera(partial(quadratic, most=8.0)),) * 2,
    "a real lens and a turn": (
        Camera(partial(quadratic, most=8.0)),
        Camera(partial(quadratic, most=8.0), turn=-0.3, scale=0.999),
    ),
}
KINDS = pytest.mark.parametrize("cameras", BENT.values(), ids=BENT.keys())


def pair(cameras, nominal, seed, snr=5.0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, SCENE, 2)
    corners = corners, corners + nominal + rng.uniform(-12, 12, 2)
    taken = zip(cameras, corners, (2 * seed, 2 * seed + 1), strict=True)
    return [camera.take(corner, snr, noise) for camera, corner, noise in taken], corners


def misses(points, cameras, corners):
    """How far points are from where b really shows what a shows there, in px."""
    in_a, in_b = points[:, :2].astype(float), points[:, 2:4].astype(float)
    scene = cameras[0].to_scene(in_a, corners[0])
    return in_b - cameras[1].to_pixels(scene, corners[1])


@KINDS
def test_points_tell_the_truth_of_their_places_and_their_error(cameras):
    off, relative = [], []
    for seed in range(4):
        nominal = np.array([0.0, 440.0])[:: 1 if seed % 2 else -1]
        tiles, corners = pair(cameras, nominal, seed)
        found = match(*map(prepare, tiles), tuple(nominal))
        assert found.good
        assert found.patches >= 5
        miss = misses(found.points, cameras, corners)
        off.append(miss)
        relative.append(miss / found.points[:, 4:5])
    off, relative = np.concatenate(off), np.concatenate(relative)
    assert np.sqrt(np.square(off).mean()) < 0.12
    assert 0.4 < np.sqrt(np.square(relative).mean()) < 1.4
    assert np.abs(relative).max() < 5


@KINDS
@pytest.mark.parametrize("nominal", [(0, 440), (440, 0), (0, 205)])
def test_points_cover_the_overlap(cameras, nominal):
    tiles, _ = pair(cameras, nominal, 5)
    prepared = [prepare(tile) for tile in tiles]
    found = match(*prepared, nominal)
    for points in (found.points, match_points(*prepared, found, side=48)):
        along = points[:, 0 if nominal[1] else 1] / SIDE
        gaps = np.diff(np.sort(np.r_[0, along, 1]))
        assert gaps.max() < 0.35
        assert np.ptp(along) > 0.6


@KINDS
def test_what_lies_on_one_tile_only_is_no_point(cameras):
    """Dirt, or something that moved: its patches agree on nothing, and are left out."""
    nominal = (0, 440)
    tiles, corners = pair(cameras, nominal, 7, snr=10.0)
    tiles[1][200:290, :90] = expose(texture(256, 77), 10)[:90, :90]
    found = match(*map(prepare, tiles), nominal)
    assert found.good
    miss = misses(found.points, cameras, corners)
    assert np.abs(miss).max() < 0.7
    rows = found.points[:, 2]
    assert not ((rows > 225) & (rows < 265)).any()


def test_a_bent_match_is_one_whose_points_disagree_with_one_offset():
    cameras = BENT["a real lens"]
    tiles, _ = pair(cameras, (0, 440), 3)
    straight, _ = pair((STRAIGHT, STRAIGHT), (0, 440), 3)
    bent, plain = (match(*map(prepare, each), (0, 440)) for each in (tiles, straight))
    assert bent.sd > 10 * plain.sd
