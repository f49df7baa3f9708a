"""Tiles on their way: read, corrected, looked at as a live montage's are, and read again in parts.

What is measured of a tile is kept; its pixels are not, but for the last few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from formats.tile_images import TileImages
from processing.chain import Chain, StepSettings, TileState, make_chain
from processing.flatfield import References
from processing.geometry import FrameGeometry
from processing.matching import MatchTile, Side
from processing.mosaic import Window

CORRECT = "flat_field", "mask"
LOOK = "statistics", "focus", "light", "match"
MIN_FOR_FOCUS = 128  # px, of a tile's shorter side
CACHE_BYTES = 2**30  # of tiles that blocks of the mosaic share
NO_GEOMETRY = FrameGeometry(1.0)  # no step that is used asks for it


@dataclass(frozen=True, eq=False)
class MosaicTile:
    """A tile of which blocks of a mosaic take parts: `callbacks.mosaic.TileSource`.

    Attributes
    ----------
    read_whole : callable
        Gives the tile of an index.
    index : int
    """

    read_whole: Callable[[int], NDArray[np.uint16]]
    index: int

    def read(self, window: Window) -> NDArray[np.uint16]:
        """Return some rows and columns."""
        return self.read_whole(self.index)[window]


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a montage; threads share it.

    Attributes
    ----------
    images : TileImages
    shape : (int, int)
        (height, width) of each, in px.
    references : References or None
        None: no flat field.
    figures : dict of int to mapping
        What was measured of each tile that was looked at, by its index: figures as the stream
        `tile` of a live montage has them.
    """

    images: TileImages
    shape: tuple[int, int]
    references: References | None
    figures: dict[int, Mapping[str, float | bool]] = field(default_factory=dict)

    def look(self, index: int, widths: Mapping[Side, float]) -> Mapping[Side, MatchTile]:
        """Measure a tile, and give what matching needs of it: `processing.stitch.PrepareEdges`.

        Raises
        ------
        ImageFormatError
            If it cannot be read.
        """
        tile = self._state(index)
        tile.widths = widths
        self._chain(*CORRECT, *LOOK)(tile)
        self.figures[index] = tile.figures
        return tile.edges

    def read(self, index: int) -> NDArray[np.uint16]:
        """Read a tile, corrected; masked where it holds no signal, if it does so anywhere.

        Raises
        ------
        ImageFormatError
            If it cannot be read.
        """
        tile = self._state(index)
        self._chain(*CORRECT)(tile)
        image = tile.image.copy()  # it is in a buffer that is used again
        return image if tile.mask is None else np.ma.MaskedArray(image, tile.mask)

    def sources(self) -> list[MosaicTile]:
        """Return all tiles as the writer of mosaics takes them; they share the last that were read.

        A block shares tiles with the one beside it, and most files are only read as a whole.
        """
        tile_bytes = 2 * self.shape[0] * self.shape[1]

        @lru_cache(max(1, CACHE_BYTES // tile_bytes))
        def read(index: int) -> NDArray[np.uint16]:
            return np.ma.getdata(self.read(index))

        return [MosaicTile(read, index) for index in range(len(self.images.images))]

    def _state(self, index: int) -> TileState:
        return TileState(
            self.images.read(index),
            NO_GEOMETRY,
            self.references,
            mask=self.images.read_mask(index),
        )

    def _chain(self, *names: str) -> Chain:
        """Make the chain of some steps; a tile may be too small for one of them."""
        small = min(self.shape) < MIN_FOR_FOCUS
        return make_chain([StepSettings(name) for name in names if not (small and name == "focus")])
