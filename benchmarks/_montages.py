"""Montages of the virtual microscope in either world, with the exact map of each tile.

What a stitcher makes of them is judged by where it puts what the tiles show, not by their corners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._microscope import QuickMicroscope
from processing.flatfield import flat_field
from simulation import FrameMap, MicroscopeSettings, World
from simulation.specimen import NeuropilSection

JUDGED = 7  # places along each side of a tile

ToMosaic = Callable[[int, NDArray[np.float64]], NDArray[np.float64]]
"""Takes the index of a tile and pixels (row, column) of it, shape (n, 2), to px of the mosaic."""


@dataclass(frozen=True, eq=False)
class KnownMontage:
    """Tiles and the truth about them.

    Attributes
    ----------
    tiles : ndarray of uint16, shape (n, height, width)
        Flat-fielded frames.
    grid : ndarray of int, shape (n, 2)
        Row and column of each.
    nominal : ndarray of float64, shape (n, 2)
        Where the stage says that their first pixels lie, (row, column) in px of the first tile.
    maps : tuple of FrameMap
        From the pixels of each to the specimen.
    masks : ndarray of bool, shape (n, height, width)
        Where light fell on them.
    """

    tiles: NDArray[np.uint16]
    grid: NDArray[np.int64]
    nominal: NDArray[np.float64]
    maps: tuple[FrameMap, ...]
    masks: NDArray[np.bool_]

    def errors(self, to_mosaic: ToMosaic) -> NDArray[np.float64]:
        """Return how far places of the tiles are put from where they should be, in px.

        An affine map of the whole mosaic, which nothing in the tiles can tell, is taken off.

        Parameters
        ----------
        to_mosaic : callable
            See `ToMosaic`: what is to be judged.

        Returns
        -------
        ndarray of float64, shape (n, JUDGED²)
        """
        height, width = self.tiles.shape[1:]
        rows, columns = (np.linspace(0, side - 1, JUDGED) for side in (height, width))
        pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
        places = np.concatenate([each.pixel_to_stage(pixels) for each in self.maps])
        found = np.concatenate([to_mosaic(index, pixels) for index in range(len(self.maps))])
        terms = np.column_stack([np.ones(len(places)), places])
        left = found - terms @ np.linalg.lstsq(terms, found, rcond=None)[0]
        return np.linalg.norm(left, axis=1).reshape(len(self.maps), -1)


def shifted(corners: NDArray[np.float64]) -> ToMosaic:
    """Return the map of tiles that are only shifted, by the places of their first pixels in px."""
    return lambda index, pixels: pixels + corners[index]


def take_montage(
    world: World,
    *,
    rows: int,
    columns: int,
    side: int,
    overlap: float,
    seed: int = 1,
    exposure: float = 0.1,
    changes: Mapping[str, Any] | None = None,
) -> KnownMontage:
    """Take a montage about the middle of a section of neuropil, row by row.

    Parameters
    ----------
    world : {"kind", "real"}
    rows, columns : int
        Of tiles.
    side : int
        Of a tile, in px.
    overlap : float
        Of neighbours, as a share of the side.
    seed : int
        Of the section and of the microscope.
    exposure : float
        In s.
    changes : mapping, optional
        Other settings of the microscope, as `MicroscopeSettings.updated` takes them.
    """
    settings = MicroscopeSettings.of_world(world).updated(
        {"seed": seed, "camera": {"sensor": [side, side]}}
    )
    settings = settings.updated(changes or {})
    section = NeuropilSection(seed=seed, section=settings.section)
    microscope = QuickMicroscope(settings, section, exposure)
    scope, geometry = microscope.scope, microscope.scope.column.geometry
    references = microscope.references()
    grid = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(-1, 2)
    nominal = side * (1 - overlap) * grid
    tiles, truths = [], []
    for x, y in geometry.stage_vector(nominal - nominal.mean(axis=0)):
        tiles.append(flat_field(microscope.shoot(float(x), float(y)), references))
        truths.append(scope.truth(scope.camera.frame_number))
    scope.close()
    return KnownMontage(
        np.stack(tiles),
        grid,
        nominal,
        tuple(truth.map for truth in truths),
        np.stack([truth.mask() for truth in truths]),
    )
