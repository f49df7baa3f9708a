"""Where the cell profiles of a section lie and what is in each: the geometry, at any level.

Profiles are the regions of an additively weighted Voronoi diagram (Apollonius diagram) of sites
with elliptical metrics, on four jittered lattices from thin axons to cell bodies.
"""

# Numba kernels take many numbers and go through many cases in one place, for speed.
# ruff: noqa: PLR0912, PLR0915, PLR0917

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from simulation.specimen.neuropil.hashing import place_hash, uniform

SPACING = np.array([370.0, 1450.0, 4900.0, 34000.0])
"""Of the lattices, in nm: thin processes, dendrites and boutons, fat processes, cell bodies."""
REACH = np.array([3, 2, 1, 1])
"""How many lattice cells away a site can still matter."""
SEA = 0
"""Row 0 of the table stands for what is too small for a level."""

PLAIN, DENDRITE, BOUTON, GLIA, SOMA, VESSEL = range(6)

(
    RADIUS,
    METRIC_XX,
    METRIC_XY,
    METRIC_YY,
    STEEPEST,
    DARKNESS,
    GRAIN,
    MYELIN,
    SYNAPSE_X,
    SYNAPSE_Y,
    SYNAPSE_COS,
    NUCLEUS,
    BLOOD,
) = range(13)
N_PARAMETERS = 13

MITO_X, MITO_Y, MITO_COS, MITO_SIN, MITO_A, MITO_B, MITO_PERIOD, MITO_CRISTAE = range(8)


class Cells(NamedTuple):
    """The cells that can matter to a rectangle, as flat arrays for the kernels."""

    lattices: NDArray[np.int64]
    """Per lattice: first row, first column, rows, columns, index of its first cell; (4, 5)."""
    centres: NDArray[np.float64]
    """x, y (down) of each site in nm; (N, 2)."""
    parameters: NDArray[np.float32]
    """See the column names above; lengths in nm; (N, 13)."""
    kinds: NDArray[np.int8]
    """One of the kinds above, −1 where a lattice site is empty; (N,)."""
    hashes: NDArray[np.uint64]
    """(N,)."""
    mito_first: NDArray[np.int32]
    """Cell c has mitochondria mito_first[c] … mito_first[c + 1] − 1; (N + 1,)."""
    mitos: NDArray[np.float32]
    """Centre relative to the cell's, axis, half axes, cristae; (M, 8)."""


@njit(nogil=True, cache=True)
def build_cells(seed, phases, left, top, right, bottom, finest):
    """Draw all cells near a rectangle.

    Parameters
    ----------
    seed : int
        Of the section.
    phases : ndarray of float64, shape (8,)
        Phases of the slow field of directions.
    left, top, right, bottom : float
        The rectangle, in nm, y down.
    finest : int
        First lattice to draw; finer ones are left empty.

    Returns
    -------
    tuple
        The fields of `Cells`.
    """
    lattices = np.zeros((4, 5), np.int64)
    count = 1
    for k in range(4):
        if k >= finest:
            i0 = int(np.floor(top / SPACING[k])) - REACH[k]
            j0 = int(np.floor(left / SPACING[k])) - REACH[k]
            lattices[k, 0], lattices[k, 1] = i0, j0
            lattices[k, 2] = int(np.floor(bottom / SPACING[k])) + REACH[k] - i0 + 1
            lattices[k, 3] = int(np.floor(right / SPACING[k])) + REACH[k] - j0 + 1
            lattices[k, 4] = count
            count += lattices[k, 2] * lattices[k, 3]
    centres = np.zeros((count, 2))
    parameters = np.zeros((count, N_PARAMETERS), np.float32)
    kinds = np.full(count, -1, np.int8)
    hashes = np.zeros(count, np.uint64)
    mito_first = np.zeros(count + 1, np.int32)
    mitos = np.zeros((4 * count + 64 * lattices[3, 2] * lattices[3, 3], 8), np.float32)
    # The mean darkness of what the finer lattices hold, measured at 32 nm.
    parameters[SEA, DARKNESS] = 0.462 if finest == 1 else 0.474
    parameters[SEA, GRAIN] = 1.0
    kinds[SEA] = PLAIN
    c = 1
    n_mitos = 0
    for k in range(finest, 4):
        for i in range(lattices[k, 2]):
            for j in range(lattices[k, 3]):
                h = place_hash(seed, k, lattices[k, 0] + i, lattices[k, 1] + j)
                hashes[c] = h
                s = SPACING[k]
                centres[c, 0] = (lattices[k, 1] + j + 0.5 + 0.9 * (uniform(h, 0) - 0.5)) * s
                centres[c, 1] = (lattices[k, 0] + i + 0.5 + 0.9 * (uniform(h, 1) - 0.5)) * s
                kinds[c] = _draw_cell(h, k, centres[c], phases, parameters[c])
                mito_first[c] = n_mitos
                if kinds[c] >= 0:
                    n_mitos = _draw_mitos(h, k, kinds[c], parameters[c], mitos, n_mitos)
                c += 1
    mito_first[c] = n_mitos
    return lattices, centres, parameters, kinds, hashes, mito_first, mitos[:n_mitos]


@njit(nogil=True, cache=True)
def _draw_cell(h, k, centre, phases, cell):
    """Fill the parameters of one cell; return its kind, or −1 if the site is empty."""
    x, y = centre[0] * 1e-3, centre[1] * 1e-3
    # Slow fields, in µm: the direction of the processes, and how much of a fibre tract it is.
    direction = (
        1.6 * np.sin(x / 31 + 0.6 * y / 47 + phases[0])
        + 1.6 * np.sin(y / 39 - 0.5 * x / 61 + phases[1])
        + phases[2]
    )
    tract = 0.5 + 0.5 * np.sin(x / 53 + y / 83 + phases[3]) * np.sin(y / 71 - x / 97 + phases[4])
    t = uniform(h, 2)
    pick = uniform(h, 3)
    size = uniform(h, 4)
    kind = PLAIN
    aspect = 1.0 + 1.3 * uniform(h, 5) ** 2 * (0.5 + tract)
    darkness = 0.355 + 0.13 * (uniform(h, 6) - 0.5) + 0.08 * (uniform(h, 7) - 0.5)
    grain = 0.85 + 0.35 * uniform(h, 8)
    myelin = 0.0
    nucleus = 0.0
    if k == 0:
        radius = -100 + 230 * size**1.4
        if pick < 0.14:
            kind = BOUTON
        elif pick < 0.55:
            kind = DENDRITE
        elif pick > 0.93:
            kind = GLIA
    elif k == 1:
        if t > 0.72:
            return -1
        radius = 60 + 520 * size**1.6
        if pick < 0.40:
            kind = BOUTON
        elif pick < 0.80:
            kind = DENDRITE
        elif pick < 0.90:
            kind = GLIA
        if uniform(h, 9) < 0.6 * tract**4:
            kind = DENDRITE
            myelin = 60 + 60 * uniform(h, 10) + 0.14 * radius
            aspect = 1.0 + 0.5 * uniform(h, 5)
    elif k == 2:
        if t > 0.55:
            return -1
        radius = 350 + 1250 * size**2
        kind = DENDRITE
        if pick > 0.9:
            kind = GLIA
        elif uniform(h, 9) < 0.9 * tract**3:
            myelin = 110 + 70 * uniform(h, 10) + 0.1 * radius
            aspect = 1.0 + 0.4 * uniform(h, 5)
    else:
        if t > 0.5:
            return -1
        kind = SOMA
        radius = 3000 + 2500 * size
        nucleus = radius * (0.62 + 0.16 * uniform(h, 10))
        aspect = 1.0 + 0.3 * uniform(h, 5)
        # Vessels keep away from the middle, where a small montage would see nothing else.
        if pick < 0.25 and x * x + y * y > 45.0**2:
            kind = VESSEL
            radius = 2200 + 2600 * size
            nucleus = 0.0
    if kind == GLIA:
        darkness += 0.07
        grain *= 1.25
    elif kind == BOUTON:
        darkness += 0.02
    elif kind == DENDRITE:
        darkness -= 0.025
    angle = direction + 1.3 * (uniform(h, 11) - 0.5)
    co, si = np.cos(angle), np.sin(angle)
    along, across = 1 / aspect, aspect
    cell[RADIUS] = radius
    cell[METRIC_XX] = along * co * co + across * si * si
    cell[METRIC_XY] = (along - across) * co * si
    cell[METRIC_YY] = along * si * si + across * co * co
    cell[STEEPEST] = np.sqrt(aspect)
    cell[DARKNESS] = darkness
    cell[GRAIN] = grain
    cell[MYELIN] = myelin
    turn = 2 * np.pi * uniform(h, 12)
    cell[SYNAPSE_X], cell[SYNAPSE_Y] = np.cos(turn), np.sin(turn)
    # Half the length of the synaptic density, 90–190 nm, as the angle seen from the centre.
    half = (90 + 100 * uniform(h, 13)) / max(150.0 + radius, 180.0)
    cell[SYNAPSE_COS] = np.cos(min(half, 1.2))
    cell[NUCLEUS] = nucleus
    cell[BLOOD] = 1.0 if kind == VESSEL and uniform(h, 14) < 0.35 else 0.0
    return kind


@njit(nogil=True, cache=True)
def _draw_mitos(h, k, kind, cell, mitos, n):
    """Add the mitochondria of one cell; return how many there are in the table now."""
    radius = cell[RADIUS]
    first = n
    if kind == VESSEL:
        return n
    u = uniform(h, 20)
    if k == 0:
        count = int(u < 0.13 and radius > -20)
        reach = 40.0
    elif k == 1:
        count = int(u * 2.6)
        reach = 0.62 * radius
    elif k == 2:
        count = int(u * 4.99)
        reach = 0.7 * radius
    else:
        count = 44
        reach = radius
    for m in range(count):
        base = 30 + 10 * m
        turn = 2 * np.pi * uniform(h, base)
        far = reach * np.sqrt(uniform(h, base + 1))
        if kind == SOMA:
            inner = cell[NUCLEUS] + 350
            far = inner + max(radius - inner - 150, 0) * uniform(h, base + 1)
        mito = mitos[n]
        mito[MITO_X], mito[MITO_Y] = far * np.cos(turn), far * np.sin(turn)
        free = True
        for other in range(first, n):
            dx, dy = mito[MITO_X] - mitos[other, MITO_X], mito[MITO_Y] - mitos[other, MITO_Y]
            free &= dx * dx + dy * dy > 420.0**2
        if not free:
            continue
        axis = np.pi * uniform(h, base + 2)
        mito[MITO_COS], mito[MITO_SIN] = np.cos(axis), np.sin(axis)
        scale = 0.75 + 0.6 * uniform(h, base + 3)
        stretch = 1.0 + 1.2 * uniform(h, base + 4) ** 2
        width = 150.0 if k == 0 else 185.0
        mito[MITO_A], mito[MITO_B] = width * scale * stretch, width * scale
        mito[MITO_PERIOD] = 34 + 14 * uniform(h, base + 5)
        mito[MITO_CRISTAE] = 0.05 + 0.16 * uniform(h, base + 6)
        n += 1
    return n
