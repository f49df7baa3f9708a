"""The kernels that turn cells into darkness, pixel by pixel: membranes, organelles, vesicles.

Darkness is absorbance for a section of nominal thickness: transmission is exp(−darkness ·
thickness).
"""

# Array views and array arguments cost more than the arithmetic here: inner functions take and
# return numbers (many: PLR0917), and index whole arrays directly. Float32 throughout, for speed.

# ruff: noqa: PLR0912, PLR0915, PLR0917

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from simulation.specimen.neuropil.cells import (
    BLOOD,
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
SEA_DISTANCE = 60.0
"""How near, in nm, the sea of unresolved processes is everywhere at coarse levels."""
MAX_NEAR = 96
MAX_MITOS = 64
COARSEST_STAMPED = 16
"""Vesicles and microtubules are drawn one by one up to this level, in nm."""
CRISTAE_LIMIT = 24.0
"""Coarsest pixel, in nm, that shows cristae."""

F = np.float32
_TURN = F(2 * np.pi)
_SHIFT = np.uint64(48)


@cache
def membrane_profiles(level: int) -> NDArray[np.float32]:
    """Tabulate the darkness across the membranes of two neighbours, by how obliquely they are cut.

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
    d = np.arange(-2 * reach, 2 * reach + 1.0)
    # Two membranes of two leaflets each, 15 nm apart, with a grey cleft between them.
    bilayers = 0.12 * np.exp(-0.5 * (d / 4.0) ** 2)
    for middle in (-7.5, 7.5):
        for leaflet in (-2.1, 2.1):
            bilayers += 1.15 * np.exp(-0.5 * ((d - middle - leaflet) / 1.5) ** 2)
    profiles = []
    for k in range(N_OBLIQUE):
        # The section is 45 nm thick: a tilted membrane is smeared over thickness · tan(tilt).
        smear = 5.0 + 95.0 * (k / (N_OBLIQUE - 1)) ** 2.2
        box = np.clip(smear / 2 + 0.5 - np.abs(d), 0, 1)
        gauss = np.exp(-0.5 * (d / (0.5 * level)) ** 2)
        kernel = fftconvolve(box / box.sum(), gauss / gauss.sum(), mode="same")
        profiles.append(fftconvolve(bilayers, kernel, mode="same")[2 * reach : 3 * reach])
    return np.array(profiles, np.float32)


@njit(nogil=True, cache=True, fastmath=True)
def shade(level, row0, column0, finest, cells, warp, texture, wrinkle, profiles, outputs):
    """Draw the cells of a rectangle.

    Parameters
    ----------
    level : int
        Pixel size, in nm.
    row0, column0 : int
        First pixel on the grid of the level; multiples of `BLOCK`, so that the blocks, and with
        them the last bit of every pixel, are the same for every rectangle.
    finest : int
        First lattice of cells to draw.
    cells : tuple
        See `cells.Cells`.
    warp : tuple of two ndarray of float32, shape (H, W)
        How far each pixel is moved along x and y before the cells are looked up, in nm.
    texture, wrinkle : ndarray of float32, shape (H, W)
        Grain of the cytoplasm, and a smooth field of about unit variance that bends organelles.
    profiles : ndarray of float32
        See `membrane_profiles`.
    outputs : tuple of ndarray, shape (H, W)
        Written: darkness (float32); owner (int32), the cell; room (float32), distance to the
        nearest membrane or organelle in nm; crowd (float32), density of vesicles from 0 to 1.
    """
    size = BLOCK * BLOCK
    u, v = np.empty(size, np.float32), np.empty(size, np.float32)
    f1, f2 = np.empty(size, np.float32), np.empty(size, np.float32)
    first, second = np.empty(size, np.int32), np.empty(size, np.int32)
    block = (u, v, f1, f2, first, second)
    near = np.empty(MAX_NEAR, np.int32)
    lows = np.empty(MAX_NEAR)
    mito_list = np.empty((MAX_MITOS, 2), np.int32)
    nm = F(level)
    for top in range(0, texture.shape[0], BLOCK):
        for left in range(0, texture.shape[1], BLOCK):
            x0, y0 = np.float64((column0 + left) * level), np.float64((row0 + top) * level)
            low_u, high_u, low_v, high_v = F(1e9), F(-1e9), F(1e9), F(-1e9)
            for i in range(BLOCK):
                for j in range(BLOCK):
                    m = i * BLOCK + j
                    u[m] = (F(j) + F(0.5)) * nm + warp[0][top + i, left + j]
                    v[m] = (F(i) + F(0.5)) * nm + warp[1][top + i, left + j]
                    low_u, high_u = min(low_u, u[m]), max(high_u, u[m])
                    low_v, high_v = min(low_v, v[m]), max(high_v, v[m])
            x, y = x0 + (low_u + high_u) / 2, y0 + (low_v + high_v) / 2
            radius = np.sqrt((high_u - low_u) ** 2 + (high_v - low_v) ** 2) / 2
            n = _find_near(cells, finest, x, y, radius, near, lows)
            n_mitos = _find_mitos(cells, near, n, x, y, radius, mito_list)
            _two_nearest(cells, near, n, x0, y0, finest > 0, block)
            _shade_block(
                nm, cells, profiles, x0, y0, block, mito_list, n_mitos, top, left, texture,
                wrinkle, outputs
            )  # fmt: skip


@njit(nogil=True, cache=True)
def _find_near(cells, finest, x, y, radius, near, lows):
    """List the cells that are first or second nearest anywhere within `radius` of a place.

    The distance to a cell changes by at most `STEEPEST` · radius within the circle, so a cell that
    is farther than that beyond the second nearest can be left out without any change to a pixel.
    """
    lattices, centres, parameters, kinds = cells[0], cells[1], cells[2], cells[3]
    best, second = 1e9, 1e9
    n = 0
    for k in range(finest, 4):
        i0 = int(np.floor(y / SPACING[k])) - REACH[k] - lattices[k, 0]
        j0 = int(np.floor(x / SPACING[k])) - REACH[k] - lattices[k, 1]
        for i in range(max(i0, 0), min(i0 + 2 * REACH[k] + 1, lattices[k, 2])):
            for j in range(max(j0, 0), min(j0 + 2 * REACH[k] + 1, lattices[k, 3])):
                c = lattices[k, 4] + i * lattices[k, 3] + j
                if kinds[c] < 0:
                    continue
                dx, dy = x - centres[c, 0], y - centres[c, 1]
                q = (
                    parameters[c, METRIC_XX] * dx * dx
                    + 2 * parameters[c, METRIC_XY] * dx * dy
                    + parameters[c, METRIC_YY] * dy * dy
                )
                f = np.sqrt(q) - parameters[c, RADIUS]
                spread = parameters[c, STEEPEST] * radius
                if f + spread < best:
                    best, second = f + spread, best
                elif f + spread < second:
                    second = f + spread
                if f - spread <= second and n < MAX_NEAR:
                    near[n], lows[n] = c, f - spread
                    n += 1
    kept = 0
    for k in range(n):
        if lows[k] <= second:
            near[kept] = near[k]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _find_mitos(cells, near, n, x, y, radius, found):
    """List (cell, mitochondrion) of the cells `near` that reach within `radius` of a place."""
    centres, mito_first, mitos = cells[1], cells[5], cells[6]
    count = 0
    for k in range(n):
        c = near[k]
        for m in range(mito_first[c], mito_first[c + 1]):
            dx = x - centres[c, 0] - mitos[m, MITO_X]
            dy = y - centres[c, 1] - mitos[m, MITO_Y]
            if (
                dx * dx + dy * dy < (radius + 1.4 * mitos[m, MITO_A] + 60) ** 2
                and count < MAX_MITOS
            ):
                found[count, 0], found[count, 1] = c, m
                count += 1
    return count


@njit(nogil=True, cache=True, fastmath=True)
def _two_nearest(cells, near, n, x0, y0, sea, block):
    """Find the two nearest cells of every pixel of a block, and their distances."""
    centres, parameters = cells[1], cells[2]
    u, v, f1, f2, first, second = block
    f1[:] = SEA_DISTANCE if sea else 1e8
    f2[:] = 1e9
    first[:] = SEA if sea or n == 0 else near[0]
    second[:] = first[0]
    for k in range(n):
        c = near[k]
        cx, cy = F(centres[c, 0] - x0), F(centres[c, 1] - y0)
        xx, xy, yy = (
            parameters[c, METRIC_XX],
            F(2) * parameters[c, METRIC_XY],
            parameters[c, METRIC_YY],
        )
        r = parameters[c, RADIUS]
        for m in range(u.size):
            dx, dy = u[m] - cx, v[m] - cy
            f = np.sqrt(xx * dx * dx + xy * dx * dy + yy * dy * dy) - r
            nearest, next_nearest = f < f1[m], f < f2[m]
            second[m] = first[m] if nearest else (c if next_nearest else second[m])
            f2[m] = f1[m] if nearest else (f if next_nearest else f2[m])
            first[m] = c if nearest else first[m]
            f1[m] = f if nearest else f1[m]


@njit(nogil=True, cache=True, fastmath=True)
def _shade_block(
    nm, cells, profiles, x0, y0, block, mito_list, n_mitos, top, left, texture, wrinkle, outputs
):
    """Shade the pixels of one block, whose two nearest cells are known."""
    _, centres, cell, kinds, hashes, _, mitos = cells
    us, vs, f1s, f2s, firsts, seconds = block
    darkness, owner, room, crowd = outputs
    n_profile = profiles.shape[1]
    for m in range(us.size):
        i, j = top + m // BLOCK, left + m % BLOCK
        f1, f2, a, b = f1s[m], f2s[m], firsts[m], seconds[m]
        bend, grain = wrinkle[i, j], texture[i, j]
        ax, ay = us[m] - F(centres[a, 0] - x0), vs[m] - F(centres[a, 1] - y0)
        bx, by = us[m] - F(centres[b, 0] - x0), vs[m] - F(centres[b, 1] - y0)
        # f2 − f1 over the length of its gradient is the distance to the boundary. The sea has no
        # slope.
        wa = F(0) if a == SEA else F(1) / max(f1 + cell[a, RADIUS], F(1))
        wb = F(0) if b == SEA else F(1) / max(f2 + cell[b, RADIUS], F(1))
        gx = wb * (cell[b, METRIC_XX] * bx + cell[b, METRIC_XY] * by)
        gy = wb * (cell[b, METRIC_XY] * bx + cell[b, METRIC_YY] * by)
        gx -= wa * (cell[a, METRIC_XX] * ax + cell[a, METRIC_XY] * ay)
        gy -= wa * (cell[a, METRIC_XY] * ax + cell[a, METRIC_YY] * ay)
        d = (f2 - f1) / max(np.sqrt(gx * gx + gy * gy), F(0.4))
        kind = kinds[a]
        inside = d - F(8)
        dark = cell[a, DARKNESS] + cell[a, GRAIN] * grain

        if cell[a, MYELIN] > 0:
            dark, inside = _myelin(nm, f1 + F(25), cell[a, MYELIN], inside, grain, dark)
        if kind == SOMA:
            centre_distance = f1 + cell[a, RADIUS]
            dark, inside = _soma(nm, cell[a, NUCLEUS], centre_distance, inside, bend, grain, dark)
        elif kind == VESSEL:
            dark, inside = _vessel(nm, cell[a, BLOOD], inside, bend, grain, dark)
        elif bend > F(0.35) and inside > 40:
            # Cisterns of endoplasmic reticulum follow the level lines of a smooth field.
            line = _line((bend - F(0.95)) * F(70), F(5), nm)
            dark += F(0.34) * line
        for k in range(n_mitos):
            if mito_list[k, 0] == a:
                q = mito_list[k, 1]
                x, y = ax - mitos[q, MITO_X], ay - mitos[q, MITO_Y]
                along = x * mitos[q, MITO_COS] + y * mitos[q, MITO_SIN]
                across = y * mitos[q, MITO_COS] - x * mitos[q, MITO_SIN]
                e1, e2 = along / mitos[q, MITO_A], across / mitos[q, MITO_B]
                s = (np.sqrt(e1 * e1 + e2 * e2) - F(1) + F(0.06) * bend) * mitos[q, MITO_B]
                # It keeps clear of the membrane of its cell, or takes the shape of it.
                s = max(s, F(18) - inside)
                if s < F(30) + nm:
                    dark = _mitochondrion(
                        nm, s, along, across, mitos[q, MITO_PERIOD], mitos[q, MITO_CRISTAE], bend,
                        grain, dark
                    )  # fmt: skip
                    inside = min(inside, s - F(8))

        full = F(0)
        if kind == BOUTON:
            cosine = (ax * cell[a, SYNAPSE_X] + ay * cell[a, SYNAPSE_Y]) / np.sqrt(
                ax * ax + ay * ay + F(1)
            )
            zone = _ramp(cell[a, SYNAPSE_COS] - F(0.08), cell[a, SYNAPSE_COS] + F(0.05), cosine)
            t = d / F(22)
            dark += F(0.5) * zone * np.exp(-t * t)
            if inside > 24:
                full = F(0.4) + F(0.6) * _ramp(F(-0.6), F(0.7), cosine)
                if nm > F(COARSEST_STAMPED):
                    dark += F(0.24) * full  # what the vesicles are on average
        if kinds[b] == BOUTON:
            # The far side of a synapse carries a thicker, denser line.
            cosine = (bx * cell[b, SYNAPSE_X] + by * cell[b, SYNAPSE_Y]) / np.sqrt(
                bx * bx + by * by + F(1)
            )
            zone = _ramp(cell[b, SYNAPSE_COS] - F(0.08), cell[b, SYNAPSE_COS] + F(0.05), cosine)
            t = max(d - F(14), F(0)) / F(18)
            dark += (F(0.8) + F(2) * grain) * zone * np.exp(-t * t)

        k = int(d)
        if k < n_profile - 1:
            # How obliquely the membranes are cut belongs to the pair of cells, and wanders.
            tilt = F(mix(hashes[a] ^ hashes[b]) >> _SHIFT) * F(1 / 65536)
            oblique = tilt * tilt * F(13) + F(1.6) * (bend + F(0.5))
            q = min(max(int(oblique), 0), N_OBLIQUE - 1)
            t = d - F(k)
            dark += (F(1) - t) * profiles[q, k] + t * profiles[q, k + 1]
        darkness[i, j] = dark
        owner[i, j] = a
        room[i, j] = inside
        crowd[i, j] = full


@njit(nogil=True, cache=True, fastmath=True)
def _line(distance, half_width, nm):
    """Darkness of a thin line, blurred to the pixel such that its sum over pixels is kept."""
    wide = np.sqrt(half_width * half_width + F(0.3) * nm * nm)
    t = distance / wide
    return half_width / wide * np.exp(-t * t)


@njit(nogil=True, cache=True, fastmath=True)
def _ramp(low, high, value):
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = min(max((value - low) / (high - low), F(0)), F(1))
    return t * t * (F(3) - F(2) * t)


@njit(nogil=True, cache=True, fastmath=True)
def _myelin(nm, outward, sheath, inside, grain, dark):
    """Draw a myelin sheath whose outside is where `outward` is 0; cytoplasm within and without."""
    depth = -outward
    edge = F(0.5) * nm + F(3)
    cover = _ramp(-edge, edge, depth) * _ramp(-edge, edge, sheath - depth)
    # Lamellae 11.5 nm apart, fading as the pixel grows.
    fade = np.exp(F(-0.034) * nm * nm)
    lamella = F(1.05) + F(0.4) * fade * np.cos(depth * _TURN / F(11.5)) + F(0.6) * grain
    dark += (lamella - dark) * cover
    room = depth - sheath if depth > sheath / 2 else min(-depth, inside)
    dark += F(0.5) * _line(depth - sheath - F(9), F(5), nm)
    return dark, min(inside, room - F(12))


@njit(nogil=True, cache=True, fastmath=True)
def _vessel(nm, blood, inside, bend, grain, dark):
    """Draw a capillary: an endothelial wall round an empty lumen or a red blood cell."""
    wall = F(400) + F(130) * bend
    depth = inside - wall
    cover = _ramp(-F(0.5) * nm - F(4), F(0.5) * nm + F(4), depth)
    dark += (F(0.10) + F(0.2) * grain - dark) * cover
    red = _ramp(-F(0.5) * nm - F(8), F(0.5) * nm + F(8), depth - F(330) - F(60) * bend)
    dark += blood * red * (F(0.85) + F(0.3) * grain)
    dark += F(0.5) * _line(depth, F(6), nm)
    return dark, F(-1)


@njit(nogil=True, cache=True, fastmath=True)
def _mitochondrion(nm, s, along, across, period, cristae, bend, grain, dark):
    """Draw a mitochondrion over what is there; `s` is how far its outline is, negative inside."""
    matrix = F(0.66) + F(0.9) * grain
    if nm <= F(CRISTAE_LIMIT):
        phase = along / period + F(0.7) * bend + across * F(0.004)
        wave = np.cos(_TURN * phase) + F(0.6) * np.cos(
            _TURN * (F(0.43) * phase + across / (F(5) * period) + F(0.4) * bend)
        )
        fade = np.exp(F(-2) * nm * nm / (period * period))
        matrix += cristae * fade * wave * _ramp(F(14), F(30), -s)
    edge = F(0.35) * nm + F(4)
    dark += (matrix - dark) * _ramp(edge, -edge, s)
    dark += F(0.5) * _line(s + F(2), F(5), nm)
    dark += F(0.30) * _line(s + F(19), F(5), nm)
    return dark - F(0.20) * _line(s + F(10), F(4), nm)


@njit(nogil=True, cache=True, fastmath=True)
def _soma(nm, nucleus, distance, inside, bend, grain, dark):
    """Draw the nucleus of a cell body, and rough reticulum round it."""
    s = distance - nucleus * (F(1) + F(0.02) * bend)
    s = max(s, F(450) - inside)
    if s < 0:
        clump = F(0.17) * _ramp(F(0.3), F(1.2), bend)
        rim = F(0.22) * np.exp(s / F(140)) * _ramp(F(-0.6), F(0.3), bend)
        dark = F(0.31) + F(1.1) * grain + clump + rim
        core = distance / (F(0.22) * nucleus) + F(0.22) * bend
        dark += F(0.34) * _ramp(F(1.1), F(0.9), core)
    else:
        ridge = bend * F(2.2)
        ridge -= np.floor(ridge) + F(0.5)
        zone = _ramp(F(60), F(160), min(s, inside))
        dark += F(0.28) * zone * _line(ridge * F(60), F(6), nm)
    dark += F(0.55) * _line(s, F(5), nm)
    dark += F(0.45) * _line(s - F(26), F(5), nm)
    return dark, min(inside, abs(s - F(13)) - F(25))


@njit(nogil=True, cache=True)
def stamp(level, row0, column0, seed, cells, outputs):
    """Draw what is round and small: vesicles, microtubules and granules, on jittered lattices.

    Parameters
    ----------
    level, row0, column0
        See `shade`.
    seed : int
        Of the section.
    cells, outputs : tuple
        See `shade`; the darkness is changed in place.
    """
    darkness, owner, room, crowd = outputs
    kinds = cells[3]
    height, width = owner.shape
    for lattice in range(3):
        spacing = (47.0, 84.0, 42.0)[lattice]
        for si in range(
            int(np.floor(row0 * level / spacing)), int((row0 + height) * level / spacing) + 1
        ):
            for sj in range(
                int(np.floor(column0 * level / spacing)),
                int((column0 + width) * level / spacing) + 1,
            ):
                h = place_hash(seed, 100 + lattice, si, sj)
                y = (si + 0.5 + 0.9 * (uniform(h, 0) - 0.5)) * spacing / level - row0
                x = (sj + 0.5 + 0.9 * (uniform(h, 1) - 0.5)) * spacing / level - column0
                i, j = int(np.floor(y)), int(np.floor(x))
                if i < 0 or j < 0 or i >= height or j >= width or room[i, j] < 15:
                    continue
                kind = kinds[owner[i, j]]
                chance = uniform(h, 2)
                if lattice == 0 and chance < crowd[i, j]:
                    if uniform(h, 4) < 0.02:
                        _disc(darkness, y, x, level, 34.0, 0.6)
                    else:
                        _ring(darkness, y, x, level, 17 + 4 * uniform(h, 3), 0.5)
                elif lattice == 1 and kind == DENDRITE and chance < 0.5:
                    _disc(darkness, y, x, level, 10.0, 0.40)
                elif lattice == 2 and (
                    (kind == GLIA and chance < 0.3) or (kind == SOMA and chance < 0.4)
                ):
                    _disc(darkness, y, x, level, 9.0, 0.45)


@njit(nogil=True, cache=True, fastmath=True)
def _ring(darkness, y, x, level, radius, depth):
    """Draw a vesicle: a dark ring round a lumen a little clearer than the cytoplasm."""
    reach = (radius + 12) / level + 1
    sharp = 4.0**2 + (0.5 * level) ** 2
    depth *= 4.0 / np.sqrt(sharp)
    for i in range(max(int(y - reach), 0), min(int(y + reach) + 1, darkness.shape[0])):
        for j in range(max(int(x - reach), 0), min(int(x + reach) + 1, darkness.shape[1])):
            off = np.sqrt((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) * level - radius
            darkness[i, j] += depth * np.exp(-0.5 * off * off / sharp)
            darkness[i, j] -= 0.06 * min(max(0.5 - off / level, 0.0), 1.0)


@njit(nogil=True, cache=True, fastmath=True)
def _disc(darkness, y, x, level, radius, depth):
    """Draw a soft dark dot."""
    wide = np.sqrt(radius**2 + (0.5 * level) ** 2)
    depth *= (radius / wide) ** 2
    reach = 1.8 * wide / level
    for i in range(max(int(y - reach), 0), min(int(y + reach) + 1, darkness.shape[0])):
        for j in range(max(int(x - reach), 0), min(int(x + reach) + 1, darkness.shape[1])):
            t = ((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) * (level / wide) ** 2
            darkness[i, j] += depth * np.exp(-t * t)


@njit(nogil=True, cache=True, fastmath=True)
def vary_thickness(level, row0, column0, knife, step, cut, chatter, stain, thickness):
    """Fill in the thickness of a section relative to nominal: stain, knife marks and chatter.

    Parameters
    ----------
    level, row0, column0 : int
        See `shade`.
    knife : ndarray of float32, shape (N,)
        Depth of the knife marks along a line across the direction of the cut, endless by
        repetition: the last sample is the first one again.
    step : float
        Distance of its samples, in nm.
    cut : tuple of float
        x and y (down) of the direction of the cut.
    chatter : tuple of float
        Amplitude, and wavelength in nm, of the waves across the cut.
    stain : ndarray of float32, shape (H, W)
        Slow relative variation.
    thickness : ndarray of float32, shape (H, W)
        Written.
    """
    n = np.float64(knife.size - 1)
    for i in range(thickness.shape[0]):
        y = (row0 + i + 0.5) * level
        for j in range(thickness.shape[1]):
            x = (column0 + j + 0.5) * level
            slow = stain[i, j]
            # Marks and waves come and go along the cut.
            strength = min(max(F(0.55) + F(9) * slow, F(0)), F(1.5))
            p = (x * cut[1] - y * cut[0]) / step
            p -= n * np.floor(p / n)
            k = min(int(p), knife.size - 2)
            mark = knife[k] + F(p - k) * (knife[k + 1] - knife[k])
            q = (x * cut[0] + y * cut[1]) / chatter[1]
            wave = F(q - np.floor(q)) - F(0.5)
            wave *= F(8) - F(16) * abs(wave)
            thickness[i, j] = F(1) + slow + strength * (mark + F(chatter[0]) * wave)


@njit(nogil=True, cache=True, fastmath=True)
def develop(darkness, thickness, result):
    """Turn darkness into transmission × 255.

    Parameters
    ----------
    darkness, thickness : ndarray of float32, shape (H, W)
    result : ndarray of uint8, shape (H, W)
        Written.
    """
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            dark = max(darkness[i, j] * thickness[i, j], F(0.005))
            result[i, j] = np.uint8(F(255) * np.exp(-dark) + F(0.5))
