"""A mosaic's picture in the terminal, of half blocks in greys: a first look without a viewer."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.style import Style
from rich.text import Text

MAX_COLUMNS, MAX_LINES = 72, 24
UPPER_HALF = "▀"


def show_picture(console: Console, image: NDArray[np.uint8]) -> None:
    """Print an image if the terminal can show it.

    Parameters
    ----------
    console : Console
    image : ndarray of uint8, shape (height, width)
    """
    if console.is_terminal and console.color_system in ("256", "truecolor"):
        console.print(_in_characters(image, min(MAX_COLUMNS, console.width - 1)))


def _in_characters(image: NDArray[np.uint8], columns: int) -> Text:
    """Draw an image with two pixels in a character, its colour and its background."""
    height, width = image.shape
    factor = min(columns / width, 2 * MAX_LINES / height)
    size = max(1, round(width * factor)), 2 * max(1, round(height * factor / 2))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    text = Text()
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append(UPPER_HALF, Style.parse(f"{_grey(above)} on {_grey(below)}"))
        text.append("\n")
    return text


def _grey(value: int) -> str:
    return f"rgb({value},{value},{value})"
