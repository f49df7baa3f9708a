"""The pyramid that specimens stand on: places, levels, cache, threads and background work."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from simulation.specimen.base import ChunkCache, PyramidSpecimen, level_for

WAVE_UM = 0.12


class Waves(PyramidSpecimen):
    """Sine waves along x and y, of which every value is known; counts what it makes."""

    def __init__(self, **pyramid):
        super().__init__(**pyramid)
        self.made = []
        self.gate = None

    def render(self, level, row, column, height, width):
        if self.gate is not None:
            assert self.gate.wait(10)
        self.made.append((level, row, column))
        x = (column + 0.5 + np.arange(width)) * level / 1000
        y = -(row + 0.5 + np.arange(height)) * level / 1000
        return np.round(255 * truth(x[None, :], y[:, None])).astype(np.uint8)


def truth(x, y):
    return 0.5 + 0.2 * np.sin(2 * np.pi * x / WAVE_UM) + 0.2 * np.sin(2 * np.pi * y / WAVE_UM + 1)


@pytest.fixture
def waves():
    specimen = Waves(chunk=64)
    yield specimen
    specimen.close()


@pytest.mark.parametrize(
    ("pixel_size", "level"),
    [(0.3, 1), (1.0, 1), (3.6, 2), (3.9, 4), (4.0, 4), (4.1, 4), (7.2, 4), (8.0, 8), (1e6, 16384)],
)
def test_level_is_the_next_finer(pixel_size, level):
    assert level_for(pixel_size) == level


@pytest.mark.parametrize("pixel_size", [4.0, 5.3, 7.0, 2.5])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (33, 32)])
def test_region_is_where_the_contract_says(waves, pixel_size, height, width):
    x, y = 0.3137, -0.2219
    region = waves.region(x, y, width, height, pixel_size)
    assert region.shape == (height, width)
    assert region.dtype == np.float32
    columns = x + (np.arange(width) - (width - 1) / 2) * pixel_size / 1000
    rows = y + ((height - 1) / 2 - np.arange(height)) * pixel_size / 1000
    expected = truth(columns[None, :], rows[:, None])
    # The blur against aliasing weakens waves, but may not move them.
    gain = np.vdot(region - 0.5, expected - 0.5) / np.vdot(expected - 0.5, expected - 0.5)
    assert 0.9 < gain <= 1.01
    assert np.abs(region - 0.5 - gain * (expected - 0.5)).max() < 0.006


def test_shifts_of_a_fraction_of_a_pixel_are_true(waves):
    """A region shifted by less than a pixel is the scene, shifted by that, to 0.005 px."""
    pixel = 0.004
    columns = np.arange(64)
    phases = []
    shifts = np.linspace(0, 1, 9)
    for shift in shifts:
        line = waves.region(0.2 + shift * pixel, 0.1, 64, 60, 4.0).mean(axis=0)
        window = np.hanning(64)
        wave = np.exp(-2j * np.pi * columns * 4.0 / 1000 / WAVE_UM)
        phases.append(np.angle(((line - line.mean()) * window * wave).sum()))
    measured = (np.array(phases) - phases[0]) / (2 * np.pi) * WAVE_UM / pixel
    assert measured == pytest.approx(shifts, abs=0.005)


def test_native_region_covers_and_places(waves):
    native = waves.native_region(0.5, -0.25, 0.61, 0.33, 4)
    height, width = native.pixels.shape
    assert width * 4 >= 610
    assert height * 4 >= 330
    assert native.x <= 0.5 - 0.305 + 0.002
    assert native.y >= -0.25 + 0.165 - 0.002
    x = native.x + np.arange(width) * 0.004
    y = native.y - np.arange(height) * 0.004
    expected = np.round(255 * truth(x[None, :], y[:, None]))
    np.testing.assert_array_equal(native.pixels, expected)


def test_chunks_are_made_once(waves):
    first = waves.region(0, 0, 100, 100, 4.0)
    made = list(waves.made)
    again = waves.region(0, 0, 100, 100, 4.0)
    assert waves.made == made
    assert len(set(made)) == len(made)
    np.testing.assert_array_equal(first, again)


def test_threads_share_the_work():
    waves = Waves(chunk=64)
    waves.gate = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(waves.region, 0, 0, 90, 90, 4.0) for _ in range(4)]
        waves.gate.set()
        regions = [future.result(timeout=20) for future in futures]
    assert len(set(waves.made)) == len(waves.made)
    for region in regions[1:]:
        np.testing.assert_array_equal(region, regions[0])


def test_cache_stays_within_its_bound_and_forgets_the_oldest():
    waves = Waves(chunk=64, cache_bytes=5 * 64**2)
    for k in range(12):
        waves.native_region(k * 0.256 + 0.128, 0.128, 0.2, 0.2, 4)
        assert waves.cache.n_bytes <= 5 * 64**2
    assert len(waves.made) == 12
    waves.native_region(11 * 0.256 + 0.128, 0.128, 0.2, 0.2, 4)
    assert len(waves.made) == 12, "the newest chunk was dropped"
    waves.native_region(0.128, 0.128, 0.2, 0.2, 4)
    assert len(waves.made) == 13, "the oldest chunk was kept beyond the bound"


def test_a_failed_chunk_is_tried_again():
    cache = ChunkCache(1000)

    def fail():
        raise RuntimeError("no texture")

    with pytest.raises(RuntimeError, match="no texture"):
        cache.get("a", fail)
    chunk = np.zeros((2, 2), np.uint8)
    assert cache.get("a", lambda: chunk) is chunk


def test_prefetch_makes_a_region_ready_and_the_same():
    waves, fresh = Waves(chunk=64), Waves(chunk=64)
    waves.prefetch(0.4, 0.3, 1.0, 0.8, 4.0)
    waves.wait_prefetched(20)
    made = len(waves.made)
    assert made >= 12
    region = waves.region(0.4, 0.3, 200, 150, 4.0)
    assert len(waves.made) == made, "the region had to be made after all"
    np.testing.assert_array_equal(region, fresh.region(0.4, 0.3, 200, 150, 4.0))


def test_prefetch_returns_at_once_and_the_newest_request_is_first():
    waves = Waves(chunk=64)
    waves.gate = threading.Event()
    waves.prefetch(0, 0, 3.0, 3.0, 4.0)
    waves.prefetch(50.0, 0, 0.1, 0.1, 4.0)
    assert waves.made == []
    waves.gate.set()
    waves.wait_prefetched(20)
    # One chunk of the older request may have been in hand.
    assert max(column for _, _, column in waves.made[:5]) >= 50_000 / 4 - 64


def test_prefetch_never_drives_out_its_own_chunks():
    waves = Waves(chunk=64, cache_bytes=9 * 64**2)
    waves.prefetch(0, 0, 100.0, 100.0, 4.0)
    waves.wait_prefetched(20)
    made = len(waves.made)
    assert made <= 9
    waves.native_region(0, 0, 0.3, 0.3, 4)
    assert len(waves.made) == made, "the middle was not made first, or was dropped"


def test_close_stops_work_and_leaves_no_thread():
    waves = Waves(chunk=64)
    waves.gate = threading.Event()
    waves.prefetch(0, 0, 20.0, 20.0, 4.0)
    closer = threading.Thread(target=waves.close)
    closer.start()
    waves.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert len(waves.made) < 1000
    assert not any("Waves" in thread.name for thread in threading.enumerate())
    assert waves.region(0, 0, 8, 8, 4.0).shape == (8, 8)


def test_a_period_repeats_exactly_and_leaves_the_middle_as_it_was():
    period = 64 * 4 * 4 / 1000  # four chunks of 64 px at 4 nm
    plain, repeating = Waves(chunk=64), Waves(chunk=64, period=period)
    middle = repeating.native_region(0.01, -0.02, 0.9, 0.9, 4).pixels
    np.testing.assert_array_equal(middle, plain.native_region(0.01, -0.02, 0.9, 0.9, 4).pixels)
    made = len(repeating.made)
    assert made <= 16
    for i, j in ((1, 0), (0, -3), (-1000, 4097)):
        x, y = 0.01 + i * period, -0.02 + j * period
        there = repeating.native_region(x, y, 0.9, 0.9, 4).pixels
        np.testing.assert_array_equal(there, middle)
    repeating.native_region(17.3, -5.1, 9 * period, 9 * period, 4)
    assert len(repeating.made) == len(set(repeating.made)) == 16, "each chunk is made once"


@pytest.mark.parametrize("level", [1, 2, 4, 8, 16])
def test_levels_repeat_alike(level):
    repeating = Waves(chunk=64, period=1.024)
    here, there = (
        repeating.native_region(x, 0.2, 0.3, 0.3, level).pixels for x in (0.1, 0.1 + 5 * 1.024)
    )
    np.testing.assert_array_equal(here, there)


def test_levels_with_chunks_larger_than_the_period_do_not_repeat():
    plain, repeating = Waves(chunk=64), Waves(chunk=64, period=1.024)
    for specimen in (plain, repeating):
        specimen.native_region(7.0, 3.0, 2.0, 2.0, 32)
    assert repeating.made == plain.made


@pytest.mark.parametrize(
    ("asked", "kept"), [(1.0, 1.024), (1.4, 1.024), (1.5, 2.048), (1e-3, 0.064)]
)
def test_a_period_is_rounded_to_a_power_of_two_of_chunks(asked, kept):
    repeating, same = Waves(chunk=64, period=asked), Waves(chunk=64, period=kept)
    for specimen in (repeating, same):
        specimen.native_region(0.3, 0.3, 3.0, 3.0, 1)
    assert set(repeating.made) == set(same.made)
    assert len(same.made) == (kept / 0.064) ** 2


def test_prefetch_makes_a_repeated_chunk_once():
    repeating = Waves(chunk=64, period=1.024)
    repeating.prefetch(9.0, 9.0, 5.0, 5.0, 4.0)
    repeating.wait_prefetched(20)
    assert len(repeating.made) == len(set(repeating.made)) == 16
    repeating.region(9.0, 9.0, 500, 500, 4.0)
    assert len(repeating.made) == 16, "the region had to be made after all"


@pytest.mark.parametrize("period", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bad_period_is_refused(period):
    with pytest.raises(ValueError, match="period is"):
        Waves(period=period)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.region(0, 0, 0, 5, 4.0), "0 × 5 px"),
        (lambda s: s.region(0, 0, 5, 5, 0.0), "pixel_size is 0.0"),
        (lambda s: s.region(float("nan"), 0, 5, 5, 4.0), "must be finite"),
        (lambda s: s.native_region(0, 0, 1.0, -1.0, 4), "sizes positive"),
        (lambda s: s.native_region(0, 0, 1.0, 1.0, 3), "power of two"),
        (lambda s: s.prefetch(0, 0, 1.0, 1.0, -4.0), "pixel_size is -4.0"),
    ],
)
def test_bad_regions_are_refused(waves, call, message):
    with pytest.raises(ValueError, match=message):
        call(waves)
