"""Random numbers that belong to a place: the same whoever asks and in whatever order."""

from __future__ import annotations

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S40 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)
_UNIT = 1.0 / 2**24


@njit(nogil=True, cache=True, inline="always")
def mix(h):
    """Scramble 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    h = (h ^ (h >> _S30)) * _MIX_1
    h = (h ^ (h >> _S27)) * _MIX_2
    return h ^ (h >> _S31)


@njit(nogil=True, cache=True)
def place_hash(seed, salt, i, j):
    """Hash a lattice site (i, j) of the lattice `salt`."""
    h = mix(np.uint64(seed) + _GOLDEN * np.uint64(salt + 1))
    h = mix(h + _GOLDEN * np.uint64(np.int64(i) + 2**31))
    return mix(h + _GOLDEN * np.uint64(np.int64(j) + 2**31))


@njit(nogil=True, cache=True)
def uniform(h, n):
    """Draw number `n` of the hash `h`, uniform in [0, 1)."""
    return np.float64(mix(h + _GOLDEN * np.uint64(n + 1)) >> _S40) * _UNIT
