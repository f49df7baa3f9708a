"""The minimap: what is where, whatever the order, and what Tiled shows of it before a run ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from callbacks import minimap as module
from callbacks.documents import ProcessedRun
from callbacks.minimap import Minimap, draw_picture, read_minimap
from callbacks.tiled_sink import TiledSink
from tests.callbacks.tiled import KEY

TILE, MINI, PITCH = (200, 240), (20, 24), (180, 220)
SCALE, MARGIN = 0.1, 100
ZERO = np.array([1000, -500])  # where the first tile is expected
WAIT = 30


def cells(rows, columns):
    return [(row, column) for row in range(rows) for column in range(columns)]


@pytest.fixture
def make(tmp_path):
    made = []

    def make(rows=3, columns=4, margin=MARGIN, folder=tmp_path) -> Minimap:
        places = cells(rows, columns)
        path = folder / f"{len(made)}-{time.time_ns()}.minimap.zarr"
        made.append(path)
        return Minimap(
            path,
            ZERO + np.multiply(places, PITCH),
            tile_shape=TILE,
            mini_shape=MINI,
            margin=margin,
            cells=places,
        )

    return make


def mini(value):
    return np.full(MINI, value, np.uint8)


def nominal(index, columns=4):
    return ZERO + np.multiply(divmod(index, columns), PITCH)


def expected(shape, placed):
    """The minimap drawn from scratch: tiles by rising index at their rounded places."""
    rim = 50  # for tiles that lie outside in part
    picture = np.zeros(np.add(shape, 2 * rim), np.uint8)
    for index in sorted(placed):
        value, position = placed[index]
        top, left = rim + np.rint((position - ZERO + MARGIN) * SCALE).astype(int)
        picture[top : top + MINI[0], left : left + MINI[1]] = value
    return picture[rim:-rim, rim:-rim]


def test_it_holds_the_nominal_grid_and_its_margin(make):
    minimap = make()
    # 2 pitches, a tile and 2 margins of 100 px high; 3 pitches wide: a tenth of them.
    assert minimap.pixels.shape == (36 + 20 + 20, 66 + 24 + 20)
    assert minimap.heat.shape == (3, 4)
    assert not read_minimap(minimap.path).any()
    assert np.isnan(minimap.heat).all()


def test_a_tile_is_where_it_was_solved_and_on_disk_at_once(make):
    minimap = make()
    minimap.place(5, mini(9), nominal(5) + np.array((31, -48)), heat=0.7)
    found = read_minimap(minimap.path)
    assert (found == expected(found.shape, {5: (9, nominal(5) + np.array((31, -48)))})).all()
    heat = zarr.open_array(minimap.path / "heat", mode="r")
    assert heat[0, 1, 1] == pytest.approx(0.7)
    assert np.isnan(heat[0]).sum() == 11


@given(data=st.data())
def test_the_picture_is_the_same_whatever_the_order(tmp_path_factory, data):
    """Tiles that come, come again, and move, leave nothing behind and cover as they should."""
    places = cells(3, 3)
    minimap = Minimap(
        tmp_path_factory.mktemp("maps") / "a.minimap.zarr",
        ZERO + np.multiply(places, PITCH),
        tile_shape=TILE,
        mini_shape=MINI,
        margin=MARGIN,
        cells=places,
    )
    shifts = st.tuples(st.integers(-4, 4), st.integers(-4, 4)).map(lambda by: np.multiply(by, 10))
    placed = {}
    for index in data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=20)):
        placed[index] = data.draw(st.integers(1, 255)), nominal(index, 3) + data.draw(shifts)
        minimap.place(index, mini(placed[index][0]), placed[index][1])
    assert (minimap.pixels == expected(minimap.pixels.shape, placed)).all()

    positions = np.full((9, 2), np.nan)
    for index, (value, position) in list(placed.items()):
        positions[index] = position + 2 * data.draw(shifts.filter(lambda by: by.any()))
        placed[index] = value, positions[index]
    while minimap.move(positions):
        pass
    assert (minimap.pixels == expected(minimap.pixels.shape, placed)).all()


def test_what_moves_by_less_than_a_pixel_stays(make):
    minimap = make()
    minimap.place(0, mini(50), nominal(0))
    before = minimap.pixels.copy()
    positions = np.full((12, 2), np.nan)
    positions[0] = nominal(0) + np.array((9, -9))
    assert minimap.move(positions) == 0
    assert (minimap.pixels == before).all()
    positions[0] = nominal(0) + np.array((31, -29))
    assert minimap.move(positions) == 0
    assert (minimap.pixels == expected(before.shape, {0: (50, positions[0])})).all()


def test_a_call_draws_a_few_tiles_at_most_the_farthest_first(make, monkeypatch):
    monkeypatch.setattr(module, "MOVES", 4)
    minimap = make()
    for index in range(12):
        minimap.place(index, mini(10 + index), nominal(index))
    shifted = np.array([nominal(i) + np.array((20 + 2 * i, 0)) for i in range(12)])
    before = minimap._drawn.copy()
    assert minimap.move(shifted) == 8
    moved = np.flatnonzero((minimap._drawn != before).any(axis=1))
    assert list(moved) == [8, 9, 10, 11]
    assert minimap.move(shifted) == 4
    assert minimap.move(shifted) == 0
    placed = {i: (10 + i, shifted[i]) for i in range(12)}
    assert (minimap.pixels == expected(minimap.pixels.shape, placed)).all()


def test_a_tile_far_outside_is_cut_off(make):
    minimap = make()
    minimap.place(0, mini(50), nominal(0) - np.array((190, 0)))
    minimap.place(1, mini(60), nominal(1) - np.array((9999, 0)))
    assert (minimap.pixels > 0).sum() == 11 * 24
    minimap.place(1, mini(60), nominal(1))
    assert (minimap.pixels == 60).sum() == 20 * 24


def test_what_does_not_fit_is_refused(make, tmp_path):
    minimap = make()
    with pytest.raises(ValueError, match="uint8 of shape .* must be uint8 of"):
        minimap.place(0, np.zeros((3, 3), np.uint8), (0, 0))
    with pytest.raises(ValueError, match="position of tile 0 is .* must be finite"):
        minimap.place(0, mini(1), (np.nan, 0))
    with pytest.raises(ValueError, match="must be \\(1, 2\\)"):
        Minimap(
            tmp_path / "b",
            [(0, 0), (1, 1)],
            tile_shape=TILE,
            mini_shape=MINI,
            margin=0,
            cells=[(0, 0)],
        )


def test_a_picture_is_due_once_a_second_if_something_is_new(make, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    minimap = make()
    assert not minimap.picture_due()
    minimap.place(0, mini(50), nominal(0))
    assert minimap.picture_due()
    minimap.place(1, mini(50), nominal(1))
    assert not minimap.picture_due()
    now[0] += 1.1
    assert minimap.picture_due()
    now[0] += 1.1
    assert not minimap.picture_due()


def test_pictures_may_be_drawn_at_once(make):
    minimap = make()
    minimap.place(5, mini(90), nominal(5))
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(draw_picture, [minimap.path] * 40))
    assert set(pictures) == {minimap.path.with_suffix(".png")}
    assert (cv2.imread(str(pictures[0]), cv2.IMREAD_UNCHANGED) == minimap.pixels).all()
    assert not list(minimap.path.parent.glob("*.part"))


def test_the_picture_is_a_small_png_beside_it(make):
    minimap = make()
    minimap.place(5, mini(90), nominal(5))
    picture = draw_picture(minimap.path)
    assert picture == minimap.path.with_suffix(".png")
    assert (cv2.imread(str(picture), cv2.IMREAD_UNCHANGED) == minimap.pixels).all()
    draw_picture(minimap.path, largest=55)
    small = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    assert max(small.shape) == 55
    assert small.max() == 90
    assert [path.suffix for path in picture.parent.iterdir() if path.is_file()] == [".png"]


def cost_a_tile(path, side: int) -> float:
    """Give the median time, in s, to draw a tile in a full minimap of side × side that moves."""
    places = cells(side, side)
    positions = np.multiply(places, (1800, 1800))
    minimap = Minimap(
        path,
        positions,
        tile_shape=(2048, 2048),
        mini_shape=(61, 61),
        margin=255,
        cells=places,
    )
    image = np.full((61, 61), 100, np.uint8)
    for index in range(side**2):
        minimap.place(index, image, positions[index])
    costs = []
    for index in range(side**2 // 4):
        began = time.thread_time()
        minimap.place(index, image, positions[index])
        minimap.move(positions + index)  # all that is drawn keeps moving
        costs.append(time.thread_time() - began)
    return float(np.median(costs))


def test_the_cost_of_a_tile_grows_less_than_their_number(tmp_path):
    few, many = (cost_a_tile(tmp_path / f"{side}.minimap.zarr", side) for side in (7, 70))
    assert many < 50 * few, "with a hundred times as many tiles"


@pytest.mark.timeout(120)
def test_tiled_shows_it_growing_before_the_run_ends(make, tiled, tiled_folder, tmp_path):
    minimap = make(folder=tiled_folder)
    sink = TiledSink(tiled.uri, KEY, tmp_path / "kept")
    run = ProcessedRun(sink, "process_montage", {"uid": "raw", "scan_id": 1}, {"minimap": {}})
    run.arrays("minimap", minimap.arrays)
    assert sink.flush(WAIT)

    served = tiled.client()[run.uid]
    assert "stop" not in served.metadata
    picture, heat = served["minimap"]["minimap"], served["minimap"]["heat"]
    assert picture.shape == (1, *minimap.pixels.shape)
    seen = [picture[0]]
    for index in range(3):
        minimap.place(index, mini(60 * (index + 1)), nominal(index), heat=index)
        seen.append(picture[0])
        assert (seen[-1] == minimap.pixels).all()
    assert [len(np.unique(one)) for one in seen] == [1, 2, 3, 4]
    np.testing.assert_array_equal(heat[0][0], [0, 1, 2, np.nan])
    link = picture.uri.replace("/metadata/", "/array/full/")
    headers = {"Authorization": f"Apikey {KEY}"}
    answer = httpx.get(f"{link}?format=image/png&slice=0", headers=headers, timeout=30)
    shown = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert shown.shape[:2] == minimap.pixels.shape

    run.stop()
    assert sink.flush(WAIT)
    assert sink.close(WAIT)
    served = tiled.client()[run.uid]
    assert served.metadata["stop"]["exit_status"] == "success"
    assert (served["minimap"]["minimap"][0] == minimap.pixels).all()
    assert served["minimap"]["minimap"].shape == (1, *minimap.pixels.shape)


@pytest.mark.timeout(120)
def test_an_array_can_be_downloaded_from_tiled(make, tiled, tiled_folder, tmp_path):
    """Its asset is a folder, and registered as one."""
    minimap = make(folder=tiled_folder)
    minimap.place(0, mini(77), nominal(0))
    sink = TiledSink(tiled.uri, KEY, tmp_path / "kept")
    run = ProcessedRun(sink, "process_montage", {"uid": "raw", "scan_id": 1}, {"minimap": {}})
    run.arrays("minimap", minimap.arrays)
    run.stop()
    assert sink.close(WAIT)
    files = tiled.client()[run.uid]["minimap"]["minimap"].raw_export(tmp_path / "copy")
    (folder,) = {path.parent for path in files if path.name == "zarr.json"}
    assert (zarr.open_array(folder, mode="r")[0] == minimap.pixels).all()
