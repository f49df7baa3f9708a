"""The point grid: dots in exactly known places, and the signs of axes."""

import numpy as np
import pytest
from scipy import ndimage

from processing.geometry import FrameGeometry
from simulation.specimen import PointGrid


def darkness(grid, *arguments):
    return grid.empty - grid.region(*arguments)


@pytest.mark.parametrize("pixel_size", [4.0, 5.0, 16.0])
def test_dots_are_where_marks_says(pixel_size):
    grid = PointGrid(pitch_um=1.0, radius_um=0.1)
    width, height = 500, 400
    x, y = 12.137, -7.061
    dark = darkness(grid, x, y, width, height, pixel_size)
    labels, n = ndimage.label(dark > 0.3)
    geometry = FrameGeometry(pixel_size)
    size = np.array([width, height]) * pixel_size / 1000
    marks = grid.marks(x, y, *(size - 0.3))
    assert n >= len(marks) >= 1
    pixels = geometry.stage_to_pixel(marks, (height, width), (x, y))
    for row, column in pixels:
        label = labels[round(row), round(column)]
        assert label
        near = ndimage.binary_dilation(labels == label, iterations=2)
        found = ndimage.center_of_mass(np.where(near, dark, 0))
        assert found == pytest.approx((row, column), abs=0.02)


def test_signs_of_the_axes():
    """From the wide dot at (0, 0) the long bar points to +x (right), the short one to +y (up)."""
    grid = PointGrid(pitch_um=1.0, radius_um=0.1)
    dark = darkness(grid, 0.0, 0.0, 401, 401, 5.0) > 0.5
    row, column = 200, 200
    assert dark[row, column]
    gap = round(0.35 * 200)
    assert dark[row, column + gap], "no bar to the right"
    assert dark[row - gap, column], "no bar upwards"
    assert not dark[row, column - gap], "a bar to the left"
    assert not dark[row + gap, column], "a bar downwards"
    long, short = round(0.7 * 200), round(0.45 * 200)
    assert dark[row, column + long]
    assert not dark[row - long, column]
    assert dark[row - short, column]
    # The dot itself is twice as wide as others.
    assert dark[row + 38, column]
    assert not dark[row + 38, column - 200]


def test_values():
    grid = PointGrid(dark=0.1, empty=0.9)
    region = grid.region(5.0, 5.0, 100, 100, 4.0)
    assert region.min() == pytest.approx(0.1, abs=0.003)
    assert region.max() == pytest.approx(0.9, abs=0.003)


def test_coarse_levels_keep_the_area_of_the_dots():
    grid = PointGrid(pitch_um=1.0, radius_um=0.05)
    cover = {}
    for pixel_size in (4.0, 256.0):
        size = round(8000 / pixel_size)
        cover[pixel_size] = darkness(grid, 20.0, 20.0, size, size, pixel_size).mean()
    assert cover[256.0] == pytest.approx(cover[4.0], rel=0.15)


def test_marks_are_all_those_in_the_rectangle():
    marks = PointGrid(pitch_um=2.0).marks(1.0, 3.0, 6.0, 4.0)
    expected = [(x, y) for y in (2.0, 4.0) for x in (-2.0, 0.0, 2.0, 4.0)]
    np.testing.assert_allclose(marks, expected)


@pytest.mark.parametrize("arguments", [(0.0, 0.1), (1.0, 0.3), (1.0, -0.1), (float("nan"), 0.1)])
def test_bad_grids_are_refused(arguments):
    with pytest.raises(ValueError, match="pitch_um"):
        PointGrid(*arguments)
