"""The model of a lens: its convention, its inverse, its gauge, and what it refuses."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.lens import LensModel
from processing.lens.model import basis, grid_places, normalised, terms
from tests.processing.lenses import as_lines, barrel, some_lens

SHAPES = st.tuples(st.integers(64, 6000), st.integers(64, 6000))


@given(
    shape=SHAPES,
    share=st.floats(0, 0.015),
    seed=st.integers(0, 1000),
    degree=st.integers(2, 5),
)
def test_the_inverse_takes_every_place_back(shape, share, seed, degree):
    lens = some_lens(shape, max(share * min(shape), 1e-3), seed, degree)
    places = grid_places(shape, count=9)
    assert np.abs(lens.to_distorted(lens.to_corrected(places)) - places).max() < 1e-4
    assert np.abs(lens.to_corrected(lens.to_distorted(places)) - places).max() < 1e-4


@given(shape=SHAPES, seed=st.integers(0, 1000), degree=st.integers(2, 5))
def test_no_shift_scale_turn_or_shear_is_in_the_model(shape, seed, degree):
    """The best affine map through all shifts of the frame is none."""
    lens = some_lens(shape, 0.01 * min(shape), seed, degree)
    nodes, weights = np.polynomial.legendre.leggauss(12)  # exact means over the frame
    v, u = np.meshgrid(nodes, nodes, indexing="ij")
    places = np.stack([v, u], -1) * np.asarray(shape) / 2 + (np.asarray(shape) - 1) / 2
    weighted = lens.shift(places) * np.multiply.outer(weights, weights)[..., None]
    for factor in (np.ones_like(v), v, u):
        assert np.abs((weighted * factor[..., None]).sum(axis=(0, 1))).max() < 1e-6


def test_a_barrel_is_what_the_convention_says():
    """A pixel near the corner shows what belongs nearer to the middle, and keeps no scale."""
    lens = barrel((1000, 1000), 30)
    corner, edge = lens.shift([[999.0, 999.0], [999.0, 499.5]])
    assert corner[0] < 0
    assert corner[1] == pytest.approx(corner[0])
    assert edge[1] == pytest.approx(0, abs=1e-9)
    # r³ less the best straight line through it, over a square.
    assert np.linalg.norm(corner) == pytest.approx(30 * (1 - 7 / 15), rel=0.05)


def test_powers_are_the_same_polynomial():
    lens = some_lens((300, 500), 5, degree=4)
    places = grid_places(lens.shape, count=7)
    v, u = np.moveaxis(normalised(places, lens.shape), -1, 0)
    shift = [np.polynomial.polynomial.polyval2d(v, u, one) for one in lens.powers]
    np.testing.assert_allclose(np.stack(shift, -1), lens.shift(places), atol=1e-12)


def test_shifts_that_are_known_are_fitted_up_to_an_affine_map():
    """Whatever shifts, turns and shears the corrected frame is taken off it again."""
    lens = some_lens((400, 300), 6)
    places = grid_places(lens.shape).reshape(-1, 2)
    affine = np.array([[1.02, -0.03], [0.01, 0.97]])
    elsewhere = lens.to_corrected(places) @ affine.T + [4.0, -7.0]
    found = LensModel.from_shifts(places, elsewhere - places, lens.shape)
    np.testing.assert_allclose(found.coefficients, lens.coefficients, atol=1e-9)


def test_a_model_survives_json():
    lens = some_lens((400, 300), 6, degree=4)
    assert LensModel.from_dict(json.loads(json.dumps(lens.to_dict()))) == lens
    assert hash(lens) == hash(LensModel.from_dict(lens.to_dict()))


def test_terms_and_basis_agree():
    assert terms(2) == ((2, 0), (1, 1), (0, 2))
    assert len(terms(3)) == 7
    assert basis(np.zeros((4, 5, 2)), (64, 64), 3).shape == (4, 5, 7)
    assert basis(np.zeros(2), (64, 64), 3).shape == (7,)


ZEROS = ((0.0,) * 7, (0.0,) * 7)


@pytest.mark.parametrize(
    ("shape", "coefficients", "degree", "message"),
    [
        ((8, 400), ZEROS, 3, "16 or more"),
        ((400.5, 400), ZEROS, 3, "whole px"),
        ((400, 400, 3), ZEROS, 3, "(height, width)"),
        ((400, 400), ZEROS, 1, "between 2 and 9"),
        ((400, 400), ZEROS, 10, "between 2 and 9"),
        ((400, 400), ZEROS, True, "whole number"),
        ((400, 400), ZEROS, 4, r"needs (2, 12)"),
        ((400, 400), ((float("nan"),) * 7, (0.0,) * 7), 3, "not finite"),
        ((400, 400), ((150.0, *ZEROS[0][1:]), ZEROS[1]), 3, "25% of the shorter side"),
        ((400, 400), ((0, 0, 0, -60.0, 0, 0, 0), ZEROS[1]), 3, "no inverse"),
    ],
)
def test_nonsense_is_refused(shape, coefficients, degree, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        LensModel(shape, coefficients, degree)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "a mapping, not list"),
        ({"shape": [64, 64]}, "there are shape"),
        ({"shape": [64, 64], "degree": 3, "coefficients": [[1, 2], [3]]}, "this is no lens model"),
        ({"shape": "large", "degree": 3, "coefficients": ZEROS}, "this is no lens model"),
    ],
)
def test_data_that_make_no_model_are_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        LensModel.from_dict(data)


def test_a_place_far_outside_has_no_inverse():
    with pytest.raises(ValueError, match="too far outside"):
        barrel((500, 500), 40).to_distorted([[9000.0, -9000.0]])


def test_no_lens_does_nothing():
    lens = LensModel.none((64, 80))
    assert lens.largest_shift == 0
    assert lens == LensModel((64, 80), as_lines(np.zeros((2, 7))))
