"""Match neighbouring tiles: how far one lies from the other, how surely, or why that is unknown.

A wrong offset that is believed spoils a mosaic; one that is missing does not. So every match must
stand out from all other offsets, and be borne out by several patches on their own.
"""

from processing.matching.match import MAX_OFFSET, Match, Reason, match, match_points
from processing.matching.tile import MatchTile, Side, prepare, prepare_edges

__all__ = [
    "MAX_OFFSET",
    "Match",
    "MatchTile",
    "Reason",
    "Side",
    "match",
    "match_points",
    "prepare",
    "prepare_edges",
]
