"""Bluesky plans of the microscope.

They reach devices through messages only, and leave the microscope safe whatever ends them.
"""

from plans.fly_montage import estimate_montage, fly_montage
from plans.focus import Focus, FocusError, FocusSeries, autofocus, focus_series
from plans.gate import Advice, QualityGate
from plans.lens_correction import lens_correction
from plans.montage import MontageResult, montage
from plans.reference_frames import brightfield, darkfield
from plans.safety import make_safe
from plans.snap import Snapshot, snap
from plans.tiles import TileError

__all__ = [
    "Advice",
    "Focus",
    "FocusError",
    "FocusSeries",
    "MontageResult",
    "QualityGate",
    "Snapshot",
    "TileError",
    "autofocus",
    "brightfield",
    "darkfield",
    "estimate_montage",
    "fly_montage",
    "focus_series",
    "lens_correction",
    "make_safe",
    "montage",
    "snap",
]
