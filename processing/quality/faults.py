"""What can be wrong with a tile or a montage: the names, and how a finding is told.

One vocabulary for the rules, the documents and the plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["transient", "persistent", "critical"]

FAILED_PROCESSING = "failed_processing"
DIM = "dim"
SATURATED = "saturated"
BEAM_EDGE = "beam_edge"
OBSTRUCTED = "obstructed"
OUT_OF_FOCUS = "out_of_focus"
ASTIGMATIC = "astigmatic"
DRIFTED = "drifted"
NO_MATCH = "no_match"
OFFSET_BEYOND_LIMIT = "offset_beyond_limit"
FEATURELESS = "featureless"

FAULTS = (
    FAILED_PROCESSING,
    DIM,
    SATURATED,
    BEAM_EDGE,
    OBSTRUCTED,
    OUT_OF_FOCUS,
    ASTIGMATIC,
    DRIFTED,
    NO_MATCH,
    OFFSET_BEYOND_LIMIT,
    FEATURELESS,
)
"""All faults, in the order in which they are listed."""

HARMLESS = frozenset({FEATURELESS})
"""Those that do not fail a tile: empty resin is nothing that taking it again could cure."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a tile.

    Attributes
    ----------
    name : str
        One of `FAULTS`.
    severity : float
        0 (at the limit) to 1 (as far beyond it as can be): ``1 − value/limit`` where the limit is
        a least value, ``1 − limit/value`` where it is a greatest one.
    confidence : float
        0 to 1: how much the finding can be trusted, by the tile's signal and texture and by the
        number of tiles that it was compared with.
    scope : {"transient", "persistent", "critical"}
        "transient": taking the tile again may cure it. "persistent": tiles before it had the same,
        so something must be set right first. "critical": so many had it that going on is no use.
    value, limit : float
        What was found, and what it was compared with, in the unit of the figure.
    """

    name: str
    severity: float
    confidence: float
    scope: Scope
    value: float
    limit: float


@dataclass(frozen=True)
class Verdict:
    """The judgement of a tile.

    Attributes
    ----------
    faults : tuple of Fault
        In the order of `FAULTS`; harmless ones are among them.
    """

    faults: tuple[Fault, ...] = ()

    @property
    def harmful(self) -> tuple[Fault, ...]:
        """The faults that fail the tile."""
        return tuple(fault for fault in self.faults if fault.name not in HARMLESS)

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """Whether the tile is good."""
        return "fail" if self.harmful else "pass"

    @property
    def names(self) -> str:
        """The names of the faults, joined by commas."""
        return ",".join(fault.name for fault in self.faults)

    @property
    def severity(self) -> float:
        """That of the worst fault; 0 if the tile is good."""
        return max((fault.severity for fault in self.harmful), default=0.0)

    @property
    def confidence(self) -> float:
        """That of the fault which is surest; 1 if the tile is good."""
        return max((fault.confidence for fault in self.harmful), default=1.0)


@dataclass(frozen=True)
class GoNoGo:
    """The judgement of a montage.

    Attributes
    ----------
    go : bool
        Whether it can be used as it is.
    reasons : tuple of str
        Why not; empty if it can.
    """

    go: bool
    reasons: tuple[str, ...] = ()
