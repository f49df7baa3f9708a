"""Bluesky plans of the microscope.

They reach devices through messages only, and leave the microscope safe whatever ends them.
"""

from plans.focus import Focus, FocusError, FocusSeries, autofocus, focus_series
from plans.gate import QualityGate
from plans.montage import montage
from plans.reference_frames import brightfield, darkfield
from plans.safety import make_safe
from plans.snap import Snapshot, snap
from plans.tiles import TileError

__all__ = [
    "Focus",
    "FocusError",
    "FocusSeries",
    "QualityGate",
    "Snapshot",
    "TileError",
    "autofocus",
    "brightfield",
    "darkfield",
    "focus_series",
    "make_safe",
    "montage",
    "snap",
]
