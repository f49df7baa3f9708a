"""Writes files that appear complete or not at all.

Who finds the name of a file finds all of it, whatever becomes of the process that writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Let a file appear complete or not at all: who finds its name finds all of it.

    Parameters
    ----------
    path : Path
        Of the file; its folder is made.

    Yields
    ------
    Path
        To write to, beside it. It goes if that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two workers may write at once.
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
