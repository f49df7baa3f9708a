"""Reads past the system's cache; the writes are tested with the rows of processed files."""

from __future__ import annotations

import errno
import fcntl
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.direct_io import DIRECT, open_direct, read_direct
from processing.chain import PAGE, Buffers

SIZE = 5 * PAGE + 123
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("direct") / "file"
    file.write_bytes(CONTENT.tobytes())
    return file


def buffer(length):
    return Buffers().get("part", (length + 2 * PAGE,), np.uint8)


@given(first=st.integers(0, SIZE), last=st.integers(0, SIZE))
def test_any_bytes_are_read(path, first, last):
    first, last = sorted((first, last))
    found = read_direct(path, first, last - first, buffer(last - first))
    assert (found == CONTENT[first:last]).all()


def test_bytes_beyond_the_end_are_missed(path):
    with pytest.raises(OSError, match=f"the file ends at byte {SIZE}, 7 bytes too early"):
        read_direct(path, PAGE, SIZE + 7 - PAGE, buffer(SIZE))
    with pytest.raises(FileNotFoundError):
        read_direct(path.with_name("gone"), 0, 1, buffer(1))


@pytest.mark.skipif(not DIRECT, reason="this system has no direct reads")
@pytest.mark.parametrize("refused", ["open", "preadv"])
def test_a_disk_that_gives_no_direct_reads(path, monkeypatch, refused):
    plain, asked = getattr(os, refused), []

    def refuse(file, *arguments):
        how = arguments[0] if refused == "open" else fcntl.fcntl(file, fcntl.F_GETFL)
        asked.append(bool(how & DIRECT))
        if how & DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain(file, *arguments)

    monkeypatch.setattr(os, refused, refuse)
    assert (read_direct(path, 100, 9000, buffer(9000)) == CONTENT[100:9100]).all()
    assert asked[0]
    assert False in asked


def test_a_file_that_is_made_anew_holds_nothing_of_the_old_one(path, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT.tobytes())
    with open_direct(tmp_path / "file", create=True) as file:
        file.write(memoryview(b"short"), 0)
    assert (tmp_path / "file").read_bytes() == b"short"
