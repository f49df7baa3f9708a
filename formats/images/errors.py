"""What is wrong with an image's file, in one line for its user.

The message names the file, what was found and what to do.
"""

from __future__ import annotations

from pathlib import Path

from formats.errors import FormatError

LONGEST_REASON = 160  # characters of what a decoder says


class ImageFormatError(FormatError):
    """A file holds no image that can be read; the message says what was found."""


def damaged(path: Path, error: BaseException) -> ImageFormatError:
    """Make the error for a file at which a decoder gave up."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]}…"
    return ImageFormatError(
        f"{path} cannot be decoded ({reason}); it may be damaged: open it in another program, and "
        "save it again as TIFF"
    )
