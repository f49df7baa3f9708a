"""The layers of a configuration, the source of each value, and the messages for mistakes."""

from pathlib import Path

import pytest

from config import ConfigError, load
from config.loader import DEFAULT, SIMULATOR

SITE_EXAMPLE = DEFAULT.with_name("site-example.yml")


@pytest.fixture
def site(tmp_path):
    """Write a site's file and give its path."""

    def write(text: str) -> Path:
        path = tmp_path / "site.yml"
        path.write_text(text)
        return path

    return write


def source_of(loaded, key):
    return {dotted: source for dotted, _, source in loaded.table()}[key]


def line_of(path, text):
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_without_a_site_file_the_instrument_is_the_virtual_microscope():
    loaded = load(environ={})
    assert loaded.config.ioc.driver == "simulated"
    assert loaded.config.instrument == "virtual-microscope"
    assert source_of(loaded, "ioc.driver") == f"{SIMULATOR}:{line_of(SIMULATOR, 'driver:')}"
    assert source_of(loaded, "montage.overlap") == f"{DEFAULT}:{line_of(DEFAULT, 'overlap:')}"


def test_each_layer_lies_over_the_one_before(site):
    file = site("epics:\n  port: 6000\n  prefix: 'A:'\nmontage: {overlap: 20, settle: 0.5}\n")
    loaded = load(
        file,
        environ={"TEMLINE_MONTAGE__OVERLAP": "30"},
        overrides={"montage": {"overlap": 25, "settle": 0.7}},
        overrides_from="a test",
    )
    assert loaded.config.epics.port == 6000
    assert loaded.config.epics.interfaces == load(environ={}).config.epics.interfaces
    assert loaded.config.montage.settle == 0.7
    assert loaded.config.montage.overlap == 30
    assert source_of(loaded, "epics.port") == f"{file}:2"
    assert source_of(loaded, "montage.settle") == "a test"
    assert source_of(loaded, "montage.overlap") == "environment variable TEMLINE_MONTAGE__OVERLAP"


def test_a_site_file_replaces_the_simulator_and_can_be_named_by_the_environment(site):
    file = site("instrument: TEM-1\n")
    config = load(environ={"TEMLINE_CONFIG": str(file)}).config
    assert config.instrument == "TEM-1"
    assert config.ioc.driver is None


def test_every_value_has_a_source():
    loaded = load(SITE_EXAMPLE, environ={"TEMLINE_IOC__OPTIONS__SEED": "3"})
    assert all(source for _, _, source in loaded.table())
    assert loaded.config.ioc.options["seed"] == 3


def test_the_environment_gives_lists_numbers_and_null():
    config = load(
        environ={
            "TEMLINE_EPICS__ADDRESSES": "[127.0.0.1:5070, 127.0.0.1:5071]",
            "TEMLINE_IOC__DRIVER": "null",
            "TEMLINE_OPERATOR": "",
            "TEMLINE_MONTAGE__FOCUS": "5",
        }
    ).config
    assert config.epics.addresses == ["127.0.0.1:5070", "127.0.0.1:5071"]
    assert config.ioc.driver is None
    assert config.operator == ""
    assert config.montage.focus == 5


def test_null_takes_a_device_away(site):
    config = load(site("devices:\n  aperture: null\n"), environ={}).config
    assert set(config.devices) == {"scope", "stage", "camera", "sequencer"}


def test_options_of_devices_know_the_data_folder(site):
    config = load(site("data: {folder: /mnt/frames}\n"), environ={}).config
    template = config.device_options("camera")["write_path_template"]
    assert template.startswith("/mnt/frames/")
    assert "%Y" in template


def test_the_site_example_swaps_a_device_class_and_a_prefix():
    config = load(SITE_EXAMPLE, environ={}).config
    assert config.devices["aperture"].class_ == "ophyd.EpicsSignal"
    assert config.device_prefix("aperture") == "LAB7:STAGE:Aperture"
    assert config.device_prefix("camera") == "LAB7:CAM:"
    assert config.devices["camera"].class_ == "devices.camera.Camera"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("montage:\n  overlapp: 3\n", [":2: unknown key montage.overlapp", "montage.overlap?"]),
        ("overlap: 3\n", [":1: unknown key overlap", "did you mean montage.overlap?"]),
        ("tilde:\n  port: 1\n", [":1: unknown key tilde", "did you mean tiled?"]),
        ("zzz: 3\n", [":1: unknown key zzz", "known keys here are instrument, operator"]),
        ("devices:\n  stage:\n    prefx: a\n", [":3: unknown key", "devices.stage.prefix?"]),
        ("montage:\n  overlap: 95\n", [":2: montage.overlap is 95;", "less than or equal to 90"]),
        ("montage:\n  overlap: much\n", [":2: montage.overlap is 'much';", "number", "in %"]),
        ("montage:\n  pattern: zigzag\n", ["is 'zigzag'", "'serpentine' or 'blocks'"]),
        (
            "montage:\n  focus: never\n",
            ["is 'never'", "'none', 'once', 'row', 'plane' or 'surface'", "every n tiles"],
        ),
        ("lens:\n  degree: 12\n", [":2: lens.degree is 12;", "'auto'", "less than or equal to 9"]),
        ("epics:\n  port: 70000\n", [":2: epics.port is 70000;", "65535"]),
        ("devices:\n  stage:\n    class: Stage\n", ["is 'Stage'", "like devices.stage.Stage"]),
        ("devices:\n  xy:\n    prefix: 'A:'\n", ["devices.xy.class is missing"]),
        ("devices:\n  the-stage: {class: a.B, prefix: c}\n", ["'the-stage' is not a Python name"]),
        ("tiled: 3\n", [":1: tiled is 3;"]),
        ("- a\n- b\n", ["holds a list; a mapping is expected"]),
        ("a: [1\n", ["is not valid YAML"]),
        ("operator: a\noperator: b\n", [":2: operator was set already in line 1"]),
    ],
)
def test_a_mistake_is_named_with_its_file_line_and_what_is_allowed(site, text, parts):
    file = site(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert str(file) in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_all_mistakes_are_named_at_once(site):
    with pytest.raises(ConfigError) as caught:
        load(site("operater: a\nmontage:\n  overlap: -1\n"), environ={"TEMLINE_LOG__LEVEL": "LOUD"})
    message = str(caught.value)
    assert "operater" in message
    assert "montage.overlap is -1" in message
    assert "environment variable TEMLINE_LOG__LEVEL: log.level is 'LOUD'" in message


def test_an_unknown_variable_is_an_error():
    with pytest.raises(ConfigError, match=r"TEMLINE_EPICS__PROT: unknown key epics.prot; did you"):
        load(environ={"TEMLINE_EPICS__PROT": "3"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yml: cannot read .*: No such file"):
        load(tmp_path / "nowhere.yml", environ={})


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        load(path, environ={})


def test_values_cannot_be_changed_afterwards():
    config = load(environ={}).config
    with pytest.raises(ValueError, match="frozen"):
        config.epics.port = 1


def test_a_prefix_with_a_colon_can_be_given_by_the_environment():
    assert load(environ={"TEMLINE_EPICS__PREFIX": "LAB7:"}).config.epics.prefix == "LAB7:"
