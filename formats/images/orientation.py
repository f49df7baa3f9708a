"""Turns images to how they are meant to be seen, by the tag Orientation of TIFF and EXIF.

Where a window is asked for, only what it shows is to be read: its place in the file is found here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from formats.images.source import Shape, Window

SWAPPED = 5, 6, 7, 8  # rows and columns change places
ROWS_REVERSED, COLUMNS_REVERSED = (3, 4, 7, 8), (2, 3, 6, 7)  # after that


def upright(orientation: int, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn an image, or a window of one, to how it is meant to be seen.

    Parameters
    ----------
    orientation : int
        Where the stored row 0 and column 0 belong: 1 top and left, 2 top and right, 3 bottom and
        right, 4 bottom and left; 5 to 8 the same, rows being columns. Anything else counts as 1.
    pixels : ndarray, shape (height, width, …)
    """
    if orientation in SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in ROWS_REVERSED:
        pixels = pixels[::-1]
    if orientation in COLUMNS_REVERSED:
        pixels = pixels[:, ::-1]
    return pixels


def upright_shape(orientation: int, stored: Shape) -> Shape:
    """Give the shape of an upright image, from that of the stored one."""
    return stored[::-1] if orientation in SWAPPED else stored


def stored_window(orientation: int, stored: Shape, window: Window) -> Window:
    """Give the part of the stored image that a window of the upright one shows."""
    height, width = upright_shape(orientation, stored)
    rows, columns = window
    if orientation in ROWS_REVERSED:
        rows = slice(height - rows.stop, height - rows.start)
    if orientation in COLUMNS_REVERSED:
        columns = slice(width - columns.stop, width - columns.start)
    return (columns, rows) if orientation in SWAPPED else (rows, columns)
