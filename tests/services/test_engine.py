"""RunEngine, devices and callbacks as the configuration says; and what is told when it is wrong."""

import dataclasses

import pytest

from callbacks.tile_jobs import ProcessorSettings
from config import load
from config.model import Quality
from processing.chain import DEFAULT_STEPS, StepSettings
from processing.quality import Thresholds
from services.engine import (
    DeviceError,
    add_baseline,
    find_part,
    make_devices,
    make_run_engine,
    processor_settings,
)
from services.errors import PlainError
from services.processes import warn_of_full_disk


def config(**environ):
    return load(environ=environ).config


def test_start_documents_say_which_instrument_took_the_run():
    RE = make_run_engine(config(TEMLINE_OPERATOR="ada", TEMLINE_INSTRUMENT="TEM-7"))
    assert RE.md["operator"] == "ada"
    assert RE.md["instrument"] == "TEM-7"
    assert RE.md["temline_version"]


def test_the_operator_is_the_login_name_if_none_is_given(monkeypatch):
    monkeypatch.setenv("LOGNAME", "grace")
    assert make_run_engine(config()).md["operator"] == "grace"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("devices.stage.Stag", "devices.stage.class is devices.stage.Stag, which cannot be"),
        ("no_such_package.Stage", "No module named 'no_such_package'"),
        ("ophyd.Signal", "devices.stage: ophyd.Signal does not take these options"),
    ],
)
def test_a_class_that_cannot_be_made_is_named_with_its_key(path, words):
    bad = config(
        TEMLINE_DEVICES__STAGE__CLASS=path, TEMLINE_DEVICES__STAGE__OPTIONS="{colour: red}"
    )
    with pytest.raises(DeviceError, match=words):
        make_devices(bad.model_copy(update={"devices": {"stage": bad.devices["stage"]}}))


def test_a_baseline_of_what_does_not_exist_is_refused():
    with pytest.raises(DeviceError, match=r"baseline names stage.w, .* devices stage"):
        find_part({"stage": object()}, "stage.w")


def test_a_device_that_is_not_there_is_left_out_of_the_baseline():
    RE = make_run_engine(config())
    assert add_baseline(RE, config(), {"scope": object()}) == ["scope"]


def test_the_thresholds_and_settings_of_the_callbacks_are_those_of_the_configuration():
    names = {field.name for field in dataclasses.fields(Thresholds)}
    assert set(Quality.model_fields) <= names
    given = Thresholds(**config().quality.model_dump())
    assert given == Thresholds(), "the defaults of config/default.yml differ from the callbacks'"
    assert config().processing.max_offset == ProcessorSettings().max_offset


def test_the_steps_of_the_chain_are_those_of_the_configuration():
    assert processor_settings(config()).steps == DEFAULT_STEPS
    assert processor_settings(config()).write is None
    chosen = processor_settings(
        config(
            TEMLINE_PROCESSING__STEPS="[flip, statistics: {bit_depth: 12}]",
            TEMLINE_PROCESSING__WRITE="[frame]",
        )
    )
    assert chosen.steps == (
        StepSettings("flip"),
        StepSettings("statistics", (("bit_depth", 12),)),
    )
    assert set(chosen.outputs((512, 512))) == {"frame"}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[flipp]", "there is no step 'flipp'; did you mean flip?"),
        ("[statistics: {bits: 12}]", "the step statistics cannot be made"),
        ("[flip, flip]", "the step flip comes twice"),
    ],
)
def test_a_step_that_cannot_be_made_is_named_with_its_key(steps, words):
    with pytest.raises(PlainError) as caught:
        processor_settings(config(TEMLINE_PROCESSING__STEPS=steps))
    assert str(caught.value).startswith("processing.steps: ")
    assert words in str(caught.value)


def test_a_disk_that_is_almost_full_is_told(tmp_path, caplog):
    warn_of_full_disk(config(TEMLINE_DATA__FOLDER=str(tmp_path), TEMLINE_DATA__MINIMUM_FREE_GB="0"))
    assert caplog.text == ""
    full = config(TEMLINE_DATA__FOLDER=str(tmp_path), TEMLINE_DATA__MINIMUM_FREE_GB="1e9")
    warn_of_full_disk(full)
    assert f"{tmp_path} has " in caplog.text
    assert "data.minimum_free_gb is 1e+09: make room" in caplog.text
