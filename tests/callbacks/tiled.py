"""A Tiled server in a subprocess, which a test may kill and start again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from services.runtime import SERVER_KEY_VARIABLE
from services.tiled_server import TiledSettings, answers
from tests.support import REPOSITORY, free_port, wait_until

KEY = "keyfortests"


class TiledProcess:
    """The server of `services.tiled_server` on a port of its own."""

    def __init__(self, folder: Path, readable: Path) -> None:
        self._folder = folder
        self.settings = TiledSettings(
            "127.0.0.1", free_port(), str(folder / "tiled"), (str(readable),)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return self.settings.uri

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        path = self._folder / "tiled.json"
        self.settings.write(path)
        with (self._folder / "tiled.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.tiled_server", str(path)],
                cwd=REPOSITORY,
                env={**os.environ, SERVER_KEY_VARIABLE: KEY},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = self._process
        wait_until(lambda: answers(self.uri) or process.poll() is not None, timeout=120)
        assert process.poll() is None, (self._folder / "tiled.log").read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def client(self) -> Any:
        from tiled.client import from_uri

        return from_uri(self.uri, api_key=KEY, show_progress=False)
