"""The procedural section: always the same, no seams, consistent levels, blemishes in place."""

from concurrent.futures import ThreadPoolExecutor
from math import hypot

import cv2
import numpy as np
import pytest

from simulation.specimen import NeuropilSection
from simulation.specimen.noise import NoiseField


@pytest.fixture(scope="module")
def section():
    return NeuropilSection(seed=1)


def mean_at(section, x, y, pixel_size=16.0, size=8):
    return float(section.region(x, y, size, size, pixel_size).mean())


def shift_between(a, b):
    """How far (x, y) the scene of `b` lies from that of `a`, by the slope of the phase, in px."""
    window = np.outer(*(np.hanning(n) for n in a.shape))
    cross = np.fft.fft2((a - a.mean()) * window) * np.conj(np.fft.fft2((b - b.mean()) * window))
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij")
    low = np.hypot(fx, fy) < 0.12
    weight = np.abs(cross[low])
    design = 2 * np.pi * np.column_stack([fx[low], fy[low]]) * weight[:, None]
    return np.linalg.lstsq(design, np.angle(cross[low]) * weight, rcond=None)[0]


# -- the same pixels ------------------------------------------------------------------------------


def test_same_seed_same_section_other_seed_another():
    a, b, c = (NeuropilSection(seed).region(3, 4, 96, 96, 4.0) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("level", [1, 4, 16, 64, 512])
def test_chunking_order_and_thread_do_not_matter(level):
    side = 300 * level / 1000
    x, y = 0.21 * side, -0.37 * side
    whole = NeuropilSection(seed=2, chunk=512).native_region(x, y, side, side, level)
    small = NeuropilSection(seed=2, chunk=64)
    rng = np.random.default_rng(0)
    for _ in range(3):  # elsewhere first, in any order
        dx, dy = rng.uniform(-0.4, 0.4, 2) * side
        small.native_region(x + dx, y + dy, 0.3 * side, 0.2 * side, level)
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(small.native_region, x, y, side, side, level) for _ in range(2)
        )
        for native in (first.result(60), second.result(60)):
            assert (native.x, native.y) == (whole.x, whole.y)
            np.testing.assert_array_equal(native.pixels, whole.pixels)


def test_no_seams_at_chunk_borders():
    chunk = 64
    section = NeuropilSection(seed=3, chunk=chunk)
    pixels = section.native_region(0.0, 0.0, 3.2, 3.2, 4).pixels.astype(float)
    steps = np.abs(np.diff(pixels, axis=1)).mean(axis=0)
    native_first = -400  # first column of the region on the grid of the level
    border = np.array([k for k in range(len(steps)) if (native_first + k + 1) % chunk == 0])
    rest = np.setdiff1d(np.arange(len(steps)), border)
    assert len(border) >= 10
    error = steps[rest].std() / len(border) ** 0.5
    assert abs(steps[border].mean() - steps[rest].mean()) < 4 * error


def test_noise_is_the_same_in_any_rectangle_and_has_its_amplitude():
    field = NoiseField(1, {4: 0.5, 64: 1.0, 1024: 0.7})
    whole = field.sample(4, -50, -301, 200, 220)
    part = field.sample(4, 1, -200, 61, 99)
    np.testing.assert_array_equal(part, whole[51:112, 101:200])
    fine = NoiseField(1, {4: 0.5}).sample(4, 0, 0, 400, 400)
    assert fine.std() == pytest.approx(0.5, rel=0.05)
    assert NoiseField(1, {4: 0.5}).sample(8, 0, 0, 50, 50).std() == 0


# -- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fine", "coarse"), [(2, 4), (4, 8), (8, 16), (16, 32), (32, 64)])
def test_levels_show_the_same_cells(section, fine, coarse):
    side = 256 * coarse / 1000
    below = section.native_region(8.192, 8.192, side, side, fine).pixels
    here = section.native_region(8.192, 8.192, side, side, coarse).pixels.astype(float)
    mean = cv2.resize(below.astype(np.float32), here.shape[::-1], interpolation=cv2.INTER_AREA)
    assert here.shape == (256, 256)
    assert below.shape[0] == 256 * coarse // fine
    assert np.corrcoef(mean.ravel(), here.ravel())[0, 1] > 0.85
    assert here.mean() == pytest.approx(mean.mean(), rel=0.02)
    assert shift_between(mean, here) == pytest.approx((0, 0), abs=0.08)


@pytest.mark.parametrize("coarse", [128, 512, 2048])
def test_coarse_levels_have_the_mean_and_scatter_of_the_fine_ones(section, coarse):
    side = 65.536
    fine = section.native_region(0, 0, side, side, 32).pixels.astype(np.float32)
    here = section.native_region(0, 0, side, side, coarse).pixels.astype(float)
    mean = cv2.resize(fine, here.shape[::-1], interpolation=cv2.INTER_AREA)
    assert here.mean() == pytest.approx(mean.mean(), rel=0.02)
    assert 0.6 < here.std() / mean.std() < 1.5


def test_large_structures_are_seen_at_coarse_levels(section):
    """Cell bodies and vessels stand at the same place at 256 nm as at 64 nm."""
    side = 131.072
    fine = section.native_region(0, 0, side, side, 64).pixels.astype(np.float32)
    here = section.native_region(0, 0, side, side, 256).pixels.astype(np.float32)
    mean = cv2.resize(fine, here.shape[::-1], interpolation=cv2.INTER_AREA)
    blurred = [cv2.GaussianBlur(image, (0, 0), 3) for image in (mean, here)]
    assert np.corrcoef(blurred[0].ravel(), blurred[1].ravel())[0, 1] > 0.6


# -- what it looks like ---------------------------------------------------------------------------


def test_contrast_is_that_of_tissue(section):
    pixels = section.region(0, 0, 1024, 1024, 4.0)
    assert 0.55 < pixels.mean() < 0.72
    assert 0.08 < pixels.std() < 0.2
    low, high = np.percentile(pixels, (1, 99))
    assert low < 0.4, "membranes are dark"
    assert high > 0.8, "cytoplasm is bright"


def test_texture_at_every_scale(section):
    """The power spectrum falls smoothly: no scale from 8 nm to 60 µm is empty."""
    for pixel_size in (4.0, 32.0, 256.0):
        pixels = section.region(0, 0, 256, 256, pixel_size)
        window = np.outer(np.hanning(256), np.hanning(256))
        power = np.abs(np.fft.fftshift(np.fft.fft2((pixels - pixels.mean()) * window))) ** 2
        radius = np.hypot(*(np.indices(power.shape) - 128))
        rings = [power[(radius >= r) & (radius < 1.5 * r)].mean() for r in (4, 8, 16, 32, 64)]
        assert min(rings) > 1e-4 * max(rings)


def test_places_are_unique(section):
    """No offset of up to 255 px makes an overlap fit but the true one."""
    whole = section.region(2.0, 1.0, 1024, 512, 4.0)
    strip = whole[156:356, 400:500]
    fit = cv2.matchTemplate(whole[:, 145:755], strip, cv2.TM_CCOEFF_NORMED)
    _, best, _, place = cv2.minMaxLoc(fit)
    assert place == (255, 156)
    fit[place[1] - 8 : place[1] + 9, place[0] - 8 : place[0] + 9] = 0
    assert best > 0.99
    assert fit.max() < 0.5


def test_subpixel_shifts_are_accurate(section):
    """The shift between two regions is found to 0.02 px, whatever fraction of a pixel it is."""
    still = section.region(1.0, 1.0, 256, 256, 4.0)
    for dx, dy in ((0.25, 0.5), (0.4, -0.3), (-0.7, 0.9), (0.1, 0.02)):
        moved = section.region(1.0 + dx * 4e-3, 1.0 - dy * 4e-3, 256, 256, 4.0)
        assert shift_between(moved, still) == pytest.approx((dx, dy), abs=0.02)


# -- blemishes ------------------------------------------------------------------------------------


def test_features_are_listed_inside_the_section_and_off_its_middle(section):
    features = section.features()
    kinds = [feature.kind for feature in features]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "resin": 3,
        "fold": 1,
        "crack": 1,
        "debris": 24,
    }
    for feature in features:
        assert abs(feature.x) < 300
        assert abs(feature.y) < 300
        if feature.kind != "debris":
            assert hypot(feature.x, feature.y) - feature.length / 2 > 40
    assert features == NeuropilSection(seed=1).features()
    assert features != NeuropilSection(seed=2).features()


@pytest.mark.parametrize("seed", [1, 4])
def test_features_are_where_they_are_said_to_be(seed):
    section = NeuropilSection(seed=seed, chunk=128)
    for feature in section.features():
        box = section.region(feature.x, feature.y, 64, 64, 2 * feature.length / 64 * 1000)
        inner = box[28:36, 28:36]
        if feature.kind == "resin":
            assert inner.min() > 0.85
            assert inner.max() < 0.93
            assert box[:3].mean() < 0.75
        elif feature.kind == "debris":
            assert inner.max() < 0.15
            assert box[:3].mean() > 0.4
        else:
            # A line through the middle, across the axis: dark or bright on the way.
            angle = np.radians(feature.angle + 90)
            reach = np.linspace(-9, 9, 61)
            line = [
                mean_at(section, feature.x + r * np.cos(angle), feature.y + r * np.sin(angle))
                for r in reach
            ]
            if feature.kind == "crack":
                assert max(line) > 0.95
            else:
                assert min(line) < 0.5 * np.median(line), "a fold is two to three times as dense"


def test_beyond_the_edge_is_empty_film():
    section = NeuropilSection(seed=1, size_um=(120.0, 80.0))
    for x, y in ((66, 0), (-66, 0), (0, 46), (0, -46)):
        for pixel_size in (4.0, 512.0):
            film = section.region(x, y, 4, 4, pixel_size)
            assert film == pytest.approx(0.95, abs=0.003)
    for x, y in ((57, 0), (0, -37)):
        assert mean_at(section, x, y, 64.0, 30) < 0.85


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size_um": (0, 10)}, "positive lengths"), ({"chunk": 100}, "multiple of 16")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NeuropilSection(**arguments)
