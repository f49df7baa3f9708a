"""What the plugins compute, on frames of which the answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ioc.camera.measure import preview, sharpness, statistics
from ioc.camera.stats import rebin


def section(blur: float, dose: float = 400.0, seed: int = 1, side: int = 512) -> np.ndarray:
    """A random texture, blurred by a Gaussian, with the noise of so many electrons a pixel."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), 2.0)
    clean = 1 + 0.1 * texture / texture.std()
    if blur:
        clean = cv2.GaussianBlur(clean, (0, 0), blur)
    return (rng.poisson(clean * dose) * (12_000 / dose)).clip(0, 65535).astype(np.uint16)


class TestSharpness:
    def test_falls_with_blur(self):
        values = [sharpness(section(blur)) for blur in (0, 1, 2, 4, 8)]
        assert values == sorted(values, reverse=True)
        assert values[0] > 2 * values[3] > 4 * values[4]

    def test_does_not_grow_with_noise(self):
        bright = sharpness(section(2.0, dose=4000))
        for dose in (400, 100, 40):
            assert sharpness(section(2.0, dose=dose)) == pytest.approx(bright, rel=0.1), dose

    def test_is_nothing_for_noise_alone(self):
        noise = np.random.default_rng(0).poisson(100, (1024, 1024)).astype(np.uint16)
        assert sharpness(noise) < 0.1 * sharpness(section(0.0))

    def test_does_not_depend_on_exposure_or_illumination(self):
        frame = section(1.0)
        half = (frame // 2).astype(np.uint16)
        assert sharpness(half) == pytest.approx(sharpness(frame), rel=0.01)
        slope = np.linspace(0.7, 1.0, frame.shape[1])
        assert sharpness((frame * slope).astype(np.uint16)) == pytest.approx(
            sharpness(frame), rel=0.05
        )

    def test_looks_at_the_middle(self):
        frame = np.full((2048, 2048), 12_000, np.uint16)
        frame[512:1536, 512:1536] = section(1.0, side=1024)
        assert sharpness(frame) == pytest.approx(sharpness(frame[512:1536, 512:1536]), rel=1e-6)

    @pytest.mark.parametrize("shape", [(2, 2), (15, 33), (96, 128)])
    def test_takes_any_size(self, shape):
        assert sharpness(np.full(shape, 7, np.uint8)) == pytest.approx(0, abs=1e-6)

    def test_is_zero_in_the_dark(self):
        assert sharpness(np.zeros((64, 64), np.uint16)) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_statistics_agree_with_numpy(dtype):
    rng = np.random.default_rng(2)
    data = rng.integers(0, np.iinfo(dtype).max + 1, (100, 140)).astype(dtype)
    found = statistics(data)
    assert (found.minimum, found.maximum) == (data.min(), data.max())
    assert found.mean == pytest.approx(data.mean())
    assert found.sigma == pytest.approx(data.std())
    assert found.total == data.sum(dtype=np.uint64)
    np.testing.assert_array_equal(
        found.histogram, np.bincount(data.ravel(), minlength=2**16)[: found.histogram.size]
    )


def test_statistics_of_one_value():
    found = statistics(np.full((64, 64), 65535, np.uint16))
    assert (found.minimum, found.maximum, found.mean, found.sigma) == (65535, 65535, 65535, 0)


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 255), (100, 60_000), (999.5, 1100.2)])
def test_bins_are_those_of_numpy(low, high):
    data = np.random.default_rng(3).integers(0, 65536, 20_000)
    counts = np.bincount(data, minlength=65536).astype(float)
    np.testing.assert_array_equal(rebin(counts, low, high), np.histogram(data, 256, (low, high))[0])


@pytest.mark.parametrize("side", [256, 2048])
def test_centroid_of_a_spot(side):
    data = np.zeros((side, side), np.uint16)
    row, column = side // 4, side // 2
    data[row - 3 : row + 4, column - 3 : column + 4] = 1000
    assert statistics(data).centroid == pytest.approx((column, row), abs=0.3)


class TestPreview:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((100, 50), (100, 50)), ((2048, 2048), (512, 512)), ((3840, 5376), (366, 512))],
    )
    def test_size(self, shape, expected):
        assert preview(np.ones(shape, np.uint16)).shape == expected

    def test_is_an_area_mean_stretched_between_the_percentiles(self):
        ramp = np.repeat(np.linspace(1000, 3000, 1024), 1024).reshape(1024, 1024)
        picture = preview(ramp.astype(np.uint16))
        assert picture.dtype == np.uint8
        assert picture[0, 0] == 0
        assert picture[-1, 0] == 255
        assert picture[256, 0] == pytest.approx(127.5, abs=2)
        assert (np.diff(picture[:, 0].astype(int)) >= 0).all()

    def test_of_one_value_is_flat(self):
        assert np.ptp(preview(np.full((64, 64), 500, np.uint16))) == 0
