"""Makes frames smaller ahead of the write, on several threads and outside the lock of HDF5.

docs/decisions/compression.md says what is to be gained, and why there is this one way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import hdf5plugin
from numcodecs import blosc
from numpy.typing import NDArray

Compression = Literal["None", "Blosc"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

COMPRESSOR = "lz4"
LEVEL = 5
THREADS = min(4, os.cpu_count() or 1)


def dataset_options(compression: Compression) -> Mapping[str, Any]:
    """Give what h5py is told of it when a dataset is made: readers undo it by that."""
    if compression == "None":
        return {}
    return hdf5plugin.Blosc(COMPRESSOR, LEVEL, hdf5plugin.Blosc.BITSHUFFLE)


def compress(data: NDArray[Any], threads: int = THREADS) -> bytes:
    """Compress a chunk into what HDF5's Blosc filter would have made of it.

    Parameters
    ----------
    data : ndarray
        C-contiguous.
    threads : int
        How many work on it. They belong to the process: call this from one thread only.

    Returns
    -------
    bytes
        Never much larger than `data`, whatever that holds.
    """
    blosc.use_threads = True  # else it is threaded only when called from the main thread
    blosc.set_nthreads(threads)
    made: bytes = blosc.compress(data, COMPRESSOR.encode(), LEVEL, blosc.BITSHUFFLE)
    return made
