"""Writes text files; what cannot be written is told in one line.

Every writer of text does it alike.
"""

from __future__ import annotations

from pathlib import Path

from formats.montage import MontageFileError


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, its line ends as they are.

    Raises
    ------
    MontageFileError
        If the file cannot be written.
    """
    try:
        path.write_text(text, "utf-8", newline="")
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> MontageFileError:
    """Make the error for a file that could not be written."""
    return MontageFileError(f"{path} cannot be written: {error.strerror or error}")
