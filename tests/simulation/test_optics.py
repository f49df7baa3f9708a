"""Transfer functions against the textbook, and images against the transfer functions."""

import numpy as np
import pytest

from simulation import Magnification, OpticsSettings, blur
from simulation.distortion import Distortion
from simulation.optics import Optics, focal_spread, height_map, wavelength
from tests.simulation.instrument import Formula, quiet, snap, white_noise

STILL = np.zeros((2, 1))


def spectrum(data):
    """Amplitude spectrum of a frame under a window, and its spatial frequencies in cycles/px."""
    n = data.shape[0]
    window = np.outer(np.hanning(n), np.hanning(n))
    power = np.abs(np.fft.fft2((data - data.mean()) * window)) ** 2
    up = -np.fft.fftfreq(n)[:, None] + np.zeros((1, n))
    right = np.fft.fftfreq(n)[None, :] + np.zeros((n, 1))
    return power, right, up


def profile(power, radius, low, high, bins):
    """Mean power in rings."""
    ring = np.floor((radius - low) / (high - low) * bins).astype(int)
    inside = (radius >= low) & (radius < high)
    total = np.bincount(ring[inside], power[inside], bins)
    return total / np.bincount(ring[inside], minlength=bins)


# -- formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high_tension", "picometres"), [(100, 3.701), (120, 3.349), (200, 2.508), (300, 1.969)]
)
def test_wavelength_is_that_of_the_textbook(high_tension, picometres):
    # Williams and Carter, table 1.2: 3.70, 3.35, 2.51, 1.97 pm.
    assert wavelength(high_tension) * 1000 == pytest.approx(picometres, abs=0.002)


def test_focal_spread_by_chromatic_aberration():
    # Cc ΔE / E is 18 nm; the relativistic factor at 120 kV is 1.105.
    settings = OpticsSettings(cc=2.7, energy_spread=0.8)
    assert focal_spread(settings, 120) == pytest.approx(18.0 * 1.105, rel=0.002)


def test_transfer_of_the_mean_is_one():
    zero = np.zeros(1)
    optics = Optics(0.00335, -5.0, 1.0, 20.0, cs=2.7, focal_spread=20, semi_angle=1.0)
    for contrast in (0.05, 0.5, 1.0):
        changed = Optics(**(vars(optics) | {"amplitude_contrast": contrast}))
        assert changed.transfer(zero, zero)[0] == pytest.approx(1)


def test_underfocus_strengthens_and_overfocus_weakens_the_contrast_of_fine_detail():
    k = np.array([0.02]), np.array([0.0])
    under, over = (
        Optics(0.00335, defocus, amplitude_contrast=0.5).transfer(*k)[0] for defocus in (-5.0, 5.0)
    )
    assert under > 1 > over


def test_blur_of_defocus_is_the_semi_angle_times_the_defocus():
    optics = Optics(1e-9, 10.0, semi_angle=1.0)
    # the image of a source with radius α (1/e) is a disk with radius αΔ = 10 nm (1/e)
    k = np.array([0.03])
    assert optics.transfer(k, 0 * k)[0] == pytest.approx(np.exp(-((np.pi * 10 * 0.03) ** 2)))
    assert blur.blur_size(optics, STILL) == pytest.approx(10 / np.sqrt(2))


def test_astigmatism_blurs_along_one_direction_and_turns_when_focus_is_crossed():
    k, zero = np.array([0.02]), np.array([0.0])
    for defocus, along_x_is_weaker in ((5.0, True), (-5.0, False)):
        optics = Optics(1e-9, defocus, 3.0, 0.0, semi_angle=1.0)
        weaker = optics.transfer(k, zero)[0] < optics.transfer(zero, k)[0]
        assert weaker == along_x_is_weaker
    turned = Optics(1e-9, 5.0, 3.0, 45.0, semi_angle=1.0)
    assert turned.transfer(k, k)[0] < turned.transfer(k, -k)[0]


def test_height_map_is_flat_at_the_origin_and_follows_the_slope():
    settings = OpticsSettings(section_tilt=(0.01, 0.0), height_rms=0.25)
    height = height_map(settings, np.random.default_rng(1))
    assert height(0, 0) == 0
    places = np.random.default_rng(2).uniform(-1000, 1000, (3000, 2))
    rest = np.array([height(x, y) - 0.01 * x for x, y in places])
    assert rest.std() == pytest.approx(0.25, rel=0.2)
    steps = np.array([height(x + 7, y) - height(x, y) for x, y in places])
    assert np.abs(steps).max() < 0.3, "smooth from tile to tile"


def test_distortion_has_no_shift_scale_or_turn_and_the_size_that_is_set():
    settings = OpticsSettings(radial_distortion=0.0, field_distortion=5.0)
    field = Distortion.make(settings, (512, 512), np.random.default_rng(3))
    rows, columns = np.meshgrid(np.linspace(0, 511, 65), np.linspace(0, 511, 65), indexing="ij")
    size = np.linalg.norm(field.shift(rows, columns), axis=-1)
    assert size.max() == pytest.approx(5, rel=0.02)
    middle = 255.5
    near = field.shift(middle + np.array([-1.0, 0, 1, 0, 0]), middle + np.array([0, -1.0, 0, 1, 0]))
    assert np.abs(near).max() < 1e-3
    radial = Distortion.make(
        OpticsSettings(radial_distortion=30.0, field_distortion=0.0), (512, 512),
        np.random.default_rng(3),
    )  # fmt: skip
    corner = radial.shift(511.5, 511.5)
    np.testing.assert_allclose(corner, [-30 / np.sqrt(2)] * 2, rtol=0.01)


# -- images -----------------------------------------------------------------------------------


def thin(pixel_size=0.4, angle=0.0, **optics):
    """Make a microscope that sees white noise as a weak phase object at high magnification."""
    line = Magnification("M", 50000, pixel_size, angle)
    return quiet(
        white_noise(1000, contrast=0.02),
        column={"magnifications": (line,), "magnification": 50000},
        camera={"sensor": [512, 512], "mtf_nyquist": 0.9},
        optics={"amplitude_contrast": 0.07, "semi_angle": 0.05, "energy_spread": 0.3} | optics,
    )


@pytest.mark.parametrize("defocus", [-20.0, -31.0, 24.0])
def test_thon_rings_vanish_where_the_ctf_does(defocus):
    microscope = thin(1.0)
    microscope.column.set("defocus", defocus)
    frame, _ = snap(microscope)
    power, right, up = spectrum(frame.data.astype(float))
    low, high, bins = 0.03, 0.32, 120
    rings = profile(power, np.hypot(right, up), low, high, bins)
    k = low + (np.arange(bins) + 0.5) * (high - low) / bins
    smooth = np.convolve(rings, [0.25, 0.5, 0.25], mode="same")
    dips = k[1:-1][(smooth[1:-1] < smooth[:-2]) & (smooth[1:-1] < smooth[2:])]
    # Zeros of sin(χ + asin A): the textbook's formula, written out again.
    q = np.linspace(low, high, 200_001)
    lam = 0.0033492
    chi = np.pi * lam * q**2 * (-defocus * 1000 - 0.5 * lam**2 * q**2 * 2.7e6)
    wave = np.sin(chi + np.arcsin(0.07))
    zeros = q[:-1][wave[:-1] * wave[1:] < 0]
    zeros = zeros[(zeros > low + 0.01) & (zeros < high - 0.01)]
    assert len(zeros) >= 3
    for zero in zeros:
        assert np.abs(dips - zero).min() < 0.004, f"no dip at the zero at {zero:.3f}/nm: {dips}"


def test_astigmatism_makes_the_rings_elliptical_along_its_direction_in_the_turned_image():
    microscope = thin(1.0, angle=25.0, astigmatism=[5 * np.cos(1.2), 5 * np.sin(1.2)])
    microscope.column.set("defocus", -20.0)
    frame, truth = snap(microscope)
    assert truth.astigmatism == pytest.approx(5)
    assert truth.astigmatism_angle == pytest.approx(np.degrees(0.6))
    power, right, up = spectrum(frame.data.astype(float))
    radius = np.hypot(right, up)
    on_stage = np.degrees(np.arctan2(up, right)) + 25.0
    lam = 0.0033492
    for direction, defocus in ((np.degrees(0.6), -15.0), (np.degrees(0.6) + 90, -25.0)):
        apart = (on_stage - direction + 90) % 180 - 90
        wedge = np.abs(apart) < 12
        bins, low, high = 80, 0.05, 0.25
        rings = profile(np.where(wedge, power, 0), radius, low, high, bins) / profile(
            wedge.astype(float), radius, low, high, bins
        )
        k = low + (np.arange(bins) + 0.5) * (high - low) / bins
        smooth = np.convolve(rings, [0.25, 0.5, 0.25], mode="same")
        # The first zero: χ = π − asin A; Cs has no weight here.
        expected = np.sqrt((np.pi - 0.07) / (np.pi * lam * -defocus * 1000))
        near = (k > 0.7 * expected) & (k < 1.25 * expected)
        first = k[near][smooth[near].argmin()]
        assert first == pytest.approx(expected, rel=0.05)


def test_stigmators_cancel_the_intrinsic_astigmatism():
    microscope = quiet(optics={"astigmatism": [0.8, -0.4], "stigmator_strength": 8.0})
    assert snap(microscope)[1].astigmatism == pytest.approx(np.hypot(0.8, 0.4))
    microscope.column.set("stigmator_x", -0.1)
    microscope.column.set("stigmator_y", 0.05)
    assert snap(microscope)[1].astigmatism == pytest.approx(0, abs=1e-9)


def test_blur_of_ten_micrometres_is_what_the_transfer_says():
    microscope = quiet(
        white_noise(4, contrast=0.1), column={"magnifications": (Magnification("M", 5000, 4.0),)},
        camera={"sensor": [512, 512]},
    )  # fmt: skip
    sharp, _ = snap(microscope)
    microscope.column.set("defocus", 10.0)
    blurred, _ = snap(microscope)
    power, right, up = spectrum(sharp.data.astype(float))
    radius = np.hypot(right, up)
    other = spectrum(blurred.data.astype(float))[0]
    ratio = profile(other, radius, 0.02, 0.18, 16) / profile(power, radius, 0.02, 0.18, 16)
    k = (0.02 + (np.arange(16) + 0.5) * 0.01) / 4.0
    expected = np.exp(-2 * (np.pi * 10 * k) ** 2) * np.cos(np.pi * 0.0033492 * k**2 * 1e4) ** 2
    np.testing.assert_allclose(np.sqrt(ratio[:12]), np.sqrt(expected[:12]), atol=0.02)


@pytest.mark.parametrize(
    ("defocus", "astigmatism"), [(0.0, 0.43), (3.0, 0.43), (-10.0, 0.4), (20.0, 5.0), (-90.0, 0.0)]
)
def test_the_fast_filters_do_what_the_whole_transfer_would(defocus, astigmatism):
    optics = Optics(0.00335, defocus, astigmatism, 30.0, 2.7, 20.0, 1.0, 0.8)
    texture = np.random.default_rng(2).random((500, 500)).astype(np.float32)
    radius = blur.radius_of(optics, STILL, 4.0, 4)
    point = blur.kernel(optics, STILL, pixel_size=4.0, mtf_nyquist=0.16, level=4, radius=radius)
    fast = blur.apply(texture, point)
    kx, ky = np.fft.rfftfreq(500)[None], -np.fft.fftfreq(500)[:, None]
    spline = (np.sinc(kx) * np.sinc(ky)) ** 4
    kx, ky = kx / 4, ky / 4
    camera = 0.16 ** (4 * 16 * (kx**2 + ky**2))
    whole = np.fft.rfft2(texture) * optics.transfer(kx, ky) * camera / spline
    exact = np.fft.irfft2(whole, (500, 500))
    inside = slice(220, 280) if radius > 100 else slice(radius + 5, -radius - 5)
    difference = (fast - exact)[inside, inside]
    # Of white noise, the hardest of objects; below the shot noise of 2.5 % of a pixel.
    assert difference.std() < 0.02 * exact[inside, inside].mean()
    assert abs(difference.mean()) < 2e-3


def test_a_mark_is_not_shifted_by_blur_however_strong():
    dark = Formula(lambda x, y: 0.9 - 0.5 * np.exp(-(x**2 + y**2) / 0.02**2))
    microscope = quiet(dark, optics={"astigmatism": [1.0, 0.5]})
    for defocus in (0.0, 5.0, -25.0):
        microscope.column.set("defocus", defocus)
        data = snap(microscope)[0].data.astype(float)
        weight = np.clip(np.median(data) * 0.985 - data, 0, None)
        rows, columns = np.mgrid[:256, :256]
        middle = [(weight * axis).sum() / weight.sum() for axis in (rows, columns)]
        np.testing.assert_allclose(middle, 127.5, atol=0.1)
