from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from processing.focus import focus_score
from tests.processing.scenes import CONTRAST, LEVEL, expose, texture

SIDE = 512


def blurred(sigma: float) -> np.ndarray:
    """The texture blurred by a Gaussian."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    transfer = np.exp(-2 * np.pi**2 * (sigma * frequency) ** 2)
    return np.fft.ifft2(np.fft.fft2(texture(SIDE, 3)) * transfer).real


def test_the_score_falls_with_blur():
    scores = [focus_score(expose(blurred(s), 8)).score for s in (0, 0.5, 1, 1.5, 2, 3, 5)]
    assert all(a > b for a, b in pairwise(scores[:-1]))  # the last two are noise
    assert 0.2 < scores[0] < 0.7
    assert max(scores[-2:]) < 0.02


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.8])
def test_the_score_does_not_depend_on_dose(sigma):
    clean = focus_score(expose(blurred(sigma), 100)).score
    noisy = [focus_score(expose(blurred(sigma), 3, seed)).score for seed in range(8)]
    assert np.mean(noisy) == pytest.approx(clean, abs=0.03)
    told = focus_score(expose(blurred(sigma), 3)).sd
    assert 0.3 * told < np.std(noisy) < 3 * told


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
        phase = 20 * defocus * frequency**2
        envelope = np.exp(-((2 * defocus * frequency) ** 2))
        seen = np.fft.ifft2(spectrum * (0.9 * np.cos(phase) - 0.1 * np.sin(phase)) * envelope)
        return focus_score(expose(seen.real, 8)).score

    scores = {d: score(d) for d in (-3, -2, -1, 0, 1, 2, 3)}
    for defocus in (1, 2, 3):
        assert scores[defocus] == pytest.approx(scores[-defocus], abs=0.08)
        for sign in (-1, 1):
            assert scores[sign * defocus] < scores[sign * (defocus - 1)]


def test_no_texture_is_said():
    noise = np.random.default_rng(0).normal(LEVEL, CONTRAST / 10, (SIDE, SIDE))
    slope = np.linspace(0, 2000, SIDE)
    for frame in (noise, noise + slope, np.full((SIDE, SIDE), 500.0)):
        found = focus_score(frame.astype(np.uint16))
        assert not found.textured
        assert found.score == found.share == 0
        assert np.isnan(list(found.sides.values())).all()


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


def test_a_side_knows_only_what_lies_along_it():
    frame = expose(np.hstack([blurred(0.0)[:, : SIDE // 2], blurred(2.0)[:, SIDE // 2 :]]), 20)
    sides = focus_score(frame).sides
    assert sides["left"] > 5 * sides["right"]
    assert sides["right"] < sides["top"] < sides["left"]
    assert sides["top"] == pytest.approx(sides["bottom"], rel=0.3)


def test_neighbours_see_the_same_in_their_overlap():
    """With an overlap of 10 % the windows lie on the same place, so only the optics differ."""
    scene = texture(2048, 7)
    pitch = round(0.9 * 1024)
    left, right = scene[:1024, :1024], scene[:1024, pitch : pitch + 1024]
    mine, its = (
        focus_score(expose(part, 10, seed)).sides for seed, part in enumerate((left, right))
    )
    assert mine["right"] == pytest.approx(its["left"], rel=0.06)


def test_resin_beside_tissue_does_not_count():
    scene = blurred(0.5)
    whole = focus_score(expose(scene, 10))
    scene[:, SIDE // 2 :] = 0
    half = focus_score(expose(scene, 10))
    assert half.share == 0.5
    assert half.score == pytest.approx(whole.score, abs=0.06)
    assert np.isnan(half.sides["right"])


def test_coarse_detail_is_told_of_each_side():
    """Its power goes by the square of the contrast; the score does not change."""
    picture = texture(512)
    contrast = np.where(np.arange(512) < 256, 2.0, 1.0)
    found = focus_score(expose(picture * contrast))
    assert found.coarse_sides["left"] == pytest.approx(4 * found.coarse_sides["right"], rel=0.5)
    assert found.coarse_sides["right"] < found.coarse < found.coarse_sides["left"]
    assert found.sides["left"] == pytest.approx(found.sides["right"], abs=0.1)
