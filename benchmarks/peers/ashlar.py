"""Stitch tiles with ASHLAR: its edge aligner, fed from memory instead of by Bio-Formats.

J. L. Muhlich et al., Bioinformatics 38, 2022. σ = 1 as its documentation advises for noisy images.
"""

import sys
import time

import numpy as np

# This folder comes first on the path, and its own name would hide the library.
sys.path.pop(0)
from ashlar import reg


class Tiles(reg.Metadata):
    """Tells where tiles lie, in µm of 1 px each."""

    def __init__(self, tiles, nominal):
        self._tiles, self._nominal = tiles, nominal

    @property
    def _num_images(self):
        return len(self._tiles)

    num_channels = 1
    pixel_size = 1.0

    @property
    def pixel_dtype(self):
        """Of all tiles."""
        return self._tiles.dtype

    def tile_position(self, i):
        """Row and column of a tile, in px."""
        return self._nominal[i]

    def tile_size(self, i):
        """Height and width, in px."""
        return np.array(self._tiles[i].shape)


class Memory(reg.Reader):
    """Gives tiles out."""

    def __init__(self, tiles, nominal):
        self.metadata = Tiles(tiles, nominal)
        self._tiles = tiles

    def read(self, series, c):
        """Give one tile."""
        return self._tiles[series]


def main(source, target):
    """Read tiles, stitch them, write where they lie and how long that took."""
    stored = np.load(source)
    reader = Memory(stored["tiles"], stored["nominal"])
    start = time.process_time()
    aligner = reg.EdgeAligner(
        reader, max_shift=float(stored["reach"]), filter_sigma=1.0, do_make_thumbnail=False
    )
    aligner.run()
    seconds = time.process_time() - start
    np.savez(target, positions=aligner.positions, seconds=seconds)


main(*sys.argv[1:])
