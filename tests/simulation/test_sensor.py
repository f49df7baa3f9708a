"""What is fixed to the sensor, in frames of bare film: fringes, and corners without light."""

import numpy as np
import pytest

from simulation import MicroscopeSettings
from simulation.sensor import fringes, opening
from simulation.settings import DarkCornerSettings, FringeSettings
from tests.simulation.instrument import quiet, snap

SHAPE = (200, 256)


def spectrum(image):
    """The amplitude of each wave in an image, relative to its mean."""
    return 2 * np.abs(np.fft.fft2(image / image.mean() - 1)) / image.size


def test_fringes_are_a_wave_of_the_period_angle_and_strength_that_are_set():
    settings = FringeSettings(amplitude=0.05, period=8.0, angle=0.0)
    pattern = fringes(settings, SHAPE)
    assert pattern.mean() == pytest.approx(1, abs=1e-3)
    assert spectrum(pattern)[SHAPE[0] // 8, 0] == pytest.approx(0.05, rel=0.01)
    along_columns = fringes(FringeSettings(amplitude=0.05, period=8.0, angle=90.0), SHAPE)
    assert spectrum(along_columns)[0, SHAPE[1] // 8] == pytest.approx(0.05, rel=0.01)


def test_the_corners_are_dark_and_nothing_else_is():
    share = opening(DarkCornerSettings(radius=0.9), SHAPE)
    rows, columns = np.indices(SHAPE) - (np.array(SHAPE) - 1)[:, None, None] / 2
    distance = np.hypot(rows, columns) / np.hypot(*SHAPE) * 2
    assert not share[distance > 0.93].any()
    assert (share[distance < 0.87] == 1).all()
    assert opening(DarkCornerSettings(), (2048, 2048)).mean() == pytest.approx(0.9926, abs=1e-4)


def test_frames_have_what_is_switched_on_and_no_more():
    fringed = {"enabled": True, "amplitude": 0.04, "period": 8.0, "angle": 0.0}
    microscope = quiet(
        imperfections={"fringes": fringed, "dark_corners": {"radius": 0.9, "enabled": False}}
    )
    wave = (256 // 8, 0)
    assert microscope.conditions.active() == {"fringes": None}
    with_fringes = snap(microscope)[0].data
    assert spectrum(with_fringes)[wave] == pytest.approx(0.04, rel=0.02)

    microscope.conditions.clear("fringes")
    plain = snap(microscope)[0].data
    assert spectrum(plain)[wave] < 1e-3
    assert plain[0, 0] == pytest.approx(plain.mean(), rel=0.02)

    microscope.conditions.set("dark_corners")
    dark = snap(microscope)[0].data
    offset = MicroscopeSettings().camera.offset
    assert dark[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx(offset, abs=2)
    np.testing.assert_allclose(dark[64:192, 64:192], plain[64:192, 64:192], rtol=0.02)


def test_binned_frames_have_the_same_pattern():
    microscope = quiet(
        imperfections={"fringes": {"enabled": True, "amplitude": 0.04, "period": 16, "angle": 0}}
    )
    frame, _ = snap(microscope, binning=2)
    assert spectrum(frame.data)[128 // 8, 0] == pytest.approx(0.04, rel=0.05)
