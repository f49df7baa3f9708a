"""Quality: which tiles of a montage are at fault, and what the acquisition should do about it.

Rules on figures that other parts measure; no image is looked at here.
"""

from processing.quality.agreement import Agreement, AgreementLimits
from processing.quality.faults import FAULTS, HARMLESS, Fault, GoNoGo, Scope, Verdict
from processing.quality.judge import Judge
from processing.quality.steering import Advice, Decision, Steering
from processing.quality.thresholds import Thresholds

__all__ = [
    "FAULTS",
    "HARMLESS",
    "Advice",
    "Agreement",
    "AgreementLimits",
    "Decision",
    "Fault",
    "GoNoGo",
    "Judge",
    "Scope",
    "Steering",
    "Thresholds",
    "Verdict",
]
