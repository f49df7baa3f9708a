"""Stitch tiles that lie somewhere: which are neighbours, how they really lie, and how they match.

Tiles are read by a callable, a few at a time, so a montage may be larger than the memory.
"""

from processing.stitch.matching import (
    PrepareEdges,
    ReadTile,
    match_neighbours,
    match_prepared,
    processors,
    worker_threads,
)
from processing.stitch.neighbours import is_below, neighbours
from processing.stitch.placement import Placement, PlacementError, find_placement

__all__ = [
    "Placement",
    "PlacementError",
    "PrepareEdges",
    "ReadTile",
    "find_placement",
    "is_below",
    "match_neighbours",
    "match_prepared",
    "neighbours",
    "processors",
    "worker_threads",
]
