"""The region of the demo: the grid that was asked for, with corners that no tile touches."""

import pytest

from processing.geometry import FrameGeometry, Region, plan_grid
from services.demo import octagon, overlap_percent


@pytest.mark.parametrize("tile_size", [512, 2048, 5376])
@pytest.mark.parametrize(
    ("rows", "columns", "skipped"),
    [(1, 1, 0), (1, 4, 0), (2, 3, 0), (3, 3, 2), (4, 5, 2), (6, 6, 4), (10, 12, 4)],
)
def test_the_region_makes_the_grid_that_was_asked_for(rows, columns, skipped, tile_size):
    geometry = FrameGeometry(4.0, angle=3.0, flip_rows=True)
    overlap = overlap_percent(tile_size, 13.0)
    outline = octagon(rows, columns, tile_size * (1 - overlap / 100), tile_size)
    region = Region(tuple(map(tuple, geometry.stage_vector(outline).tolist())))
    grid = plan_grid(region, geometry, (tile_size, tile_size), overlap=overlap)
    assert (grid.rows, grid.columns) == (rows, columns)
    assert len(grid.skipped) == skipped
    assert set(grid.skipped) <= {
        (row, column) for row in (0, rows - 1) for column in (0, columns - 1)
    }
