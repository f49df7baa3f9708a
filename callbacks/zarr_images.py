"""Images in a Zarr store: laid out and read by zarr, written here, a whole shard in one go.

zarr's own way to a shard copies it several times, and costs three times what its compression does.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from callbacks.direct_io import open_direct
from processing.chain import thread_buffers

CHUNK = 512  # side of a chunk, in px: what a viewer reads at a time
# Bits of one weight lie together, so the noise of the lower ones does not spoil the rest: a quarter
# less on disk, for a third more time to write.
CODEC = Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE)
MISSING = 2**64 - 1  # in the index of a shard: a chunk that is not there and reads as 0
MAX_OVERHEAD = 16  # bytes by which Blosc may enlarge a chunk
CRC_BYTES = 4
# A mosaic has one channel: readers of OME-Zarr want names for all axes.
AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "nanometer"},
    {"name": "x", "type": "space", "unit": "nanometer"},
]


def create_image(
    group: zarr.Group, name: str, shape: tuple[int, int], dtype: str, shard: int = CHUNK
) -> zarr.Array[Any]:
    """Make an empty array of one image: a stream of documents stacks one for each event.

    Parameters
    ----------
    group : zarr.Group
    name : str
    shape : (int, int)
        (height, width) in px.
    dtype : str
    shard : int
        Side of a shard, in px; that of a chunk for chunks that are files of their own.

    Returns
    -------
    zarr.Array of shape (1, height, width)
    """
    return group.create_array(
        name,
        shape=(1, *shape),
        dtype=dtype,
        chunks=(1, CHUNK, CHUNK),
        shards=(1, shard, shard) if shard > CHUNK else None,
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        fill_value=0,
        dimension_names=[axis["name"] for axis in AXES],
    )


def read_image(group: Path, name: str, window: tuple[slice, slice] | None = None) -> NDArray[Any]:
    """Read an image, or a window of it."""
    array = zarr.open_array(group / name, mode="r")
    return np.asarray(array[0] if window is None else array[(0, *window)])


def write_shard(array: Path, image: NDArray[Any], corner: tuple[int, int], side: int) -> None:
    """Write the shard of an image that begins at a pixel.

    The format is that of the codec ``sharding_indexed`` of Zarr 3: compressed chunks one after
    another, then where each begins and how long it is, and the CRC32C of that.

    Parameters
    ----------
    array : Path
        Folder of the array, as `create_image` made it.
    image : ndarray, shape (height, width)
        The pixels from the corner on, of the array's type. They fill the shard but for what lies
        beyond the lower or right edge of the array.
    corner : (int, int)
        (row, column) of the first pixel: multiples of `side`.
    side : int
        Of a shard, in px.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    row, column = (at // side for at in corner)
    path = array / "c" / "0" / str(row) / str(column)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_direct(path, create=True) as file:
        file.write(_encode_shard(image, side) if side > CHUNK else _encode_chunk(image), 0)


def _encode_shard(image: NDArray[Any], side: int) -> memoryview:
    """Return the bytes of a shard; they hold until the thread encodes the next one."""
    count = side // CHUNK
    chunk_bytes = CHUNK**2 * image.itemsize + MAX_OVERHEAD
    index = np.full((count, count, 2), MISSING, "<u8")
    size = count**2 * chunk_bytes + index.nbytes + CRC_BYTES
    shard = thread_buffers().get(f"shard_{side}", (size,), np.uint8)
    end = 0
    rows, columns = (range(0, length, CHUNK) for length in image.shape)
    for row, column in product(rows, columns):
        data = _encode_chunk(image[row : row + CHUNK, column : column + CHUNK])
        shard[end : end + len(data)] = data
        index[row // CHUNK, column // CHUNK] = end, len(data)
        end += len(data)
    places = index.tobytes()
    tail = places + google_crc32c.value(places).to_bytes(CRC_BYTES, "little")
    shard[end : end + len(tail)] = np.frombuffer(tail, np.uint8)
    return shard[: end + len(tail)].data


def _encode_chunk(image: NDArray[Any]) -> memoryview:
    """Compress a chunk, filled up with 0 at the edge of the image."""
    little = image.dtype.newbyteorder("<")
    chunk = thread_buffers().get("chunk", (CHUNK, CHUNK), little)
    if image.shape != chunk.shape:
        chunk[:] = 0
    chunk[: image.shape[0], : image.shape[1]] = image
    return memoryview(CODEC.encode(chunk))
