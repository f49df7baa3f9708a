"""Settings of the virtual microscope: frozen, validated, buildable from plain data.

Of the instrument, of what is imperfect about it, and of the two worlds that both make.
"""

from simulation.settings.imperfections import (
    BareResinSettings,
    ChargingSettings,
    CompressionSettings,
    ContaminationSettings,
    DarkCornerSettings,
    FringeSettings,
    Imperfection,
    ImperfectionSettings,
    KnifeMarkSettings,
    LensFieldSettings,
    MagnificationDriftSettings,
    SectionSettings,
    TileDistortionSettings,
    UnevenLightSettings,
)
from simulation.settings.instrument import (
    AxisSettings,
    CameraSettings,
    ColumnSettings,
    Magnification,
    OpticsSettings,
    StageSettings,
)
from simulation.settings.microscope import WORLDS, MicroscopeSettings, World

__all__ = [
    "WORLDS",
    "AxisSettings",
    "BareResinSettings",
    "CameraSettings",
    "ChargingSettings",
    "ColumnSettings",
    "CompressionSettings",
    "ContaminationSettings",
    "DarkCornerSettings",
    "FringeSettings",
    "Imperfection",
    "ImperfectionSettings",
    "KnifeMarkSettings",
    "LensFieldSettings",
    "Magnification",
    "MagnificationDriftSettings",
    "MicroscopeSettings",
    "OpticsSettings",
    "SectionSettings",
    "StageSettings",
    "TileDistortionSettings",
    "UnevenLightSettings",
    "World",
]
