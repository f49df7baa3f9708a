"""Reads point matches of tiles from JSON, in the form in which `render` exports collections.

What comes from elsewhere is checked here, at the edge, so that errors name the file and the place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from formats.errors import FormatError
from formats.json_files import read_json
from formats.montage import MontageFileError
from processing.geometry import PairMatches

# Keys under which some tools put the list.
WRAPPERS = ("collection", "collections", "matches", "pairs")
SHOWN = 3  # problems that an error tells of


class MatchFileError(FormatError):
    """A file holds no point matches that could be read; the message says what was found."""


class Points(BaseModel):
    """The matches of one pair: places in p and in q, and weights."""

    p: list[list[float]]
    q: list[list[float]]
    w: list[Annotated[float, Field(ge=0)]] | None = None


class Collection(BaseModel):
    """One pair of tiles."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    p_group: str = Field(default="", alias="pGroupId")
    p_id: str = Field(alias="pId")
    q_group: str = Field(default="", alias="qGroupId")
    q_id: str = Field(alias="qId")
    matches: Points


_COLLECTIONS = TypeAdapter(list[Collection])


def read_matches(path: Path) -> list[PairMatches]:
    """Read the point matches of a file.

    Parameters
    ----------
    path : Path
        JSON, gzipped or not: a list of ``{"pGroupId", "pId", "qGroupId",
        "qId", "matches": {"p": [[x, …], [y, …]], "q": …, "w": [weight, …]}}``, or a mapping with
        that list under ``collections`` or ``matches``. Places may be pairs ``[[x, y], …]``, too.
        Weight 0 marks an outlier; without weights all count.

    Returns
    -------
    list of PairMatches
        Places as (row, column), that is (y, x).

    Raises
    ------
    MatchFileError
        If the file cannot be read, or is not of this form.
    """
    try:
        collections = _COLLECTIONS.validate_python(_unwrap(path, read_json(path)))
    except MontageFileError as error:
        raise MatchFileError(str(error)) from error
    except ValidationError as error:
        raise MatchFileError(_explain(path, error)) from error
    groups = {group for one in collections for group in (one.p_group, one.q_group)}
    found = []
    for number, one in enumerate(collections):
        p, q = _places(one.matches.p), _places(one.matches.q)
        try:
            if p is None or q is None:
                raise ValueError(
                    f"p and q are lists of the lengths {_lengths(one.matches.p)} and "
                    f"{_lengths(one.matches.q)}; they must be [[x, …], [y, …]] or [[x, y], …]"
                )
            weights = np.ones(len(p)) if one.matches.w is None else np.array(one.matches.w)
            a, b = _tile(one.p_group, one.p_id, groups), _tile(one.q_group, one.q_id, groups)
            found.append(PairMatches(a, b, p, q, weights))
        except ValueError as error:
            raise MatchFileError(f"{path}, collection {number}: {error}") from error
    return found


def _unwrap(path: Path, content: Any) -> Any:
    """Give the list of collections, whatever it is wrapped in."""
    if isinstance(content, dict):
        for key in WRAPPERS:
            if isinstance(content.get(key), list):
                return content[key]
        if "pId" in content:
            return [content]
    if isinstance(content, list):
        return content
    found = (
        f"a mapping with the keys {', '.join(list(content)[:5]) or '(none)'}"
        if isinstance(content, dict)
        else f"a {type(content).__name__}"
    )
    raise MatchFileError(
        f"{path} holds {found}; point matches are a list of collections, each with pId, qId and "
        'matches {"p", "q", "w"}'
    )


def _places(places: list[list[float]]) -> NDArray[np.float64] | None:
    """Give places as (row, column), shape (n, 2), from either form; None if it is neither."""
    lengths = {len(line) for line in places}
    if len(places) == 2 and len(lengths) == 1:
        x, y = places
    elif lengths <= {2}:
        x, y = [place[0] for place in places], [place[1] for place in places]
    else:
        return None
    return np.column_stack([y, x]).astype(float).reshape(-1, 2)


def _lengths(places: list[list[float]]) -> list[int]:
    return [len(line) for line in places[:SHOWN]]


def _tile(group: str, name: str, groups: set[str]) -> str:
    return name if len(groups) == 1 else f"{group}/{name}"


def _explain(path: Path, error: ValidationError) -> str:
    """Say what is wrong where, and what was found there."""
    problems = []
    for problem in error.errors()[:SHOWN]:
        place = ".".join(str(part) for part in problem["loc"][1:]) or "collection"
        found = repr(problem["input"])
        found = found if len(found) <= 60 else found[:57] + "…"
        problems.append(f"collection {problem['loc'][0]}, {place}: {problem['msg']}, found {found}")
    more = error.error_count() - len(problems)
    return f"{path}: {'; '.join(problems)}{f'; and {more} more' if more > 0 else ''}"
