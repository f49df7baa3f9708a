"""Periodic marks and fringes: what repeats is found and taken out, and the rest decides a match.

Tiles that share nothing but what repeats must not be believed, however strong it is.
"""

from __future__ import annotations

from itertools import permutations

import cv2
import numpy as np
import pytest

from processing.matching import match, prepare, prepare_edges
from processing.matching.lines import FLAT, find_lines, spread_windows, take_out
from tests.processing.scenes import REPEATS, cut, expose, stripes, texture

SIDE = 512
ANGLE = 35.0  # degrees


KINDS = pytest.mark.parametrize("repeats", REPEATS.values(), ids=REPEATS.keys())


def pair(offset, repeats, seed=0, side=SIDE, snr=5.0):
    """Two tiles of one scene, with something that repeats as strong as the scene in both."""
    corner = np.random.default_rng(seed).uniform(0, 2 * side, 2)
    return [
        expose(
            cut(texture(2 * side, 1), tuple(place), (side, side)) + repeats(place, (side, side)),
            snr,
            2 * seed + n,
        )
        for n, place in enumerate((corner, corner + offset))
    ]


# --- decided by what does not repeat


@KINDS
@pytest.mark.parametrize("nominal", [(0, 440), (440, 0)])
def test_tiles_match_by_what_does_not_repeat(repeats, nominal):
    for seed in range(3):
        offset = np.add(nominal, np.random.default_rng(seed).uniform(-30, 30, 2))
        found = match(*map(prepare, pair(offset, repeats, seed)), nominal, 100)
        error = np.hypot(found.drow - offset[0], found.dcol - offset[1])
        assert found.good, found
        assert error < 0.12
        assert error < 5 * found.sd


def test_errors_over_their_sd_have_a_spread_near_one():
    relative = []
    for seed, repeats in enumerate(3 * list(REPEATS.values())):
        offset = np.array([0.0, 440.0]) + np.random.default_rng(seed).uniform(-30, 30, 2)
        found = match(*map(prepare, pair(offset, repeats, seed)), (0, 440), 100)
        if found.good:
            off = np.subtract((found.drow, found.dcol), offset)
            relative += list(off / (found.sd_row, found.sd_col))
    assert len(relative) > 40
    assert 0.6 < np.sqrt(np.mean(np.square(relative))) < 1.5


def test_fringes_pull_no_offset():
    """Weak ones do not hide the specimen, but would move each offset towards their own."""
    for seed in range(6):
        offset = np.array([4.65, 437.0]) + np.random.default_rng(seed).uniform(0, 9, 2)
        found = match(
            *map(prepare, pair(offset, lambda p, s: 0.3 * REPEATS["fringes"](p, s), seed)), (0, 440)
        )
        assert found.good
        assert np.hypot(found.drow - offset[0], found.dcol - offset[1]) < 0.07


@KINDS
def test_edges_match_as_whole_tiles_do(repeats):
    offset = np.array([-7.6, 447.2])
    a, b = pair(offset, repeats, 4)
    right, left = prepare_edges(a, {"right": 180.0})["right"], prepare_edges(b, {"left": 180.0})
    found = match(right, left["left"], (0, 440), 100)
    assert found.good
    assert np.hypot(found.drow - offset[0], found.dcol - offset[1]) < 0.12


# --- nothing else to decide by


@KINDS
def test_strangers_with_the_same_marks_or_fringes_do_not_match(repeats):
    """Of other places of a section, and of the camera: all that they share repeats."""
    rng, shape = np.random.default_rng(1), (256, 256)
    tiles = []
    for k in range(5):
        place = np.array([0.0, 230.0 * (k % 2)]) + rng.uniform(-30, 30, 2)
        scene = texture(256, 60 + k, (1.0, 1.5)[k % 2]) + 1.5 * repeats(place, shape)
        tiles.append(prepare(expose(scene, 5, k)))
    believed = [
        match(a, b, nominal, 120).good
        for a, b in permutations(tiles, 2)
        for nominal in ((0, 230), (230, 0))
    ]
    assert len(believed) == 40
    assert not any(believed)


@KINDS
def test_resin_with_marks_or_fringes_has_no_match(repeats):
    rng = np.random.default_rng(2)
    places = np.array([[5.0, 9.0], [8.0, 449.0]])
    tiles = [
        prepare(rng.poisson(12000 + 400 * repeats(p, (SIDE, SIDE))).astype(np.uint16))
        for p in places
    ]
    assert not match(*tiles, (0, 440), 100).good


# --- lines


@pytest.mark.parametrize("period", [2.9, 5.0, 9.3, 12.0])
@pytest.mark.parametrize("strength", [0.15, 1.0])
def test_a_line_is_found_at_its_frequency(period, strength):
    image = expose(texture(SIDE, 3) + strength * stripes((SIDE, SIDE), (0, 0), period, ANGLE), 5)
    found = find_lines(spread_windows(image, 3), FLAT)
    true = np.array([np.cos(np.radians(ANGLE)), np.sin(np.radians(ANGLE))]) / period
    # Of a line and its mirror image about the origin one is there.
    off = np.minimum(np.hypot(*(found - true).T), np.hypot(*(found + true).T))
    assert len(found)
    assert off.max() < 3 / 64
    assert off.min() < 0.8 / 64


@pytest.mark.parametrize("snr", [1.0, 5.0, 100.0])
@pytest.mark.parametrize("falloff", [1.0, 1.5])
def test_a_texture_has_no_lines(snr, falloff):
    for seed in range(4):
        image = expose(texture(SIDE, seed, falloff), snr, seed)
        assert not len(find_lines(spread_windows(image, 3), FLAT))


def test_a_fold_in_some_windows_is_no_line():
    image = expose(texture(SIDE, 3), 5)
    rows, columns = np.indices(image.shape)
    image[np.abs(rows - 0.4 * columns - 20) < 25] //= 4
    assert not len(find_lines(spread_windows(image, 3), FLAT))


def test_nothing_has_no_lines():
    assert find_lines(np.zeros((8, 64, 64), np.float32)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(256, 256), (97, 300)])
@pytest.mark.parametrize("period", [5.0, 9.3, 31.0])
def test_what_is_taken_out_is_the_line_and_little_else(shape, period):
    scene = 100 + 20 * texture(512, 5)[: shape[0], : shape[1]]
    line = 20 * stripes(shape, (0, 0), period, ANGLE)
    lines = np.array([[np.cos(np.radians(ANGLE)), np.sin(np.radians(ANGLE))]]) / period
    rest = take_out(scene + line, lines, 6.0)
    # What the notch takes of the scene itself is no fault of it.
    left = rest - take_out(scene, lines, 6.0)
    assert np.abs(left).max() < 0.35 * 20
    assert left.std() < 0.06 * 20
    assert rest.mean() == pytest.approx((scene + line).mean(), abs=0.5)
    fine = scene - cv2.GaussianBlur(scene, (0, 0), 1.0)
    kept = np.corrcoef(fine.ravel(), (rest - cv2.GaussianBlur(rest, (0, 0), 1.0)).ravel())[0, 1]
    assert kept > 0.9


def test_without_lines_nothing_is_taken_out():
    image = expose(texture(256, 1), 5)
    assert (take_out(image, np.empty((0, 2)), 4.0) == image).all()
    windows = spread_windows(np.zeros((300, 70)), 3)
    assert windows.shape == (3, 64, 64)
    assert spread_windows(np.zeros((300, 300)), 3).shape == (8, 64, 64)
