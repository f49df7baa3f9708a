"""Starts the processes of an instrument, watches over them, and stops them.

A supervisor of our own, because the ones at hand need root, a daemon or a broker (docs/decisions).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from services.errors import PlainError

log = logging.getLogger(__name__)

POLL = 0.1
TAIL_LINES = 15
# How long each signal may take before the next one is sent.
STOP_SIGNALS = ((signal.SIGINT, 6.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))


class LaunchError(PlainError):
    """A process that did not come up; the message shows the end of its log."""


@dataclass(frozen=True)
class Service:
    """A process to start: a Python module and how to tell that it is ready.

    Attributes
    ----------
    name : str
        Of the process and of its log file.
    module : str
        Run as by ``python -m``.
    arguments : tuple of str
    environment : mapping
        Variables beside those of this process. Keys and passwords go here, since everyone can
        read a command line.
    ready : callable
        Tells whether the process does its work; must return soon, and may raise.
    start_timeout : float
        How long it may take until it is ready, in s.
    """

    name: str
    module: str
    ready: Callable[[], bool]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0


class _Running:
    """One service with its process, and when it was restarted."""

    def __init__(self, service: Service, log_file: Path) -> None:
        self.service = service
        self.log_file = log_file
        self.restarts: deque[float] = deque()
        self.given_up = False
        self.begun = time.monotonic()
        self.process = self._spawn("w")

    def spawn_again(self) -> None:
        self.process = self._spawn("a")

    def _spawn(self, mode: str) -> subprocess.Popen[bytes]:
        reading, self._writing = os.pipe()
        command = (sys.executable, "-m", "services.child", str(reading))
        try:
            with self.log_file.open(mode) as output:
                return subprocess.Popen(
                    (*command, self.service.module, *self.service.arguments),
                    env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(self.service.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(reading,),
                    # Its own session: Ctrl-C in the terminal reaches the launcher alone.
                    start_new_session=True,
                )
        finally:
            os.close(reading)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Signal the process; a second, rougher signal goes to all that it started."""
        if not self.alive:
            return
        try:
            if number == signal.SIGINT:
                self.process.send_signal(number)
            else:
                os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def release(self) -> None:
        os.close(self._writing)


class Launcher:
    """The processes of one instrument.

    As a context manager it stops all of them at the end, whatever ends it. Should this process
    be killed, they notice and end by themselves.

    Parameters
    ----------
    log_folder : path
        NAME.log of each process is written there; the log of the time before is NAME.log.1.
    restarts : int
        How often a process that died is started again…
    within : float
        …within this time, in s. Beyond, it is left alone and said so.
    before_stop : callable, optional
        Called first when all are stopped, to shield that from signals.
    """

    def __init__(
        self,
        log_folder: Path,
        *,
        restarts: int = 3,
        within: float = 60.0,
        before_stop: Callable[[], None] | None = None,
    ) -> None:
        self.log_folder = log_folder
        self._limit = restarts
        self._within = within
        self._before_stop = before_stop
        self._running: dict[str, _Running] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # nothing is started once stopping began
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each service that is alive."""
        return {name: one.process.pid for name, one in self._running.items() if one.alive}

    def start(self, *services: Service) -> None:
        """Start processes side by side; `wait` for them before their work is needed."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        for service in services:
            log_file = self.log_folder / f"{service.name}.log"
            if log_file.exists():
                log_file.replace(f"{log_file}.1")
            self._running[service.name] = _Running(service, log_file)

    def wait(self) -> None:
        """Wait until all processes are ready, and watch over them from then on.

        Raises
        ------
        LaunchError
            If one ends, or is not ready in its time. The others keep running until `stop`.
        """
        for one in self._running.values():
            self._await(one)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="launcher", daemon=True)
            self._watcher.start()

    def _await(self, one: _Running) -> None:
        service = one.service
        while not _is_ready(service):
            if not one.alive:
                raise LaunchError(
                    f"{service.name} ended with {_exit_words(one.process)} before it was ready.\n"
                    f"{tail(one.log_file)}"
                )
            if time.monotonic() - one.begun > service.start_timeout:
                raise LaunchError(
                    f"{service.name} was not ready after {service.start_timeout:g} s.\n"
                    f"{tail(one.log_file)}"
                )
            self._stopping.wait(POLL)

    def _watch(self) -> None:
        """Start again what died, until all are stopped."""
        while not self._stopping.wait(POLL):
            for one in tuple(self._running.values()):
                with self._lock:
                    if not one.alive and not one.given_up and not self._stopping.is_set():
                        self._restart(one)
        # The kernel ends children with the thread that started them: outlive them.
        for one in self._running.values():
            one.process.wait()

    def _restart(self, one: _Running) -> None:
        name, now = one.service.name, time.monotonic()
        while one.restarts and now - one.restarts[0] > self._within:
            one.restarts.popleft()
        ending = f"{name} ended with {_exit_words(one.process)}"
        if len(one.restarts) >= self._limit:
            one.given_up = True
            log.error(
                "%s; it was restarted %d times in %g s already and is left alone. "
                "Correct the cause and start temline again.\n%s",
                ending,
                self._limit,
                self._within,
                tail(one.log_file),
            )
            return
        one.restarts.append(now)
        log.warning("%s; starting it again (see %s)", ending, one.log_file)
        one.release()
        one.spawn_again()

    def stop(self) -> None:
        """Stop all processes: ask with SIGINT, then SIGTERM, then SIGKILL to the whole group."""
        if self._before_stop is not None:
            self._before_stop()
        with self._lock:
            self._stopping.set()
        for number, patience in STOP_SIGNALS:
            alive = [one for one in self._running.values() if one.alive]
            for one in alive:
                one.signal(number)
            deadline = time.monotonic() + patience
            while any(one.alive for one in alive) and time.monotonic() < deadline:
                time.sleep(POLL / 4)
        if self._watcher is not None:
            self._watcher.join(STOP_SIGNALS[-1][1])
        for one in self._running.values():
            one.release()
        self._running.clear()


def tail(log_file: Path, lines: int = TAIL_LINES) -> str:
    """Give the last lines of a log, under its name."""
    try:
        with log_file.open(errors="replace") as file:
            last = _last_lines(file, lines)
    except OSError as error:
        return f"{log_file} cannot be read: {error.strerror}"
    return f"The end of {log_file}:\n{last or '  (it is empty)'}"


def _last_lines(file: IO[str], lines: int) -> str:
    return "".join(f"  {line.rstrip()}\n" for line in deque(file, maxlen=lines)).rstrip("\n")


def _is_ready(service: Service) -> bool:
    """Ask a service; a probe that raises means not yet."""
    try:
        return service.ready()
    except Exception as error:
        log.debug("%s is not ready: %s", service.name, error)
        return False


def _exit_words(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
