from __future__ import annotations

import re

import numpy as np
import pytest

from processing.flatfield import SAMPLE, References, flat_field, make_references

SHAPE = (96, 128)


@pytest.fixture
def camera():
    """Dark level, response (mean 1) and the beam's shape of a camera, with some bad pixels."""
    rng = np.random.default_rng(1)
    dark = 200 + rng.normal(0, 3, SHAPE)
    rows, columns = np.indices(SHAPE)
    beam = 1 - 0.3 * ((rows / SHAPE[0] - 0.5) ** 2 + (columns / SHAPE[1] - 0.4) ** 2)
    response = beam * (1 + 0.02 * rng.standard_normal(SHAPE))
    return dark, response


def bad_camera(camera):
    dark, response = (part.copy() for part in camera)
    dark[10, 20] += 5000  # hot
    response[30, 40] = 0.01  # dead
    response[:, 77] = 0.0  # a dead column
    response[0, 0] = 3.0  # in a corner
    return dark, response


def take(dark, response, scene):
    return np.clip(np.round(dark + response * scene), 0, 65535).astype(np.uint16)


def test_a_corrected_frame_is_the_scene(camera):
    dark, response = camera
    references = make_references(dark + 12000 * response, dark)
    scene = np.fromfunction(lambda r, c: 8000 + 20 * r + 10 * c, SHAPE)
    flat = flat_field(take(dark, response, scene), references)
    assert flat.dtype == np.uint16
    assert np.abs(flat - scene * response.mean()).max() < 2.0


def test_the_mean_level_stays(camera):
    dark, response = camera
    references = make_references(dark + 12000 * response, dark)
    frame = take(dark, response, 10000.0)
    assert flat_field(frame, references).mean() == pytest.approx((frame - dark).mean(), rel=1e-4)


def test_bad_pixels_are_found_and_replaced(camera):
    dark, response = bad_camera(camera)
    references = make_references(dark + 12000 * response, dark)
    expected = np.zeros(SHAPE, bool)
    expected[:, 77] = expected[10, 20] = expected[30, 40] = expected[0, 0] = True
    assert (references.bad & expected).sum() == expected.sum()
    assert (references.bad & ~expected).sum() <= 2
    flat = flat_field(take(dark, response, 9000.0), references)
    assert flat.std() < 2.0
    assert abs(int(flat[30, 40]) - int(flat[31, 41])) < 5


def test_bad_pixels_of_a_large_camera_are_found():
    """Where how far all pixels scatter is told from a sample of them."""
    shape = 1800, 2048
    rng = np.random.default_rng(6)
    dark = rng.normal(200, 3, shape)
    response = rng.normal(1, 0.02, shape)
    expected = np.zeros(shape, bool)
    expected.flat[rng.choice(expected.size, 500, replace=False)] = True
    dark[expected] += np.resize([40, 0], 500)  # every other is hot, the rest is nearly dead
    response[expected & (dark < 230)] *= 0.5
    assert expected.size > 3 * SAMPLE
    references = make_references(dark + 12000 * response, dark)
    assert (references.bad == expected).all()
    good = ~expected
    assert np.allclose((references.gain * response)[good], response[good].mean(), rtol=2e-3)


def test_a_block_of_bad_pixels_is_filled_from_round_it():
    bad = np.zeros((32, 32), bool)
    bad[10:15, 10:15] = True
    references = References(np.zeros(bad.shape), np.ones(bad.shape), bad)
    frame = np.full(bad.shape, 500, np.uint16)
    frame[bad] = 60000
    assert (flat_field(frame, references) == 500).all()


def test_stacks_are_averaged(camera):
    dark, response = camera
    rng = np.random.default_rng(2)
    bright = rng.poisson(dark + 12000 * response, (8, *SHAPE))
    references = make_references(bright, np.stack([dark, dark]))
    assert np.allclose(references.gain, response.mean() / response, rtol=0.02)
    assert references.bad.sum() == 0


def test_values_are_rounded_and_clipped():
    plain = References(np.full((8, 8), 100.0), np.full((8, 8), 1.5), np.zeros((8, 8), bool))
    frame = np.full((8, 8), 101, np.uint16)
    frame[0, 0], frame[0, 1] = 50, 65535
    flat = flat_field(frame, plain)
    assert flat[0, 0] == 0
    assert flat[0, 1] == 65535
    assert flat[1, 1] == 2  # 1.5 rounded


def test_it_works_in_place_and_on_bytes():
    plain = References(np.full((8, 8), 10.0), np.ones((8, 8)), np.zeros((8, 8), bool))
    frame = np.full((8, 8), 30, np.uint16)
    assert flat_field(frame, plain, out=frame) is frame
    assert (frame == 20).all()
    assert (flat_field(np.full((8, 8), 30, np.uint8), plain) == 20).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_are_those_of_the_result(dtype):
    """Also of the pixels that are replaced, and where the parts that are counted end."""
    rng = np.random.default_rng(4)
    shape = (301, 517)
    bad = rng.random(shape) < 0.01
    references = References(rng.normal(10, 2, shape), rng.normal(1, 0.1, shape), bad)
    frame = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    counts = np.full(65536, 9, np.uint32)
    flat = flat_field(frame, references, counts=counts)
    np.testing.assert_array_equal(counts, np.bincount(flat.ravel(), minlength=65536))
    np.testing.assert_array_equal(flat, flat_field(frame, references))


def test_references_are_turned_once():
    rng = np.random.default_rng(5)
    made = References(rng.random((8, 9)), rng.random((8, 9)), rng.random((8, 9)) < 0.1)
    turned = made.flipped(True, False)
    np.testing.assert_array_equal(turned.gain, made.gain[::-1])
    np.testing.assert_array_equal(turned.bad, made.bad[::-1])
    assert made.flipped(True, False) is turned


@pytest.mark.parametrize(
    ("bright", "dark", "message"),
    [
        (np.ones((8, 8)), np.ones((8, 9)), "same camera settings"),
        (np.full((8, 8), 100.0), np.full((8, 8), 100.0), "beam on, the screen up"),
        (np.full((8, 8), np.nan), np.zeros((8, 8)), "bright holds a number that is not finite"),
        (np.ones(8), np.zeros((8, 8)), "bright has shape (8,)"),
        (np.ones((0, 8, 8)), np.zeros((8, 8)), "bright has shape (0, 8, 8)"),
    ],
)
def test_references_that_cannot_be_are_refused(bright, dark, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_references(bright, dark)


def test_too_many_bad_pixels_are_refused():
    rng = np.random.default_rng(3)
    bright = np.full((64, 64), 10000.0)
    bright[rng.random((64, 64)) < 0.2] = 100.0
    with pytest.raises(ValueError, match="of the pixels are bad"):
        make_references(bright, np.zeros((64, 64)))


def test_frames_that_do_not_fit_are_refused():
    plain = References(np.zeros((8, 8)), np.ones((8, 8)), np.zeros((8, 8), bool))
    with pytest.raises(ValueError, match=re.escape("frame is (8, 9) px and the references (8, 8)")):
        flat_field(np.zeros((8, 9), np.uint16), plain)
    with pytest.raises(TypeError, match="frame is float64"):
        flat_field(np.zeros((8, 8)), plain)
    with pytest.raises(TypeError, match="out is float32"):
        flat_field(np.zeros((8, 8), np.uint16), plain, out=np.zeros((8, 8), np.float32))
    with pytest.raises(ValueError, match="one \\(height, width\\)"):
        References(np.zeros((8, 8)), np.ones((8, 9)), np.zeros((8, 8), bool))
