"""Corrected frames: against OpenCV's interpolation, at the rim, and for every shape and type."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.chain import StepSettings, TileState, make_chain
from processing.geometry import FrameGeometry
from processing.lens import LensMap, LensModel, lens_map
from tests.processing.lenses import barrel, some_lens
from tests.processing.scenes import cut, expose, texture


def remapped(image: np.ndarray, lens: LensModel) -> np.ndarray:
    """Correct by OpenCV, from the exact inverse at every pixel; float32."""
    grid = np.stack(np.indices(image.shape), axis=-1)
    source = lens.to_distorted(grid).astype(np.float32)
    return cv2.remap(
        image.astype(np.float32),
        np.ascontiguousarray(source[..., 1]),
        np.ascontiguousarray(source[..., 0]),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


@settings(max_examples=25)
@given(
    height=st.integers(40, 150),
    width=st.integers(40, 150),
    share=st.floats(0, 0.01),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
def test_frames_of_any_shape_are_as_opencv_makes_them(height, width, share, seed, dtype):
    lens = some_lens((height, width), max(share * min(height, width), 1e-3), seed)
    top = np.iinfo(dtype).max
    image = cv2.GaussianBlur(
        np.random.default_rng(seed).integers(0, top, (height, width)).astype(np.float32), (0, 0), 2
    ).astype(dtype)
    corrected = LensMap(lens).correct(image)
    assert corrected.dtype == dtype
    # OpenCV rounds places to 1/32 px, ours are off by under 1/50 where so small frames bend most.
    slope = max(np.abs(np.diff(image.astype(float), axis=axis)).max() for axis in (0, 1))
    assert np.abs(corrected - remapped(image, lens)).max() <= 1 + slope / 16


def test_30_px_in_a_large_frame_is_as_exact_as_at_double_precision():
    lens = barrel((512, 2048), 30)
    image = expose(texture(2048)[:512], snr=1e9)
    corrected = LensMap(lens).correct(image)
    apart = corrected - remapped(image, lens)
    assert np.sqrt((apart**2).mean()) < 0.01 * image.std()


def test_a_lens_without_distortion_changes_nothing():
    image = np.random.default_rng(0).integers(0, 65536, (97, 131)).astype(np.uint16)
    np.testing.assert_array_equal(LensMap(LensModel.none((97, 131))).correct(image), image)


@given(value=st.sampled_from([0, 1, 32768, 65534, 65535]))
def test_an_even_frame_stays_even_to_its_rim(value):
    """Neither rounding nor what lies outside changes it: no wrap-around, no dark border."""
    image = np.full((90, 120), value, np.uint16)
    assert (LensMap(barrel((90, 120), -3)).correct(image) == value).all()
    assert (LensMap(barrel((90, 120), 3)).correct(image) == value).all()


def test_what_lies_outside_is_the_nearest_pixel_and_little():
    lens = barrel((256, 256), 8)
    image = np.zeros((256, 256), np.uint16)
    image[:, :1] = 100
    made = LensMap(lens)
    corrected = made.correct(image)
    source = lens.to_distorted(np.stack(np.indices(lens.shape), axis=-1))
    assert made.rim == pytest.approx(((source < 0) | (source > 255)).any(axis=-1).mean(), rel=0.02)
    assert 0 < made.rim < 0.05
    assert (corrected[source[..., 1] < -0.05] == 100).all()


def test_a_distorted_scene_is_put_right():
    """Sample a scene as a lens would; corrected, it is the scene as a perfect lens shows it."""
    lens = barrel((400, 400), 12)
    scene = texture(512)
    shown = lens.to_corrected(np.stack(np.indices(lens.shape), axis=-1)).astype(np.float32)
    canvas = (scene * 1200 + 12000).astype(np.float32)
    taken = cv2.remap(canvas, shown[..., 1] + 50, shown[..., 0] + 50, cv2.INTER_CUBIC)
    truth = canvas[50:450, 50:450]
    corrected = LensMap(lens).correct(taken.astype(np.uint16))
    inner = np.s_[10:-10, 10:-10]
    before = np.corrcoef(taken[inner].ravel(), truth[inner].ravel())[0, 1]
    after = np.corrcoef(corrected[inner].ravel(), truth[inner].ravel())[0, 1]
    assert before < 0.99
    assert after > 0.999


def test_views_and_an_array_for_the_result_are_taken():
    lens = barrel((64, 80), 2)
    image = np.random.default_rng(0).integers(0, 65536, (64, 160)).astype(np.uint16)[:, ::2]
    out = np.empty((64, 80), np.uint16)
    made = lens_map(lens)
    assert made.correct(image, out) is out
    np.testing.assert_array_equal(out, made.correct(image.copy()))


def test_a_map_is_made_once_a_model():
    lens = barrel((64, 80), 2)
    assert lens_map(lens) is lens_map(LensModel.from_dict(lens.to_dict()))
    assert lens_map(lens).nbytes > 0


def test_points_go_there_and_back():
    made = lens_map(barrel((64, 80), 2))
    places = np.array([[3.0, 5.0], [60.0, 70.0]])
    np.testing.assert_allclose(made.to_distorted(made.to_corrected(places)), places, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "out", "error", "message"),
    [
        (np.zeros((64, 64), np.uint16), None, ValueError, "take lens-correction tiles"),
        (np.zeros((64, 80), np.float32), None, TypeError, "uint8 or uint16"),
        (np.zeros((64, 80), np.uint16), np.zeros((64, 80), np.uint8), TypeError, "out is uint8"),
        (np.zeros((64, 80), np.uint16), np.zeros((80, 64), np.uint16), ValueError, "out is"),
    ],
)
def test_frames_that_do_not_fit_are_refused(image, out, error, message):
    with pytest.raises(error, match=message):
        lens_map(barrel((64, 80), 2)).correct(image, out)


def test_a_frame_is_not_corrected_in_place():
    image = np.zeros((64, 80), np.uint16)
    with pytest.raises(ValueError, match="shares memory"):
        lens_map(barrel((64, 80), 2)).correct(image, image)


def test_the_step_of_the_chain_corrects_tiles_that_have_a_lens():
    made = lens_map(barrel((128, 128), 3))
    frame = expose(cut(texture(256), (0, 0), (128, 128)))
    step = make_chain([StepSettings("lens")])
    without, with_lens = (TileState(frame, FrameGeometry(4.0), lens=lens) for lens in (None, made))
    step(without)
    step(with_lens)
    np.testing.assert_array_equal(without.image, frame)
    np.testing.assert_array_equal(with_lens.image, made.correct(frame))
