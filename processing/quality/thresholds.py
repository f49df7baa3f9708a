"""The limits from which on something is at fault; the section `quality` of the configuration.

What is relative is compared with the other tiles of the same montage, so it needs no tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from processing.quality.agreement import AgreementLimits


@dataclass(frozen=True)
class Thresholds(AgreementLimits):
    """From where on a tile, or a montage, is at fault; what its solution must keep, too.

    A relative limit is a fraction of the median of the montage's good tiles so far, and holds once
    there are `least_tiles` of them.

    Attributes
    ----------
    least_mean : float
        Least mean, in counts; below it a tile is dim.
    least_mean_relative : float
        Least mean, as a fraction of the median.
    most_saturated : float
        Greatest share of saturated pixels.
    most_beam_edge : float
        Greatest share of the tile that may lie in the soft edge of the beam, or beyond it.
    most_obstructed : float
        Greatest share of the tile behind something opaque.
    least_focus : float
        Least focus score.
    least_focus_neighbour : float
        Least fine over coarse detail, score / (1 - score) of the focus, as a fraction of the
        neighbours': geometric mean of that in the same overlaps and that of the whole tiles.
    least_focus_relative : float
        Least focus, as a fraction of the median; for tiles without a neighbour to compare with.
    most_astigmatism : float
        Greatest astigmatism, 0 to 1.
    most_drift : float
        Greatest way that the specimen may move in the exposure, in px.
    most_offset : float
        How far a neighbour may lie from its nominal place along each axis, in px.
    least_tiles : int
        Good tiles that a median must rest on.
    persistent_tiles, critical_tiles : int
        Tiles in a row with the same fault from which on it is persistent, and critical.
    trend_tiles : int
        The focus of so many textured tiles is compared with the median of those before.
    least_trend : float
        If it falls below this fraction, it is time to focus again.
    most_failed : float
        Share of a montage's tiles that may fail before it is given up.
    most_unmatched : float
        Share of the textured pairs of neighbours that may be without a match.
    least_contrast : float
        Least median of a tile's standard deviation over its mean.
    most_focus_spread : float
        Greatest spread of the focus scores: 1.4826 times the median absolute deviation, over the
        median.

    Raises
    ------
    ValueError
        If a limit is negative or not a number.
    """

    least_mean: float = 50.0
    least_mean_relative: float = 0.5
    most_saturated: float = 0.01
    most_beam_edge: float = 0.05
    most_obstructed: float = 0.05
    least_focus: float = 0.02
    least_focus_neighbour: float = 0.62
    least_focus_relative: float = 0.6
    most_astigmatism: float = 0.2
    most_drift: float = 2.0
    most_offset: float = 250.0
    least_tiles: int = 4
    persistent_tiles: int = 3
    critical_tiles: int = 8
    trend_tiles: int = 6
    least_trend: float = 0.75
    most_failed: float = 0.1
    most_unmatched: float = 0.05
    least_contrast: float = 0.02
    most_focus_spread: float = 0.5

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not value >= 0:
                raise ValueError(f"{entry.name} is {value}; it must not be negative")
