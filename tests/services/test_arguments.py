"""Arguments as the command line gives them: JSON if they are that, and text if not."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.arguments import parse_arguments, parse_value
from services.errors import PlainError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("3", 3),
        ("-1e-4", -1e-4),
        ("true", True),
        ("null", None),
        ("snap", "snap"),
        ('"3"', "3"),
        ("", ""),
        ("True", "True"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[1, 2]", [1, 2]),
        ("[1, 2", "[1, 2"),
        ('{"centre": [0, 0], "width": 20}', {"centre": [0, 0], "width": 20}),
        ("2026-11-27", "2026-11-27"),
        ("µm", "µm"),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_value_is_json_or_else_text(text, value):
    assert parse_value(text) == value


@given(st.text())
def test_any_text_is_a_value_that_can_be_sent(text):
    json.dumps(parse_value(text), allow_nan=False)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_comes_back_as_it_is(value):
    assert parse_value(json.dumps(value)) == value


def test_arguments_are_split_at_the_first_equals_sign():
    assert parse_arguments(["name=a=b", "exposure=0.1"]) == {"name": "a=b", "exposure": 0.1}
    assert parse_arguments([]) == {}


@pytest.mark.parametrize("pair", ["exposure", "=1", "1=2", "a b=1", "--x=1", ""])
def test_what_is_no_argument_is_named(pair):
    with pytest.raises(PlainError, match="is no argument; expected name=value"):
        parse_arguments([pair])


def test_an_argument_is_given_once():
    with pytest.raises(PlainError, match="exposure is given twice"):
        parse_arguments(["exposure=1", "exposure=2"])


def test_a_file_has_what_the_command_line_has_not(tmp_path):
    file = tmp_path / "arguments.json"
    file.write_text('{"exposure": 1, "sample": "S\u00e41"}', encoding="utf-8")
    assert parse_arguments(["exposure=2"], str(file)) == {"exposure": 2, "sample": "Sä1"}


def test_the_standard_input_is_a_file_too(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"exposure": 1}'))
    assert parse_arguments([], "-") == {"exposure": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", "must hold an object"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_none_of_arguments_is_refused(tmp_path, content, reason):
    file = tmp_path / "arguments.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PlainError, match=f"arguments.json {reason}"):
        parse_arguments([], str(file))
