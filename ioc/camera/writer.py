"""A file of frames that can be read while it is written: HDF5, single writer, multiple readers.

Knows no EPICS. Chunks go to the file as they are, which is four times as fast as h5py's slicing.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import h5py
import numpy as np

from ioc.drivers.protocol import Frame

DATA = "/entry/data/data"
UNIQUE_ID = "/entry/instrument/NDAttributes/NDArrayUniqueId"
TIME_STAMP = "/entry/instrument/NDAttributes/NDArrayTimeStamp"
RESERVE = 32 * 2**20  # B that stay free, so that the file can still be closed when the disk is full


class FrameFile:
    """Frames in `/entry/data/data`, shape (N, height, width), chunks (1, height, width).

    Beside them, for each frame, `/entry/instrument/NDAttributes/NDArrayUniqueId` (int32) and
    `NDArrayTimeStamp` (float64, unix time in s), as areaDetector has it.

    Parameters
    ----------
    path : Path
        Of the file, which must not exist.
    shape : (int, int)
        (height, width) of the frames, in px.
    dtype : dtype
        Of the pixels.

    Raises
    ------
    OSError
        If the file exists or cannot be made.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
        self.path = path
        self.count = 0
        if path.exists():  # h5py would see it too, but says so without the type of the error
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self._reserve(0)
        self._file = h5py.File(path, "x", libver="latest")
        try:
            self._lay_out(shape, np.dtype(dtype))
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def _lay_out(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        file = self._file
        for name, kind in {
            "entry": "NXentry",
            "entry/instrument": "NXinstrument",
            "entry/instrument/NDAttributes": "NXcollection",
            "entry/data": "NXdata",
        }.items():
            file.require_group(name).attrs["NX_class"] = kind
        file["entry/data"].attrs["signal"] = "data"
        self._data = file.create_dataset(
            DATA, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape)
        )
        self._ids = file.create_dataset(UNIQUE_ID, (0,), "i4", maxshape=(None,), chunks=(1024,))
        self._times = file.create_dataset(TIME_STAMP, (0,), "f8", maxshape=(None,), chunks=(1024,))
        file.swmr_mode = True

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of its frames, in px."""
        return self._data.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of its pixels."""
        return self._data.dtype

    def append(self, frame: Frame) -> None:
        """Write one frame and make it visible to readers.

        Raises
        ------
        ValueError
            If the frame has another shape or type than the file's.
        OSError
            If it cannot be written; the frames before it are safe.
        """
        data = frame.data
        if (data.shape, data.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"frame {frame.number} has shape {data.shape} and type {data.dtype}; "
                f"{self.path.name} has frames of {self.shape}, {self.dtype}: "
                "start a new capture after a change of the readout"
            )
        self._reserve(data.nbytes)
        index = self.count
        self._data.resize(index + 1, axis=0)
        self._data.id.write_direct_chunk((index, 0, 0), np.ascontiguousarray(data))
        for dataset, value in ((self._ids, frame.number), (self._times, frame.timestamp)):
            dataset.resize(index + 1, axis=0)
            dataset[index] = value
        # Readers take the frame's number last, so it is flushed last: who sees it has the frame.
        for dataset in (self._data, self._times, self._ids):
            dataset.flush()
        self.count += 1

    def _reserve(self, nbytes: int) -> None:
        """Stop before the disk is full: HDF5 cannot close a file that it cannot write to."""
        free = shutil.disk_usage(self.path.parent).free
        if free < nbytes + RESERVE:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: {free >> 20} MiB free, "
                f"{(nbytes + RESERVE) >> 20} MiB needed; free some or set another FilePath",
                str(self.path.parent),
            )

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()
