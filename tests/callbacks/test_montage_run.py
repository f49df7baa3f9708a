"""The parts of a processed montage together: order, arrays, faults, minimap, lens, the next one."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
import zarr

from callbacks.frames import FrameReference
from callbacks.lens_files import lens_path
from callbacks.minimap import read_minimap
from callbacks.montage_tiles import Take, TileGrid
from processing.chain import StepSettings
from processing.geometry import FrameGeometry
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import PITCH, SIDE, SimulatedMontage, Taken, feed
from tests.support import wait_until

WAIT = 60


class Shuffling(ThreadPoolExecutor):
    """Workers that take now less, now more time for a job."""

    def __init__(self) -> None:
        super().__init__(4)
        self._random = random.Random(1)

    def submit(self, fn, /, *args, **kwargs):
        delay = self._random.uniform(0, 0.04)

        def late():
            time.sleep(delay)
            return fn(*args, **kwargs)

        return super().submit(late)


@pytest.fixture
def montage(data_folder):
    return SimulatedMontage(data_folder, rows=3, columns=4)


def processed_file(processor):
    (path,) = processor.folders.processed.glob("*.h5")
    return h5py.File(path)


def test_tiles_are_published_in_the_order_in_which_they_were_taken(
    montage, make_processor, recorder
):
    tiles = [*montage.all_tiles(), Taken(3, attempt=2), Taken(0, attempt=2)]
    with Shuffling() as pool:
        processor = make_processor(pool=pool)
        feed(processor, montage.documents(tiles))
        assert processor.wait(WAIT)
    published = [(row["tile_index"], row["tile_attempt"]) for row in recorder.table("tile")]
    assert published == [(taken.index, taken.attempt) for taken in tiles]
    with processed_file(processor) as file:
        assert len(file["frame"]) == len(tiles)
        for row, taken in enumerate(tiles):
            np.testing.assert_array_equal(
                file["frame"][row], montage.frame(taken.index, taken.attempt)
            )
            assert file["histogram"][row].sum() == SIDE * SIDE


def test_the_documents_tell_of_each_row_once(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    resources = {doc["uid"]: doc for doc in recorder.of("stream_resource")}
    rows: dict[str, list[int]] = {}
    for datum in recorder.of("stream_datum"):
        key = resources[datum["stream_resource"]]["data_key"]
        rows.setdefault(key, []).extend(range(*datum["indices"].values()))
        shift = {datum["seq_nums"][end] - datum["indices"][end] for end in ("start", "stop")}
        assert shift == {1}
    assert rows["frame"] == rows["mini"] == rows["histogram"] == list(range(montage.n_tiles))


def test_a_tile_that_fails_leaves_its_row_empty(montage, processor, recorder):
    tiles = montage.all_tiles()
    tiles[2].place, tiles[2].number = 77, 999  # a frame that the file does not hold
    for place, taken in enumerate(tile for tile in tiles if tile.index != 2):
        taken.place, taken.number = place, 100 + place
    kept = [tile for tile in tiles if tile.index != 2]
    montage.write([montage.frame(tile.index) for tile in kept], [tile.number for tile in kept])
    feed(processor, montage.documents(tiles, write=False))
    assert processor.wait(WAIT)
    with processed_file(processor) as file:
        filled = [bool(frame.any()) for frame in file["frame"]]
    assert filled == [index != 2 for index in range(montage.n_tiles)]
    bad = recorder.table("tile")[2]
    assert (bad["verdict"], bad["faults"], bad["severity"]) == ("fail", "failed_processing", 1.0)
    (fault,) = [row for row in recorder.table("fault") if row["fault"] == "failed_processing"]
    assert (fault["tile_index"], fault["tile_attempt"], fault["scope"]) == (2, 1, "transient")
    verdicts = {row["tile_index"]: row["verdict"] for row in recorder.table("verdict")}
    assert verdicts[2] == "fail"
    assert len(verdicts) == montage.n_tiles


def test_go_or_no_go_is_told_with_its_reasons(montage, make_processor, recorder):
    processor = make_processor()
    for tiles in (montage.all_tiles(), montage.all_tiles()[:7]):
        feed(processor, montage.documents(tiles))
        assert processor.wait(WAIT)
    whole, part = recorder.table("montage")
    assert (whole["go"], whole["reasons"]) == (True, "")
    assert not part["go"]
    assert "5 of 12 tiles are missing" in part["reasons"]


def test_how_late_a_tile_is_and_how_many_are_behind(montage, make_processor, recorder):
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, WAIT)
        processor = make_processor(pool=pool)
        feed(processor, montage.documents())
        wait_until(lambda: processor.tiles_behind == montage.n_tiles)
        time.sleep(0.2)  # so late the tiles are, at least
        release.set()
        assert processor.wait(WAIT)
    tiles = recorder.table("tile")
    assert [tile["behind"] for tile in tiles] == list(reversed(range(montage.n_tiles)))
    assert all(0.2 < tile["latency"] < WAIT for tile in tiles)
    assert tiles[-1]["latency"] > tiles[0]["latency"]


def test_a_retake_replaces_the_earlier_take_everywhere(montage, processor, recorder):
    tiles = [*montage.all_tiles(), Taken(1, attempt=2)]
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    good = frames[1]
    frames[1] = np.full_like(good, 20)  # the beam was away
    montage.write([*frames, good], range(100, 101 + montage.n_tiles))
    feed(processor, montage.documents(tiles, write=False))
    assert processor.wait(WAIT)

    faults = {row["tile_attempt"] for row in recorder.table("fault") if row["tile_index"] == 1}
    assert 1 in faults
    verdicts = {row["tile_index"]: row["verdict"] for row in recorder.table("verdict")}
    assert verdicts[1] == "pass"
    placed = {row["tile_index"]: row for row in recorder.table("position")}
    assert placed[1]["placed_by"] == "match"
    error = np.array([[row["row_px"], row["column_px"]] for _, row in sorted(placed.items())])
    error -= montage.true
    assert np.abs(error - error.mean(axis=0)).max() < 0.2
    at = round(placed[1]["row_px"]) + 100, round(placed[1]["column_px"]) + 100
    (store,) = processor.folders.mosaics.glob("*.ome.zarr")
    mosaic = np.asarray(zarr.open_group(store, mode="r")["0"][0])
    np.testing.assert_allclose(
        mosaic[at[0] : at[0] + 50, at[1] : at[1] + 50], good[100:150, 100:150], atol=1
    )
    assert (read_minimap(minimap_of(processor)) > 0).any()


def minimap_of(processor):
    (path,) = processor.folders.minimaps.glob("*.minimap.zarr")
    return path


def test_the_minimap_shows_the_montage_before_it_ends(montage, processor, recorder):
    *documents, stop = montage.documents()
    for name, doc in documents:
        processor(name, doc)
    (minimap,) = wait_until(lambda: recorder.table("minimap"), WAIT)
    assert minimap["minimap_pixel_size"] == pytest.approx(4.0 * SIDE / 8)

    def covered():
        return int((read_minimap(minimap_of(processor)) > 0).sum())

    # Each shows 8 × 8 px, of which neighbours cover a quarter of a side.
    wait_until(lambda: covered() > montage.n_tiles * 30, WAIT, "a minimap of all tiles")
    assert not recorder.table("position"), "the montage is not solved as a whole yet"
    processor(*stop)
    assert processor.wait(WAIT)
    assert minimap_of(processor).with_suffix(".png").stat().st_size > 100


def test_the_next_montage_goes_before_the_mosaic(data_folder, make_processor, recorder):
    first, second = (SimulatedMontage(data_folder, seed=seed) for seed in (1, 2))
    begun, release = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        processor = make_processor(pool=pool)
        with pytest.MonkeyPatch.context() as patch:
            from callbacks import montage_end

            write = montage_end.write_block

            def slow(block):
                begun.set()
                release.wait(WAIT)
                return write(block)

            patch.setattr(montage_end, "write_block", slow)
            feed(processor, first.documents())
            assert begun.wait(WAIT)
            *documents, stop = second.documents()
            for name, doc in documents:
                processor(name, doc)
            wait_until(lambda: len(recorder.table("match")) == 2 * 7, WAIT, "the second's matches")
            assert not recorder.table("mosaic")
            assert processor.tiles_behind == 0
            release.set()
            processor(*stop)
            assert processor.wait(WAIT)
    assert len(recorder.table("mosaic")) == 2
    assert [stop["exit_status"] for stop in recorder.stops] == ["success"] * 2


def test_a_camera_that_mirrors_is_put_right(data_folder, processor, recorder):
    montage = SimulatedMontage(
        data_folder, geometry=FrameGeometry(4.0, angle=30.0, flip_columns=True)
    )
    # Its places are those of the mirrored picture; a mosaic of tiles put right is its mirror image.
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    (start,) = recorder.starts
    assert not start["calibration"]["flip_columns"]
    table = sorted(recorder.table("position"), key=lambda row: row["tile_index"])
    solved = np.array([(row["row_px"], row["column_px"]) for row in table])
    error = solved - montage.true * (1, -1)
    assert np.abs(error - error.mean(axis=0)).max() < 0.2
    with processed_file(processor) as file:
        np.testing.assert_array_equal(file["frame"][0], montage.frame(0, 1)[:, ::-1])


def test_without_a_lens_model_in_time_tiles_are_processed_all_the_same(
    data_folder, make_processor, recorder, caplog
):
    montage = SimulatedMontage(data_folder, md={"references": {"lens": "gone"}})
    processor = make_processor(settings=replace(SETTINGS, reference_timeout=0.1))
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert str(lens_path(processor.folders.lenses, "gone")) in caplog.text
    assert "without lens correction" in caplog.text
    (summary,) = recorder.table("montage")
    assert not summary["lens_corrected"]
    assert summary["tiles_failed"] == 0


def test_steps_can_be_left_out(montage, make_processor, recorder):
    steps = (StepSettings("flip"), StepSettings("statistics"))
    processor = make_processor(settings=replace(SETTINGS, steps=steps, write=()))
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    recorder.check()
    assert not recorder.table("match")
    assert not recorder.table("minimap")
    assert {row["placed_by"] for row in recorder.table("position")} == {"stage"}
    (tile_keys,) = (
        set(doc["data_keys"]) for doc in recorder.of("descriptor") if doc["name"] == "tile"
    )
    assert "mean" in tile_keys
    assert not {"focus", "frame", "histogram"} & tile_keys
    assert not processor.folders.processed.exists()
    assert recorder.table("mosaic")


def test_tiles_may_have_affine_maps(montage, make_processor, recorder):
    processor = make_processor(settings=replace(SETTINGS, freedom="affine"))
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert recorder.stops[0]["exit_status"] == "success"
    maps = {row["tile_index"]: row for row in recorder.table("affine")}
    assert len(maps) == montage.n_tiles
    # These tiles are not bent: their maps are shifts, those of the solution.
    for position in recorder.table("position"):
        one = maps[position["tile_index"]]
        assert one["row_by_row"] == pytest.approx(1, abs=1e-3)
        assert one["column_by_column"] == pytest.approx(1, abs=1e-3)
        assert abs(one["row_by_column"]) + abs(one["column_by_row"]) < 2e-3
        assert one["row_px"] == pytest.approx(position["row_px"], abs=0.3)
        assert one["column_px"] == pytest.approx(position["column_px"], abs=0.3)


def test_tiles_that_are_not_bent_are_not_given_maps(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert not recorder.table("affine")
    assert not recorder.table("lens")
    (summary,) = recorder.table("montage")
    assert summary["model"] == "translations"
    assert summary["matches_rejected_share"] == 0
    assert summary["residual_px_p95"] < 0.3
    assert summary["closing_px_max"] < 0.5
    assert summary["go"]


def test_a_disk_without_room_for_processed_tiles_costs_these_only(
    montage, processor, recorder, caplog
):
    processor.folders.processed.write_text("a file where the folder should be")
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert "processed tiles are not kept" in caplog.text
    assert [stop["exit_status"] for stop in recorder.stops] == ["success"]
    assert recorder.table("montage")[0]["tiles_failed"] == 0


def test_places_in_the_grid_follow_the_stage():
    geometry = FrameGeometry(4.0, angle=10.0)
    cells = np.array([(0, 0), (1, 2)])
    stage = geometry.stage_vector(cells * PITCH) + np.array([7, -3])
    montage = {
        "tile_shape": [SIDE, SIDE],
        "pitch_px": [PITCH, PITCH],
        "tiles": [[0, 0, *stage[0]], [1, 2, *stage[1]]],
    }
    grid = TileGrid(montage, geometry)
    np.testing.assert_allclose(grid.nominal, [(0, 0), (PITCH, 2 * PITCH)], atol=1e-9)
    np.testing.assert_allclose(grid.stage(grid.nominal), stage, atol=1e-9)
    reference = FrameReference("frames.h5", "data", 0, 1)
    a, b = (
        Take(i, i, *cell, 1, *at, i, 0.0, reference)
        for i, (cell, at) in enumerate(zip(cells.tolist(), stage, strict=True))
    )
    np.testing.assert_allclose(grid.place(b), (PITCH, 2 * PITCH), atol=1e-9)
    np.testing.assert_allclose(grid.offset(b, a), (-PITCH, -2 * PITCH), atol=1e-9)
    assert list(grid.neighbours(a)) == []
