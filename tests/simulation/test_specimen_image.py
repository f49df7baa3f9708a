"""A micrograph as the specimen: in place, mirrored, and unique at every place."""

import cv2
import numpy as np
import pytest

from simulation.specimen import ImageSpecimen
from simulation.specimen.image import as_transmission


def picture(height=60, width=80, seed=0):
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 2)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def test_the_image_lies_in_the_middle_with_row_0_at_the_top():
    image = picture()
    specimen = ImageSpecimen(image, 8.0, stain=0, grain=0)
    region = specimen.region(0, 0, 80, 60, 8.0)
    assert np.abs(region * 255 - as_transmission(image)).max() < 1.5
    # The upper left pixel of the image is at small x and large y.
    corner = specimen.region(-0.32 + 0.02, 0.24 - 0.02, 5, 5, 8.0)
    assert np.abs(corner * 255 - as_transmission(image)[:5, :5]).max() < 1.5


def test_mirrored_beyond_its_edge_without_a_seam():
    image = picture()
    specimen = ImageSpecimen(image, 8.0, stain=0, grain=0)
    wide = specimen.region(0.32, 0, 160, 60, 8.0)  # from the middle, over the right edge at 0.32
    np.testing.assert_allclose(wide[:, :80], wide[:, 80:][:, ::-1], atol=1e-6)
    tall = specimen.region(0, -0.24, 80, 120, 8.0)
    np.testing.assert_allclose(tall[:60], tall[60:][::-1], atol=1e-6)
    far = specimen.region(0.64 * 2 * 500, 0, 80, 60, 8.0)  # 500 double mirrors away
    np.testing.assert_allclose(far, specimen.region(0, 0, 80, 60, 8.0), atol=0.02)


def test_coarse_levels_are_means_of_the_picture():
    image = picture(64, 64)
    specimen = ImageSpecimen(image, 8.0, stain=0, grain=0)
    coarse = specimen.native_region(0, 0, 0.512, 0.512, 32).pixels
    mean = cv2.resize(as_transmission(image), (16, 16), interpolation=cv2.INTER_AREA)
    assert np.abs(coarse - mean).max() < 2
    assert np.ptp(specimen.region(0, 0, 50, 50, 8000.0)) < 0.1


def test_a_small_image_is_enlarged_to_a_few_tiles_and_a_large_one_is_not(monkeypatch):
    assert ImageSpecimen(picture(512, 512)).pixel_size == pytest.approx(24_000 / 512)
    assert ImageSpecimen(picture(400, 512)).pixel_size == pytest.approx(24_000 / 400)
    monkeypatch.setattr("simulation.specimen.image.AUTO_SPAN_UM", 0.5)
    assert ImageSpecimen(picture(100, 100)).pixel_size == 5.0
    assert ImageSpecimen(picture(140, 160)).pixel_size == 4.0


def test_places_are_unique_where_the_mirrored_image_repeats():
    """At the true scale a mirrored image of 256 px repeats after 512; the places still differ."""
    specimen = ImageSpecimen(picture(256, 256), 4.0)
    here = specimen.region(0, 0, 200, 200, 4.0)
    there = specimen.region(2 * 256 * 0.004, 0, 200, 200, 4.0)
    plain = ImageSpecimen(picture(256, 256), 4.0, stain=0, grain=0)
    both = [plain.region(x, 0, 200, 200, 4.0) for x in (0, 2 * 256 * 0.004)]
    assert correlation(*both) > 0.999
    assert correlation(here, there) < 0.99
    fine = [a - cv2.GaussianBlur(a, (0, 0), 2) for a in (here, there)]
    assert correlation(*fine) < 0.97
    # And the picture is still the user's.
    assert correlation(here, both[0]) > 0.9


def test_deterministic_in_any_chunking():
    image = picture()
    a = ImageSpecimen(image, 13.0, chunk=512).native_region(0.3, 0.2, 2.0, 1.5, 4)
    b = ImageSpecimen(image, 13.0, chunk=64)
    b.native_region(1.0, 0.6, 0.3, 0.3, 4)
    np.testing.assert_array_equal(b.native_region(0.3, 0.2, 2.0, 1.5, 4).pixels, a.pixels)


def test_percentiles_become_transmission():
    for image in (picture(), picture().astype(np.uint16) * 37 + 5000, picture() / 255 - 7):
        low, high = np.percentile(as_transmission(image) / 255, (0.5, 99.5))
        assert low == pytest.approx(0.15, abs=0.01)
        assert high == pytest.approx(0.90, abs=0.01)


def test_colour_becomes_grey():
    grey = picture()
    colour = np.dstack([grey, grey, grey])
    np.testing.assert_allclose(as_transmission(colour), as_transmission(grey), atol=1.0)
    with_alpha = np.dstack([colour, np.full_like(grey, 255)])
    np.testing.assert_allclose(as_transmission(with_alpha), as_transmission(grey), atol=1.0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((7, 60, 80)), r"single two-dimensional image; found shape \(7, 60, 80\)"),
        (np.zeros((0, 5)), "empty"),
        (np.full((9, 9), 3), "constant"),
        (np.full((9, 9), np.nan), "not finite"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        ImageSpecimen(image)


@pytest.mark.parametrize("pixel_size", [0, -1.0, float("nan"), "small"])
def test_bad_pixel_sizes_are_refused(pixel_size):
    with pytest.raises(ValueError, match="pixel_size is"):
        ImageSpecimen(picture(), pixel_size)
