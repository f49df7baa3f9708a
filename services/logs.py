"""Where log messages of a command go: all to a file, our own warnings to the terminal too.

What C libraries write to file descriptor 2 goes to the file as well; Channel Access says much
there that concerns nobody.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

OUR_PACKAGES = ("callbacks", "config", "devices", "plans", "processing", "services")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(folder: Path, name: str, level: str, console: Console) -> Path:
    """Send what this process logs to FOLDER/NAME.log, and our own warnings to the terminal.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    name : str
        Of the command.
    level : str
        Least level for the file.
    console : rich.console.Console
        Of the terminal.

    Returns
    -------
    path
        Of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    if path.exists():
        path.replace(f"{path}.1")
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter(FORMAT))
    to_file.setLevel(level)
    to_terminal = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    to_terminal.addFilter(lambda record: record.name.partition(".")[0] in OUR_PACKAGES)
    logging.basicConfig(level=level, handlers=[to_file, to_terminal], force=True)
    logging.captureWarnings(True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request
    with path.open("ab") as file:
        _keep_libraries_quiet(file.fileno())
    return path


def _keep_libraries_quiet(file: int) -> None:
    """Point file descriptor 2 to a file; Python's own stderr stays where it was."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, closefd=True)
    os.dup2(file, 2)
