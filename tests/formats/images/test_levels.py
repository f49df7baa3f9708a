"""How numbers and colours of any kind come to uint8 and uint16."""

import pickle

import numpy as np
import pytest
import tifffile

from formats.images import ImageFormatError, Levels, common_levels, open_image
from tests.formats.images.pictures import picture


def read(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    return open_image(tmp_path / "a.tif").read()


@pytest.mark.parametrize("dtype", ["i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
def test_whole_numbers_that_fit_stay(tmp_path, dtype):
    expected = picture(top=2000)
    pixels = read(tmp_path, expected.astype(dtype))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, expected)


def test_signed_bytes_are_raised(tmp_path):
    expected = picture().astype(np.uint8)
    pixels = read(tmp_path, (expected.astype(int) - 128).astype(np.int8))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
def test_numbers_below_zero_are_raised(tmp_path, dtype):
    expected = picture(top=60_000)
    np.testing.assert_array_equal(
        read(tmp_path, (expected.astype(int) - 32768).astype(dtype)), expected
    )


def test_large_sums_are_scaled_and_zero_stays_zero(tmp_path):
    """Sums of frames; light is measured from zero, so that shading can be divided out."""
    sums = picture(top=1000).astype(np.uint32) * 300
    np.testing.assert_allclose(read(tmp_path, sums), sums * (65535 / sums.max()), atol=0.51)


def test_a_narrow_range_far_from_zero_uses_all_levels(tmp_path):
    narrow = 1e6 + picture(top=1000) / 1000
    pixels = read(tmp_path, narrow)
    np.testing.assert_allclose(pixels / 65535, picture(top=1000) / 1000, atol=1e-4)


def test_a_hot_pixel_costs_no_levels(tmp_path):
    fine = picture(64, 96, top=1000) / 1000
    hot = fine.copy()
    hot[10, 10] = 1e6
    pixels = read(tmp_path, hot)
    assert pixels[10, 10] == 65535
    rest = np.ones_like(fine, bool)
    rest[10, 10] = False
    slope, _ = np.polyfit(fine[rest], pixels[rest], 1)
    assert slope > 30_000
    assert np.corrcoef(fine[rest], pixels[rest])[0, 1] > 0.999999


def test_what_is_not_finite(tmp_path):
    """Registered images have NaN where nothing was; that is no signal."""
    values = picture(top=1000) / np.float32(7)
    values[:4] = np.nan
    values[5, :2] = np.inf, -np.inf
    pixels = read(tmp_path, values)
    assert not pixels[:4].any()
    assert pixels[5, :2].tolist() == [65535, 0]
    finite = np.isfinite(values)
    np.testing.assert_allclose(
        pixels[finite], values[finite] * (65535 / values[finite].max()), atol=0.51
    )
    with pytest.raises(ImageFormatError, match=r"a\.tif .*none of its numbers is finite"):
        read(tmp_path, np.full((9, 9), np.nan, np.float32))


@pytest.mark.parametrize("value", [0, 7, -3.5, 1e9])
def test_a_constant_image(tmp_path, value):
    pixels = read(tmp_path, np.full((9, 9), value, np.float32))
    assert pixels.shape == (9, 9)
    assert np.ptp(pixels) == 0


def test_white_is_zero_of_any_kind(tmp_path):
    values = picture(top=1000)
    for stored in (
        -values.astype(np.int32) - 1,
        np.uint32(2**32 - 1) - values,
        -values.astype(np.float32),
    ):
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
        np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), values)


@pytest.mark.parametrize("dtype", ["i2", "u4", "f4", "f8"])
def test_grey_stored_as_colour_stays_exact(tmp_path, dtype):
    values = picture(top=3000)
    stored = np.dstack([values.astype(dtype)] * 3)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb")
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), values)


def test_a_large_image_is_judged_by_bands_of_it(tmp_path):
    """What lies between them must still come out right, and no worse than clipped."""
    large = np.tile(picture(50, 60, top=1000) / np.float32(1000), (30, 30))
    large[747, 3] = 50
    pixels = read(tmp_path, large)
    np.testing.assert_allclose(
        np.delete(pixels, 747, 0) / 65535, np.delete(large, 747, 0), atol=1e-4
    )
    assert pixels[747, 3] == 65535


def test_images_that_belong_together_get_the_same_levels(tmp_path):
    images = []
    for k in range(12):
        tifffile.imwrite(tmp_path / f"{k}.tif", picture(seed=k, top=100 * (k + 1)) / np.float32(7))
        images.append(open_image(tmp_path / f"{k}.tif"))
    levels = common_levels(images)
    alike = [image.with_levels(levels).read() for image in images]
    tops = np.array([pixels.max() for pixels in alike])
    np.testing.assert_allclose(tops / tops[0], np.arange(1, 13), rtol=1e-3)
    assert {pixels.max() for pixels in (image.read() for image in images)} == {65535}
    np.testing.assert_array_equal(
        images[3].with_levels(levels).read(np.s_[3:9, 4:8]), alike[3][3:9, 4:8]
    )


def test_images_whose_numbers_fit_need_no_levels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture())
    image = open_image(tmp_path / "a.tif")
    assert image.levels == common_levels([image]) == Levels()
    np.testing.assert_array_equal(image.with_levels(Levels(0, 2)).read(), picture())


def test_a_window_has_no_steps(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture())
    with pytest.raises(ValueError, match="step 2"):
        open_image(tmp_path / "a.tif").read(np.s_[::2, :])


def test_an_image_goes_to_another_process(tmp_path):
    """Workers read tiles themselves; what they get is small, and needs no open file."""
    tifffile.imwrite(tmp_path / "a.tif", picture() / np.float32(3), compression="zlib")
    image = open_image(tmp_path / "a.tif")
    pixels = image.read()
    sent = pickle.dumps(image)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).read(), pixels)
