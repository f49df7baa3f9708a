"""Reads and writes past the system's page cache: between a buffer and the disk, straight.

Montages are larger than memory, so what the system kept of them would be of no use when they are
read again; and memory that is new to it costs more of a processor than the disk does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.frames import read_exactly
from processing.chain import PAGE, thread_buffers

LARGE = 65536  # bytes
DIRECT = getattr(os, "O_DIRECT", 0)
NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


@dataclass(frozen=True)
class DirectFile:
    """A file that is open to be written to.

    Attributes
    ----------
    plain, direct : int
        Its descriptor, and that for writes past the cache.
    """

    plain: int
    direct: int

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes to their place.

        Whole pages of large data go straight to the disk. What is left of them, smaller data, and
        all on a system that cannot, go the usual way: small data share their pages, so the system
        has to put them together.

        Parameters
        ----------
        data : memoryview of bytes
            If it begins at a page of memory, as arrays of `Buffers` do, it is not copied.
        offset : int
            In bytes; at a page of the file, for what is large.

        Raises
        ------
        OSError
            If the disk is full.
        """
        done = _write_pages(self.direct, data, offset) if len(data) >= LARGE else 0
        _write(self.plain, data[done:], offset + done)


@contextmanager
def open_direct(path: str | Path, *, create: bool = False) -> Iterator[DirectFile]:
    """Open a file to write to it.

    Parameters
    ----------
    path : str or Path
    create : bool
        Whether to make it, or empty one that is there.

    Raises
    ------
    OSError
        If it is not there or cannot be made.
    """
    plain = os.open(path, os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if create else 0), 0o666)
    try:
        direct = _open_past_cache(path, os.O_WRONLY)
        try:
            yield DirectFile(plain, direct)
        finally:
            os.close(direct)
    finally:
        os.close(plain)


def read_direct(
    path: str | Path, offset: int, length: int, buffer: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Read bytes of a file; in the usual way on a system that cannot in the other.

    Parameters
    ----------
    path : str or Path
    offset, length : int
        In bytes.
    buffer : ndarray of uint8, shape (n,)
        Where to put them; it begins at a page of memory, and is two pages longer than they are.

    Returns
    -------
    ndarray of uint8, shape (length,)
        A part of the buffer.

    Raises
    ------
    OSError
        If the file is not there or ends before.
    """
    before = offset % PAGE
    pages = -(-(before + length) // PAGE) * PAGE
    found = buffer[before : before + length]
    file = _open_past_cache(path, os.O_RDONLY)
    try:
        if _read_pages(file, buffer[:pages], offset - before) >= before + length:
            return found
    finally:
        os.close(file)
    plain = os.open(path, os.O_RDONLY)
    try:
        read_exactly(plain, found, offset)
    finally:
        os.close(plain)
    return found


def _open_past_cache(path: str | Path, how: int) -> int:
    """Open a file that is there; in the plain way, if it cannot be in the other."""
    try:
        return os.open(path, how | DIRECT)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        return os.open(path, how)


def _read_pages(file: int, pages: NDArray[np.uint8], offset: int) -> int:
    """Read whole pages, fewer at the end of the file; give how many bytes came in this way."""
    done = 0
    while done < len(pages) and done % PAGE == 0:
        try:
            count = os.preadv(file, [pages[done:].data], offset + done)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            break
        if not count:
            break
        done += count
    return done


def _write_pages(file: int, data: memoryview, offset: int) -> int:
    """Write the whole pages of some data; give how many bytes the file's system took so."""
    length = len(data) - len(data) % PAGE
    pages = _aligned(data[:length])
    done = 0
    while done < length:
        try:
            done += os.pwrite(file, pages[done:], offset + done)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            break  # the rest goes as any other file does
    return done


def _aligned(data: memoryview) -> memoryview:
    """Return the bytes where a direct write may take them from."""
    held = np.frombuffer(data, np.uint8)
    if held.ctypes.data % PAGE == 0:
        return data
    copied = thread_buffers().get("pages", held.shape, np.uint8)
    copied[:] = held
    return copied.data


def _write(file: int, data: memoryview, offset: int) -> None:
    """Write all bytes; the system may take them in parts."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
