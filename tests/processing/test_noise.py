from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from processing.noise import signal_to_noise
from processing.spectrum import tile_spectrum
from tests.processing.scenes import expose, texture


def measured(snr: float, seed: int = 0) -> float:
    return signal_to_noise(tile_spectrum(expose(texture(512, 3), snr, seed)))


@pytest.mark.parametrize("snr", [1.0, 3.0, 10.0])
def test_the_ratio_of_the_variances(snr):
    """`expose` takes the ratio of standard deviations; the widest waves are no signal here."""
    spectrum = tile_spectrum(expose(texture(512, 3), 1000.0))
    everything = signal_to_noise(spectrum) * spectrum.floor  # variance of the signal that is seen
    noise = tile_spectrum(expose(np.zeros((512, 512)), snr)).floor
    assert measured(snr) == pytest.approx(everything / noise, rel=0.15)


def test_it_falls_with_the_dose():
    ratios = [measured(snr) for snr in (10, 5, 2, 1, 0.3)]
    assert all(a > b for a, b in pairwise(ratios))


def test_noise_alone_has_none():
    assert signal_to_noise(tile_spectrum(expose(np.zeros((512, 512)), 1.0))) < 0.05
    assert signal_to_noise(tile_spectrum(np.full((256, 256), 500, np.uint16))) == 0
