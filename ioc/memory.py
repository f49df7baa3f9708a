"""Has the C library keep memory that was freed, for the arrays that come next.

As it comes, glibc gives every array over some size back at once, and each new one is paid for page
by page: 1 to 2 ms a MB on a virtual machine, more than most of what is done with it.
"""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers them
SETTINGS = {
    TRIM_THRESHOLD: ("MALLOC_TRIM_THRESHOLD_", 512 * 2**20),
    MMAP_THRESHOLD: ("MALLOC_MMAP_THRESHOLD_", 32 * 2**20),  # the most that it takes
}


def keep_memory() -> None:
    """Set it for this process and, by the environment, for those that it starts.

    Where the C library is another one, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for option, (variable, value) in SETTINGS.items():
        os.environ.setdefault(variable, str(value))
        if mallopt is not None:
            mallopt(option, value)
