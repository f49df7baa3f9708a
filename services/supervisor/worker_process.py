"""The plan worker's process, as the server sees it: started, talked to, watched, killed.

It is tied to the server's life by a pipe, and talks over a socket pair that nobody else has.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.supervisor.identity import TOKENS_VARIABLE
from services.supervisor.link import MAX_LINE, Message, decode, encode

QUIT_TIMEOUT = 30.0  # s for a worker to end by itself, with what it has to write
KILL_TIMEOUT = 5.0  # s


class WorkerProcess:
    """One plan worker.

    Parameters
    ----------
    site : path, optional
        The site's configuration, as for `config.load`.
    log_file : path
        Takes what it prints.
    """

    def __init__(self, site: Path | None, log_file: Path) -> None:
        self._site, self._log_file = site, log_file
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._life: int

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def start(self) -> None:
        """Start the process; all else comes after this."""
        ours, theirs = socket.socketpair()
        alive, self._life = os.pipe()
        try:
            with self._log_file.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "services.child", str(alive)),
                    *("services.supervisor.worker", str(theirs.fileno())),
                    *([str(self._site)] if self._site else []),
                    env=_environment(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(alive, theirs.fileno()),
                    start_new_session=True,  # so that all that it starts can be killed
                )
        finally:
            os.close(alive)
            theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)

    def order(self, kind: str, **content: Any) -> None:
        """Send an order; nothing happens if the worker is gone, which `reports` tells."""
        if not self._writer.is_closing():
            self._writer.write(encode(kind, **content))

    async def reports(self) -> AsyncIterator[Message]:
        """Give the reports as they come, until the worker is gone."""
        with suppress(ConnectionError):
            while line := await self._reader.readline():
                yield decode(line)

    def kill(self) -> None:
        """Kill the worker and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def reap(self) -> str:
        """Wait for the process to be gone, with force if need be; tell how it ended."""
        try:
            code = await asyncio.wait_for(self._process.wait(), KILL_TIMEOUT)
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        self._writer.close()
        life, self._life = self._life, -1
        if life >= 0:
            os.close(life)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def quit(self) -> None:
        """Have it end what runs, write what it has, and go; kill it if that takes too long."""
        self.order("quit")
        try:
            await asyncio.wait_for(self._process.wait(), QUIT_TIMEOUT)
        except TimeoutError:
            self.kill()
        await self.reap()


def _environment() -> dict[str, str]:
    """Give the worker's environment: the server's, less the clients' secrets."""
    own = {name: value for name, value in os.environ.items() if name != TOKENS_VARIABLE}
    return own | {"PYTHONUNBUFFERED": "1"}
