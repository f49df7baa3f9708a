"""Finds rows and columns in the names of tile images, by a pattern that is given or found.

Microscopes put them there in many ways: ``tile_r003_c012.tif``, ``Tile_001-002-000000_0-000.tif``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from formats.montage import MontageFileError

ROW_LABELS = {"r", "row", "tr", "y"}
COLUMN_LABELS = {"c", "col", "column", "tc", "x"}
FIELDS = ("row", "col", "x", "y", "index")
FIELD = re.compile(r"\{(\w+)\}|[*?#]")
WHOLE, REAL = r"\d+", r"-?\d+(?:\.\d+)?"
ANY = {"*": "[^/]*", "?": "[^/]", "#": WHOLE}
NUMBER = re.compile(r"\d+")
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SEPARATORS = "-_ =."
MIN_FILL = 0.1  # of a grid, that tiles fill; what fills less are other numbers
MAX_TAKEN_AGAIN = 0.3  # of the images; beyond it a place's images are no retakes
SHOWN = 3  # names that an error tells of


@dataclass(frozen=True)
class NamePattern:
    """A pattern of tile names.

    Attributes
    ----------
    text : str
        With ``{row}``, ``{col}``, ``{x}``, ``{y}``, ``{index}``; ``#`` for any number, ``*`` for
        any text within a folder, ``?`` for any character.
    fields : tuple of str
        Those that it has.
    """

    text: str
    fields: tuple[str, ...]
    _regex: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """Make it of its text.

        Raises
        ------
        MontageFileError
            If it has an unknown field, one twice, or not those that tell a place.
        """
        regex, end = "", 0
        fields: list[str] = []
        for found in FIELD.finditer(text):
            regex += re.escape(text[end : found.start()])
            end = found.end()
            if found[1] is None:
                regex += ANY[found[0]]
                continue
            name = "col" if found[1] == "column" else found[1]
            if name not in FIELDS or name in fields:
                known = ", ".join(f"{{{one}}}" for one in FIELDS)
                problem = "there twice" if name in fields else "not known"
                raise MontageFileError(
                    f"pattern {text!r}: {found[0]} is {problem}; it may have {known}, each once"
                )
            fields.append(name)
            regex += f"(?P<{name}>{REAL if name in 'xy' else WHOLE})"
        regex += re.escape(text[end:])
        has = set(fields)
        if not ({"row", "col"} <= has or {"x", "y"} <= has or has == {"index"}):
            raise MontageFileError(
                f"pattern {text!r} tells no place; it needs {{row}} and {{col}}, or {{x}} and "
                "{y}, or {index} and the number of columns"
            )
        return cls(text, tuple(fields), re.compile(f"(?:.*/)?{regex}", re.IGNORECASE | re.DOTALL))

    def numbers(self, name: str) -> dict[str, float] | None:
        """Return the numbers of a name by field; None if it is of another pattern."""
        found = self._regex.fullmatch(name)
        return None if found is None else {field: float(found[field]) for field in self.fields}


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Return what sorts names as people do: ``tile_9`` before ``tile_10``."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)


def find_pattern(names: Sequence[str]) -> NamePattern:
    """Find the pattern by which the names of most files tell rows and columns.

    Names are alike if they differ in their numbers only. Of the numbers, those are rows and columns
    that are called so (``r``, ``row``, ``y``; ``c``, ``col``, ``x``), or else the two that fill a
    grid best; the first is the row then. Folders count where names alone do not tell.

    Parameters
    ----------
    names : sequence of str
        Of files, one or more, with ``/`` between their folders.

    Returns
    -------
    NamePattern
        With ``{row}`` and ``{col}``, or ``{x}`` and ``{y}`` if they are called so, and ``#`` for
        other numbers that differ.

    Raises
    ------
    MontageFileError
        If they tell no grid.
    """
    without_folders = [name.rpartition("/")[2] for name in names]
    found = _find(without_folders) or _find(names)
    if found is None:
        some = ", ".join(sorted(names, key=natural_key)[:SHOWN])
        raise MontageFileError(
            f"the names of images, such as {some}, tell no place of one image each: give a "
            "pattern, such as 'tile_{row}_{col}.tif', or 'tile_{index}.tif' and the number of "
            "columns"
        )
    return found


def _find(names: Sequence[str]) -> NamePattern | None:
    alike = _most_alike(names)
    numbers = [[int(number) for number in NUMBER.findall(name)] for name in alike]
    values = list(zip(*numbers, strict=True))
    differing = [number for number, one in enumerate(values) if len(set(one)) > 1]
    places = _labelled(alike[0], differing) or _filling(values, differing)
    if places is None:
        return None
    text, end = "", 0
    for number, found in enumerate(NUMBER.finditer(alike[0])):
        text += _literal(alike[0][end : found.start()])
        end = found.end()
        text += places.get(number, "#" if number in differing else found[0])
    return NamePattern.parse(text + _literal(alike[0][end:]))


def _most_alike(names: Sequence[str]) -> list[str]:
    """Return the names of the largest set that differ in numbers only."""
    sets: dict[str, list[str]] = defaultdict(list)
    for name in names:
        sets[NUMBER.sub("0", name).lower()].append(name)
    return max(sets.values(), key=len)


def _labelled(name: str, differing: Sequence[int]) -> dict[int, str] | None:
    """Return the fields of those numbers of a name that are called so.

    Of several that are called row, say, it is the last that differs from name to name.
    """
    labels = _labels(name)
    row, column = (
        max(
            (number for number, label in enumerate(labels) if label in wanted),
            key=lambda number: (number in differing, number),
            default=None,
        )
        for wanted in (ROW_LABELS, COLUMN_LABELS)
    )
    if row is None or column is None:
        return None
    by_xy = (labels[row], labels[column]) == ("y", "x")
    return {row: "{y}" if by_xy else "{row}", column: "{x}" if by_xy else "{col}"}


def _labels(name: str) -> list[str]:
    """Return the word before each number of a name; empty if none stands there."""
    labels, end = [], 0
    for found in NUMBER.finditer(name):
        before = name[end : found.start()].rstrip(SEPARATORS)
        words = WORDS.findall(before)
        labels.append(words[-1].lower() if words and before.endswith(words[-1]) else "")
        end = found.end()
    return labels


def _filling(values: Sequence[Sequence[int]], differing: Sequence[int]) -> dict[int, str] | None:
    """Return the fields of those two of the numbers that fill a grid best."""
    best, most = None, MIN_FILL
    for first, second in combinations(differing, 2):
        cells = set(zip(values[first], values[second], strict=True))
        height, width = (max(side) - min(side) + 1 for side in zip(*cells, strict=True))
        fill = len(cells) / (height * width)
        if fill > most and len(cells) >= (1 - MAX_TAKEN_AGAIN) * len(values[first]):
            best, most = {first: "{row}", second: "{col}"}, fill
    return best


def _literal(text: str) -> str:
    """Return text as a pattern has it: what would be a field there stands for any character."""
    return re.sub(r"[{}*?#]", "?", text)
