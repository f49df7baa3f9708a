"""The file of frames on its own: what it holds, and what it does when the disk is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from tiled.adapters.hdf5 import HDF5ArrayAdapter

from ioc.camera.compression import COMPRESSIONS
from ioc.camera.writer import DATA, NUMBERS, TIME_STAMP, UNIQUE_ID, FrameFile
from ioc.drivers.protocol import Frame
from tests.support import REPOSITORY

SHAPE = (24, 32)


def frame(number: int, dtype=np.uint16, shape=SHAPE) -> Frame:
    return Frame(np.full(shape, number, dtype), number, 1e9 + number)


READER = """
import sys, numpy as np
from callbacks.frames import FrameReference, read_frame
path, dataset, number, out = sys.argv[1:]
np.save(out, read_frame(FrameReference(path, dataset, 0, 1, int(number)), timeout=0.0))
"""


def read_elsewhere(path, number):
    """Read a frame as processing does, in another process, while the file is written."""
    out = path.with_suffix(".npy")
    command = [sys.executable, "-c", READER, str(path), DATA, str(number), str(out)]
    subprocess.run(command, check=True, timeout=60, cwd=REPOSITORY)
    return np.load(out)


@pytest.fixture
def file(tmp_path):
    file = FrameFile(tmp_path / "frames.h5", SHAPE, np.dtype("u2"))
    yield file
    file.close()


def test_holds_frames_numbers_and_times(file):
    for number in (11, 13, 14):
        file.append(frame(number))
    file.close()
    with h5py.File(file.path) as read:
        assert read[DATA].shape == (3, *SHAPE)
        assert read[DATA].chunks == (1, *SHAPE)
        assert [data.mean() for data in read[DATA]] == [11, 13, 14]
        assert read[UNIQUE_ID][:].tolist() == [11, 13, 14]
        assert read[TIME_STAMP][:].tolist() == [1e9 + 11, 1e9 + 13, 1e9 + 14]
        assert read["entry"].attrs["NX_class"] == "NXentry"


def test_goes_on_from_chunk_to_chunk_of_the_numbers(tmp_path):
    count = NUMBERS + 3
    with closing(FrameFile(tmp_path / "many.h5", (2, 2), np.dtype("u1"))) as file:
        for number in range(count):
            file.append(frame(number % 256, np.uint8, (2, 2)))
    with h5py.File(file.path) as read:
        expected = np.arange(count) % 256
        np.testing.assert_array_equal(read[UNIQUE_ID], expected)
        np.testing.assert_array_equal(read[TIME_STAMP], 1e9 + expected)
        np.testing.assert_array_equal(read[DATA][:, 1, 1], expected)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_each_frame_can_be_read_as_soon_as_it_is_written(tmp_path, compression):
    rng = np.random.default_rng(3)
    path = tmp_path / "frames.h5"
    with closing(FrameFile(path, SHAPE, np.dtype("u2"), compression)) as file:
        for number in (7, 8, 10):
            data = rng.integers(0, 4096, SHAPE, np.uint16)
            file.append(Frame(data, number, 0.0))
            np.testing.assert_array_equal(read_elsewhere(path, number), data)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiled_reads_the_frames(tmp_path, compression):
    data = np.random.default_rng(3).integers(0, 4096, SHAPE, np.uint16)
    path = tmp_path / "frames.h5"
    with closing(FrameFile(path, SHAPE, np.dtype("u2"), compression)) as file:
        file.append(Frame(data, 1, 0.0))
    adapter = HDF5ArrayAdapter.from_uris(path.as_uri(), dataset=DATA)
    np.testing.assert_array_equal(np.squeeze(adapter.read()), data)


def test_compresses_what_can_be_compressed_and_no_other(tmp_path):
    sizes = {}
    for compression in COMPRESSIONS:
        rng = np.random.default_rng(3)
        path = tmp_path / f"{compression}.h5"
        with closing(FrameFile(path, (256, 256), np.dtype("u2"), compression)) as file:
            file.append(Frame(rng.integers(0, 4096, (256, 256), np.uint16), 1, 0.0))
            file.append(Frame(rng.integers(0, 65536, (256, 256), np.uint16), 2, 0.0))
        with h5py.File(path) as read:
            sizes[compression] = [read[DATA].id.get_chunk_info(i).size for i in range(2)]
    assert sizes["None"] == [131072, 131072]
    twelve_bits, noise = sizes["Blosc"]
    assert 0.75 * 131072 < twelve_bits < 0.77 * 131072
    assert 131072 < noise <= 131072 + 64


def test_frames_that_are_not_contiguous(file):
    data = np.arange(24 * 64, dtype=np.uint16).reshape(24, 64)[:, ::2]
    file.append(Frame(data, 1, 0.0))
    file.close()
    with h5py.File(file.path) as read:
        np.testing.assert_array_equal(read[DATA][0], data)


@pytest.mark.parametrize("wrong", [frame(1, np.uint8), frame(1, shape=(32, 24))])
def test_refuses_frames_of_another_kind(file, wrong):
    with pytest.raises(ValueError, match="start a new capture"):
        file.append(wrong)
    assert file.count == 0


def test_does_not_write_over_a_file(file):
    with pytest.raises(FileExistsError):
        FrameFile(file.path, SHAPE, np.dtype("u2"))


def test_stops_while_the_file_can_still_be_closed(file, monkeypatch):
    file.append(frame(1))
    disk = SimpleNamespace(f_bavail=256, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with pytest.raises(OSError, match="No space left on device: 1 MiB free") as raised:
        file.append(frame(2))
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()
    file.append(frame(3))  # there is room again: the frame that failed has left no hole
    file.close()
    with h5py.File(file.path) as read:
        assert read[UNIQUE_ID][:].tolist() == [1, 3]


def test_leaves_no_file_that_could_not_be_laid_out(tmp_path):
    with pytest.raises(ValueError, match=r"[Cc]hunk"):
        FrameFile(tmp_path / "bad.h5", (0, 10), np.dtype("u2"))
    assert not (tmp_path / "bad.h5").exists()
