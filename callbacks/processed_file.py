"""The file of a processed run: arrays of each tile, made by one owner, written by any worker.

HDF5 lets one process write. So the owner has it lay out the rows, and workers write to their bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from callbacks.direct_io import LARGE, open_direct
from callbacks.documents import StoredArray
from callbacks.frames import read_exactly
from processing.chain import PAGE, ArraySpec

GROWTH = 64  # rows that are laid out at a time, beyond those that were foreseen
OPEN_TIMEOUT = 2.0  # s
POLL_SECONDS = 0.05
# Large rows begin at a page, so that they can go straight to the disk.
ALIGNMENT = {"alignment_threshold": LARGE, "alignment_interval": PAGE}


@dataclass(frozen=True)
class Row:
    """Where the arrays of one tile lie in a file: what a worker needs to write or read them.

    Attributes
    ----------
    path : str
    index : int
        The row, in every dataset.
    places : mapping of str to (int, ArraySpec)
        By dataset: the byte at which the row begins, and what it holds.
    """

    path: str
    index: int
    places: Mapping[str, tuple[int, ArraySpec]]

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write arrays to their places; those that have none are left out.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            By dataset, of the shapes and types that the file was made for.

        Raises
        ------
        ValueError
            If an array has another shape or type.
        OSError
            If the file is not there, or the disk is full.
        """
        for name, array in arrays.items():
            if name in self.places:
                _check(name, array, self.places[name][1])
        with open_direct(self.path) as file:
            for name, array in arrays.items():
                if name in self.places:
                    data = np.ascontiguousarray(array).data.cast("B")
                    file.write(data, self.places[name][0])

    def read(self, name: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read one array back; zeros if it was not written.

        Parameters
        ----------
        name : str
            Of the dataset.
        out : ndarray, optional
            C-contiguous, of the same shape and type; where to put it.

        Raises
        ------
        KeyError
            If the file does not hold that array.
        OSError
            If it cannot be read to its end.
        """
        offset, spec = self.places[name]
        array = np.empty(spec.shape, spec.dtype) if out is None else out
        _check(name, array, spec)
        file = os.open(self.path, os.O_RDONLY)
        try:
            read_exactly(file, array, offset)
        finally:
            os.close(file)
        return array


class ProcessedFile:
    """An HDF5 file that holds a dataset for each kind of array, and a row in each for each tile.

    Rows are laid out before they are written; until then they read as 0. The file is open only
    while rows are laid out, some milliseconds, and then so that others may read it (SWMR); at all
    other times it is a closed, valid file, whatever happens to this process.

    Only one object may own a file, on one thread; rows go to any thread, process or machine.

    Parameters
    ----------
    path : Path
        Must not exist; missing folders are made.
    arrays : mapping of str to ArraySpec
        By dataset.
    rows : int
        How many rows to lay out. What is not written takes no space on disk.
    attributes : mapping, optional
        Written to the file.

    Raises
    ------
    OSError
        If the file exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, ArraySpec],
        rows: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.arrays = dict(arrays)
        self._offsets: dict[str, dict[int, int]] = {name: {} for name in self.arrays}
        self._rows = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(self.path, "x", libver="latest", **ALIGNMENT) as file:
            file.attrs.update(attributes or {})
            for name, spec in self.arrays.items():
                _lay_out(file, name, spec)
        self._grow(rows)

    @property
    def stored(self) -> tuple[StoredArray, ...]:
        """What documents say of each dataset."""
        return tuple(
            StoredArray(name, str(self.path), f"/{name}", spec.shape, spec.dtype, spec.shape)
            for name, spec in self.arrays.items()
        )

    def row(self, index: int) -> Row:
        """Give the places of a row; the file grows if it has no such row yet.

        Raises
        ------
        OSError
            If the file cannot be opened to let it grow.
        """
        if index >= self._rows:
            self._grow(index + GROWTH)
        places = {name: (self._offsets[name][index], spec) for name, spec in self.arrays.items()}
        return Row(str(self.path), index, places)

    def finish(self, rows: int) -> None:
        """Cut the datasets to so many rows, once all of them are written."""
        if rows < self._rows:
            self._resize(rows)

    def _grow(self, rows: int) -> None:
        self._resize(rows)

    def _resize(self, rows: int) -> None:
        with self._open() as file:
            for name, offsets in self._offsets.items():
                dataset = file[name]
                dataset.resize(rows, axis=0)
                offsets.clear()
                dataset.id.chunk_iter(
                    lambda chunk, to=offsets: to.update({chunk.chunk_offset[0]: chunk.byte_offset})
                )
        self._rows = rows

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        """Open the file to change it; wait if this process has it open to read."""
        deadline = time.monotonic() + OPEN_TIMEOUT
        while True:
            try:
                file = h5py.File(self.path, "r+", libver="latest", locking=False, **ALIGNMENT)
                break
            except FileNotFoundError:
                raise
            except OSError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_SECONDS)
        with file:
            file.swmr_mode = True
            yield file


def _lay_out(file: h5py.File, name: str, spec: ArraySpec) -> None:
    """Make a dataset of no rows, the rows of which get their place at once and no fill value.

    The system gives zeros for what was never written of a file.
    """
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_chunk((1, *spec.shape))
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((0, *spec.shape), (h5py.h5s.UNLIMITED, *spec.shape))
    kind = h5py.h5t.py_create(np.dtype(spec.dtype))
    h5py.h5d.create(file.id, name.encode(), kind, space, how)


def _check(name: str, array: NDArray[Any], spec: ArraySpec) -> None:
    if array.shape != spec.shape or array.dtype != spec.dtype:
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; "
            f"the file was made for {spec.dtype} of shape {spec.shape}"
        )
