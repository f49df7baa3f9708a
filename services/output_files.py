"""Refuses outputs that would destroy what is read, or each other: before anything is written.

A name that completes itself in a shell is easily that of a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from services.errors import PlainError


def require_apart(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are inputs, or one file.

    Parameters
    ----------
    outputs : mapping of str to (Path or None)
        By their options; None: not asked for.
    inputs : iterable of Path
        Files that are read.

    Raises
    ------
    PlainError
        It names the option, and a name that no file can have.
    """
    read = {_whole(path) for path in inputs}
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        whole = _whole(path)
        if whole in read:
            raise PlainError(f"{option} {path} is a file that is read; give another name")
        if whole in taken:
            raise PlainError(f"{taken[whole]} and {option} are both {path}; give each its own name")
        taken[whole] = option


def _whole(path: Path) -> Path:
    """Return the path without links and steps upwards."""
    try:
        path.exists()  # which tells names that are too long, and `resolve` does not
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a null
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlainError(f"{str(path)[:80]} is no name of a file: {reason}") from error
