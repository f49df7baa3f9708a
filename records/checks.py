"""What may be stored: the same on every database, and refused before it gets there.

PostgreSQL keeps no NUL character, JSON has no NaN, and neither has half a surrogate pair.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from typing import Any

from records.requests import NewRequest

NAME_LENGTH = 200  # characters; an index of PostgreSQL takes no more than 2.7 kB
PATH_LENGTH = 4096
DEPTH = 50
PRIORITIES = range(-1_000_000, 1_000_001)


def check_text(field: str, text: object, longest: int | None = NAME_LENGTH) -> None:
    """Refuse what is no text, or cannot be stored.

    Raises
    ------
    ValueError
        With the field's name.
    """
    if not isinstance(text, str):
        raise ValueError(f"{field}: expected text, found {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{field}: has a NUL character, which cannot be stored; take it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{field}: is not valid Unicode at character {error.start}") from None
    if longest is not None and len(text) > longest:
        raise ValueError(f"{field}: expected at most {longest} characters, found {len(text)}")


def check_name(field: str, text: object) -> None:
    """Refuse what cannot be the name of something; as `check_text`, and not empty."""
    check_text(field, text)
    if not text:
        raise ValueError(f"{field}: expected a name, found nothing")


def check_priority(priority: object) -> None:
    """Refuse what is no priority."""
    if not isinstance(priority, int) or priority not in PRIORITIES:
        raise ValueError(
            f"priority: expected a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}, "
            f"found {priority!r}"
        )


def as_json(field: str, value: dict[str, Any]) -> dict[str, Any]:
    """Give a mapping as it will be read back: a copy, tuples as lists.

    Raises
    ------
    ValueError
        With the path to what JSON cannot say, like ``arguments.region[2].name``.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{field}: expected a mapping, found {type(value).__name__}")
    _check_json(field, value, DEPTH)
    copy: dict[str, Any] = json.loads(json.dumps(value))
    return copy


def _check_json(where: str, value: object, depth: int) -> None:
    """Go through a value, and refuse the first that JSON cannot say."""
    if depth < 0:
        raise ValueError(f"{where}: is nested deeper than {DEPTH} levels")
    match value:
        case None | bool() | int():
            pass
        case str():
            check_text(where, value, longest=None)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{where}: expected a finite number, found {value}")
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(f"{where}[{index}]", item, depth - 1)
        case dict():
            for key, item in value.items():
                check_text(f"a key of {where}", key, longest=None)
                _check_json(f"{where}.{key}", item, depth - 1)
        case _:
            raise ValueError(
                f"{where}: expected what JSON can say, found {type(value).__name__}; "
                "turn it into numbers, text, lists or mappings"
            )


def check_time(field: str, moment: datetime | None) -> None:
    """Refuse a time without its zone: it may be anybody's."""
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"{field}: expected a time with its zone, found {moment}")


def checked(new: NewRequest) -> NewRequest:
    """Give a request as it will be stored, or refuse it.

    Raises
    ------
    ValueError
        With the field that is wrong.
    """
    for field in ("id", "function", "client", "host"):
        check_name(field, getattr(new, field))
    for field in ("batch", "parent"):
        if getattr(new, field) is not None:
            check_name(field, getattr(new, field))
    check_belongings(new.proposal, new.directory)
    check_priority(new.priority)
    return replace(new, arguments=as_json("arguments", new.arguments), held=bool(new.held))


def check_belongings(proposal: str | None, directory: str | None) -> None:
    """Refuse what is no proposal, or no folder."""
    if proposal is not None:
        check_text("proposal", proposal)
    if directory is not None:
        check_text("directory", directory, PATH_LENGTH)


def cleaned(message: str) -> str:
    """Give a message with a replacement for what cannot be stored.

    Messages come from errors of all kinds, and an outcome must not be lost by a letter of it.
    """
    return message.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
