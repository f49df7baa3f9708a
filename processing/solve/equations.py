"""Normal equations of points that tiles share: each tile shifted and bent, all by one lens.

Assembled once for given weights, they are solved for any part of the model: with or without the
tiles' own bends, and for the lens's first terms only.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.polynomial.legendre import legder, leggauss, legvander
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import splu

from processing.lens.model import normalised, terms

COLUMNS = 6  # row_a, col_a, row_b, col_b, sd, weight
MIN_SD = 0.05  # px, that points are ever taken to have
RIGID = 1e-3  # px, that tiles are bent by if they are not to be
HELD = 1e-9  # stiffness of a tile's place, of a usual one: it fixes the origin only


@dataclass(frozen=True, eq=False)
class Points:
    """Places that pairs of tiles share, all pairs in one table.

    Attributes
    ----------
    pair : ndarray of int, shape (k,)
        Which pair each is of, rising.
    p, q : ndarray of float64, shape (k, 2)
        (row, column) in the pair's first tile, and in its second, in px.
    sd : ndarray of float64, shape (k,)
        Standard deviation along each axis, in px.
    """

    pair: NDArray[np.intp]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    sd: NDArray[np.float64]

    @classmethod
    def of(cls, tables: Sequence[ArrayLike]) -> Points:
        """Make it of a table a pair, of columns [row_a, col_a, row_b, col_b, sd, weight].

        Raises
        ------
        ValueError
            If one is of another form, or holds a number that is not finite.
        """
        arrays = [np.asarray(table, dtype=np.float64).reshape(-1, COLUMNS) for table in tables]
        for number, table in enumerate(arrays):
            if not np.isfinite(table).all():
                raise ValueError(f"the points of pair {number} hold a number that is not finite")
        pair = np.repeat(np.arange(len(arrays)), [len(table) for table in arrays])
        stacked = np.concatenate([np.empty((0, COLUMNS)), *arrays])
        sd = np.maximum(stacked[:, 4], MIN_SD)
        return cls(pair, stacked[:, :2].copy(), stacked[:, 2:4].copy(), sd)

    def __len__(self) -> int:
        return len(self.pair)

    def select(self, which: NDArray[np.bool_]) -> Points:
        """Return some of them."""
        return Points(self.pair[which], self.p[which], self.q[which], self.sd[which])

    def medians(self, values: NDArray[np.float64], n_pairs: int) -> NDArray[np.float64]:
        """Return the medians of values, some a point, over the points of each pair; NaN if none.

        Parameters
        ----------
        values : ndarray of float64, shape (k, c)
        n_pairs : int

        Returns
        -------
        ndarray of float64, shape (n_pairs, c)
        """
        first = np.searchsorted(self.pair, np.arange(n_pairs + 1))
        return np.asarray(_medians(np.ascontiguousarray(values), first))


@dataclass(frozen=True, eq=False)
class Bends:
    """What a solution moves: each tile, and what all show.

    Attributes
    ----------
    tiles : ndarray of float64, shape (n, 3, 2)
        Of each tile, along rows and columns: its shift, and how far half a side down and half a
        side to the right goes, in px.
    lens : ndarray of float64, shape (t, 2)
        Coefficients of the lens's terms, in px; see `LensModel`.
    """

    tiles: NDArray[np.float64]
    lens: NDArray[np.float64]


class Frames:
    """Points as the equations see them, for given tiles and a lens of a degree.

    Parameters
    ----------
    ends : ndarray of int, shape (m, 2)
        Indices (a, b) of the tiles of each pair.
    points : Points
    shape : (int, int)
        (height, width) of the tiles, in px.
    n_tiles : int
    degree : int
        Of the lens; 0: there is none.
    """

    def __init__(
        self,
        ends: NDArray[np.intp],
        points: Points,
        shape: tuple[int, int],
        n_tiles: int,
        degree: int,
    ) -> None:
        self.ends, self.points, self.n_tiles = ends, points, n_tiles
        at = normalised(points.p, shape), normalised(points.q, shape)
        arms_a, arms_b = (np.column_stack([np.ones(len(one)), one]) for one in at)
        self.arms = arms_a, arms_b
        orders = np.array(terms(degree) if degree else (), dtype=np.intp).reshape(-1, 2)
        self.lens = _lens_difference(*at, orders, degree)
        self.bending = bending_energy(orders)

    def select(self, which: NDArray[np.bool_]) -> Frames:
        """Return the same with some of the points only."""
        part = copy(self)
        part.points = self.points.select(which)
        part.arms = self.arms[0][which], self.arms[1][which]
        part.lens = self.lens[which]
        return part

    def left(self, gaps: NDArray[np.float64], bends: Bends) -> NDArray[np.float64]:
        """Return what a solution leaves of the gaps between the points, (k, 2) px."""
        return np.asarray(
            _left(
                self.ends, self.points.pair, self.arms, (gaps, bends.tiles), (self.lens, bends.lens)
            )
        )


class Equations:
    """Normal equations for given weights.

    Parameters
    ----------
    frames : Frames
    gaps : ndarray of float64, shape (k, 2)
        How far the first tile shows each point beyond the second, in px.
    weights : ndarray of float64, shape (k,)
        1 / variance of each point, in 1/px².
    """

    def __init__(
        self, frames: Frames, gaps: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        self._frames = frames
        arms_a, arms_b = frames.arms
        pair, lens = frames.points.pair, frames.lens
        self._own, self._shared, self._force, self._cross = _assemble(
            frames.ends, (pair, arms_a, arms_b), (lens, gaps), weights, frames.n_tiles
        )
        weighted = lens * weights[:, None]
        self._lens, self._lens_force = weighted.T @ lens, weighted.T @ gaps
        self._known: dict[float, NDArray[np.float64]] = {}

    def solve(self, flexibility: float, n_terms: int = 0, stiffness: float = 0.0) -> Bends:
        """Solve for the tiles' shifts and bends, and the lens's first terms.

        Parameters
        ----------
        flexibility : float
            Standard deviation that a tile's own bend is expected to have at its edges, in px.
        n_terms : int
            Of the lens.
        stiffness : float
            Weight of the lens's bending energy, in 1/px²: what the points do not tell of the middle
            of a frame is as smooth as it can be.

        Returns
        -------
        Bends
        """
        n_tiles = self._frames.n_tiles
        moves = self._moves(flexibility, n_terms)
        force, cross = moves[:, :2], moves[:, 2 : 2 + n_terms]
        if not n_terms:
            return Bends(force.reshape(n_tiles, 3, 2), np.zeros((0, 2)))
        pull = self._cross[:, :, :n_terms].reshape(3 * n_tiles, n_terms).T
        energy = stiffness * self._frames.bending[:n_terms, :n_terms]
        lens = np.linalg.solve(
            self._lens[:n_terms, :n_terms] + energy - pull @ cross,
            self._lens_force[:n_terms] - pull @ force,
        )
        return Bends((force - cross @ lens).reshape(n_tiles, 3, 2), lens)

    def _moves(self, flexibility: float, n_terms: int) -> NDArray[np.float64]:
        """Return what the points, and each term of the lens, move the tiles by; kept for more."""
        known = self._known.get(flexibility)
        if known is None or known.shape[1] < 2 + n_terms:
            factors = splu(
                self._normal(flexibility),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                panel_size=1,
                options={"SymmetricMode": True},
            )
            size = 3 * self._frames.n_tiles
            right = [self._force.reshape(size, 2)]
            right += [self._cross.reshape(size, -1)] * bool(n_terms)
            known = factors.solve(np.column_stack(right))
            self._known[flexibility] = known
        return known

    def _normal(self, flexibility: float) -> sp.csc_array:
        """Make the matrix of the tiles' unknowns."""
        n_tiles, ends = self._frames.n_tiles, self._frames.ends
        own = self._own.copy()
        diagonal = np.arange(3)
        usual = float(np.median(own[:, 0, 0]))
        own[:, diagonal, diagonal] += (HELD * max(usual, 1.0), *(2 * [1 / flexibility**2]))
        each = np.arange(n_tiles)
        rows, columns = (
            np.concatenate([each, *way]) * 3 for way in ((ends[:, 0], ends[:, 1]), ends.T[::-1])
        )
        blocks = np.concatenate([own, self._shared, self._shared.swapaxes(1, 2)])
        down, across = np.repeat(diagonal, 3), np.tile(diagonal, 3)
        places = (rows[:, None] + down).ravel(), (columns[:, None] + across).ravel()
        return sp.csc_array(sp.coo_array((blocks.ravel(), places), shape=2 * (3 * n_tiles,)))


def bending_energy(orders: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the matrix of a lens's bending energy over the frame, in 1 / (half a side)².

    That of a thin plate: the integral of the squares of all second derivatives (F. L. Bookstein,
    IEEE Trans. Pattern Analysis and Machine Intelligence 11, 567, 1989).

    Parameters
    ----------
    orders : ndarray of int, shape (t, 2)
        Degrees along rows and columns of the terms, Legendre polynomials.

    Returns
    -------
    ndarray of float64, shape (t, t)
    """
    degree = int(orders.max(initial=0))
    places, weights = leggauss(degree + 1)
    products = []
    for derivative in range(3):
        values = np.zeros((len(places), degree + 1))
        for order in range(derivative, degree + 1):
            series = legder([0.0] * order + [1.0], derivative) if derivative else None
            one = legvander(places, order)
            values[:, order] = one[:, order] if series is None else one[:, : len(series)] @ series
        products.append((values * weights[:, None]).T @ values)
    down, across = (np.ix_(line, line) for line in orders.T)
    flat, slope, curve = products
    return np.asarray(
        curve[down] * flat[across] + 2 * slope[down] * slope[across] + flat[down] * curve[across]
    )


@njit(nogil=True, cache=True)
def _lens_difference(at_a, at_b, orders, degree):  # type: ignore[no-untyped-def]
    """Return the terms of a lens at a point of the second tile less those at it of the first."""
    found = np.empty((len(at_a), len(orders)))
    down, across = np.ones((2, degree + 2)), np.ones((2, degree + 2))
    for k in range(len(at_a)):
        for end in range(2):
            v, u = (at_b[k, 0], at_b[k, 1]) if end else (at_a[k, 0], at_a[k, 1])
            down[end, 1], across[end, 1] = v, u
            for n in range(1, degree):  # Bonnet's recursion
                down[end, n + 1] = ((2 * n + 1) * v * down[end, n] - n * down[end, n - 1]) / (n + 1)
                across[end, n + 1] = ((2 * n + 1) * u * across[end, n] - n * across[end, n - 1]) / (
                    n + 1
                )
        for t in range(len(orders)):
            i, j = orders[t, 0], orders[t, 1]
            found[k, t] = down[1, i] * across[1, j] - down[0, i] * across[0, j]
    return found


@njit(nogil=True, cache=True)
def _medians(values, first):  # type: ignore[no-untyped-def]
    """Return the median of each column from row first[k] to row first[k + 1]."""
    found = np.full((len(first) - 1, values.shape[1]), np.nan)
    for k in range(len(found)):
        if first[k + 1] > first[k]:
            for column in range(values.shape[1]):
                found[k, column] = np.median(values[first[k] : first[k + 1], column])
    return found


@njit(nogil=True, cache=True)
def _left(ends, pair, arms, known, bent):  # type: ignore[no-untyped-def]
    """Return what of the gaps the tiles' moves and the lens's first terms leave."""
    (arms_a, arms_b), (gaps, tiles), (lens, coefficients) = arms, known, bent
    left = gaps.copy()
    for k in range(len(gaps)):
        a, b = ends[pair[k], 0], ends[pair[k], 1]
        for x in range(2):
            for i in range(3):
                left[k, x] += arms_a[k, i] * tiles[a, i, x] - arms_b[k, i] * tiles[b, i, x]
            for t in range(len(coefficients)):
                left[k, x] -= lens[k, t] * coefficients[t, x]
    return left


@njit(nogil=True, cache=True)
def _assemble(ends, frames, right, weights, n_tiles):  # type: ignore[no-untyped-def]
    """Sum the points' parts of the normal equations, by tile and by pair."""
    (pair, arms_a, arms_b), (lens, gaps) = frames, right
    own, shared = np.zeros((n_tiles, 3, 3)), np.zeros((len(ends), 3, 3))
    force, cross = np.zeros((n_tiles, 3, 2)), np.zeros((n_tiles, 3, lens.shape[1]))
    for k in range(len(pair)):
        a, b, weight = ends[pair[k], 0], ends[pair[k], 1], weights[k]
        for i in range(3):
            from_a, from_b = -weight * arms_a[k, i], weight * arms_b[k, i]
            for j in range(3):
                own[a, i, j] -= from_a * arms_a[k, j]
                own[b, i, j] += from_b * arms_b[k, j]
                shared[pair[k], i, j] += from_a * arms_b[k, j]
            for x in range(2):
                force[a, i, x] += from_a * gaps[k, x]
                force[b, i, x] += from_b * gaps[k, x]
            for t in range(lens.shape[1]):
                cross[a, i, t] += from_a * lens[k, t]
                cross[b, i, t] += from_b * lens[k, t]
    return own, shared, force, cross
