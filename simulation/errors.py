"""What can go wrong at the virtual microscope, each with its own type.

A driver turns these into its own errors; nobody has to read the text to tell them apart.
"""

from __future__ import annotations


class SimulationError(Exception):
    """The virtual microscope refused or failed; the message says what to do."""


class SettingsError(SimulationError, ValueError):
    """A setting is unknown or out of its range."""


class ColumnError(SimulationError):
    """The column refused: a value out of range, or the vacuum is too bad."""


class StageError(SimulationError):
    """The stage refused or failed."""


class StageLimitError(StageError, ValueError):
    """A target lies beyond a soft limit."""


class StageStalledError(StageError):
    """An axis stopped short of its target."""


class StageTimeoutError(StageError, TimeoutError):
    """The stage did not come to rest in time."""


class CameraError(SimulationError):
    """The camera refused or failed."""


class CameraBusyError(CameraError):
    """An exposure is running, or frames were not read."""


class CameraTimeoutError(CameraError, TimeoutError):
    """The exposure did not end in time."""


class ExposureAbortedError(CameraError):
    """The exposure was stopped by `abort`."""


class LostFrameError(CameraError):
    """The exposure was made, but its frame did not arrive."""
