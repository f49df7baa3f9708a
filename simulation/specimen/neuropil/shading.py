"""The kernels that turn cells into darkness, pixel by pixel: membranes, organelles, vesicles.

Darkness is absorbance for a section of nominal thickness: transmission is exp(−darkness · thickness).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from simulation.specimen.neuropil.cells import (
    BOUTON,
    DARKNESS,
    DENDRITE,
    GLIA,
    GRAIN,
    METRIC_XX,
    METRIC_XY,
    METRIC_YY,
    MITO_A,
    MITO_B,
    MITO_COS,
    MITO_CRISTAE,
    MITO_PERIOD,
    MITO_SIN,
    MITO_X,
    MITO_Y,
    MYELIN,
    NUCLEUS,
    RADIUS,
    REACH,
    SEA,
    SOMA,
    SPACING,
    STEEPEST,
    SYNAPSE_COS,
    SYNAPSE_X,
    SYNAPSE_Y,
    VESSEL,
)
from simulation.specimen.neuropil.hashing import mix, place_hash, uniform

BLOCK = 16
"""Side in px of the blocks for which the cells that matter are chosen together."""
N_OBLIQUE = 16
PROFILE_STEP = 1.0
SEA_LEVEL = 60.0
MAX_NEAR = 96


def membrane_profiles(level):
    """Tabulate the darkness across a membrane pair, by how obliquely it is cut.

    Parameters
    ----------
    level : int
        Pixel size, in nm; the profile is blurred by about half a pixel.

    Returns
    -------
    ndarray of float32, shape (16, n)
        Darkness at 0, 1, 2 … nm from the middle between two cells.
    """
    reach = int(160 + 2.0 * level)
    d = np.arange(-2 * reach, 2 * reach + 1, PROFILE_STEP)
    # Two membranes of two leaflets each, 15 nm apart, with a grey cleft between them.
    bilayer = np.zeros_like(d)
    for middle in (-7.5, 7.5):
        for leaflet in (-2.1, 2.1):
            bilayer += 0.95 * np.exp(-0.5 * ((d - middle - leaflet) / 1.5) ** 2)
    bilayer += 0.10 * np.exp(-0.5 * (d / 4.0) ** 2)
    profiles = []
    for k in range(N_OBLIQUE):
        # The section is 45 nm thick: a tilted membrane is smeared over thickness · tan(tilt).
        smear = 5.0 + 95.0 * (k / (N_OBLIQUE - 1)) ** 2.2
        box = np.clip(smear / 2 + 0.5 - np.abs(d), 0, 1)
        gauss = np.exp(-0.5 * (d / (0.5 * level)) ** 2)
        kernel = np.convolve(box / box.sum(), gauss / gauss.sum(), mode="same")
        profiles.append(np.convolve(bilayer, kernel, mode="same")[2 * reach : 3 * reach])
    return np.array(profiles, np.float32)


@njit(nogil=True, cache=True, inline="always")
def _line(distance, half_width, level):
    """Darkness of a thin line, blurred to the pixel so that its sum over pixels is kept."""
    wide = np.sqrt(half_width * half_width + np.float32(0.2) * level * level)
    t = distance / wide
    return half_width / wide * np.exp(-t * t)


@njit(nogil=True, cache=True, inline="always")
def _ramp(low, high, value):
    t = min(max((value - low) / (high - low), np.float32(0)), np.float32(1))
    return t * t * (3 - 2 * t)


@njit(nogil=True, cache=True)
def _nearby(cells, finest, x, y, radius, near):
    """List the cells that are first or second nearest anywhere within `radius` of a place."""
    lattices, centres, parameters, kinds = cells[0], cells[1], cells[2], cells[3]
    best, second = np.float64(1e9), np.float64(1e9)
    n = 0
    lows = np.empty(MAX_NEAR)
    for k in range(finest, 4):
        i0 = int(np.floor(y / SPACING[k])) - REACH[k] - lattices[k, 0]
        j0 = int(np.floor(x / SPACING[k])) - REACH[k] - lattices[k, 1]
        for i in range(max(i0, 0), min(i0 + 2 * REACH[k] + 1, lattices[k, 2])):
            for j in range(max(j0, 0), min(j0 + 2 * REACH[k] + 1, lattices[k, 3])):
                c = lattices[k, 4] + i * lattices[k, 3] + j
                if kinds[c] < 0:
                    continue
                p = parameters[c]
                dx, dy = x - centres[c, 0], y - centres[c, 1]
                q = p[METRIC_XX] * dx * dx + 2 * p[METRIC_XY] * dx * dy + p[METRIC_YY] * dy * dy
                f = np.sqrt(q) - p[RADIUS]
                spread = p[STEEPEST] * radius
                if f + spread < second:
                    if f + spread < best:
                        second = best
                        best = f + spread
                    else:
                        second = f + spread
                if f - spread <= second and n < MAX_NEAR:
                    near[n] = c
                    lows[n] = f - spread
                    n += 1
    kept = 0
    for k in range(n):
        if lows[k] <= second:
            near[kept] = near[k]
            kept += 1
    return kept


@njit(nogil=True, cache=True, fastmath=True)
def _two_nearest(cells, near, n, x0, y0, u, v, sea, f1, f2, first, second):
    """Find the two nearest cells of every pixel of a block, and their distances."""
    f1[:] = 1e9
    f2[:] = 1e9
    first[:] = near[0] if n > 0 else SEA
    second[:] = first[0]
    if sea:
        f1[:] = SEA_LEVEL
        first[:] = SEA
        second[:] = SEA
    for k in range(n):
        c = near[k]
        p = cells[2][c]
        cx, cy = np.float32(cells[1][c, 0] - x0), np.float32(cells[1][c, 1] - y0)
        a, b, d, r = p[METRIC_XX], np.float32(2) * p[METRIC_XY], p[METRIC_YY], p[RADIUS]
        for m in range(f1.size):
            dx, dy = u[m] - cx, v[m] - cy
            f = np.sqrt(a * dx * dx + b * dx * dy + d * dy * dy) - r
            nearer = f < f1[m]
            closer = f < f2[m]
            second[m] = first[m] if nearer else (c if closer else second[m])
            f2[m] = f1[m] if nearer else (f if closer else f2[m])
            first[m] = c if nearer else first[m]
            f1[m] = f if nearer else f1[m]


@njit(nogil=True, cache=True, fastmath=True)
def shade(level, row0, column0, finest, cells, warp_u, warp_v, texture, wrinkle, profiles, outputs):
    """Draw the cells of a rectangle.

    Parameters
    ----------
    level : int
        Pixel size, in nm.
    row0, column0 : int
        First pixel on the grid of the level; multiples of `BLOCK`.
    finest : int
        First lattice of cells to draw.
    cells : tuple
        See `cells.Cells`.
    warp_u, warp_v : ndarray of float32, shape (H, W)
        How far each pixel is moved before the cells are looked up, in nm.
    texture, wrinkle : ndarray of float32, shape (H, W)
        Grain of the cytoplasm, and a smooth field of unit variance that bends organelles.
    profiles : ndarray of float32
        See `membrane_profiles`.
    outputs : tuple of ndarray, shape (H, W)
        Written: darkness (float32); cell (int32); room (float32), the distance to the nearest membrane or
        organelle, in nm; crowd (float32), density of vesicles from 0 to 1.
    """
    darkness, owner, room, crowd = outputs
    size = BLOCK * BLOCK
    u, v = np.empty(size, np.float32), np.empty(size, np.float32)
    f1, f2 = np.empty(size, np.float32), np.empty(size, np.float32)
    first, second = np.empty(size, np.int32), np.empty(size, np.int32)
    near = np.empty(MAX_NEAR, np.int32)
    mito_list = np.empty((64, 2), np.int32)
    sea = finest > 0
    nm = np.float32(level)
    for by in range(0, darkness.shape[0], BLOCK):
        for bx in range(0, darkness.shape[1], BLOCK):
            x0, y0 = np.float64((column0 + bx) * level), np.float64((row0 + by) * level)
            low_u, high_u, low_v, high_v = 1e9, -1e9, 1e9, -1e9
            for i in range(BLOCK):
                for j in range(BLOCK):
                    m = i * BLOCK + j
                    u[m] = (np.float32(j) + np.float32(0.5)) * nm + warp_u[by + i, bx + j]
                    v[m] = (np.float32(i) + np.float32(0.5)) * nm + warp_v[by + i, bx + j]
                    low_u, high_u = min(low_u, u[m]), max(high_u, u[m])
                    low_v, high_v = min(low_v, v[m]), max(high_v, v[m])
            mid_u, mid_v = (low_u + high_u) / 2, (low_v + high_v) / 2
            radius = np.sqrt((high_u - mid_u) ** 2 + (high_v - mid_v) ** 2)
            n = _nearby(cells, finest, x0 + mid_u, y0 + mid_v, radius, near)
            _two_nearest(cells, near, n, x0, y0, u, v, sea, f1, f2, first, second)
            n_mitos = _mitos_of(cells, near, n, x0 + mid_u, y0 + mid_v, radius, mito_list)
            for i in range(BLOCK):
                for j in range(BLOCK):
                    m = i * BLOCK + j
                    _shade_pixel(
                        nm, cells, profiles, x0, y0, u[m], v[m], f1[m], f2[m], first[m], second[m],
                        mito_list, n_mitos, by + i, bx + j, texture, wrinkle, outputs,
                    )  # fmt: skip


@njit(nogil=True, cache=True)
def _mitos_of(cells, near, n, x, y, radius, found):
    """List the mitochondria of the cells `near` that reach within `radius` of a place."""
    count = 0
    for k in range(n):
        c = near[k]
        for m in range(cells[5][c], cells[5][c + 1]):
            mito = cells[6][m]
            dx = x - cells[1][c, 0] - mito[MITO_X]
            dy = y - cells[1][c, 1] - mito[MITO_Y]
            if dx * dx + dy * dy < (radius + 1.1 * mito[MITO_A] + 60) ** 2 and count < 64:
                found[count, 0], found[count, 1] = c, m
                count += 1
    return count


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _shade_pixel(
    nm,
    cells,
    profiles,
    x0,
    y0,
    u,
    v,
    f1,
    f2,
    a,
    b,
    mito_list,
    n_mitos,
    i,
    j,
    texture,
    wrinkle,
    outputs,
):
    pa, pb = cells[2][a], cells[2][b]
    bend, grain = wrinkle[i, j], texture[i, j]
    ax, ay = u - np.float32(cells[1][a, 0] - x0), v - np.float32(cells[1][a, 1] - y0)
    bx, by = u - np.float32(cells[1][b, 0] - x0), v - np.float32(cells[1][b, 1] - y0)
    # f2 − f1 grows at the rate of the difference of the gradients: that makes it a distance.
    ra, rb = max(f1 + pa[RADIUS], np.float32(1)), max(f2 + pb[RADIUS], np.float32(1))
    if a == SEA:
        ra = np.float32(1e9)
    if b == SEA:
        rb = np.float32(1e9)
    gx = (pb[METRIC_XX] * bx + pb[METRIC_XY] * by) / rb - (
        pa[METRIC_XX] * ax + pa[METRIC_XY] * ay
    ) / ra
    gy = (pb[METRIC_XY] * bx + pb[METRIC_YY] * by) / rb - (
        pa[METRIC_XY] * ax + pa[METRIC_YY] * ay
    ) / ra
    d = (f2 - f1) / max(np.sqrt(gx * gx + gy * gy), np.float32(0.4))
    kind = cells[3][a]

    # What the cell is filled with.
    dark = pa[DARKNESS] + pa[GRAIN] * grain
    inside = d - np.float32(8)
    if pa[MYELIN] > 0:
        inside -= pa[MYELIN]
        if inside < 0:
            fade = np.exp(-np.float32(0.034) * nm * nm)
            dark = (
                np.float32(1.02)
                + np.float32(0.35) * fade * np.cos(d * np.float32(2 * np.pi / 11.5))
                + np.float32(0.5) * grain
            )
        else:
            dark += np.float32(0.5) * _line(inside, np.float32(6), nm)
    if kind == SOMA:
        dark, inside = _soma(nm, pa, f1 + pa[RADIUS], inside, bend, grain, dark)
    elif kind == VESSEL:
        wall = np.float32(420) + np.float32(160) * bend
        if inside > wall:
            dark = np.float32(0.10) + np.float32(0.15) * grain
        dark += np.float32(0.5) * _line(inside - wall, np.float32(6), nm)
        inside = np.float32(-1)
    elif bend > np.float32(0.3) and inside > 40:
        # Cisterns of endoplasmic reticulum follow the level lines of a smooth field.
        some = _ramp(np.float32(0.3), np.float32(0.7), bend)
        dark += (
            np.float32(0.26)
            * some
            * _line((bend - np.float32(0.95)) * np.float32(70), np.float32(5), nm)
        )
    for k in range(n_mitos):
        if mito_list[k, 0] == a:
            dark, inside = _mito(
                nm, cells[6][mito_list[k, 1]], ax, ay, d, inside, bend, grain, dark
            )

    # Synapses: a thin dense line before, a thick one behind, vesicles near the first.
    full = np.float32(0)
    if kind == BOUTON:
        cosine = (ax * pa[SYNAPSE_X] + ay * pa[SYNAPSE_Y]) / np.sqrt(ax * ax + ay * ay + 1)
        zone = _ramp(pa[SYNAPSE_COS] - np.float32(0.08), pa[SYNAPSE_COS] + np.float32(0.05), cosine)
        t = d / np.float32(22)
        dark += np.float32(0.5) * zone * np.exp(-t * t)
        if inside > 26:
            near_zone = _ramp(np.float32(-0.5), np.float32(0.9), cosine)
            full = np.float32(0.25) + np.float32(0.75) * near_zone
    if cells[3][b] == BOUTON:
        cosine = (bx * pb[SYNAPSE_X] + by * pb[SYNAPSE_Y]) / np.sqrt(bx * bx + by * by + 1)
        zone = _ramp(pb[SYNAPSE_COS] - np.float32(0.08), pb[SYNAPSE_COS] + np.float32(0.05), cosine)
        t = max(d - np.float32(14), np.float32(0)) / np.float32(18)
        dark += np.float32(0.85) * zone * np.exp(-t * t)

    # The membrane itself, cut at an angle that belongs to the pair of cells.
    n_profile = profiles.shape[1]
    k = int(d)
    if k < n_profile - 1:
        pair = mix(cells[4][a] ^ cells[4][b])
        tilt = np.float32(pair >> np.uint64(48)) * np.float32(1 / 65536)
        oblique = tilt * tilt * np.float32(13) + np.float32(1.6) * (bend + np.float32(0.5))
        q = min(max(int(oblique), 0), N_OBLIQUE - 1)
        t = d - np.float32(k)
        dark += (np.float32(1) - t) * profiles[q, k] + t * profiles[q, k + 1]
    outputs[0][i, j] = dark
    outputs[1][i, j] = a
    outputs[2][i, j] = inside
    outputs[3][i, j] = full


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _mito(nm, mito, ax, ay, d, inside, bend, grain, dark):
    """Draw a mitochondrion over what is there, clear of the cell's membrane."""
    x, y = ax - mito[MITO_X], ay - mito[MITO_Y]
    along = x * mito[MITO_COS] + y * mito[MITO_SIN]
    across = y * mito[MITO_COS] - x * mito[MITO_SIN]
    ea, eb = along / mito[MITO_A], across / mito[MITO_B]
    s = (np.sqrt(ea * ea + eb * eb) - 1) * mito[MITO_B]
    s = max(s, np.float32(24) - d)
    if s > 40 + nm:
        return dark, inside
    matrix = np.float32(0.62) + np.float32(0.8) * grain
    if nm <= 24:
        phase = along / mito[MITO_PERIOD] + np.float32(0.55) * bend + across * np.float32(0.004)
        c = np.cos(np.float32(2 * np.pi) * phase)
        fade = np.exp(-np.float32(2) * nm * nm / (mito[MITO_PERIOD] * mito[MITO_PERIOD]))
        deep = _ramp(np.float32(12), np.float32(30), -s)
        matrix += mito[MITO_CRISTAE] * np.float32(1.6) * fade * c * deep
    edge = _ramp(np.float32(0.35) * nm + 4, -np.float32(0.35) * nm - 4, s)
    dark += (matrix - dark) * edge
    dark += np.float32(0.42) * _line(s + np.float32(2), np.float32(5), nm)
    dark += np.float32(0.25) * _line(s + np.float32(19), np.float32(5), nm)
    dark -= np.float32(0.14) * _line(s + np.float32(10), np.float32(4), nm)
    return dark, min(inside, s - np.float32(8))


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _soma(nm, p, distance, inside, bend, grain, dark):
    """Draw the nucleus of a cell body, and rough reticulum round it."""
    s = distance - p[NUCLEUS] * (np.float32(1) + np.float32(0.02) * bend)
    s = max(s, np.float32(450) - inside)
    if s < 0:
        clump = _ramp(np.float32(0.2), np.float32(1.3), bend) * np.float32(0.16)
        rim = (
            np.float32(0.20)
            * np.exp(s / np.float32(140))
            * _ramp(np.float32(-0.6), np.float32(0.2), bend)
        )
        dark = np.float32(0.31) + np.float32(0.9) * grain + clump + rim
        core = distance / (np.float32(0.22) * p[NUCLEUS]) + np.float32(0.25) * bend
        dark += np.float32(0.34) * _ramp(np.float32(1.1), np.float32(0.9), core)
    else:
        wave = bend * np.float32(2.5)
        ridge = wave - np.floor(wave) - np.float32(0.5)
        dark += (
            np.float32(0.24)
            * _line(ridge * np.float32(55), np.float32(6), nm)
            * _ramp(np.float32(60), np.float32(160), min(s, inside))
        )
    dark += np.float32(0.5) * _line(s, np.float32(5), nm)
    dark += np.float32(0.4) * _line(s - np.float32(26), np.float32(5), nm)
    return dark, min(inside, abs(s - np.float32(13)) - np.float32(25))


@njit(nogil=True, cache=True)
def stamp(level, row0, column0, seed, cells, outputs):
    """Draw what is round and small: vesicles, microtubules and granules, each on a jittered lattice.

    Parameters
    ----------
    level, row0, column0
        See `shade`.
    seed : int
        Of the section.
    cells, outputs : tuple
        See `shade`; the darkness is changed in place.
    """
    owner, room, crowd = outputs[1], outputs[2], outputs[3]
    kinds = cells[3]
    height, width = owner.shape
    for lattice in range(3):
        spacing = (50.0, 84.0, 46.0)[lattice]
        for si in range(int(row0 * level / spacing), int((row0 + height) * level / spacing) + 1):
            for sj in range(
                int(column0 * level / spacing), int((column0 + width) * level / spacing) + 1
            ):
                h = place_hash(seed, 100 + lattice, si, sj)
                y = (si + 0.5 + 0.8 * (uniform(h, 0) - 0.5)) * spacing / level - row0
                x = (sj + 0.5 + 0.8 * (uniform(h, 1) - 0.5)) * spacing / level - column0
                i, j = int(np.floor(y)), int(np.floor(x))
                if i < 0 or j < 0 or i >= height or j >= width or room[i, j] < 15:
                    continue
                kind = kinds[owner[i, j]]
                chance = uniform(h, 2)
                if lattice == 0 and chance < crowd[i, j]:
                    radius = 17 + 5 * uniform(h, 3)
                    if uniform(h, 4) < 0.025:
                        _disc(outputs[0], y, x, level, 34.0, 0.6)
                    else:
                        _ring(outputs[0], y, x, level, radius, 0.40)
                elif lattice == 1 and kind == DENDRITE and chance < 0.5:
                    _disc(outputs[0], y, x, level, 10.0, 0.30)
                elif lattice == 2 and (
                    (kind == GLIA and chance < 0.25) or (kind == SOMA and chance < 0.3)
                ):
                    _disc(outputs[0], y, x, level, 9.0, 0.35)


@njit(nogil=True, cache=True, fastmath=True)
def _ring(darkness, y, x, level, radius, depth):
    """Draw a vesicle: a dark ring with a slightly clearer lumen."""
    reach = (radius + 12) / level + 1
    sharp = 4.0**2 + (0.5 * level) ** 2
    depth *= 4.0 / np.sqrt(sharp)
    for i in range(max(int(y - reach), 0), min(int(y + reach) + 1, darkness.shape[0])):
        for j in range(max(int(x - reach), 0), min(int(x + reach) + 1, darkness.shape[1])):
            r = np.sqrt((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) * level
            off = r - radius
            darkness[i, j] += depth * np.exp(-0.5 * off * off / sharp)
            if off < 0:
                darkness[i, j] -= 0.05


@njit(nogil=True, cache=True, fastmath=True)
def _disc(darkness, y, x, level, radius, depth):
    """Draw a soft dark dot."""
    wide = np.sqrt(radius**2 + (0.5 * level) ** 2)
    depth *= (radius / wide) ** 2
    reach = 2.2 * wide / level
    for i in range(max(int(y - reach), 0), min(int(y + reach) + 1, darkness.shape[0])):
        for j in range(max(int(x - reach), 0), min(int(x + reach) + 1, darkness.shape[1])):
            t = ((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) * (level / wide) ** 2
            darkness[i, j] += depth * np.exp(-t * t)


@njit(nogil=True, cache=True, fastmath=True)
def develop(darkness, pad, thickness, result):
    """Turn darkness into transmission × 255, without the margin.

    Parameters
    ----------
    darkness : ndarray of float32, shape (H + 2 pad, W + 2 pad)
    pad : int
    thickness : ndarray of float32, shape (H, W)
        Relative to nominal.
    result : ndarray of uint8, shape (H, W)
        Written.
    """
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            dark = max(darkness[pad + i, pad + j], np.float32(0.02)) * thickness[i, j]
            result[i, j] = np.uint8(np.float32(255) * np.exp(-dark) + np.float32(0.5))
