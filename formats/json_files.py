"""Reads JSON that comes from elsewhere, gzipped or not.

What cannot be read is told in one line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from formats.montage import MontageFileError

GZIP = b"\x1f\x8b"


def read_json(path: Path) -> Any:
    """Read a JSON file; its content tells whether it is gzipped.

    Raises
    ------
    MontageFileError
        If it cannot be read, or is not JSON.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
        return json.loads(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MontageFileError(f"{path} cannot be unpacked: {error}") from error
    except OSError as error:
        raise MontageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise MontageFileError(f"{path} is not JSON: {error}") from error
