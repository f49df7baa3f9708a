"""Reads the arguments of a request from the command line, and from files.

What says something as JSON is that; all else is text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from services.errors import PlainError


def parse_arguments(pairs: Iterable[str], file: str | None = None) -> dict[str, Any]:
    """Give arguments by name.

    Parameters
    ----------
    pairs : iterable of str
        Like ``exposure=0.1``; they come after those of the file.
    file : str, optional
        With a JSON object; "-" is the standard input.

    Raises
    ------
    PlainError
        If one is none.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise PlainError(f"{pair!r} is no argument; expected name=value, like exposure=0.1")
        if name in given:
            raise PlainError(f"the argument {name} is given twice")
        given[name] = parse_value(text)
    return (_read_object(file) if file else {}) | given


def parse_value(text: str) -> Any:
    """Give what a text says as JSON, or else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _read_object(file: str) -> dict[str, Any]:
    """Read a file of arguments."""
    name = "the standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise PlainError(f"{name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PlainError(f"{name} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise PlainError(f'{name} must hold an object such as {{"exposure": 0.1}}')
    return content
