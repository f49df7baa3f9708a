"""Frames of the virtual microscope, with all its errors, against the truth behind them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from processing.drift import directed_blur
from processing.flatfield import flat_field, make_references
from processing.focus import focus_score
from processing.geometry import Region, plan_grid
from processing.matching import match, prepare
from processing.solve import solve_matches
from processing.spectrum import tile_spectrum
from simulation import MicroscopeSettings, VirtualMicroscope
from simulation.specimen import NeuropilSection
from tests.simulation.instrument import ManualClock

SHAPE = (512, 512)
IN_FOCUS = -3.2  # setting at the origin, in µm


def microscope(specimen):
    clock = ManualClock()
    settings = MicroscopeSettings.from_mapping({"seed": 5, "camera": {"sensor": list(SHAPE)}})
    scope = VirtualMicroscope(settings, specimen, clock=clock, sleep=clock.sleep)
    for name, value in (("screen", "Up"), ("blank", "Off"), ("column_valve", "Open")):
        scope.column.set(name, value)
    scope.column.set("defocus", IN_FOCUS)
    return scope, clock


def shoot(scope, clock, x, y, exposure=0.1):
    scope.stage.move(x=x, y=y)
    clock.sleep(1.0)
    number = scope.camera.expose(exposure)
    return scope.camera.read().data, scope.truth(number)


@pytest.fixture(scope="module")
def references():
    scope, clock = microscope(None)
    bright = np.stack([shoot(scope, clock, 3.0 * i, 0)[0] for i in range(12)])
    scope.column.set("screen", "Down")
    dark = np.stack([shoot(scope, clock, 0, 0)[0] for _ in range(12)])
    scope.close()
    return make_references(bright, dark)


@pytest.fixture(scope="module")
def section():
    return NeuropilSection(seed=4)


def take(section, references, places, exposure=0.1):
    scope, clock = microscope(section)
    shots = [shoot(scope, clock, x, y, exposure) for x, y in places]
    geometry = scope.column.geometry
    frames = [flat_field(data, references) for data, _ in shots]
    return frames, [truth for _, truth in shots], geometry


def grid_over(x, y, side, geometry, overlap=20.0):
    size = side * SHAPE[0] * geometry.pixel_size / 1000
    region = Region.rectangle((x, y), size, size, geometry.angle)
    return plan_grid(region, geometry, SHAPE, overlap=overlap)


def test_the_flat_field_takes_the_beam_and_the_camera_out(references):
    scope, clock = microscope(None)
    flat = flat_field(shoot(scope, clock, 40, -20)[0], references)
    scope.close()
    # What is left is the noise of about 1500 electrons a pixel.
    assert flat.std() / flat.mean() < 0.03
    quarters = [part.mean() for half in np.split(flat, 2) for part in np.split(half, 2, axis=1)]
    assert np.ptp(quarters) / flat.mean() < 0.005


@pytest.mark.parametrize("exposure", [0.1, 0.01])
def test_a_montage_of_tissue_is_solved_to_a_fraction_of_a_pixel(section, references, exposure):
    geometry = microscope(None)[0].column.geometry
    grid = grid_over(20, 10, 2.5, geometry)
    places = [(tile.x, tile.y) for tile in grid.tiles]
    frames, truths, _ = take(section, references, places, exposure)
    tiles = [prepare(frame) for frame in frames]
    nominal = geometry.pixel_vector(np.array(places) - places[0])
    true = truths[0].geometry.pixel_vector([(t.x - truths[0].x, t.y - truths[0].y) for t in truths])
    matches = {
        (a.index, b.index): match(
            tiles[a.index], tiles[b.index], tuple(nominal[b.index] - nominal[a.index])
        )
        for a, b in grid.neighbours()
    }
    assert len(matches) >= 12
    assert all(found.good for found in matches.values())
    solution = solve_matches(nominal, matches)
    off = solution.positions - true
    # The lens distorts by up to 0.3 px, and it is the translation only that is solved.
    assert np.sqrt(np.square(off - off.mean(axis=0)).sum(axis=1).mean()) < 0.4
    assert np.abs(nominal - true).max() > 10


def test_resin_gives_no_match_and_no_focus(section, references):
    areas = (feature for feature in section.features() if feature.kind == "resin")
    resin = max(areas, key=lambda area: area.width)
    geometry = microscope(None)[0].column.geometry
    grid = grid_over(resin.x, resin.y, 1.5, geometry)
    frames, _, _ = take(section, references, [(t.x, t.y) for t in grid.tiles])
    tiles = [prepare(frame) for frame in frames]
    for a, b in grid.neighbours():
        nominal = geometry.pixel_vector((b.x - a.x, b.y - a.y))
        found = match(tiles[a.index], tiles[b.index], tuple(nominal))
        assert not found.good
        assert found.reason in {"no texture", "low correlation"}
    assert not any(focus_score(frame).textured for frame in frames)


def test_tiles_that_share_nothing_never_match(section, references):
    rng = np.random.default_rng(3)
    frames, _, _ = take(section, references, 60 * rng.uniform(-1, 1, (7, 2)))
    tiles = [prepare(frame) for frame in frames]
    for a, b in pairwise(tiles):
        for nominal in ((0, 461), (461, 0), (0, 410), (-461, 0)):
            assert not match(a, b, nominal).good


def test_the_focus_score_falls_to_either_side_of_focus(section, references):
    scope, clock = microscope(section)
    scores = {}
    for defocus in (-30, -10, -5, -2, 0, 2, 5, 10, 30):
        scope.column.set("defocus", IN_FOCUS + defocus)
        frame = flat_field(shoot(scope, clock, 20, 10)[0], references)
        scores[defocus] = focus_score(frame).score
    scope.close()
    over = [scores[d] for d in (0, 2, 5, 10)]
    under = [scores[d] for d in (0, -2, -5, -10)]
    for side in (over, under):
        assert all(a > b for a, b in pairwise(side))
    assert scores[0] > 0.4
    assert max(scores[30], scores[-30]) < 0.05
    assert scores[5] == pytest.approx(scores[-5], abs=0.1)


def test_the_stigmator_shows_and_turns_with_the_side_of_focus(section, references):
    scope, clock = microscope(section)
    scope.column.set("stigmator_x", 0.4)
    angles, strengths = [], []
    for defocus in (-5, 0, 5):
        scope.column.set("defocus", IN_FOCUS + defocus)
        frame = flat_field(shoot(scope, clock, 20, 10)[0], references)
        found = directed_blur(tile_spectrum(frame))
        angles.append(found.sharpest)
        strengths.append(found.strength)
    scope.close()
    assert min(strengths[0], strengths[2]) > 0.2
    assert strengths[1] < 0.15
    # The line foci on the two sides lie across each other.
    assert abs((angles[2] - angles[0]) % 180 - 90) < 20
