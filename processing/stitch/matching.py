"""Match all neighbours of a montage, on all processors, with the edges of a few tiles in memory.

Tiles are read once each, row after row along the shorter side, so that few edges wait for others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from processing.matching import MAX_OFFSET, Match, MatchTile, Side, match, prepare_edges
from processing.stitch.neighbours import is_below, neighbours

Pair = tuple[int, int]
Edge = tuple[int, Side]
ReadTile = Callable[[int], NDArray[np.unsignedinteger]]
"""Reads a tile by its index: uint8 or uint16, (height, width); masked where it has no signal."""
PrepareEdges = Callable[[int, Mapping[Side, float]], Mapping[Side, MatchTile]]
"""Makes what matching needs of a tile, by its index, and of how wide an edge on which sides, px."""
IN_FLIGHT = 2  # jobs for each worker; the next one is there when one is done


def match_neighbours(
    read: ReadTile,
    nominal: ArrayLike,
    shape: tuple[int, int],
    *,
    pairs: NDArray[np.intp] | None = None,
    reach: float = MAX_OFFSET,
    workers: int | None = None,
) -> dict[Pair, Match]:
    """Match all neighbours of a montage.

    Parameters
    ----------
    read : callable
        See `ReadTile`. Called on several threads at once, once for each tile that has a neighbour.
    nominal : array_like, shape (n, 2)
        Where each tile should lie: (row, column) of its first pixel, in px; finite.
    shape : (int, int)
        (height, width) of a tile, in px.
    pairs : ndarray of int, shape (m, 2), optional
        Which tiles to match; by default, see `neighbours`.
    reach : float
        How far the truth may lie from nominal, from one tile to the next, along each axis, in px.
    workers : int, optional
        Threads; by default one for each processor.

    Returns
    -------
    dict of (int, int) to Match
        All pairs in their order, whether they match or not: `processing.solve` takes it so.

    Raises
    ------
    ValueError, TypeError
        If a tile is no tile, or of another shape; and whatever `read` raises.
    """

    def prepare(index: int, widths: Mapping[Side, float]) -> Mapping[Side, MatchTile]:
        tile = read(index)
        if tile.shape != tuple(shape):
            raise ValueError(f"tile {index} has {tile.shape} px; tiles must be of {shape}")
        pixels, mask = split_mask(tile)
        return prepare_edges(pixels, widths, mask)

    return match_prepared(prepare, nominal, shape, pairs=pairs, reach=reach, workers=workers)


def match_prepared(
    prepare: PrepareEdges,
    nominal: ArrayLike,
    shape: tuple[int, int],
    *,
    pairs: NDArray[np.intp] | None = None,
    reach: float = MAX_OFFSET,
    workers: int | None = None,
    on_tile: Callable[[], object] = lambda: None,
) -> dict[Pair, Match]:
    """Match all neighbours of a montage whose tiles are read and prepared in a way of one's own.

    As `match_neighbours`, but for `prepare`, which does what reading and `prepare_edges` do, of all
    tiles, those without a neighbour too; and `on_tile`, which is called when a tile is done.
    """
    places = np.asarray(nominal, dtype=float)
    wanted = neighbours(places, shape) if pairs is None else pairs
    work = _Work.of(places, shape, wanted, reach)
    matches: dict[Pair, Match] = {}
    edges: dict[Edge, MatchTile] = {}
    waiting = iter(_order(places, shape))
    running: dict[Future[Any], int | Pair] = {}
    n = workers or processors()
    with worker_threads(n) as pool:
        while True:
            while len(running) < IN_FLIGHT * n and (tile := next(waiting, None)) is not None:
                running[pool.submit(prepare, tile, work.widths[tile])] = tile
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(job, tuple):
                    matches[job] = future.result()
                    continue
                made = future.result()
                edges |= {(job, side): made[side] for side in work.widths[job]}
                running |= {pool.submit(call): pair for pair, call in work.ready(job, edges)}
                on_tile()
    return {pair: matches[pair] for pair in work.steps}


def split_mask(
    tile: NDArray[np.unsignedinteger],
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_] | Literal["find"]]:
    """Return the pixels of a tile, and its mask; of a plain array that is still to be found."""
    if isinstance(tile, np.ma.MaskedArray):
        return tile.data, np.ma.getmaskarray(tile)
    return tile, "find"


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """Return threads to work on; what has not begun when the block is left early is not done."""
    pool = ThreadPoolExecutor(n, thread_name_prefix="stitch")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Work:
    """What there is to match.

    Attributes
    ----------
    reach : float
        In px.
    steps : mapping of (int, int) to (float, float)
        How far the second tile of each pair should lie from the first, (rows, columns) in px.
    edges : mapping of (int, int) to (Edge, Edge)
        Which edges of which tiles each pair compares.
    widths : list of mapping of Side to float
        How wide an edge of each tile is needed, on which sides, in px.
    pairs_of : list of list of (int, int)
        The pairs that each tile is in.
    uses : Counter of Edge
        In how many matches that are yet to come.
    """

    reach: float
    steps: dict[Pair, tuple[float, float]]
    edges: dict[Pair, tuple[Edge, Edge]]
    widths: list[dict[Side, float]]
    pairs_of: list[list[Pair]]
    uses: Counter[Edge]

    @classmethod
    def of(
        cls,
        places: NDArray[np.float64],
        shape: tuple[int, int],
        pairs: NDArray[np.intp],
        reach: float,
    ) -> _Work:
        """Plan the matches of some pairs."""
        work = cls(reach, {}, {}, [{} for _ in places], [[] for _ in places], Counter())
        apart = places[pairs[:, 1]] - places[pairs[:, 0]]
        below = is_below(apart, shape)
        for pair, step, is_under in zip(pairs.tolist(), apart.tolist(), below, strict=True):
            a, b = pair
            axis = 0 if is_under else 1
            sides: tuple[Side, Side] = ("bottom", "top") if is_under else ("right", "left")
            if step[axis] < 0:
                sides = sides[1], sides[0]
            width = max(shape[axis] - abs(step[axis]) + reach, 0.0)
            for tile, side in zip(pair, sides, strict=True):
                widths = work.widths[tile]
                widths[side] = max(widths.get(side, 0.0), width)
                work.pairs_of[tile].append((a, b))
                work.uses[tile, side] += 1
            work.steps[a, b] = step[0], step[1]
            work.edges[a, b] = (a, sides[0]), (b, sides[1])
        return work

    def ready(
        self, tile: int, there: dict[Edge, MatchTile]
    ) -> Iterator[tuple[Pair, Callable[[], Match]]]:
        """Yield the matches that can be made now that a tile is there; let go of spent edges."""
        for pair in self.pairs_of[tile]:
            first, second = self.edges[pair]
            if first not in there or second not in there:
                continue
            yield pair, partial(match, there[first], there[second], self.steps[pair], self.reach)
            for edge in (first, second):
                self.uses[edge] -= 1
                if not self.uses[edge]:
                    del there[edge]


def _order(places: NDArray[np.float64], shape: tuple[int, int]) -> list[int]:
    """Return the tiles line by line, along the shorter side of the montage."""
    in_tiles = np.floor((places - places.min(axis=0)) / shape + 0.5)
    across = int(np.ptp(in_tiles, axis=0).argmin())
    return [int(tile) for tile in np.lexsort((places[:, across], in_tiles[:, 1 - across]))]
