"""Compiles all that a montage needs, so that the first one does not wait for it.

What is compiled is kept on disk, so this takes half a minute once, and a second after that.
"""

from __future__ import annotations

import cv2
import numpy as np
from numcodecs import blosc
from threadpoolctl import threadpool_limits

from callbacks.tile_jobs import ProcessorSettings, match_tiles
from processing import solve
from processing.chain import TileState, make_chain
from processing.flatfield import References
from processing.geometry import FrameGeometry
from processing.lens import LensModel, lens_map
from processing.mosaic import display_range, plan_mosaic, plan_warped_mosaic, render
from processing.solve import TileMaps

SIDE = 512  # of a tile, in px
TURN = 1.0  # degrees; patches that differ in their offsets are followed by a function of its own


def warm_up(settings: ProcessorSettings) -> None:
    """Do once what is done with a montage, and have libraries work on one thread each.

    Parameters
    ----------
    settings : ProcessorSettings
    """
    use_one_thread()
    for border in (cv2.BORDER_REFLECT, cv2.BORDER_CONSTANT):  # without a mask, and with one
        _warm_up_tiles(settings, border)
    solve.warm_up()
    _warm_up_mosaic()


def use_one_thread() -> None:
    """Have OpenCV, numpy's matrix products and Blosc work on the thread that calls them.

    Tiles and blocks are what is done at once, not parts of them: helpers would only wait for each
    other, and keep a processor busy with that.
    """
    cv2.setNumThreads(1)
    threadpool_limits(1)
    blosc.use_threads = False


def _warm_up_tiles(settings: ProcessorSettings, border: int) -> None:
    """Process two neighbours, and match them; one is turned a little against the other.

    Beyond its border stands what OpenCV's constant says.
    """
    image = np.random.default_rng(0).integers(100, 4000, (2 * SIDE, 2 * SIDE), np.uint16)
    image = cv2.GaussianBlur(image, (0, 0), 2)
    turn = cv2.getRotationMatrix2D((SIDE, SIDE / 2), TURN, 1.0)
    turned = cv2.warpAffine(image, turn, image.shape[::-1], borderMode=border)
    shape = SIDE, SIDE
    bad = np.zeros(shape, bool)
    bad[SIDE // 2, SIDE // 2] = True
    references = References(np.full(shape, 10, np.float32), np.ones(shape, np.float32), bad)
    edges = []
    for picture, left in ((image, 0), (turned, SIDE // 2)):
        tile = TileState(
            np.ascontiguousarray(picture[:SIDE, left : left + SIDE]),
            FrameGeometry(1.0),
            references,
            lens=lens_map(LensModel.none(shape)),
            widths=dict.fromkeys(("top", "bottom", "left", "right"), SIDE // 2),
        )
        make_chain(settings.steps)(tile)
        edges.append(tile.edges)
    if edges[0]:
        match_tiles(edges[0]["right"], edges[1]["left"], (3.0, SIDE / 2 - 2), settings)


def _warm_up_mosaic() -> None:
    """Make mosaics of two tiles, put down as they are and by maps."""
    positions, shape = [(0, 0), (0, SIDE // 2)], (SIDE, SIDE)
    tile = np.ones(shape, np.uint16)
    straight = plan_mosaic(positions, shape)
    for layout in (straight, plan_warped_mosaic(TileMaps.shifts(positions, shape))):
        whole = slice(0, layout.shape[0]), slice(0, layout.shape[1])
        display_range(render(lambda _, window: tile[window], layout, whole))
