"""Settings: what is refused at the door, and with which words."""

import re
from dataclasses import FrozenInstanceError

import pytest

from simulation import (
    CameraSettings,
    ColumnSettings,
    Magnification,
    MicroscopeSettings,
    OpticsSettings,
    SettingsError,
    StageSettings,
)


def test_plain_data_replaces_what_it_names_and_no_more():
    settings = MicroscopeSettings.from_mapping(
        {"seed": 7, "camera": {"sensor": [256, 512]}, "stage": {"z": {"speed": 20.0}}}
    )
    assert settings.seed == 7
    assert settings.camera.sensor == (256, 512)
    assert settings.camera.read_noise == CameraSettings().read_noise
    assert settings.stage.z.speed == 20.0
    assert settings.stage.z.high == StageSettings().z.high == 300.0
    assert settings.optics == OpticsSettings()


def test_no_plain_data_gives_the_defaults():
    assert MicroscopeSettings.from_mapping({}) == MicroscopeSettings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sead": 1}, "MicroscopeSettings has no setting 'sead'; did you mean 'seed'?"),
        ({"camera": {"senzor": [8, 8]}}, "CameraSettings has no setting 'senzor'"),
        ({"stage": {"x": {"spede": 1}}}, "AxisSettings has no setting 'spede'"),
        ({"qqq": 1}, "there are seed, time_scale, column, optics, camera, stage"),
        ({"camera": 5}, "camera is 5; give a mapping of CameraSettings"),
        ({"time_scale": 0}, "MicroscopeSettings.time_scale is 0; it must lie between 0.001 and"),
        ({"seed": True}, "MicroscopeSettings.seed is True"),
        ({"optics": {"semi_angle": "wide"}}, "OpticsSettings.semi_angle is 'wide'"),
        (
            {"optics": {"cs": float("nan")}},
            "OpticsSettings.cs is nan; it must lie between 0 and 20",
        ),
        ({"optics": {"section_tilt": [0, 3]}}, "OpticsSettings.section_tilt is (0, 3)"),
        ({"camera": {"sensor": [8, 2048]}}, "CameraSettings.sensor is (8, 2048)"),
        ({"camera": {"sensor": [64]}}, "give (height, width) in whole px"),
        ({"camera": {"sensor": [64.5, 64]}}, "give (height, width) in whole px"),
        ({"camera": {"readout_time": -1}}, "readout_time is -1; it must lie between 0 and 60 s"),
        ({"camera": {"min_exposure": 5, "max_exposure": 1}}, "over the max_exposure of 1 s"),
        ({"column": {"magnification": 4000}}, "magnification is 4000; it must be one of 50, 125"),
        ({"stage": {"x": {"low": 5, "high": 4}}}, "AxisSettings.low is 5, not under high 4"),
        ({"stage": {"y": {"speed": 9000}}}, "AxisSettings.speed is 9000; it must lie between 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_it_was_and_what_is_allowed(options, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        MicroscopeSettings.from_mapping(options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("L", 50, 4.0), "mode is 'L'; it must be LM or M"),
        (("M", 50, 0.0), "pixel_size is 0.0; it must lie between 0.05 and 10000 nm"),
        (("M", 50, 4.0, float("inf")), "rotation is inf"),
    ],
)
def test_lines_of_the_magnification_table_are_checked(line, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        Magnification(*line)


def test_a_table_may_be_plain_data():
    lines = [{"mode": "M", "magnification": 100, "pixel_size": 10.0}]
    settings = ColumnSettings.from_mapping({"magnifications": lines, "magnification": 100})
    assert settings.magnifications == (Magnification("M", 100, 10.0),)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        CameraSettings().offset = 3.0
