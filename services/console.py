"""`temline console`: IPython with the start-up files of `profile_collection`.

The profile's own folder (history, sockets) lies in `.temline`, not in the repository.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from config.loader import SITE_VARIABLE
from services.logs import set_up_logging
from services.runtime import load_joined

if TYPE_CHECKING:
    from services.engine import Pipeline

STARTUP = Path(__file__).parents[1] / "profile_collection" / "startup"


def startup_files() -> list[Path]:
    """Give the start-up files in the order in which they run."""
    return sorted(STARTUP.glob("[0-9][0-9]-*.py"))


def run_console(site: Path | None) -> None:
    """Open IPython; the start-up files read the configuration themselves.

    Parameters
    ----------
    site : path, optional
        The site's file.

    Raises
    ------
    ConfigError
        Before IPython starts, where it is read best.
    """
    import IPython
    from IPython.terminal.interactiveshell import TerminalInteractiveShell
    from traitlets.config import Config as IPythonConfig

    config = load_joined(site).config
    set_up_logging(config.log.folder, "console", config.log.level, Console())

    class Shell(TerminalInteractiveShell):
        """IPython's own; when one has left it, what was acquired is finished."""

        def interact(self) -> None:
            super().interact()
            # Here: next IPython forgets its names, and at exit threads take no more work.
            _finish(self.user_ns.get("pipeline"), config.processing.timeout)

    folder = config.folder.absolute() / "ipython"
    folder.mkdir(parents=True, exist_ok=True)
    if site is not None:
        os.environ[SITE_VARIABLE] = str(site.absolute())
    options = IPythonConfig()
    options.ProfileDir.location = str(folder)
    options.InteractiveShellApp.exec_files = [str(file) for file in startup_files()]
    options.TerminalIPythonApp.display_banner = False
    options.TerminalIPythonApp.interactive_shell_class = Shell
    options.TerminalInteractiveShell.confirm_exit = False
    IPython.start_ipython(argv=[], config=options)


def _finish(pipeline: Pipeline | None, timeout: float) -> None:
    """Have what was acquired processed to its end."""
    if pipeline is None:  # the start-up files did not come so far
        return
    if not pipeline.tiles.wait(0):
        print("Finishing what was acquired; Ctrl-C leaves it")
    try:
        finished = pipeline.close(timeout)
    except KeyboardInterrupt:
        finished = False
    if not finished:
        print("Left: the last montage has no mosaic; its frames are on disk")
