"""Signal-to-noise ratio of a tile, from its own spectrum.

One frame is enough: the specimen's power ends at the camera's transfer, the noise goes on.
"""

from __future__ import annotations

from processing.spectrum import FLOOR, TileSpectrum, mean_power

SIGNAL = (0.03, 0.5)  # cycles a px; below lie the beam's shape and shading


def signal_to_noise(spectrum: TileSpectrum) -> float:
    """Measure the variance of the specimen over that of the noise, a pixel.

    The noise is taken to be white and to be alone at the end of the spectrum (spectral SNR: M.
    Unser, B. L. Trus and A. C. Steven, Ultramicroscopy 23, 1987; of one image: J. T. L. Thong, K.
    S. Sim and J. C. H. Phang, Scanning 23, 2001, who extrapolate the autocorrelation instead). It
    is too low by the camera's transfer of the noise, if that is not white.

    Parameters
    ----------
    spectrum : TileSpectrum

    Returns
    -------
    float
        0 if there is nothing above the noise.
    """
    floor = mean_power(spectrum.power, FLOOR)
    if floor <= 0:
        return 0.0
    return max(0.0, mean_power(spectrum.power, SIGNAL) / floor - 1)
