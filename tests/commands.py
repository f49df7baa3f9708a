"""Whole `temline` commands for tests: start them, read what they say, find what is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TEMLINE = Path(sys.executable).with_name("temline")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Find the living processes that work in a folder, or were told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.cwd() == str(folder) or str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Command:
    """A running `temline` command, and all that it has said."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self.folder = folder
        self.lines: list[str] = []
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As a shell has it for what runs in the background; commands would inherit it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.environ = os.environ | {"COLUMNS": "160", "PYTHONUNBUFFERED": "1"} | environ
        self.process = subprocess.Popen(
            [TEMLINE, *arguments],
            cwd=folder,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def until(self, condition: Callable[[], object], what: str, timeout: float = 120.0) -> None:
        """Poll a condition until it holds; fail if the command ends or the time is up before."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {what} in {timeout:g} s:\n{self.output}"
            time.sleep(0.02)

    def until_said(self, words: str, timeout: float = 120.0) -> None:
        self.until(lambda: words in self.output, f"{words!r}", timeout)

    def wait(self, timeout: float = 30.0) -> int:
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code

    def end(self) -> None:
        """Kill what is left, by pid."""
        for process in {self.process.pid, *(one.pid for one in processes_of(self.folder))}:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(process).kill()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdin.close()
        self.process.stdout.close()


def press_ctrl_c(process: subprocess.Popen, times: int = 5) -> None:
    """Press Ctrl-C in quick succession, as a terminal does it: for the whole foreground group."""
    for _ in range(times):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
