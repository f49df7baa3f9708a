"""Solve a montage: the positions of all tiles that fit the matches between neighbours best.

Wrong matches are left out and missing ones are bridged, so no single pair spoils a mosaic.
"""

from processing.solve.flexible import MapSolution, solve_maps, solve_maps_of_matches
from processing.solve.incremental import IncrementalSolver, Snapshot
from processing.solve.maps import TileMaps
from processing.solve.model_choice import Freedom, Model, Trial
from processing.solve.translation import (
    MATCHED,
    STAGE,
    Solution,
    solve,
    solve_matches,
    well_connected,
)
from processing.solve.warm_up import warm_up

__all__ = [
    "MATCHED",
    "STAGE",
    "Freedom",
    "IncrementalSolver",
    "MapSolution",
    "Model",
    "Snapshot",
    "Solution",
    "TileMaps",
    "Trial",
    "solve",
    "solve_maps",
    "solve_maps_of_matches",
    "solve_matches",
    "warm_up",
    "well_connected",
]
