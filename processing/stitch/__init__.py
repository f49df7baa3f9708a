"""Stitch tiles that lie somewhere: which are neighbours, how they really lie, and how they match.

Tiles are read by a callable, a few at a time, so a montage may be larger than the memory.
"""

from processing.stitch.matching import ReadTile, match_neighbours, match_prepared
from processing.stitch.neighbours import neighbours
from processing.stitch.placement import Placement, PlacementError, find_placement

__all__ = [
    "Placement",
    "PlacementError",
    "ReadTile",
    "find_placement",
    "match_neighbours",
    "match_prepared",
    "neighbours",
]
