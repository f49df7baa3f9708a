"""Shards that are written here, read by zarr, which checks their index."""

from __future__ import annotations

import errno
import os
from itertools import product

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks.zarr_images import CHUNK, create_image, read_image, write_shard


def pixels(shape, dtype="<u2", seed=0):
    return np.random.default_rng(seed).poisson(200, shape).clip(1, 255).astype(dtype)


def write(path, image, shard):
    """Write an image of any size, shard by shard."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    create_image(group, "0", image.shape, image.dtype.str, shard)
    for top, left in product(*(range(0, side, shard) for side in image.shape)):
        part = image[top : top + shard, left : left + shard]
        write_shard(path / "0", part, (top, left), shard)
    return group


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 2100),
    width=st.integers(1, 2100),
    shard=st.sampled_from([512, 1024, 2048]),
    dtype=st.sampled_from(["<u2", "|u1"]),
)
def test_zarr_reads_what_was_written(tmp_path_factory, height, width, shard, dtype):
    path = tmp_path_factory.mktemp("store")
    image = pixels((height, width), dtype, seed=height)
    write(path, image, shard)
    assert (read_image(path, "0") == image).all()
    window = slice(height // 3, height), slice(0, width // 2 + 1)
    assert (read_image(path, "0", window) == image[window]).all()


def chunks(file, count):
    """The chunks of a shard, by their numbers, as its index tells."""
    content = file.read_bytes()
    index = np.frombuffer(content[-4 - 16 * count : -4], "<u8").reshape(count, 2).tolist()
    return {n: content[at : at + size] for n, (at, size) in enumerate(index) if at < len(content)}


def test_chunks_are_those_that_zarr_itself_writes(tmp_path):
    image = pixels((1500, 700))
    own = write(tmp_path / "own", image, 1024)
    group = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=3)
    create_image(group, "0", image.shape, "<u2", 1024)[0] = image
    assert own["0"].metadata == group["0"].metadata
    for row, count in ((0, 4), (1, 2)):
        mine, its = (chunks(tmp_path / name / f"0/c/0/{row}/0", 4) for name in ("own", "zarr"))
        assert len(mine) == count
        assert all(its[number] == chunk for number, chunk in mine.items())


def test_a_chunk_that_no_pixel_lies_in_is_not_there(tmp_path):
    group = write(tmp_path, pixels((CHUNK, CHUNK)), 1024)
    file = tmp_path / "0/c/0/0/0"
    index = np.frombuffer(file.read_bytes()[-4 - 4 * 16 : -4], "<u8").reshape(4, 2)
    assert index[0].tolist() == [0, file.stat().st_size - 4 - 4 * 16]
    assert (index[1:] == 2**64 - 1).all()
    assert group["0"].shape == (1, CHUNK, CHUNK)


def test_a_shard_that_is_damaged_is_noticed(tmp_path):
    write(tmp_path, pixels((1024, 1024)), 1024)
    file = tmp_path / "0/c/0/0/0"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        read_image(tmp_path, "0")


def test_a_shard_may_be_written_again(tmp_path):
    write(tmp_path, pixels((1024, 1024), seed=1), 1024)
    short = np.zeros((1024, 1024), np.uint16)
    write_shard(tmp_path / "0", short, (0, 0), 1024)
    assert not read_image(tmp_path, "0").any()


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(file, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, pixels((600, 600)), 1024)
