"""What cannot be stored on every database is refused, by the name of what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from records import NewRequest
from records.checks import checked

HALF_A_PAIR = "\ud800"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("id", {"id": ""}),
        ("id", {"id": "a\0"}),
        ("id", {"id": "x" * 201}),
        ("id", {"id": 7}),
        ("function", {"function": ""}),
        ("client", {"client": HALF_A_PAIR}),
        ("host", {"host": "\0"}),
        ("batch", {"batch": "b\0"}),
        ("batch", {"batch": ""}),
        ("proposal", {"proposal": "\0"}),
        ("directory", {"directory": "/" * 5000}),
        ("parent", {"parent": "\0"}),
        ("priority", {"priority": 2**40}),
        ("priority", {"priority": "high"}),
        ("arguments", {"arguments": [1]}),
        (r"arguments\.name", {"arguments": {"name": "a\0b"}}),
        (r"arguments\.tiles\[1\]\.note", {"arguments": {"tiles": [{}, {"note": "\0"}]}}),
        (r"a key of arguments", {"arguments": {"a\0b": 1}}),
        (r"a key of arguments", {"arguments": {1: 1}}),
        (r"arguments\.dose", {"arguments": {"dose": float("nan")}}),
        (r"arguments\.dose\[0\]", {"arguments": {"dose": [float("-inf")]}}),
        (r"arguments\.name", {"arguments": {"name": HALF_A_PAIR}}),
        (r"arguments\.when", {"arguments": {"when": datetime.now(UTC)}}),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_name(field, wrong):
    values = {"id": "a", "function": "f", "arguments": {}, "client": "c", "host": "h"} | wrong
    with pytest.raises(ValueError, match=rf"^{field}: "):
        checked(NewRequest(**values))


def test_endless_arguments_are_refused():
    endless: dict = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="is nested deeper than 50 levels"):
        checked(NewRequest("a", "f", endless, "c", "h"))
