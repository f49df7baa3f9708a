"""Normal equations of points that tiles share: each tile shifted and bent, all by one lens.

Assembled once for given weights, they are solved for any part of the model: with or without the
tiles' own bends, and for the lens's first terms only.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from processing.points.islands import components
from processing.points.table import Points
from processing.points.terms import basis, bending_energy, normalised, orders

RIGID = 1e-3  # px, that tiles are bent by if they are not to be
HELD = 1e-9  # stiffness of a tile's place, of a usual one: it fixes the origin only


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
        self.degree, self._shape = degree, shape
        at = normalised(points.p, shape), normalised(points.q, shape)
        self.arms = _arms(at[0]), _arms(at[1])
        self.lens = _lens_difference(*at, orders(degree), degree)
        self.bending = bending_energy(degree)

    def select(self, which: NDArray[np.bool_]) -> Frames:
        """Return the same with some of the points only."""
        part = copy(self)
        part.points = self.points.select(which)
        part.arms = self.arms[0][which], self.arms[1][which]
        part.lens = self.lens[which]
        return part

    def straightened(self, lens: NDArray[np.float64]) -> Frames:
        """Return the same for tiles that are bent after a lens, not before it.

        Parameters
        ----------
        lens : ndarray of float64, shape (t, 2)
            About what the lens's first terms are, in px.
        """
        part, places = copy(self), (self.points.p, self.points.q)
        shifts = (basis(at, self._shape, self.degree)[:, : len(lens)] @ lens for at in places)
        corrected = (at + shift for at, shift in zip(places, shifts, strict=True))
        arms_a, arms_b = (_arms(normalised(at, self._shape)) for at in corrected)
        part.arms = arms_a, arms_b
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

    Points cannot tell what all tiles that hang together do alike: neither where they lie, nor how
    they are scaled, turned and sheared. So their shifts and bends are 0 on the mean; held by the
    prior alone, they would shrink, as that brings all points nearer to each other.

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
        self._lens, self._lens_force = _assemble_lens(lens, gaps, weights)
        self._island = components(frames.n_tiles, frames.ends[self._shared[:, 0, 0] < 0])
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
        moves = self._moves(flexibility, n_terms)
        if not n_terms:
            return Bends(moves[:, :, :2], np.zeros((0, 2)))
        energy = stiffness * self._frames.bending[:n_terms, :n_terms]
        stiff = self.lens_alone(flexibility, n_terms) + energy
        lens = np.linalg.solve(
            stiff, self._lens_force[:n_terms] - self._pull(moves[:, :, :2], n_terms)
        )
        return Bends(moves[:, :, :2] - moves[:, :, 2 : 2 + n_terms] @ lens, lens)

    def lens_alone(self, flexibility: float, n_terms: int) -> NDArray[np.float64]:
        """Return what of the lens's first terms no move of the tiles could explain as well.

        Parameters
        ----------
        flexibility, n_terms
            As `solve` takes them.

        Returns
        -------
        ndarray of float64, shape (n_terms, n_terms)
            The matrix of the weighted squares that a lens leaves, in 1/px².
        """
        moves = self._moves(flexibility, n_terms)[:, :, 2 : 2 + n_terms]
        return np.asarray(self._lens[:n_terms, :n_terms] - self._pull(moves, n_terms))

    def _pull(self, moves: NDArray[np.float64], n_terms: int) -> NDArray[np.float64]:
        """Return what moves of the tiles ask of the lens's first terms."""
        return np.tensordot(self._cross[:, :, :n_terms], moves, axes=((0, 1), (0, 1)))

    def _moves(self, flexibility: float, n_terms: int) -> NDArray[np.float64]:
        """Return what the points, and each term of the lens, move the tiles by; kept for more."""
        known = self._known.get(flexibility)
        if known is None or known.shape[2] < 2 + n_terms:
            factors = splu(
                self._normal(flexibility),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                panel_size=1,
                options={"SymmetricMode": True},
            )
            n_tiles = self._frames.n_tiles
            right = [self._force, self._cross[:, :, : self._cross.shape[2] * bool(n_terms)]]
            alike = np.broadcast_to(np.eye(3), (n_tiles, 3, 3))
            stacked = np.concatenate([*right, alike], axis=2).reshape(3 * n_tiles, -1)
            free = factors.solve(stacked).reshape(n_tiles, 3, -1)
            known = self._without_mean(free[:, :, :-3], free[:, :, -3:])
            self._known[flexibility] = known
        return known

    def _without_mean(
        self, moves: NDArray[np.float64], gives: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Hold the mean of the moves of each island at 0, by what it gives to being pushed."""
        push = np.linalg.solve(self._sums(gives), self._sums(moves))
        return np.asarray(moves - gives @ push[self._island])

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum values, one set a tile, over each island."""
        n_tiles = len(values)
        members = sp.csr_array((np.ones(n_tiles), (self._island, np.arange(n_tiles))))
        return np.asarray(members @ values.reshape(n_tiles, -1)).reshape(-1, *values.shape[1:])

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


def _arms(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each point's place in its tile makes of the tile's shift and bends, (k, 3)."""
    return np.column_stack([np.ones(len(at)), at])


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


@njit(nogil=True, cache=True)
def _assemble_lens(lens, gaps, weights):  # type: ignore[no-untyped-def]
    """Sum the points' parts of the lens's own normal equations.

    A loop of one thread: those of a matrix product wait for each other on a busy machine, which
    took thirty times as long.
    """
    n_terms = lens.shape[1]
    matrix, force = np.zeros((n_terms, n_terms)), np.zeros((n_terms, 2))
    for k in range(len(lens)):
        for t in range(n_terms):
            weighted = weights[k] * lens[k, t]
            for s in range(t + 1):
                matrix[t, s] += weighted * lens[k, s]
            for x in range(2):
                force[t, x] += weighted * gaps[k, x]
    for t in range(n_terms):
        for s in range(t):
            matrix[s, t] = matrix[t, s]
    return matrix, force
