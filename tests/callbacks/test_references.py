"""Bright and dark averages: right, published, found by the tile processor, and never in the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from callbacks.references import ReferenceFiles, ReferenceProcessor, load_references, reference_path
from tests.callbacks.montage import SIDE, SimulatedMontage, feed, raw_documents, write_frames
from tests.support import wait_until

WAIT = 60


def reference_run(folder, plan, level, *, n=4, exit_status="success", stream=False, per_event=1):
    """Frames of noise about a level; gives the documents and the frames' mean."""
    random = np.random.default_rng(int(level))
    frames = random.normal(level, 20, (n, SIDE, SIDE)).clip(0).astype(np.uint16)
    path = folder / f"{plan}-{n}-{exit_status}.h5"
    write_frames(path, frames)
    documents = raw_documents(
        {"plan_name": plan, "sample": "none"},
        path,
        [{"camera_exposure": 0.1}] * (n // per_event),
        list(range(n // per_event)),
        exit_status=exit_status,
        stream=stream,
    )
    return list(documents), frames.mean(axis=0)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "references"


@pytest.fixture
def references(executor, recorder, root):
    return ReferenceProcessor(executor, recorder, root, frame_timeout=0.2)


@pytest.mark.parametrize(
    "kind", [("brightfield", False), ("darkfield", True)], ids=["datum", "stream_datum"]
)
def test_frames_are_averaged_into_a_file_and_a_run(references, recorder, root, data_folder, kind):
    plan, stream = kind
    documents, mean = reference_run(data_folder, plan, 1000, stream=stream)
    raw_uid = feed(references, documents)
    wait_until(lambda: recorder.stops, WAIT)
    recorder.check()
    with h5py.File(reference_path(root, raw_uid)) as file:
        np.testing.assert_allclose(file["average"][0], mean, rtol=1e-6)
        assert file["average"].attrs["raw_uid"] == raw_uid
        assert file["average"].attrs["frames"] == 4
    assert recorder.starts[0]["plan_name"] == f"process_{plan}"
    assert recorder.starts[0]["raw_uid"] == raw_uid
    (figures,) = recorder.table("reference")
    assert figures["frames"] == 4
    assert figures["mean"] == pytest.approx(mean.mean())
    assert figures["std"] == pytest.approx(mean.std())
    (resource,) = recorder.of("stream_resource")
    assert resource["data_key"] == "average"


def test_many_frames_in_one_event_count_each(references, recorder, root, data_folder):
    documents, mean = reference_run(data_folder, "brightfield", 3000, n=6, per_event=6)
    for name, doc in documents:
        if name == "resource":
            doc["resource_kwargs"]["frame_per_point"] = 6
    raw_uid = feed(references, documents)
    wait_until(lambda: recorder.stops, WAIT)
    with h5py.File(reference_path(root, raw_uid)) as file:
        np.testing.assert_allclose(file["average"][0], mean, rtol=1e-6)


def test_a_frame_that_is_missing_fails_the_average(references, recorder, root, data_folder):
    documents, _ = reference_run(data_folder, "darkfield", 100)
    (data_folder / "darkfield-4-success.h5").unlink()
    raw_uid = feed(references, documents)
    wait_until(lambda: recorder.stops, WAIT)
    assert recorder.stops[0]["exit_status"] == "fail"
    assert "no such file" in recorder.stops[0]["reason"]
    assert not reference_path(root, raw_uid).exists()


def test_a_run_that_was_cut_off_makes_no_average(references, recorder, data_folder, caplog):
    documents, _ = reference_run(data_folder, "brightfield", 3000, exit_status="abort")
    feed(references, documents)
    assert not recorder.documents
    assert "cut off" in caplog.text


def test_other_runs_are_left_alone(references, recorder, data_folder):
    feed(references, SimulatedMontage(data_folder).documents())
    assert not recorder.documents


def test_an_executor_that_is_shut_down_does_not_end_the_raw_run(
    recorder, root, data_folder, caplog
):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    documents, _ = reference_run(data_folder, "brightfield", 3000)
    feed(ReferenceProcessor(pool, recorder, root), documents)
    assert "shutdown" in caplog.text


def test_references_then_montage_with_one_worker(data_folder, recorder, tmp_path):
    """The way of a session; the montage waits for the averages without blocking them."""
    from callbacks.folders import DataFolders
    from callbacks.tile_processor import TileProcessor
    from tests.callbacks.conftest import SETTINGS

    folders = DataFolders(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        references = ReferenceProcessor(pool, recorder, folders.references)
        processor = TileProcessor(pool, recorder, SETTINGS, folders)
        bright, bright_mean = reference_run(data_folder, "brightfield", 9000)
        dark, dark_mean = reference_run(data_folder, "darkfield", 100)
        uids = {"bright": feed(references, bright), "dark": feed(references, dark)}
        montage = SimulatedMontage(data_folder, offset=100, md={"references": uids})
        feed(processor, montage.documents())
        assert processor.close(WAIT)
    assert recorder.table("montage")[0]["flat_fielded"]
    files = ReferenceFiles(
        *(str(reference_path(folders.references, uids[kind])) for kind in ("bright", "dark"))
    )
    loaded = load_references(files)
    np.testing.assert_allclose(loaded.dark, dark_mean, rtol=1e-5)
    assert loaded.gain.mean() == pytest.approx(1, abs=0.01)
    assert bright_mean.mean() > 8000
