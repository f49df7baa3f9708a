"""The order of tiles that are taken in blocks: each block from one stage position, by image shift.

The stage goes from block to block, back in every second row of them; the image shift as little as
it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise, product
from math import hypot

Place = tuple[int, int]
"""(row, column) of a tile."""

Steps = tuple[float, float]
"""How many tiles a tile lies below and right of the middle of its block."""


def walk_blocks(
    places: Iterable[Place], block: int, pitch: tuple[float, float]
) -> Iterator[tuple[Place, Steps]]:
    """Give tiles in the order in which they are taken.

    Parameters
    ----------
    places : iterable of (int, int)
        The tiles that there are; others leave gaps.
    block : int
        Rows and columns of tiles in a block.
    pitch : (float, float)
        Distance between neighbours along rows and columns, in px.

    Yields
    ------
    place : (int, int)
    steps : (float, float)
        How far it lies from the middle of the tiles of its block, in tiles.
    """
    blocks: dict[Place, list[Place]] = {}
    for row, column in places:
        blocks.setdefault((row // block, column // block), []).append((row, column))
    here: Steps = (0.0, 0.0)
    for corner in _serpentine(blocks, 0, 1, 1):
        middle = _middle(blocks[corner])
        walk = _shortest(blocks[corner], middle, pitch, here)
        for place in walk:
            here = place[0] - middle[0], place[1] - middle[1]
            yield place, here


def _middle(places: Iterable[Place]) -> Steps:
    """Give the middle of what places span: from there none is farther than it has to be."""
    rows, columns = zip(*places, strict=True)
    return (min(rows) + max(rows)) / 2, (min(columns) + max(columns)) / 2


def _shortest(
    places: list[Place], middle: Steps, pitch: tuple[float, float], start: Steps
) -> list[Place]:
    """Give the serpentine over a block on which the image shift jumps least, from where it is."""

    def length(walk: list[Place]) -> float:
        stops = [start, *((row - middle[0], column - middle[1]) for row, column in walk)]
        return sum(
            hypot((b[0] - a[0]) * pitch[0], (b[1] - a[1]) * pitch[1]) for a, b in pairwise(stops)
        )

    walks = (_serpentine(places, *how) for how in product((0, 1), (1, -1), (1, -1)))
    return min(walks, key=length)


def _serpentine(places: Iterable[Place], axis: int, down: int, across: int) -> list[Place]:
    """Order places line by line, every second line backwards.

    Parameters
    ----------
    places : iterable of (int, int)
    axis : int
        Whether a line is a row (0) or a column (1).
    down, across : {1, -1}
        Which way the lines follow each other, and which way the first one runs.
    """
    walk: list[Place] = []
    lines = groupby(sorted(places, key=lambda place: down * place[axis]), lambda place: place[axis])
    for _, line in lines:
        walk += sorted(line, key=lambda place: across * place[1 - axis])
        across = -across
    return walk
