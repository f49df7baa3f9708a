"""Where things are: pixels and stage, regions, and the grid of tiles of a montage.

The one part of `processing` that plans and the simulator import too, so that all agree on signs.
"""

from processing.geometry.focus_surface import (
    FocusSurface,
    FocusSurfaceError,
    fit_focus_surface,
    measuring_tiles,
)
from processing.geometry.frame import FrameGeometry
from processing.geometry.grid import Grid, GridTile, plan_grid
from processing.geometry.image_shift import ImageShift
from processing.geometry.pair_matches import PairMatches
from processing.geometry.region import Region
from processing.geometry.route import short_route

__all__ = [
    "FocusSurface",
    "FocusSurfaceError",
    "FrameGeometry",
    "Grid",
    "GridTile",
    "ImageShift",
    "PairMatches",
    "Region",
    "fit_focus_surface",
    "measuring_tiles",
    "plan_grid",
    "short_route",
]
