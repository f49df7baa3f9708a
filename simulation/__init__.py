"""The virtual microscope: specimen, optics, stage and camera as plain arrays in and out.

It knows no EPICS. A driver stands between it and the rest of the stack.
"""

from simulation.camera import Frame, VirtualCamera
from simulation.column import ColumnState, Setting, VirtualColumn
from simulation.errors import (
    CameraBusyError,
    CameraError,
    CameraTimeoutError,
    ColumnError,
    ExposureAbortedError,
    LostFrameError,
    SettingsError,
    SimulationError,
    StageError,
    StageLimitError,
    StageStalledError,
    StageTimeoutError,
)
from simulation.faults import CONDITIONS, FAULTS, FaultSet
from simulation.frame_map import FrameMap
from simulation.microscope import VirtualMicroscope
from simulation.resample import warm_up
from simulation.settings import (
    WORLDS,
    AxisSettings,
    CameraSettings,
    ColumnSettings,
    ImperfectionSettings,
    Magnification,
    MicroscopeSettings,
    OpticsSettings,
    SectionSettings,
    StageSettings,
    World,
)
from simulation.stage import VirtualStage
from simulation.truth import FrameTruth

__all__ = [
    "CONDITIONS",
    "FAULTS",
    "WORLDS",
    "AxisSettings",
    "CameraBusyError",
    "CameraError",
    "CameraSettings",
    "CameraTimeoutError",
    "ColumnError",
    "ColumnSettings",
    "ColumnState",
    "ExposureAbortedError",
    "FaultSet",
    "Frame",
    "FrameMap",
    "FrameTruth",
    "ImperfectionSettings",
    "LostFrameError",
    "Magnification",
    "MicroscopeSettings",
    "OpticsSettings",
    "SectionSettings",
    "Setting",
    "SettingsError",
    "SimulationError",
    "StageError",
    "StageLimitError",
    "StageSettings",
    "StageStalledError",
    "StageTimeoutError",
    "VirtualCamera",
    "VirtualColumn",
    "VirtualMicroscope",
    "VirtualStage",
    "World",
    "warm_up",
]
