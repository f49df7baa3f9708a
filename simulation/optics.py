"""How the lenses and the camera's screen blur the image: transfer functions and their kernels.

Sources: Williams and Carter, Transmission Electron Microscopy, 2nd ed. (2009), ch. 28; Reimer and
Kohl, Transmission Electron Microscopy, 5th ed. (2008), ch. 6; Rohou and Grigorieff, J. Struct.
Biol. 192 (2015) 216 for the signs of the CTF; constants from CODATA.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, pi, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import constants

from simulation.settings import OpticsSettings

NM_PER_UM = 1000.0
NM_PER_MM = 1e6
REST_ENERGY_EV = constants.m_e * constants.c**2 / constants.e


def wavelength(high_tension: float) -> float:
    """Give the relativistic wavelength of the electrons.

    Parameters
    ----------
    high_tension : float
        In kV.

    Returns
    -------
    float
        In nm: 0.00335 at 120 kV. Williams and Carter eq. 1.6.
    """
    energy = high_tension * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    return constants.h * constants.c / sqrt(energy * (energy + 2 * rest)) * 1e9


@dataclass(frozen=True)
class Optics:
    """What the lenses do to the image of one place, at one moment.

    Attributes
    ----------
    wavelength : float
        In nm.
    defocus : float
        In µm, negative is underfocus.
    astigmatism : float
        Half the difference of the two foci, in µm.
    astigmatism_angle : float
        Direction of the focus that lies highest, in degrees from stage x, counter-clockwise.
    cs : float
        Spherical aberration, in mm.
    focal_spread : float
        Standard deviation of the focus by energy spread and chromatic aberration, in nm.
    semi_angle : float
        Illumination semi-angle (where the intensity falls to 1/e), in mrad.
    amplitude_contrast : float
        Share of the contrast that is absorption, over 0 to 1.
    """

    wavelength: float
    defocus: float = 0.0
    astigmatism: float = 0.0
    astigmatism_angle: float = 0.0
    cs: float = 0.0
    focal_spread: float = 0.0
    semi_angle: float = 0.0
    amplitude_contrast: float = 1.0

    def transfer(self, kx: NDArray[np.floating], ky: NDArray[np.floating]) -> NDArray[np.floating]:
        """Give the transfer from transmission to intensity; it is 1 for the mean.

        The object is mass thickness and a weak phase in proportion to it, so one real function
        says all: ``sin(χ + asin A) / A`` times the envelopes, with
        ``χ = πλk²(Δ − ½λ²k²Cs)``, Δ positive for underfocus and A the amplitude contrast
        (Rohou and Grigorieff eq. 2 to 5).

        Parameters
        ----------
        kx, ky : ndarray of float
            Spatial frequency along stage x and y, in 1/nm.

        Returns
        -------
        ndarray of float
            Of their common shape.
        """
        matrix = self._underfocus()
        gx = matrix[0, 0] * kx + matrix[0, 1] * ky
        gy = matrix[1, 0] * kx + matrix[1, 1] * ky
        k2 = kx * kx + ky * ky
        spherical = self.wavelength**2 * self.cs * NM_PER_MM
        chi = pi * self.wavelength * (gx * kx + gy * ky - 0.5 * spherical * k2 * k2)
        # The source's angle smears by the slope of χ; Williams and Carter eq. 28.24.
        slope = (gx - spherical * k2 * kx) ** 2 + (gy - spherical * k2 * ky) ** 2
        spatial = np.exp(-((pi * self.semi_angle * 1e-3) ** 2) * slope)
        temporal = np.exp(-0.5 * (pi * self.wavelength * self.focal_spread * k2) ** 2)
        contrast = np.sin(chi + asin(self.amplitude_contrast)) / self.amplitude_contrast
        return contrast * spatial * temporal

    def _underfocus(self) -> NDArray[np.float64]:
        """Give the (2, 2) matrix of underfocus by direction, in nm."""
        a, angle = self.astigmatism, radians(self.astigmatism_angle)
        c, s = a * cos(2 * angle), a * sin(2 * angle)
        return -NM_PER_UM * np.array([[self.defocus + c, s], [s, self.defocus - c]])

    def reach(self, finest: float) -> float:
        """Estimate how far a point is spread, in nm.

        Parameters
        ----------
        finest : float
            Finest period that matters, in nm.

        Returns
        -------
        float
            Radius, in nm, outside which next to nothing falls.
        """
        defocus = NM_PER_UM * (abs(self.defocus) + self.astigmatism)
        spread = self.semi_angle * 1e-3 / sqrt(2) * defocus
        # Waves of period d are thrown λΔ/d aside, until the source's angle damps them.
        damped = 2 * pi * spread / 3 if spread else 0.0
        fringes = self.wavelength * defocus / max(finest, damped)
        spherical = self.cs * NM_PER_MM * (self.wavelength / finest) ** 3
        return 3.5 * spread + 1.2 * fringes + min(spherical, 10 * finest)


def focal_spread(settings: OpticsSettings, high_tension: float) -> float:
    """Give the standard deviation of focus in nm, by energy spread and chromatic aberration.

    Reimer and Kohl eq. 6.43 with the relativistic factor (1 + E/E₀)/(1 + E/2E₀).
    """
    energy = high_tension * 1e3
    factor = (1 + energy / REST_ENERGY_EV) / (1 + energy / (2 * REST_ENERGY_EV))
    return settings.cc * NM_PER_MM * settings.energy_spread / energy * factor


def camera_transfer(k2: NDArray[np.floating], pixel_size: float, mtf_nyquist: float):  # type: ignore[no-untyped-def]
    """Give the camera's modulation transfer, pixel aperture included.

    Parameters
    ----------
    k2 : ndarray of float
        Square of the spatial frequency, in 1/nm².
    pixel_size : float
        Of a sensor pixel at the specimen, in nm.
    mtf_nyquist : float
        Transfer at half a cycle per pixel.
    """
    return np.exp(np.log(mtf_nyquist) * 4 * pixel_size**2 * k2)


def motion_transfer(
    kx: NDArray[np.floating], ky: NDArray[np.floating], path: NDArray[np.floating]
) -> NDArray[np.complex128]:
    """Give the transfer of a specimen that moves while it is exposed.

    Parameters
    ----------
    kx : ndarray of float, shape (1, w)
    ky : ndarray of float, shape (h, 1)
        Spatial frequencies along stage x and y, in 1/nm.
    path : ndarray of float, shape (2, n)
        Where along x and y the place that is seen lies, relative to its mean, in nm, at n even
        steps of the exposure.

    Returns
    -------
    ndarray of complex, shape (h, w)
    """
    along_x = np.exp(2j * pi * path[0][:, None] * kx)
    along_y = np.exp(2j * pi * path[1][None, :] * ky)
    return along_y @ along_x / path.shape[1]


def height_map(settings: OpticsSettings, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Make the height of the section over the stage's plane.

    Parameters
    ----------
    settings : OpticsSettings
    rng : numpy.random.Generator

    Returns
    -------
    callable
        ``height(x, y)`` in µm, of a place in µm: slope and smooth waves; 0 at the origin.
    """
    n = 6
    angle = rng.uniform(0, 2 * pi, n)
    scale = settings.height_scale * np.exp(rng.uniform(0, 0.7, n))
    wave = 2 * pi / scale * np.array([np.cos(angle), np.sin(angle)])
    phase = rng.uniform(0, 2 * pi, n)
    size = settings.height_rms * sqrt(2 / n)

    def height(x: float, y: float) -> float:
        waves = np.sin(wave[0] * x + wave[1] * y + phase) - np.sin(phase)
        slope = settings.section_tilt[0] * x + settings.section_tilt[1] * y
        return float(slope + size * waves.sum())

    return height
