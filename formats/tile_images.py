"""The tiles of a montage as images of one kind, read when they are asked for.

Their numbers come to uint8 or uint16 all alike, and masks come with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from formats.images import Levels, common_levels, open_image
from formats.montage import ImageSource, Montage

MAX_SAMPLES = 8  # tiles by which it is told how their numbers become uint16


@dataclass(frozen=True, eq=False)
class TileImages:
    """Reads the tiles of a montage; threads may share it.

    Attributes
    ----------
    images : tuple of ImageSource
    masks : tuple of (ImageSource or None)
        0 where there is no signal; empty if no tile has one.
    """

    images: tuple[ImageSource, ...]
    masks: tuple[ImageSource | None, ...] = ()

    @classmethod
    def of(cls, montage: Montage) -> TileImages:
        """Return the tiles of a montage."""
        return cls(montage.images, montage.masks)

    def read(self, index: int) -> NDArray[np.uint8 | np.uint16]:
        """Read a tile.

        Parameters
        ----------
        index : int
            In the montage.

        Returns
        -------
        ndarray of uint8 or uint16, shape (height, width)

        Raises
        ------
        ImageFormatError
            If its file is damaged, or gone.
        """
        source = self.images[index]
        image = open_image(source.path, source.page)
        return (image if self.levels is None else image.with_levels(self.levels)).read()

    def read_masked(self, index: int) -> NDArray[np.uint8 | np.uint16]:
        """Read a tile, as a masked array if the montage has a mask for it.

        Parameters
        ----------
        index : int
            In the montage.

        Raises
        ------
        ImageFormatError
            If its file is damaged, or gone.
        """
        mask = self.read_mask(index)
        return self.read(index) if mask is None else np.ma.MaskedArray(self.read(index), mask)

    def read_mask(self, index: int) -> NDArray[np.bool_] | None:
        """Read the mask of a tile, True where there is no signal; None if it has none.

        Raises
        ------
        ImageFormatError
            If its file is damaged, or gone.
        """
        source = self.masks[index] if self.masks else None
        return None if source is None else open_image(source.path, source.page).read() == 0

    @cached_property
    def levels(self) -> Levels | None:
        """How numbers become uint16, of all tiles alike; None if they fit as they are."""
        chosen = np.linspace(0, len(self.images) - 1, min(len(self.images), MAX_SAMPLES))
        sources = [self.images[int(k)] for k in chosen]
        images = [open_image(source.path, source.page) for source in sources]
        return None if all(image.fits for image in images) else common_levels(images)
