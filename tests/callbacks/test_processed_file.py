"""The file that many workers write at once: rows, growth, and readers at any time."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from tiled.adapters.hdf5 import HDF5ArrayAdapter

from callbacks import direct_io
from callbacks.documents import file_uri
from callbacks.processed_file import GROWTH, ProcessedFile, Row
from processing.chain import ArraySpec, Buffers
from tests.support import wait_until

ARRAYS = {
    "frame": ArraySpec((256, 192), "<u2"),  # large enough to be aligned
    "mini": ArraySpec((7, 5), "|u1"),  # small, and no multiple of anything
    "histogram": ArraySpec((256,), "<u4"),
}


def content(index):
    """Arrays that are all different, and nowhere 0."""
    random = np.random.default_rng(index)
    return {
        name: random.integers(1, 200, spec.shape).astype(spec.dtype)
        for name, spec in ARRAYS.items()
    }


def write(row: Row) -> int:
    row.write(content(row.index))
    return row.index


def check(file, written, rows):
    """Assert that the rows written hold what they should, and all others 0."""
    for name in ARRAYS:
        assert len(file[name]) == rows
        for index in range(rows):
            expected = content(index)[name] if index in written else 0
            assert (file[name][index] == expected).all(), (name, index)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "processed" / "run.h5"


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_write_rows_at_once(path, kind):
    owner = ProcessedFile(path, ARRAYS, 40, {"raw_uid": "abc"})
    pool = (
        ThreadPoolExecutor(4)
        if kind == "threads"
        else ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    )
    chosen = [index for index in range(40) if index % 3]
    with pool:
        done = pool.map(write, [owner.row(index) for index in chosen])
        assert sorted(done) == chosen
    with h5py.File(path) as file:
        check(file, chosen, 40)
        assert file.attrs["raw_uid"] == "abc"
        assert file["frame"].chunks == (1, 256, 192)


def test_it_grows_while_workers_write(path):
    """Retakes have rows beyond those that were foreseen; rows given before keep their places."""
    owner = ProcessedFile(path, ARRAYS, 4)
    early = owner.row(2)
    late = owner.row(4)
    later = owner.row(4 + GROWTH)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [later, early, late]))
    with h5py.File(path) as file:
        check(file, {2, 4, 4 + GROWTH}, 4 + 2 * GROWTH)
    owner.finish(5)
    with h5py.File(path) as file:
        check(file, {2, 4}, 5)


def test_any_reader_can_open_it_at_any_time_but_while_it_grows(path):
    """A reader with and one without SWMR, with and without locks, in another process."""
    owner = ProcessedFile(path, ARRAYS, 3)
    owner.row(0).write(content(0))
    reader = """
import sys, h5py
for how in ({}, {"swmr": True}, {"locking": False}, {"swmr": True, "locking": False}):
    with h5py.File(sys.argv[1], "r", **how) as file:
        print(file["frame"].shape[0], int(file["frame"][0].sum()), int(file["frame"][1].sum()))
"""
    expected = f"3 {content(0)['frame'].sum()} 0\n" * 4
    assert subprocess.check_output([sys.executable, "-c", reader, path], text=True) == expected


def test_readers_are_never_led_astray_while_it_grows(path):
    """Another process reads all the time: it may be refused for a moment, never misled."""
    owner = ProcessedFile(path, ARRAYS, 1)
    owner.row(0).write(content(0))
    reader = """
import sys, h5py
print("ready", flush=True)
refused = read = 0
for _ in range(150):
    try:
        with h5py.File(sys.argv[1], "r", locking=False, swmr=True) as file:
            assert int(file["frame"][0].sum()) == int(sys.argv[2]), "row 0 is lost"
            assert not file["frame"][len(file["frame"]) - 1].any() or len(file["frame"]) == 1
            read += 1
    except OSError:
        refused += 1
print(read, refused)
"""
    expected = str(content(0)["frame"].sum())
    process = subprocess.Popen(
        [sys.executable, "-c", reader, path, expected], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    index = 1
    while process.poll() is None and index < 200 * GROWTH:
        owner.row(index)
        index += GROWTH
    read, refused = map(int, process.communicate(timeout=60)[0].split())
    assert process.returncode == 0
    assert read > refused


def test_a_reader_in_this_process_is_waited_for(path):
    owner = ProcessedFile(path, ARRAYS, 1)
    file = h5py.File(path, "r")
    closing = threading.Timer(0.3, file.close)
    closing.start()
    owner.row(5).write(content(5))
    closing.join()
    with h5py.File(path) as again:
        check(again, {5}, 5 + GROWTH)


def test_tiled_reads_what_is_there(path):
    owner = ProcessedFile(path, ARRAYS, 3)
    owner.row(1).write(content(1))
    adapter = HDF5ArrayAdapter.from_uris(file_uri(path), dataset="/frame")
    whole = adapter.read()
    np.testing.assert_array_equal(whole[1], content(1)["frame"])
    assert not whole[0].any()


def test_rows_are_read_back_without_hdf5(path):
    owner = ProcessedFile(path, ARRAYS, 2)
    owner.row(1).write(content(1))
    for name in ARRAYS:
        np.testing.assert_array_equal(owner.row(1).read(name), content(1)[name])
        assert not owner.row(0).read(name).any()
    out = np.empty((256, 192), np.uint16)
    assert owner.row(1).read("frame", out) is out


@pytest.fixture
def asked(monkeypatch) -> Iterator[list[tuple[bool, int]]]:
    """Every write to the file: whether it went past the cache, and how many bytes."""
    writes, plain = [], os.pwrite

    def pwrite(file, data, offset):
        direct = bool(fcntl.fcntl(file, fcntl.F_GETFL) & direct_io.DIRECT)
        writes.append((direct, len(data)))
        return plain(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return writes


LARGE = {"frame": ArraySpec((130, 300), "uint16")}  # 19 pages and some bytes


@pytest.mark.skipif(not direct_io.DIRECT, reason="this system has no direct writes")
@pytest.mark.parametrize("start", [0, 1], ids=["on a page", "between"])
def test_the_pages_of_large_rows_go_straight_to_the_disk(path, asked, start):
    owner = ProcessedFile(path, LARGE, 2)
    frame = np.random.default_rng(0).integers(0, 65536, (130, 300), dtype=np.uint16)
    held = Buffers().get("frame", (start + frame.size,), np.uint16)[start:].reshape(frame.shape)
    held[:] = frame
    owner.row(1).write({"frame": held})
    assert asked == [(True, 19 * 4096), (False, frame.nbytes - 19 * 4096)]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["frame"][1], frame)
        assert not file["frame"][0].any()


@pytest.mark.parametrize("refused", ["open", "pwrite"])
def test_a_disk_that_takes_no_direct_io(path, monkeypatch, refused):
    """What it cannot do is written as everything else is."""
    plain, asked = getattr(os, refused), []

    def refuse(file, *arguments):
        how = arguments[0] if refused == "open" else fcntl.fcntl(file, fcntl.F_GETFL)
        if how & direct_io.DIRECT:
            asked.append(how)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain(file, *arguments)

    monkeypatch.setattr(os, refused, refuse)
    owner = ProcessedFile(path, ARRAYS, 2)
    write(owner.row(1))
    assert len(asked) == 1 or not direct_io.DIRECT
    with h5py.File(path) as file:
        check(file, [1], 2)


def test_a_full_disk_is_told(path, monkeypatch):
    owner = ProcessedFile(path, ARRAYS, 2)

    def full(file, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(owner.row(0))


def test_only_some_of_the_arrays(path):
    owner = ProcessedFile(path, {"mini": ARRAYS["mini"]}, 1)
    owner.row(0).write(content(0))
    with h5py.File(path) as file:
        assert list(file) == ["mini"]
        np.testing.assert_array_equal(file["mini"][0], content(0)["mini"])


def test_what_does_not_fit_is_refused(path):
    row = ProcessedFile(path, ARRAYS, 1).row(0)
    with pytest.raises(ValueError, match=r"frame is uint16 of shape \(9, 9\); the file was made"):
        row.write({"mini": content(0)["mini"], "frame": np.ones((9, 9), np.uint16)})
    with pytest.raises(ValueError, match="frame is float32"):
        row.write({"frame": np.ones((256, 192), np.float32)})
    assert not row.read("mini").any()


def test_a_file_is_never_overwritten(path):
    ProcessedFile(path, ARRAYS, 1).row(0).write(content(0))
    with pytest.raises(FileExistsError):
        ProcessedFile(path, ARRAYS, 1)
    with h5py.File(path) as file:
        check(file, {0}, 1)


def test_a_file_that_was_cut_off(path):
    owner = ProcessedFile(path, ARRAYS, 4)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(OSError, match="bytes too early"):
        owner.row(3).read("frame")


def test_a_file_that_is_gone(path):
    row = ProcessedFile(path, ARRAYS, 1).row(0)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        row.write(content(0))


def test_unwritten_rows_take_no_space(path):
    ProcessedFile(path, {"frame": ArraySpec((2048, 2048), "<u2")}, 100)
    assert path.stat().st_size > 100 * 2 * 2048**2
    assert path.stat().st_blocks * 512 < 2**20


def test_no_handle_is_left(path):
    owner = ProcessedFile(path, ARRAYS, 1)
    owner.row(3).write(content(3))
    wait_until(lambda: not h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE), 5)
