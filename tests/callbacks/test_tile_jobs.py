"""What a worker does with a tile: read, correct, write, read back; and what if it cannot."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

from callbacks.frames import FrameError, FrameReference
from callbacks.processed_file import ProcessedFile
from callbacks.references import (
    ReferenceFiles,
    await_references,
    load_references,
    reference_age,
    write_average,
)
from callbacks.tile_jobs import ProcessorSettings, TileTask, process_tile, read_tile
from processing.chain import StepSettings, make_chain
from processing.flatfield import References
from processing.geometry import FrameGeometry
from tests.callbacks.montage import SIDE, texture, write_frames

DATA = "/entry/data/data"
SHAPE = (SIDE, SIDE)
SETTINGS = ProcessorSettings(frame_timeout=0.05)
FLIPPED = FrameGeometry(4.0, flip_columns=True)


def scene(seed=0):
    random = np.random.default_rng(seed)
    return random.poisson(1000 + 3000 * texture(SIDE, seed)).astype(np.uint16)


@pytest.fixture
def frames(tmp_path):
    path = tmp_path / "frames.h5"
    write_frames(path, [scene(0), scene(1)], [1, 2])
    return path


@pytest.fixture
def references(tmp_path):
    random = np.random.default_rng(7)
    gain = random.normal(1, 0.05, SHAPE)
    files = ReferenceFiles(str(tmp_path / "bright.h5"), str(tmp_path / "dark.h5"))
    for path, average in ((files.bright, 100 + 5000 * gain), (files.dark, np.full(SHAPE, 100.0))):
        write_average(tmp_path / path, average.astype(np.float32), {})
    return files


def task(frames, index=0, **more):
    reference = FrameReference(str(frames), DATA, index, index + 1, index + 1)
    return TileTask(reference, more.pop("geometry", FLIPPED), **more)


@pytest.fixture
def file(tmp_path):
    return ProcessedFile(tmp_path / "processed.h5", SETTINGS.outputs(SHAPE), 3)


def test_a_tile_is_processed_and_written(frames, references, file):
    wanted = task(
        frames, 1, row=file.row(2), references=references, edges={"left": 80.0, "top": 80.0}
    )
    done = process_tile(wanted, SETTINGS)
    chain = make_chain(SETTINGS.steps)
    assert set(done.figures) == {*chain.figures, "seconds"}
    assert set(done.edges) == {"left", "top"}
    assert (done.shape, set(done.stored)) == (SHAPE, {"frame", *chain.arrays(SHAPE)})
    with h5py.File(file.path) as stored:
        assert set(stored) == {"frame", *chain.arrays(SHAPE)}
        frame = stored["frame"][2]
        np.testing.assert_array_equal(stored["histogram"][2], done.arrays["histogram"])
        np.testing.assert_array_equal(stored["mini"][2], done.arrays["mini"])
        level = frame.reshape(SIDE // 2, 2, SIDE // 2, 2).astype(int).sum(axis=(1, 3))
        np.testing.assert_array_equal(stored["level_1"][2], (level + 2) // 4)
        assert all(stored[name][:2].any() == 0 for name in stored)
    made = load_references(references)
    expected = ((scene(1) - made.dark) * made.gain + 0.5).clip(0, 65535).astype(np.uint16)
    good = ~made.bad[:, ::-1]
    # The flat field's steps are a tenth of a count, so that a few are rounded the other way.
    difference = np.abs(frame[good].astype(int) - expected[:, ::-1][good])
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_a_tile_that_is_read_again_is_the_same_whether_it_was_written_or_not(
    frames, references, file
):
    written = task(frames, row=file.row(0), references=references)
    process_tile(written, SETTINGS)
    back = read_tile(written, SETTINGS).copy()
    assert back.any()
    np.testing.assert_array_equal(read_tile(replace(written, row=None), SETTINGS), back)


def test_only_what_is_wanted_is_written(frames, tmp_path):
    settings = replace(SETTINGS, write=("mini", "level_2"))
    file = ProcessedFile(tmp_path / "small.h5", settings.outputs(SHAPE), 1)
    done = process_tile(task(frames, row=file.row(0)), settings)
    assert done.stored == ("level_2", "mini")
    with h5py.File(file.path) as stored:
        assert set(stored) == {"level_2", "mini"}
        assert stored["mini"][0].any()
    with pytest.raises(ValueError, match="microscope cannot be written: the steps make frame"):
        replace(SETTINGS, write=("microscope",)).outputs(SHAPE)


def test_arrays_that_are_handed_back_outlive_the_next_tile(frames):
    first = process_tile(task(frames, 0, edges={"left": 80.0}), SETTINGS)
    kept = first.arrays["mini"].copy(), first.edges["left"].fine.copy()
    process_tile(task(frames, 1, edges={"left": 80.0}), SETTINGS)
    np.testing.assert_array_equal(first.arrays["mini"], kept[0])
    np.testing.assert_array_equal(first.edges["left"].fine, kept[1])


# Frames and references that are not as they should be


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 4000), "damaged or cut off"),
        (lambda path: os.truncate(path, 3000), "damaged or cut off"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000)), "damaged"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_spoilt_frame_is_an_error_and_leaves_its_row_empty(frames, file, spoil, says):
    spoil(frames)
    with pytest.raises(FrameError, match=says):
        process_tile(task(frames, 1, row=file.row(1)), SETTINGS)
    assert not any(file.row(1).read(name).any() for name in file.arrays)


def test_frames_of_a_type_that_no_camera_has(tmp_path):
    path = tmp_path / "float.h5"
    write_frames(path, [scene().astype(np.float32)], [1])
    with pytest.raises(TypeError, match="frame is float32"):
        process_tile(task(path), SETTINGS)


def test_compressed_and_big_endian_frames_are_read_all_the_same(tmp_path):
    for number, options in enumerate(({"compression": "gzip"}, {"dtype": ">u2"})):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset(DATA, data=scene()[None], chunks=(1, 64, 64), **options)
        done = process_tile(task(path), replace(SETTINGS, steps=(StepSettings("statistics"),)))
        assert done.figures["mean"] == pytest.approx(scene().mean())


def test_references_are_read_again_when_their_file_changes(frames, references):
    before = read_tile(task(frames, references=references), SETTINGS).copy()
    assert load_references(references) is load_references(references)
    rows = np.linspace(0.5, 1.5, SIDE)[:, None]
    write_average(
        frames.parent / "bright.h5", (100 + 5000 * rows * np.ones(SHAPE)).astype(np.float32), {}
    )
    after = read_tile(task(frames, references=references), SETTINGS)
    ratio = after[-8:].mean() / before[-8:].mean()
    assert ratio == pytest.approx(1 / 1.5, rel=0.05)


def test_references_of_another_shape_are_refused(frames, references, tmp_path):
    small = ReferenceFiles(str(tmp_path / "small.h5"), None)
    write_average(tmp_path / "small.h5", np.full((64, 64), 900, np.float32), {})
    with pytest.raises(ValueError, match="the references .64, 64.: take bright and dark frames"):
        process_tile(task(frames, references=small), SETTINGS)
    with pytest.raises(ValueError, match="references of .64, 64. px, the frames are .256, 256."):
        await_references(small, 0.0, SHAPE)
    await_references(references, 0.0, SHAPE)


def test_references_are_turned_before_the_first_tile(frames, references, monkeypatch):
    await_references(references, 0.0, SHAPE, (False, True))
    monkeypatch.setattr(References, "__post_init__", lambda _: pytest.fail("they are made anew"))
    process_tile(task(frames, references=references), SETTINGS)


def test_the_age_of_references_is_that_of_the_older_one(frames, references):
    done = process_tile(task(frames, references=references), SETTINGS)
    assert done.figures["reference_age"] < 0.1
    assert not done.figures["reference_stale"]
    then = time.time() - 30 * 3600
    os.utime(references.dark, (then, then))
    assert reference_age(references) == pytest.approx(30, abs=0.1)
    done = process_tile(task(frames, references=references), SETTINGS)
    assert done.figures["reference_stale"]
    patient = tuple(
        StepSettings(step.name, (("max_age", 48.0),)) if step.name == "flat_field" else step
        for step in SETTINGS.steps
    )
    done = process_tile(task(frames, references=references), replace(SETTINGS, steps=patient))
    assert not done.figures["reference_stale"]
