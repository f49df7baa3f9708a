from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from processing.focus import focus_score
from tests.processing.scenes import CONTRAST, LEVEL, expose, texture

SIDE = 512


def blurred(along: float, across: float | None = None, angle: float = 0.0) -> np.ndarray:
    """The texture blurred by a Gaussian, its long axis turned counter-clockwise by an angle."""
    down = np.fft.fftfreq(SIDE)[:, None]
    right = np.fft.fftfreq(SIDE)[None]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = right * c - down * s, -right * s - down * c
    across = along if across is None else across
    transfer = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    return np.fft.ifft2(np.fft.fft2(texture(SIDE, 3)) * transfer).real


def test_the_score_falls_with_blur():
    scores = [focus_score(expose(blurred(s), 8)).score for s in (0, 0.5, 1, 1.5, 2, 3, 5)]
    assert all(a > b for a, b in pairwise(scores))
    assert 0.3 < scores[0] < 0.7
    assert scores[-1] < 0.02


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.8])
def test_the_score_does_not_depend_on_dose(sigma):
    clean = focus_score(expose(blurred(sigma), 100)).score
    noisy = [focus_score(expose(blurred(sigma), 3, seed)).score for seed in range(6)]
    assert np.mean(noisy) == pytest.approx(clean, abs=0.03)
    assert np.std(noisy) < 0.02


def test_the_score_does_not_depend_on_contrast_or_level():
    scene = blurred(1.0)
    usual = focus_score(expose(scene, 50)).score
    weak = focus_score(expose(0.2 * scene, 50, level=30000)).score
    assert weak == pytest.approx(usual, abs=0.02)


def test_a_lens_out_of_focus_is_seen_whatever_the_sign():
    """Phase contrast reverses with the sign of the defocus; the score must not care."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    spectrum = np.fft.fft2(texture(SIDE, 3))

    def score(defocus: float) -> float:
        phase = 60 * defocus * frequency**2
        envelope = np.exp(-((4 * defocus * frequency) ** 2))
        seen = np.fft.ifft2(spectrum * (0.9 * np.cos(phase) - 0.1 * np.sin(phase)) * envelope)
        return focus_score(expose(seen.real, 8)).score

    scores = {d: score(d) for d in (-3, -2, -1, 0, 1, 2, 3)}
    for defocus in (1, 2, 3):
        assert scores[defocus] == pytest.approx(scores[-defocus], abs=0.08)
        for sign in (-1, 1):
            assert scores[sign * defocus] < scores[sign * (defocus - 1)]


@pytest.mark.parametrize("angle", [0, 30, 75, 90, 140])
def test_the_direction_of_a_one_sided_blur(angle):
    found = focus_score(expose(blurred(2.0, 0.5, angle), 10))
    # Sharpest across the blur.
    error = (found.astigmatism_angle - (angle + 90) + 90) % 180 - 90
    assert abs(error) < 5
    assert 0.3 < found.astigmatism <= 1


def test_even_blur_is_no_astigmatism():
    assert focus_score(expose(blurred(0.8), 10)).astigmatism < 0.1


def test_a_specimen_with_a_direction_is_no_astigmatism():
    """Fibres of one direction, at every scale: their own direction is taken off."""
    stretched = cv2.resize(texture(SIDE, 5)[: SIDE // 2], (SIDE, SIDE))
    fibres = focus_score(expose(stretched, 20)).astigmatism
    lens = focus_score(expose(blurred(2.0, 0.5), 20)).astigmatism
    assert fibres < lens / 2


def test_no_texture_is_said():
    noise = np.random.default_rng(0).normal(LEVEL, CONTRAST / 10, (SIDE, SIDE))
    slope = np.linspace(0, 2000, SIDE)
    for frame in (noise, noise + slope, np.full((SIDE, SIDE), 500.0)):
        found = focus_score(frame.astype(np.uint16))
        assert not found.textured
        assert found.score == found.astigmatism == 0


def test_a_hot_pixel_does_not_hide_the_texture():
    frame = expose(blurred(1.0), 10)
    clean = focus_score(frame).score
    frame[200, 300] = 65535
    assert focus_score(frame).score == pytest.approx(clean, abs=0.05)


def test_small_and_odd_frames():
    frame = expose(blurred(0.5), 10)
    for part in (frame[:128, :128], frame[:201, :333]):
        assert focus_score(part).score == pytest.approx(focus_score(frame).score, abs=0.1)


@pytest.mark.parametrize("shape", [(100, 512), (512,), (2, 256, 256)])
def test_what_is_no_frame_is_refused(shape):
    with pytest.raises(ValueError, match="128"):
        focus_score(np.zeros(shape, np.uint16))


def test_a_number_that_is_not_finite_is_refused():
    frame = np.ones((256, 256))
    frame[100, 100] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        focus_score(frame)
