"""Finds the files that other files name, and names that keep tiles apart.

Metadata travels: what it names may lie beside it now, and its paths may be those of Windows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|[^/]*\\")


def foreign_path(text: str) -> PurePath:
    """Take a path as what it is, one of Windows or of any other system."""
    return PureWindowsPath(text) if WINDOWS.match(text) else PurePosixPath(text)


def find_file(folder: Path, text: str) -> Path:
    """Find the file that a file in a folder names.

    Parameters
    ----------
    folder : Path
        Of the file that holds the name. What is relative is relative to it.
    text : str
        A path, of Windows or of any other system.

    Returns
    -------
    Path
        Absolute. If nothing lies there, but under the same name and as many of its folders as
        there are in `folder`, that; if nothing lies there either, where it should.
    """
    named = foreign_path(text)
    parts = [part for part in named.parts if part != named.anchor]
    usual = folder.joinpath(*parts)
    if named.is_absolute():
        usual = folder / named.name if isinstance(named, PureWindowsPath) else Path(text)
    moved = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in (usual, *moved) if is_file(path)), usual).absolute()


def is_file(path: Path) -> bool:
    """Whether there is a file; not an error, whatever its name is made of."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name; a zero byte in it
        return False


def distinct_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return each of several paths a name of its own: the file's, and as many folders as it needs.

    What is wholly the same is numbered.

    Parameters
    ----------
    paths : sequence of str, length n

    Returns
    -------
    tuple of str, length n
        With ``/`` between folders, whatever the paths have.
    """
    parts = [_named_parts(path) for path in paths]
    depth = [1] * len(parts)
    while True:
        names = ["/".join(one[-many:]) for one, many in zip(parts, depth, strict=True)]
        count = Counter(names)
        longer = [
            many + (count[name] > 1 and many < len(one))
            for name, one, many in zip(names, parts, depth, strict=True)
        ]
        if longer == depth:
            return numbered(names)
        depth = longer


def _named_parts(path: str) -> list[str]:
    named = foreign_path(path)
    return [part for part in named.parts if part != named.anchor] or [path]


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name that is there already a number."""
    taken: dict[str, None] = {}
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name} ({number})"
        taken[free] = None
    return tuple(taken)
