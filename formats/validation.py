"""The kinds of numbers that files of montages hold, and what to say where they are none.

Pydantic models of all readers are made of these.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

SHOWN = 3  # problems that an error tells of
MAX_SHOWN = 60  # characters of a value that an error shows
MAX_COORDINATE = 1e9  # px or µm: farther apart no tiles lie
MAX_CELL = 1_000_000  # rows or columns of a grid

Finite = Annotated[float, Field(allow_inf_nan=False)]
Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
Cell = Annotated[int, Field(ge=-MAX_CELL, le=MAX_CELL)]
Size = Annotated[float, Field(allow_inf_nan=False, gt=0, le=MAX_COORDINATE)]


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong where, and what was found there."""
    problems = []
    for problem in error.errors(include_url=False)[:SHOWN]:
        place = ".".join(str(part) for part in problem["loc"])
        problems.append(f"{place}: {problem['msg']}, found {shown(problem['input'])}")
    more = error.error_count() - len(problems)
    return f"{'; '.join(problems)}{f'; and {more} more' if more > 0 else ''}"


def shown(value: object) -> str:
    """Show a value in an error, in one line and not at length."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
