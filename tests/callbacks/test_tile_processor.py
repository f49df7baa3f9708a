"""The tile processor: what it publishes, in which order, and what happens when things go wrong."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import zarr

from callbacks import tile_jobs
from callbacks.folders import DataFolders
from callbacks.references import reference_path, write_average
from callbacks.tile_processor import TileProcessor
from processing.matching import MatchTile
from tests.callbacks.conftest import SETTINGS
from tests.callbacks.montage import PIXEL_SIZE, SIDE, SimulatedMontage, Taken, feed
from tests.callbacks.recorder import Recorder
from tests.support import wait_until

WAIT = 60


@pytest.fixture
def montage(data_folder):
    return SimulatedMontage(data_folder)


def solved_error(montage, recorder) -> float:
    """RMS distance of the solved positions from the true ones, but for a common shift, in px."""
    table = {row["tile_index"]: row for row in recorder.table("position")}
    solved = np.array([(table[i]["row_px"], table[i]["column_px"]) for i in sorted(table)])
    error = solved - montage.true[sorted(table)]
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("stream", [False, True], ids=["datum", "stream_datum"])
def test_a_montage_is_processed_into_a_run_of_its_own(montage, processor, recorder, stream):
    raw_uid = feed(processor, montage.documents(stream=stream))
    assert processor.wait(WAIT)
    recorder.check()

    (start,) = recorder.starts
    assert start["plan_name"] == "process_montage"
    assert start["raw_uid"] == raw_uid
    assert start["sample"] == {"name": "test section"}
    assert start["calibration"]["pixel_size"] == PIXEL_SIZE
    assert recorder.stops[0]["exit_status"] == "success"
    assert len(recorder.threads) == 1
    assert threading.current_thread().name not in recorder.threads

    tiles = recorder.table("tile")
    assert sorted(tile["tile_index"] for tile in tiles) == list(range(montage.n_tiles))
    for tile in tiles:
        frame = montage.frame(tile["tile_index"], 1)
        assert tile["mean"] == pytest.approx(frame.mean())
        assert tile["std"] == pytest.approx(frame.std())
        assert (tile["minimum"], tile["maximum"]) == (frame.min(), frame.max())
        assert tile["textured"]
        assert 0.3 < tile["focus"] <= 1
        assert tile["error"] == ""
        assert tile["frame_number"] == 100 + tile["tile_index"]
    assert len(recorder.table("match")) == 7  # the pairs of a grid of 2 × 3

    for match in recorder.table("match"):
        a, b = match["tile_a"], match["tile_b"]
        assert match["good"]
        true = montage.true[b] - montage.true[a]
        np.testing.assert_allclose((match["drow"], match["dcol"]), true, atol=0.2)
        nominal = montage.nominal[b] - montage.nominal[a]
        np.testing.assert_allclose(
            (match["nominal_drow"], match["nominal_dcol"]), nominal, atol=1e-6
        )
    assert solved_error(montage, recorder) < 0.1
    (summary,) = recorder.table("montage")
    assert summary["tiles"] == summary["tiles_placed_by_match"] == montage.n_tiles
    assert summary["residual_px_median"] < 0.1
    assert not summary["flat_fielded"]


def test_the_streams_come_in_their_order(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    names = {doc["uid"]: doc["name"] for doc in recorder.of("descriptor")}
    order = [names[doc["descriptor"]] for doc in recorder.of("event")]
    firsts = {name: order.index(name) for name in dict.fromkeys(order)}
    assert firsts["tile"] < firsts["match"] < firsts["position"] < firsts["mosaic"]
    assert order[-1] == "montage"


def test_solved_stage_positions_follow_the_geometry(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    table = recorder.table("position")
    pixels = np.array([(row["row_px"], row["column_px"]) for row in table])
    stage = np.array([(row["x"], row["y"]) for row in table])
    np.testing.assert_allclose(
        stage - stage[0], montage.geometry.stage_vector(pixels - pixels[0]), atol=1e-9
    )


def test_the_mosaic_shows_the_specimen(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    arrays = {
        doc["data_key"]: zarr.open_array(doc["uri"].removeprefix("file://localhost"), mode="r")
        for doc in recorder.of("stream_resource")
        if doc["mimetype"] == "application/x-zarr"
    }
    (summary,) = recorder.table("montage")
    mosaic, half, thumbnail = (arrays[key][0] for key in ("mosaic_0", "mosaic_1", "thumbnail"))
    assert mosaic.shape == (summary["mosaic_rows"], summary["mosaic_columns"])
    assert arrays["mosaic_0"].chunks == (1, 512, 512)
    assert thumbnail.dtype == np.uint8
    assert max(thumbnail.shape) <= 1024
    top, left = montage.true.min(axis=0)
    rows, columns = np.array(mosaic.shape) // 2 * 2
    specimen = 2000 + 10000 * montage.specimen[top : top + rows, left : left + columns]
    covered = mosaic[:rows, :columns] > 0
    assert covered.mean() > 0.9
    difference = (mosaic[:rows, :columns] - specimen)[covered]
    assert np.abs(difference).mean() < 100  # counts: the noise is 50, the contrast 10 000
    np.testing.assert_allclose(
        half[10:20, 10:20],
        mosaic[20:40, 20:40].reshape(10, 2, 10, 2).mean(axis=(1, 3)),
        atol=1,
    )


def test_the_place_of_the_mosaic_is_told(montage, processor, recorder):
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    (mosaic,), (summary,) = recorder.table("mosaic"), recorder.table("montage")
    tile = recorder.table("position")[2]
    shape = summary["mosaic_rows"], summary["mosaic_columns"]
    middle = np.array([tile["row_px"], tile["column_px"]]) + (SIDE - 1) / 2
    at = montage.geometry.pixel_to_stage(middle, shape, (mosaic["mosaic_x"], mosaic["mosaic_y"]))
    np.testing.assert_allclose(at, (tile["x"], tile["y"]), atol=0.5 * PIXEL_SIZE / 1000)


@pytest.mark.parametrize(
    ("damage", "says"),
    [("missing", "there is no such file"), ("cut off", "damaged or cut off")],
)
def test_a_file_that_cannot_be_read_makes_faulted_tiles(montage, processor, recorder, damage, says):
    documents = list(montage.documents([Taken(0), Taken(1)]))
    if damage == "missing":
        montage.path.unlink()
    else:
        with montage.path.open("r+b") as file:
            file.truncate(montage.path.stat().st_size // 4)
    feed(processor, documents)
    assert processor.wait(WAIT)
    recorder.check()
    tiles = recorder.table("tile")
    assert [says in tile["error"] for tile in tiles] == [True, True]
    assert all(np.isnan(tile["mean"]) for tile in tiles)
    assert recorder.table("montage")[0]["tiles_failed"] == 2
    assert recorder.stops[0]["exit_status"] == "success"
    assert not recorder.table("mosaic")


def test_one_bad_tile_does_not_spoil_the_others(montage, processor, recorder):
    tiles = [Taken(i, place=i) for i in range(montage.n_tiles)]
    tiles[2].place, tiles[2].number = 77, 999  # a frame that the file does not hold
    montage.write([montage.frame(i) for i in (0, 1, 3, 4, 5)], [100, 101, 103, 104, 105])
    feed(processor, montage.documents(tiles, write=False))
    assert processor.wait(WAIT)
    bad = [tile for tile in recorder.table("tile") if tile["error"]]
    assert [tile["tile_index"] for tile in bad] == [2]
    assert "999" in bad[0]["error"]
    assert "camera lost the frame" in bad[0]["error"]
    placed = {row["tile_index"]: row["placed_by"] for row in recorder.table("position")}
    assert placed[2] == "stage"
    assert placed[0] == placed[1] == placed[3] == "match"
    assert recorder.table("mosaic")


def test_a_lost_frame_does_not_shift_those_after_it(montage, processor, recorder):
    """The documents count points, the file counts frames; the camera's number tells them apart."""
    tiles = [Taken(i, place=i + (i > 1), number=50 + i + (i > 1)) for i in range(montage.n_tiles)]
    montage.write([montage.frame(i) for i in range(montage.n_tiles)], [t.number for t in tiles])
    feed(processor, montage.documents(tiles, write=False))
    assert processor.wait(WAIT)
    assert not any(tile["error"] for tile in recorder.table("tile"))
    assert solved_error(montage, recorder) < 0.1


def test_a_retaken_tile_takes_the_place_of_the_earlier_one(montage, processor, recorder):
    tiles = montage.all_tiles()
    again = Taken(1, attempt=2)
    frames = [montage.frame(i) for i in range(montage.n_tiles)]
    good = frames[1]
    frames[1] = np.full_like(good, 300)  # the beam was away
    montage.write([*frames, good], range(100, 101 + montage.n_tiles))
    feed(processor, montage.documents([*tiles, again], write=False))
    assert processor.wait(WAIT)
    recorder.check()
    ones = [tile for tile in recorder.table("tile") if tile["tile_index"] == 1]
    assert sorted((tile["tile_attempt"], round(tile["mean"])) for tile in ones) == [
        (1, 300),
        (2, round(good.mean())),
    ]
    newest = {
        (match["tile_a"], match["tile_b"]): match
        for match in recorder.table("match")
        if 1 not in (match["tile_a"], match["tile_b"])
        or 2 in (match["attempt_a"], match["attempt_b"])
    }
    assert len(newest) == 7
    assert all(match["good"] for match in newest.values())
    assert solved_error(montage, recorder) < 0.1
    (summary,) = recorder.table("montage")
    assert summary["tiles"] == montage.n_tiles
    assert (summary["tiles_retaken"], summary["matches_good"]) == (1, 7)


def test_a_retake_after_all_else_is_done_reads_the_neighbours_again(montage, processor, recorder):
    again = [Taken(4, attempt=2), Taken(1, attempt=2)]
    documents = list(montage.documents([*montage.all_tiles(), *again]))
    late = 4  # two events with their datums
    for name, doc in documents[: -late - 1]:
        processor(name, doc)
    wait_until(lambda: len(recorder.table("match")) == 7, WAIT)
    feed(processor, documents[-late - 1 :])
    assert processor.wait(WAIT)
    redone = {
        (match["tile_a"], match["tile_b"])
        for match in recorder.table("match")[7:]
        if match["attempt_a"] == 2 or match["attempt_b"] == 2
    }
    assert redone == {(0, 1), (1, 2), (1, 4), (3, 4), (4, 5)}
    assert recorder.table("montage")[0]["matches_good"] == 7
    assert solved_error(montage, recorder) < 0.1


@pytest.mark.parametrize(("status", "reason"), [("abort", "operator"), ("fail", "stage stalled")])
def test_a_montage_that_was_cut_off_is_solved_as_far_as_it_went(
    montage, processor, recorder, status, reason
):
    feed(
        processor,
        montage.documents(montage.all_tiles()[:4], exit_status=status, reason=reason),
    )
    assert processor.wait(WAIT)
    recorder.check()
    assert len(recorder.table("position")) == 4
    assert solved_error(montage, recorder) < 0.1
    assert recorder.table("mosaic")
    (stop,) = recorder.stops
    assert (stop["exit_status"], stop["reason"]) == (status, reason)


def test_a_montage_of_nothing_ends_too(montage, processor, recorder):
    documents = list(montage.documents())
    feed(processor, [documents[0], documents[-1]])
    assert processor.wait(WAIT)
    assert recorder.table("montage")[0]["tiles"] == 0
    assert len(recorder.stops) == 1


def test_runs_in_sequence_are_kept_apart(data_folder, processor, recorder):
    montages = [SimulatedMontage(data_folder, seed=seed) for seed in (1, 2, 3)]
    uids = [feed(processor, montage.documents()) for montage in montages]
    assert processor.wait(WAIT)
    recorder.check()
    assert [start["raw_uid"] for start in recorder.starts] == uids
    for montage, start in zip(montages, recorder.starts, strict=True):
        assert solved_error(montage, recorder.run(start["uid"])) < 0.1


def test_other_runs_are_left_alone(montage, processor, recorder):
    documents = list(montage.documents())
    del documents[0][1]["montage"]
    feed(processor, documents)
    assert processor.wait(WAIT)
    assert not recorder.documents


def test_a_start_document_without_calibration_is_refused_in_the_log(
    montage, processor, recorder, caplog
):
    documents = list(montage.documents())
    del documents[0][1]["calibration"]
    feed(processor, documents)
    assert processor.wait(WAIT)
    assert not recorder.documents
    assert "calibration" in caplog.text


def test_skipped_places_have_no_matches(data_folder, processor, recorder):
    montage = SimulatedMontage(data_folder, rows=3, columns=3, skipped=[(0, 0), (2, 2)])
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert recorder.table("montage")[0]["matches_good"] == 8
    assert solved_error(montage, recorder) < 0.1


def test_frames_in_memory_are_bounded(data_folder, recorder, monkeypatch, tmp_path, request):
    """However far processing lags, few frames and few edges of tiles are alive."""
    montage = SimulatedMontage(data_folder, rows=6, columns=4)
    alive = {"now": 0, "most": 0}
    edges: weakref.WeakSet[MatchTile] = weakref.WeakSet()
    lock = threading.Lock()
    process = tile_jobs.process_tile

    def counting(*arguments):
        with lock:
            alive["now"] += 1
            alive["most"] = max(alive["most"], alive["now"])
        try:
            result = process(*arguments)
            with lock:
                edges.update(result.edges.values())
            return result
        finally:
            with lock:
                alive["now"] -= 1

    monkeypatch.setattr("callbacks.montage_run.process_tile", counting)
    most_edges = 0
    gc.freeze()  # or each collection looks at all that other tests have imported
    request.addfinalizer(gc.unfreeze)
    settings = replace(SETTINGS, max_in_flight=3)
    with ThreadPoolExecutor(8) as pool:
        processor = TileProcessor(pool, recorder, settings, DataFolders(tmp_path))
        feed(processor, montage.documents())
        while not processor.wait(0.02):
            with lock:  # or what becomes garbage after the collection would be counted
                gc.collect()
                most_edges = max(most_edges, len(edges))
        processor.close(10)
    assert alive["most"] <= 3
    # A row of four waits for the row below it, and a few tiles are in work, with four edges each.
    assert 0 < most_edges <= 4 * (4 + 2 * 3)
    gc.collect()
    assert not edges
    assert solved_error(montage, recorder) < 0.1


def test_the_run_engine_does_not_wait(montage, make_processor, recorder):
    release = threading.Event()

    def slow(name, doc):
        release.wait(WAIT)
        recorder(name, doc)

    processor = make_processor(publish=slow)
    documents = list(montage.documents())
    began = time.perf_counter()
    feed(processor, documents)
    assert time.perf_counter() - began < 0.2
    assert not processor.wait(0.1)
    release.set()
    assert processor.wait(WAIT)
    assert len(recorder.table("tile")) == montage.n_tiles
    assert processor.tiles_behind == 0


def test_tiles_behind_counts_what_is_not_published(montage, make_processor, recorder):
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, WAIT)
        processor = make_processor(pool=pool)
        feed(processor, list(montage.documents())[:-1])
        wait_until(lambda: processor.tiles_behind == montage.n_tiles)
        release.set()
        wait_until(lambda: processor.tiles_behind == 0, WAIT)
        assert processor.close(WAIT)
    assert recorder.stops[0]["exit_status"] == "abort"
    assert "closed before the raw run ended" in recorder.stops[0]["reason"]


def test_a_consumer_that_raises_is_logged_and_no_more(montage, make_processor, recorder, caplog):
    def faulty(name, doc):
        recorder(name, doc)
        if name == "event":
            raise RuntimeError("the consumer is broken")

    processor = make_processor(publish=faulty)
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert len(recorder.stops) == 1
    assert "the consumer is broken" in caplog.text


def test_an_executor_that_is_shut_down_makes_faulted_tiles(montage, make_processor, recorder):
    pool = ThreadPoolExecutor(1)
    processor = make_processor(pool=pool)
    pool.shutdown()
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert all("shutdown" in tile["error"] for tile in recorder.table("tile"))
    assert recorder.stops[0]["exit_status"] == "fail"


def test_jobs_that_an_executor_cancels_do_not_hang_the_run(montage, make_processor, recorder):
    release = threading.Event()
    pool = ThreadPoolExecutor(1)
    pool.submit(release.wait, WAIT)
    processor = make_processor(pool=pool)
    feed(processor, montage.documents())
    wait_until(lambda: processor.tiles_behind == montage.n_tiles)
    wait_until(lambda: pool._work_queue.qsize() == SETTINGS.max_in_flight)
    pool.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert processor.wait(WAIT)
    assert len(recorder.table("tile")) == montage.n_tiles
    assert all(tile["error"] for tile in recorder.table("tile"))


def test_closing_ends_open_runs_and_the_thread(montage, executor, recorder, tmp_path, caplog):
    processor = TileProcessor(executor, recorder, SETTINGS, DataFolders(tmp_path))
    feed(processor, list(montage.documents())[:-1])
    assert processor.close(WAIT)
    recorder.check()
    assert recorder.stops[0]["exit_status"] == "abort"
    assert solved_error(montage, recorder) < 0.1  # what was taken is solved all the same
    assert not processor._thread.is_alive()
    processor("start", {"uid": "late"})
    assert "closed" in caplog.text
    assert processor.close(1)


def test_closing_in_time_even_if_a_worker_hangs(montage, recorder, tmp_path):
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, WAIT)
        processor = TileProcessor(pool, recorder, SETTINGS, DataFolders(tmp_path))
        feed(processor, montage.documents())
        began = time.monotonic()
        assert not processor.close(0.5)
        assert time.monotonic() - began < 5
        release.set()
    recorder.check()
    assert recorder.stops[0]["exit_status"] == "abort"


def test_a_disk_that_is_full_fails_the_run_but_keeps_the_positions(
    montage, processor, recorder, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("callbacks.mosaic.render", full)
    feed(processor, montage.documents())
    assert processor.wait(WAIT)
    assert len(recorder.table("position")) == montage.n_tiles
    (stop,) = recorder.stops
    assert stop["exit_status"] == "fail"
    assert "there is no room for the mosaic" in stop["reason"]
    assert not list(processor.folders.mosaics.iterdir())


def test_processes_do_as_well_as_threads(montage, make_processor, recorder):
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        processor = make_processor(pool=pool)
        feed(processor, montage.documents())
        assert processor.wait(WAIT)
    assert solved_error(montage, recorder) < 0.1
    assert recorder.stops[0]["exit_status"] == "success"


def beam(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side - 0.5
    return (1 - 1.5 * (x**2 + 0.5 * y**2)).astype(np.float32)


def test_tiles_are_flat_fielded_with_the_references_that_the_run_names(
    data_folder, make_processor, recorder, tmp_path
):
    shape, offset = beam(SIDE), 100.0
    montage = SimulatedMontage(
        data_folder,
        background=shape,
        offset=offset,
        md={"references": {"bright": "bright-uid", "dark": "dark-uid"}},
    )
    processor = make_processor()
    root = processor.folders.references
    feed(processor, montage.documents())
    write_average(reference_path(root, "dark-uid"), np.full((SIDE, SIDE), offset, np.float32), {})
    write_average(reference_path(root, "bright-uid"), offset + 12000 * shape, {})
    assert processor.wait(WAIT)
    assert recorder.table("montage")[0]["flat_fielded"]
    for tile in recorder.table("tile"):
        row, column = montage.true[tile["tile_index"]]
        specimen = montage.specimen[row : row + SIDE, column : column + SIDE]
        # The mean response stays, and the dark level goes: (2000 + 10000 t) · mean of the beam.
        expected = (2000 + 10000 * specimen).mean() * shape.mean()
        assert tile["mean"] == pytest.approx(expected, rel=0.01)
    mosaic = zarr.open_group(next(processor.folders.mosaics.glob("*.ome.zarr")), mode="r")["0"][0]
    top, left = montage.true.min(axis=0)
    specimen = montage.specimen[top : top + mosaic.shape[0], left : left + mosaic.shape[1]]
    covered = (mosaic > 0)[: specimen.shape[0], : specimen.shape[1]]
    expected = (2000 + 10000 * specimen) * shape.mean()
    error = (mosaic[: specimen.shape[0], : specimen.shape[1]] - expected)[covered]
    assert np.abs(error).mean() < 150


def test_without_its_references_a_montage_is_processed_all_the_same(
    data_folder, make_processor, recorder, tmp_path, caplog
):
    montage = SimulatedMontage(data_folder, md={"references": {"bright": "gone", "dark": None}})
    settings = replace(SETTINGS, reference_timeout=0.1)
    processor = make_processor(settings=settings)
    with caplog.at_level(logging.ERROR):
        feed(processor, montage.documents())
        assert processor.wait(WAIT)
    assert "without flat field" in caplog.text
    assert not recorder.table("montage")[0]["flat_fielded"]
    assert solved_error(montage, recorder) < 0.1


def test_recorder_check_can_fail(montage, processor):
    broken = Recorder()
    documents = list(montage.documents())
    feed(broken, [documents[0], *documents[2:]])
    with pytest.raises((AssertionError, KeyError)):
        broken.check()
