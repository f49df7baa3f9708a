"""Reads autodoc files, in which IMOD and SerialEM keep what they know of images: mdoc, idoc, adoc.

Sections with a kind and a name, and lines ``key = value`` in and before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from formats.montage import MontageFileError

COMMENT = "#"


@dataclass(frozen=True)
class Section:
    """A section of an autodoc.

    Attributes
    ----------
    kind, name : str
        ``[kind = name]``.
    values : dict of str to str
        By key; the last, if a key is there twice.
    """

    kind: str
    name: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Autodoc:
    """The content of an autodoc.

    Attributes
    ----------
    values : dict of str to str
        Those before the first section.
    sections : tuple of Section
        In order.
    """

    values: dict[str, str]
    sections: tuple[Section, ...]

    def of_kind(self, kind: str) -> Iterator[Section]:
        """Yield the sections of one kind, in order."""
        return (section for section in self.sections if section.kind.lower() == kind.lower())


def read_autodoc(path: Path) -> Autodoc:
    """Read an autodoc file; lines that are no part of its form are passed over.

    Parameters
    ----------
    path : Path
        UTF-8 or Latin-1, with any line ends.

    Raises
    ------
    MontageFileError
        If it cannot be read, or is no text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise MontageFileError(
            f"{path} is no text; expected an autodoc, such as the .mdoc that SerialEM writes"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return parse_autodoc(text)


def parse_autodoc(text: str) -> Autodoc:
    """Read the text of an autodoc."""
    values: dict[str, str] = {}
    sections: list[Section] = []
    current = values
    for line in re.split(r"\r\n|\r|\n", text):
        stripped = line.strip()
        if stripped.startswith(COMMENT):
            continue
        is_header = stripped.startswith("[")
        key, equals, value = stripped.removeprefix("[").partition("=")
        if not equals or not key.strip():
            continue
        if is_header:
            sections.append(Section(key.strip(), value.strip().removesuffix("]").strip()))
            current = sections[-1].values
        else:
            current[key.strip()] = value.strip()
    return Autodoc(values, tuple(sections))
