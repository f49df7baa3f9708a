"""Lens corrections from documents: fitted, written, published, found again, and refused."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from callbacks.lens import LensProcessor, LensSettings
from callbacks.lens_files import LensFileError, await_lens, lens_path, load_lens, write_lens
from callbacks.references import reference_path, write_average
from callbacks.tile_jobs import ProcessorSettings
from processing.geometry import FrameGeometry
from processing.lens import LensLimits, LensModel, fit_lens
from tests.callbacks.montage import feed, raw_documents, write_frames
from tests.processing.lenses import barrel, error, matches, positions, some_lens, tiles_through
from tests.support import wait_until

WAIT = 60
SHAPE = (320, 320)
LENS = barrel(SHAPE, 10)
PLACES = positions(SHAPE)
GEOMETRY = FrameGeometry(4.0, angle=25.0)
SETTINGS = LensSettings(processor=ProcessorSettings(frame_timeout=0.3, reference_timeout=2.0))


@pytest.fixture(scope="module")
def tiles():
    return tiles_through(LENS, PLACES)


def lens_run(folder, tiles, *, exit_status="success", geometry=GEOMETRY, retake=(), **start):
    """The documents of a lens_correction run; tiles in `retake` were spoiled at first."""
    frames, rows = [], []
    for index in [*retake, *range(len(tiles))]:
        tile = list(tiles)[index]
        attempt = 1 + (len(rows) >= len(retake) and index in retake)
        spoiled = index in retake and attempt == 1
        frames.append(np.full(SHAPE, 500, np.uint16) if spoiled else tiles[tile])
        nominal = 0.4 * np.array(SHAPE) * (int(tile[5]), int(tile[7]))
        x, y = geometry.stage_vector(nominal).tolist()
        rows.append(
            {"tile_index": index, "tile_attempt": attempt, "tile_x": x + 70.0, "tile_y": y - 30.0}
        )
    path = folder / "tiles.h5"
    write_frames(path, frames)
    start = {
        "plan_name": "lens_correction",
        "calibration": {**geometry.to_dict(), "magnification": 5000},
        "references": {"bright": None, "dark": None, "lens": None},
        **start,
    }
    return raw_documents(
        start, path, rows, list(range(len(rows))), exit_status=exit_status, shape=SHAPE
    )


@pytest.fixture
def root(tmp_path):
    return tmp_path / "lenses"


@pytest.fixture
def make(executor, recorder, root, tmp_path):
    def make_one(pool=executor, settings=SETTINGS):
        return LensProcessor(pool, recorder, root, tmp_path / "references", settings)

    return make_one


def test_a_run_becomes_a_file_and_a_run(make, recorder, root, data_folder, tiles):
    raw_uid = feed(make(), lens_run(data_folder, tiles, sample="M21"))
    wait_until(lambda: recorder.stops, WAIT)
    recorder.check()
    (start,), (stop,) = recorder.starts, recorder.stops
    assert start["plan_name"] == "process_lens_correction"
    assert (start["raw_uid"], start["sample"]) == (raw_uid, "M21")
    assert stop["exit_status"] == "success"

    (figures,) = recorder.table("lens")
    assert figures["accepted"], figures["reasons"]
    assert figures["residual_px_rms"] < 0.1
    assert figures["scale"] == pytest.approx(1, abs=0.06)
    assert figures["rotation"] == pytest.approx(0, abs=3)

    loaded = load_lens(lens_path(root, raw_uid), SHAPE)
    assert error(loaded.model, LENS) < 0.05
    assert load_lens(lens_path(root, raw_uid)) is loaded
    content = json.loads(lens_path(root, raw_uid).read_text())
    assert content["raw_uid"] == raw_uid
    assert content["figures"]["matches"] == figures["matches"]

    degrees = recorder.table("degree")
    assert [row["degree"] for row in degrees[:3]] == [2, 3, 4]
    (used,) = [row for row in degrees if row["degree"] == figures["degree"]]
    assert figures["pairs_held_out_px_rms"] == used["held_out_px_shifts"] < 0.1
    assert figures["held_out_px_rms"] < 0.1
    assert degrees[0]["held_out_px_shifts"] > 1
    assert figures["covered"] == 1
    assert figures["tile_bend_px_rms"] == 0
    placed = recorder.table("tile")
    assert {row["tile_index"] for row in placed} == set(range(9))
    assert all((row["scale"], row["rotation"]) == (1, 0) for row in placed)

    coefficients = recorder.table("coefficient")
    assert [
        [row["shift_row"] for row in coefficients],
        [r["shift_column"] for r in coefficients],
    ] == [list(line) for line in loaded.model.coefficients]
    assert sum(pair["matches"] for pair in recorder.table("pair")) == figures["matches"]
    field = recorder.table("field")
    assert len(field) == 81
    shifts = np.array([[row["shift_row"], row["shift_column"]] for row in field])
    places = np.array([[row["row_px"], row["column_px"]] for row in field])
    np.testing.assert_allclose(shifts, loaded.model.shift(places))
    assert sum(row["matches"] for row in field) == pytest.approx(
        figures["matches"] * figures["inlier_share"]
    )


def test_a_process_can_do_it_and_a_tile_taken_again_counts_as_taken_last(
    make, recorder, root, data_folder, tiles
):
    with ProcessPoolExecutor(1) as pool:
        raw_uid = feed(make(pool), lens_run(data_folder, tiles, retake=(4,)))
        wait_until(lambda: recorder.stops, 2 * WAIT)
    recorder.check()
    assert recorder.stops[0]["exit_status"] == "success"
    assert error(load_lens(lens_path(root, raw_uid)).model, LENS) < 0.05
    assert any(4 in (pair["tile_a"], pair["tile_b"]) for pair in recorder.table("pair"))


def test_bright_and_dark_averages_are_waited_for_and_used(  # noqa: PLR0917
    make, recorder, root, data_folder, tiles, tmp_path
):
    """A camera whose columns differ by a factor: without a flat field its pattern would match."""
    pattern = np.random.default_rng(0).uniform(0.7, 1.3, SHAPE).astype(np.float32)
    raw = {tile: (frame * pattern + 300).astype(np.uint16) for tile, frame in tiles.items()}
    documents = list(lens_run(data_folder, raw, references={"bright": "b", "dark": "d"}))
    raw_uid = feed(make(), documents)
    for uid, average in (("d", np.full(SHAPE, 300.0)), ("b", 300 + 12000 * pattern)):
        write_average(reference_path(tmp_path / "references", uid), average, {})
    wait_until(lambda: recorder.stops, WAIT)
    assert recorder.stops[0]["exit_status"] == "success"
    assert error(load_lens(lens_path(root, raw_uid)).model, LENS) < 0.05


def test_tiles_without_texture_end_the_run_with_the_reason(
    make, recorder, root, data_folder, tiles
):
    flat = {tile: np.full(SHAPE, 900, np.uint16) for tile in tiles}
    raw_uid = feed(make(), lens_run(data_folder, flat))
    wait_until(lambda: recorder.stops, WAIT)
    recorder.check()
    assert recorder.stops[0]["exit_status"] == "fail"
    assert "matches" in recorder.stops[0]["reason"]
    assert not lens_path(root, raw_uid).exists()


def test_a_fit_that_is_not_accepted_is_written_and_refused(
    make, recorder, root, data_folder, tiles
):
    strict = LensSettings(limits=LensLimits(most_std=1e-4), processor=SETTINGS.processor)
    raw_uid = feed(make(settings=strict), lens_run(data_folder, tiles))
    wait_until(lambda: recorder.stops, WAIT)
    (figures,) = recorder.table("lens")
    assert not figures["accepted"]
    assert "standard deviation" in figures["reasons"]
    with pytest.raises(LensFileError, match="was not accepted: standard deviation"):
        load_lens(lens_path(root, raw_uid))


def test_a_run_that_was_cut_off_makes_no_lens(  # noqa: PLR0917
    make, recorder, root, data_folder, tiles, caplog
):
    feed(make(), lens_run(data_folder, tiles, exit_status="abort"))
    assert "was cut off" in caplog.text
    assert not recorder.documents
    assert not root.exists()


def test_other_runs_are_ignored(make, recorder, data_folder, tiles):
    feed(make(), lens_run(data_folder, tiles, plan_name="montage"))
    assert not recorder.documents


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    lens = some_lens(SHAPE, 5)
    path = tmp_path / "lens.json"
    write_lens(path, fit_lens(matches(lens, positions(SHAPE), noise=0.1), SHAPE))
    return path


def test_a_lens_of_other_frames_is_refused(written):
    with pytest.raises(LensFileError, match=r"corrects frames of \(320, 320\) px, these are"):
        load_lens(written, (512, 512))


def test_a_file_that_was_written_again_is_read_again(written):
    first = load_lens(written)
    content = json.loads(written.read_text())
    content["model"] = LensModel.none(SHAPE).to_dict()
    written.write_text(json.dumps(content))
    assert load_lens(written).model != first.model


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"shape": [9, 9]}}'])
def test_files_that_hold_no_lens_are_refused(tmp_path, content):
    path = tmp_path / "lens.json"
    path.write_text(content)
    with pytest.raises(LensFileError, match="holds no lens correction"):
        load_lens(path)


def test_a_lens_that_never_comes_is_given_up(tmp_path):
    with pytest.raises(FileNotFoundError, match="after 0.1 s"):
        await_lens(tmp_path / "none.json", 0.1)


def test_a_lens_that_is_there_is_not_waited_for(written):
    await_lens(written, 0.0, SHAPE)
