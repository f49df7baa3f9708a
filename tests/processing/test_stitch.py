"""Montages from tiles alone: how they lie, how they match, in whatever order threads come."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from processing.matching import match, prepare_edges
from processing.solve import solve_maps_of_matches
from processing.stitch import PlacementError, find_placement, match_neighbours, neighbours
from tests.processing.scenes import cut, expose, texture

ROWS, COLUMNS, OVERLAP, STRAY = 3, 4, 0.15, 5.0


class Tiles:
    """Tiles of a scene that are read one by one."""

    def __init__(self, shape, rows=ROWS, columns=COLUMNS, turn=0.0):
        rng = np.random.default_rng(4)
        self.shape = shape
        self.cells = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), -1).reshape(
            -1, 2
        )
        self.nominal = self.cells * np.array(shape) * (1 - OVERLAP)
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        self.true = self.nominal @ np.array([[c, -s], [s, c]]).T
        self.true += rng.uniform(-STRAY, STRAY, self.nominal.shape)
        scene = texture(1536, 3)
        self.images = [
            expose(cut(scene, tuple(place + 200), shape), 5, seed=number)
            for number, place in enumerate(self.true)
        ]

    def read(self, index):
        return self.images[index]

    def error(self, nominal, matches):
        solution = solve_maps_of_matches(nominal, matches, self.shape)
        off = solution.maps.middles - self.true
        return float(np.sqrt(((off - off.mean(axis=0)) ** 2).sum(axis=1).mean()))


@pytest.fixture(scope="module")
def square():
    return Tiles((256, 256))


@pytest.fixture(scope="module")
def wide():
    return Tiles((192, 256))


# How tiles lie

PLANS = {
    "as planned": lambda cells, nominal: (cells, nominal),
    "cells alone": lambda cells, nominal: (cells, None),
    "cells swapped": lambda cells, nominal: (cells[:, ::-1], None),
    "rows upwards": lambda cells, nominal: (cells * [-1, 1], None),
    "both backwards": lambda cells, nominal: (-cells, None),
    "places swapped": lambda cells, nominal: (cells[:, ::-1], nominal[:, ::-1]),
    "places upwards": lambda cells, nominal: (cells * [-1, 1], nominal * [-1, 1]),
    "places too near": lambda cells, nominal: (cells, nominal * 0.9),
    "places too far": lambda cells, nominal: (cells, nominal * 1.3),
    "places turned": lambda cells, nominal: (cells, nominal @ [[0.99, 0.12], [-0.12, 0.99]]),
}


@pytest.mark.parametrize("shape", ["square", "wide"])
@pytest.mark.parametrize("plan", PLANS)
def test_tiles_are_found_to_lie_where_they_do(request, shape, plan):
    tiles = request.getfixturevalue(shape)
    cells, nominal = PLANS[plan](tiles.cells, tiles.nominal)
    placement = find_placement(tiles.read, cells, tiles.shape, nominal)
    np.testing.assert_array_equal(placement.cells, tiles.cells)
    np.testing.assert_array_equal(placement.pairs, neighbours(tiles.nominal, tiles.shape))
    steps = placement.nominal - tiles.true
    assert np.abs(steps - steps.mean(axis=0)).max() < placement.reach < 64
    down, across = placement.overlaps(tiles.shape)
    assert down == pytest.approx(15, abs=4)
    assert across == pytest.approx(15, abs=4)
    assert placement.swapped == ("swapped" in plan)
    assert placement.reversed == ("upwards" in plan or "both" in plan, "both" in plan)


def test_a_plan_that_is_right_is_kept_to_the_last_digit(square):
    placement = find_placement(square.read, square.cells, square.shape, square.nominal)
    np.testing.assert_array_equal(placement.nominal, square.nominal)
    np.testing.assert_array_equal(placement.matrix, np.eye(2))
    assert placement.matched == placement.tried


def test_a_turned_grid_is_told():
    tiles = Tiles((256, 256), turn=6.0)
    placement = find_placement(tiles.read, tiles.cells, tiles.shape)
    assert placement.turn == pytest.approx(6.0, abs=1.0)
    assert not placement.swapped
    matches = match_neighbours(tiles.read, placement.nominal, tiles.shape, reach=placement.reach)
    assert tiles.error(placement.nominal, matches) < 0.1


def test_a_single_row_is_enough():
    tiles = Tiles((256, 256), rows=1)
    placement = find_placement(tiles.read, tiles.cells, tiles.shape)
    assert len(placement.pairs) == COLUMNS - 1
    down, across = placement.overlaps(tiles.shape)
    assert np.isnan(down)
    assert across == pytest.approx(15, abs=4)


def test_a_wide_overlap_as_of_a_lens_series_is_found():
    tiles = Tiles((256, 256))
    tiles.true = tiles.cells * 256 * 0.4
    scene = texture(1536, 3)
    tiles.images = [expose(cut(scene, tuple(p), (256, 256)), 5) for p in tiles.true]
    placement = find_placement(tiles.read, tiles.cells, tiles.shape)
    assert placement.overlaps(tiles.shape) == pytest.approx((60, 60), abs=1)


def test_tiles_without_anything_to_match_stay_where_they_are_planned(square):
    noise = np.random.default_rng(0)
    images = [noise.integers(90, 110, square.shape).astype(np.uint16) for _ in square.images]
    placement = find_placement(images.__getitem__, square.cells, square.shape, square.nominal)
    np.testing.assert_array_equal(placement.nominal, square.nominal)
    assert (placement.matched, len(placement.pairs)) == (0, 17)
    with pytest.raises(PlacementError, match="of 17 pairs .* 0 match.*give it, or positions"):
        find_placement(images.__getitem__, square.cells, square.shape)


def test_one_tile_lies_where_it_does(square):
    placement = find_placement(square.read, [(0, 0)], square.shape)
    assert placement.nominal.tolist() == [[0, 0]]
    assert not len(placement.pairs)
    assert match_neighbours(square.read, placement.nominal, square.shape) == {}


# Matching


@pytest.mark.parametrize("workers", [1, 3])
def test_all_neighbours_match_as_pairs_do_by_themselves(wide, workers):
    matches = match_neighbours(wide.read, wide.nominal, wide.shape, reach=20, workers=workers)
    assert list(matches) == [tuple(pair) for pair in neighbours(wide.nominal, wide.shape).tolist()]
    assert all(found.good for found in matches.values())
    (a, b), found = next(iter(matches.items()))
    widths = {"right": 60.0, "left": 60.0}
    edges = [prepare_edges(wide.read(tile), widths) for tile in (a, b)]
    step = wide.nominal[b] - wide.nominal[a]
    alone = match(edges[0]["right"], edges[1]["left"], tuple(step), 20)
    assert (found.drow, found.dcol) == pytest.approx((alone.drow, alone.dcol), abs=0.02)
    assert wide.error(wide.nominal, matches) < 0.1


def test_each_tile_is_read_once_and_few_are_held(square):
    read, alive, most = [], set(), [0]
    lock = threading.Lock()

    def reading(index):
        with lock:
            read.append(index)
            alive.add(index)
            most[0] = max(most[0], len(alive))
        return square.read(index)

    match_neighbours(reading, square.nominal, square.shape, reach=20, workers=2)
    assert sorted(read) == list(range(12))
    # Columns are shorter than rows here, so tiles are read down the columns.
    assert sorted(read[:3]) == [0, 4, 8]


def test_pairs_may_be_chosen_either_way_round(square):
    pairs = np.array([(1, 0), (4, 0)])
    matches = match_neighbours(square.read, square.nominal, square.shape, pairs=pairs, reach=20)
    for (a, b), found in matches.items():
        assert found.good
        off = (found.drow, found.dcol) - (square.true[b] - square.true[a])
        assert np.abs(off).max() < 0.2


def test_what_is_masked_is_not_matched(square):
    """A frame that all tiles have agrees with itself where it must not."""
    framed = []
    for image in square.images:
        mask = np.ones(square.shape, bool)
        mask[16:-16, 16:-16] = False
        framed.append(np.ma.MaskedArray(np.where(mask, 40000, image).astype(np.uint16), mask))
    matches = match_neighbours(framed.__getitem__, square.nominal, square.shape, reach=20)
    good = {pair: found for pair, found in matches.items() if found.good}
    for (a, b), found in good.items():
        off = (found.drow, found.dcol) - (square.true[b] - square.true[a])
        assert np.abs(off).max() < 0.5
    wide_overlap = np.array([(0, 0), (0, 128)])
    scene = texture(1024, 3)
    tiles = [expose(cut(scene, tuple(p), (256, 256)), 5) for p in wide_overlap]
    masks = [image.mask for image in framed[:2]]
    held = [np.ma.MaskedArray(np.where(m, 0, t), m) for t, m in zip(tiles, masks, strict=True)]
    (found,) = match_neighbours(held.__getitem__, wide_overlap, (256, 256), reach=10).values()
    assert found.good
    assert (found.drow, found.dcol) == pytest.approx((0, 128), abs=0.1)
    assert (found.points[:, :4] >= 16).all()
    assert (found.points[:, :4] < 240).all()


def test_what_goes_wrong_in_a_tile_is_told_and_ends_it(square):
    def read(index):
        if index == 5:
            raise OSError("tile 5 is gone")
        return square.read(index)

    with pytest.raises(OSError, match="tile 5 is gone"):
        match_neighbours(read, square.nominal, square.shape, reach=20)
    with pytest.raises(ValueError, match="tile 2 has .* px; tiles must be of"):
        match_neighbours(
            lambda index: square.read(index)[: 200 if index == 2 else 256],
            square.nominal,
            square.shape,
        )
    assert not [one for one in threading.enumerate() if one.name.startswith("stitch")]
