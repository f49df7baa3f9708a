"""Ophyd devices over temline's process variables.

They know the PVs' names and meaning, never the IOC's code.
"""

from devices.aperture import ApertureChanger
from devices.camera import Camera, CameraError
from devices.connection import NotConnectedError, connect
from devices.microscope import Microscope, NotSafeError
from devices.sequencer import (
    Flight,
    FlightPoint,
    PointFailedError,
    Sequencer,
    SequencerError,
)
from devices.setting import Setting, SettingRefusedError
from devices.stage import PositionError, Stage, StageAxis
from devices.tile import FocusFit, MissingTile, Tile
from devices.timeouts import set_defaults

set_defaults()  # before the first signal is made

__all__ = [
    "ApertureChanger",
    "Camera",
    "CameraError",
    "Flight",
    "FlightPoint",
    "FocusFit",
    "Microscope",
    "MissingTile",
    "NotConnectedError",
    "NotSafeError",
    "PointFailedError",
    "PositionError",
    "Sequencer",
    "SequencerError",
    "Setting",
    "SettingRefusedError",
    "Stage",
    "StageAxis",
    "Tile",
    "connect",
]
