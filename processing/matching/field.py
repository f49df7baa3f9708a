"""A smooth field of offsets over an overlap: a lens makes patches differ, but smoothly.

A polynomial, fitted to a dozen patches several times a match: compiled, since calls would cost more
than the arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from processing.matching.cells import middles

# All in px of full resolution, unless said otherwise.
ELONGATED = 2.5  # an overlap so many times as long as wide changes along its length only
# Patches that it takes to tell how offsets slope, bend along an overlap, bend along both axes.
MIN_FOR_SLOPES, MIN_FOR_BEND, MIN_FOR_CURVES = 5, 7, 10
DISTORTION = 30.0  # by how much offsets may vary over an overlap, as a standard deviation
STRAY = 6.0  # and from what is expected, once they have been followed
FIT_NOISE = 0.5  # error of one patch's offset, as a standard deviation
TOLERANCES = np.array([6.0, 3.0, 1.5])  # how far a patch may lie off and count, fit by fit


class Field:
    """A smooth field of offsets over an overlap: a polynomial of its places.

    Parameters
    ----------
    patches : ndarray of int64, shape (n, 4)
        [top, bottom, left, right] of the patches that it is fitted to, in px; how many they are and
        how they lie decides what it may do: be constant, slope, or bend too.
    """

    def __init__(self, patches: NDArray[np.int64]) -> None:
        places = middles(patches)
        low, high = places.min(axis=0), places.max(axis=0)
        extent = high - low
        # Middle (row, column) and half the extent, by which places are scaled.
        self._frame = np.array([*((low + high) / 2), max(float(extent.max()) / 2, 1.0)])
        if len(patches) < MIN_FOR_SLOPES:
            powers = [(0, 0)]
        elif extent.max() > ELONGATED * extent.min() and len(patches) >= MIN_FOR_BEND:
            powers = [(0, 0), (1, 0), (0, 1), (2, 0) if extent[0] > extent[1] else (0, 2)]
        elif len(patches) < MIN_FOR_CURVES:
            powers = [(0, 0), (1, 0), (0, 1)]
        else:
            powers = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        self._powers = np.array(powers)
        self._factors = np.zeros((len(powers), 2))
        self._prior = np.full(len(powers), (FIT_NOISE / DISTORTION) ** 2)
        self._prior[0] = 1e-9
        self._expected = np.zeros((len(powers), 2))

    def expect(self, places: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Have fits stay near what is expected, shape (n, 2), at places of shape (n, 2).

        Where they find nothing, or far from where they do, a curve would lead anywhere.
        """
        self.fit(places, values, np.ones(len(places)))
        self._expected = self._factors
        self._prior[1:] = (FIT_NOISE / STRAY) ** 2

    def fit(
        self,
        places: NDArray[np.float64],
        values: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> None:
        """Fit by weighted least squares; terms that the places do not tell stay small."""
        terms = _terms(places, self._frame, self._powers)
        self._factors = _least_squares(terms, values, weights, self._prior, self._expected)

    def fit_robustly(
        self,
        places: NDArray[np.float64],
        values: NDArray[np.float64],
        weights: NDArray[np.float64],
        start: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Fit what most of the weight agrees on, and return how far each place lies off the fit.

        Parameters
        ----------
        places, values : ndarray of float64, shape (n, 2)
            Values may be NaN where nothing was found.
        weights : ndarray of float64, shape (n,)
        start : ndarray of float64, shape (n, 2)
            What is expected; the fit sets out from it.

        Returns
        -------
        ndarray of float64, shape (n,)
            In px; infinite where nothing was found.
        """
        weights = weights / max(float(weights.max()), 1e-12)
        terms = _terms(places, self._frame, self._powers)
        away: NDArray[np.float64]
        away, self._factors = _fit_robustly(
            terms, values, weights, start, (self._prior, self._expected)
        )
        return away

    def at(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the field, shape (n, 2), at places of shape (n, 2), in px."""
        return np.asarray(_terms(places, self._frame, self._powers) @ self._factors)

    def slopes(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how the field changes at places, shape (n, 2): along i by the place on j."""
        slopes: NDArray[np.float64] = _slopes(places, self._frame, self._powers, self._factors)
        return slopes

    @property
    def curvature(self) -> float:
        """Size of the field's second derivative, in px⁻¹; 0 if it may not bend."""
        order = self._powers.sum(axis=1) == 2
        # That of x² is 2, that of x y is 1.
        seconds = self._factors[order] * self._powers[order].max(axis=1, initial=0)[:, None]
        return float(np.hypot.reduce(seconds, axis=None) / self._frame[2] ** 2)


@njit(cache=True)
def _terms(places, frame, powers):  # type: ignore[no-untyped-def]
    """Return the polynomial's terms, shape (n, terms), at places of shape (n, 2)."""
    terms = np.empty((len(places), len(powers)))
    for n in range(len(places)):
        row, column = (places[n, 0] - frame[0]) / frame[2], (places[n, 1] - frame[1]) / frame[2]
        for t in range(len(powers)):
            terms[n, t] = row ** powers[t, 0] * column ** powers[t, 1]
    return terms


@njit(cache=True)
def _slopes(places, frame, powers, factors):  # type: ignore[no-untyped-def]
    slopes = np.zeros((len(places), 2, 2))
    for n in range(len(places)):
        row, column = (places[n, 0] - frame[0]) / frame[2], (places[n, 1] - frame[1]) / frame[2]
        for t in range(len(powers)):
            i, j = powers[t]
            down = i * row ** max(i - 1, 0) * column**j / frame[2]
            across = j * row**i * column ** max(j - 1, 0) / frame[2]
            for axis in range(2):
                slopes[n, axis, 0] += factors[t, axis] * down
                slopes[n, axis, 1] += factors[t, axis] * across
    return slopes


@njit(cache=True)
def _least_squares(terms, values, weights, prior, expected):  # type: ignore[no-untyped-def]
    """Return the factors that fit best, the prior's included, shape (terms, 2)."""
    count = terms.shape[1]
    normal, known = np.zeros((count, count)), np.zeros((count, 2))
    for t in range(count):
        normal[t, t] = prior[t]
        for axis in range(2):
            known[t, axis] = prior[t] * expected[t, axis]
    for n in range(len(terms)):
        for t in range(count):
            weighted = weights[n] * terms[n, t]
            known[t, 0] += weighted * values[n, 0]
            known[t, 1] += weighted * values[n, 1]
            for u in range(count):
                normal[t, u] += weighted * terms[n, u]
    return np.ascontiguousarray(np.linalg.solve(normal, known))


@njit(cache=True)
def _fit_robustly(terms, values, weights, start, near):  # type: ignore[no-untyped-def]
    """Fit again and again, each time to what lies nearer; how far off each is, and the factors."""
    prior, expected = near
    factors = expected.copy()
    found = np.isfinite(values[:, 0])
    known = np.zeros_like(values)
    away = np.full(len(values), np.inf)
    for n in range(len(values)):
        if found[n]:
            known[n, 0], known[n, 1] = values[n]
            away[n] = np.hypot(values[n, 0] - start[n, 0], values[n, 1] - start[n, 1])
    counted = np.empty(len(values))
    for tolerance in TOLERANCES:
        for n in range(len(values)):
            counted[n] = weights[n] * max(1 - (away[n] / (2 * tolerance)) ** 2, 0.0) ** 2
        if not counted.any():
            break
        factors = _least_squares(terms, known, counted, prior, expected)
        for n in range(len(values)):
            if found[n]:
                fitted_row = fitted_column = 0.0
                for t in range(terms.shape[1]):
                    fitted_row += terms[n, t] * factors[t, 0]
                    fitted_column += terms[n, t] * factors[t, 1]
                away[n] = np.hypot(known[n, 0] - fitted_row, known[n, 1] - fitted_column)
    return away, factors
