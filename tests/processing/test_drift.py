from __future__ import annotations

import cv2
import numpy as np
import pytest

from processing.drift import DirectedBlur, directed_blur
from processing.spectrum import tile_spectrum
from tests.processing.scenes import expose, texture

SIDE = 1024


def along(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies along a direction, counter-clockwise from the columns' axis, and across it."""
    down, right = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return right * c - down * s, -right * s - down * c


def measure(transfer: np.ndarray | float, snr: float = 5, seed: int = 3) -> DirectedBlur:
    scene = np.fft.ifft2(np.fft.fft2(texture(SIDE, seed)) * transfer).real
    return directed_blur(tile_spectrum(expose(scene, snr, seed)))


def difference(a: float, b: float) -> float:
    return abs((a - b + 90) % 180 - 90)


@pytest.mark.parametrize("length", [3.0, 5.0, 9.0])
@pytest.mark.parametrize("angle", [0.0, 40.0, 90.0, 160.0])
def test_length_and_direction_of_a_motion(length, angle):
    found = measure(np.sinc(length * along(angle)[0]))
    assert found.length == pytest.approx(length, rel=0.15)
    assert difference(found.angle, angle) < 8
    assert difference(found.sharpest, angle + 90) < 8


def test_a_long_motion_is_told_from_a_lens():
    for angle in (20.0, 75.0, 130.0):
        u, _ = along(angle)
        assert measure(np.sinc(8 * u)).motion > 0.6
        assert measure(np.exp(-2 * np.pi**2 * (2.5 * u) ** 2)).motion < 0.4


def test_an_astigmatic_lens_is_blurred_along_one_direction():
    u, v = along(30.0)
    found = measure(np.exp(-2 * np.pi**2 * ((1.6 * u) ** 2 + (0.4 * v) ** 2)))
    assert found.strength > 0.6
    assert difference(found.sharpest, 120.0) < 8


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.2, 2.5])
@pytest.mark.parametrize("snr", [0.5, 3, 30])
def test_even_blur_and_noise_have_no_direction(sigma, snr):
    u, v = along(0.0)
    found = measure(np.exp(-2 * np.pi**2 * sigma**2 * (u**2 + v**2)), snr)
    assert found == DirectedBlur()


def test_strength_grows_with_the_blur():
    strengths = [measure(np.sinc(length * along(50.0)[0])).strength for length in (0, 2, 3, 4, 6)]
    assert strengths == sorted(strengths)
    assert strengths[0] == 0


def test_a_specimen_with_a_direction_at_all_scales_is_not_blurred():
    scene = texture(SIDE, 5)
    u, v = along(0.0)
    angle = np.arctan2(v, u)
    fibres = np.fft.ifft2(np.fft.fft2(scene) * (1 + 0.35 * np.cos(2 * angle))).real
    assert directed_blur(tile_spectrum(expose(fibres, 10))) == DirectedBlur()


def test_the_camera_turned_the_blur_turned():
    frame = expose(np.fft.ifft2(np.fft.fft2(texture(SIDE, 3)) * np.sinc(5 * along(25.0)[0])).real)
    turned = cv2.rotate(frame, cv2.ROTATE_90_COUNTERCLOCKWISE)
    before, after = (directed_blur(tile_spectrum(each)) for each in (frame, turned))
    assert difference(after.angle, before.angle + 90) < 1
    assert after.length == pytest.approx(before.length)


def test_a_tile_without_texture_has_none():
    assert directed_blur(tile_spectrum(np.full((256, 256), 900, np.uint16))) == DirectedBlur()
