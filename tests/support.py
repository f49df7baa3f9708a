"""What tests of all parts share: an IOC in a subprocess, ports, and waiting for a condition.

Importing this sets the EPICS environment, which has to be before `epics`, `ophyd` or `caproto`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[1]
LOOPBACK = "127.0.0.1"
READY_TIMEOUT = 150.0  # s; on a fresh machine the simulation is compiled first
STOP_TIMEOUT = 10.0  # s
PORTS_PER_RANGE, PORT_RANGES = 1500, 8


def _is_free(port: int) -> bool:
    """Whether a port can be had for UDP and for TCP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    """Find a free port below those that the system gives to clients by itself.

    Test processes that run side by side look in ranges of their own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20000 + worker % PORT_RANGES * PORTS_PER_RANGE
    while not _is_free(port := random.SystemRandom().randrange(first, first + PORTS_PER_RANGE)):
        pass
    return port


class PortPool:
    """The ports that clients of this process look for IOCs at; pyepics reads its list but once.

    A server with a random prefix on a shared port would not be found, so each gets its own.
    """

    def __init__(self, size: int) -> None:
        self.ports = [free_port() for _ in range(size)]
        self._free = list(self.ports)
        self._lock = threading.Lock()

    def take(self) -> int:
        """Take a port that is free now."""
        with self._lock:
            for port in self._free:
                if _is_free(port):
                    self._free.remove(port)
                    return port
        raise RuntimeError("all ports of the pool are in use: stop an IOC before the next starts")

    def give_back(self, port: int) -> None:
        """Put a port at the end of the queue, so that it rests before it is used again."""
        with self._lock:
            self._free.append(port)


POOL = PortPool(32)  # a port that was used has to rest for a minute
EPICS_ENVIRONMENT = {
    "EPICS_CA_AUTO_ADDR_LIST": "NO",
    "EPICS_CA_ADDR_LIST": " ".join(f"{LOOPBACK}:{port}" for port in POOL.ports),
    "EPICS_CA_REPEATER_PORT": str(free_port()),
    "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
    "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
    "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
}
os.environ.update(EPICS_ENVIRONMENT)


def wait_until(
    condition: Callable[[], T], timeout: float = 10.0, what: str = "", period: float = 0.02
) -> T:
    """Poll a condition until it is true, and give what it returned.

    Raises
    ------
    AssertionError
        If it is not true in time.
    """
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(period)
    return found


@dataclass
class IocProcess:
    """An IOC that runs in a process of its own."""

    prefix: str
    port: int
    data_root: Path
    process: subprocess.Popen
    log: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def output(self) -> str:
        """What it has written to its log."""
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> float:
        """End it as an operator would; give the time that it took, in s."""
        began = time.monotonic()
        if self.running:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_TIMEOUT)
        POOL.give_back(self.port)
        return time.monotonic() - began

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)


def make_prefix() -> str:
    """Make a prefix that no other IOC has."""
    return f"T{uuid.uuid4().hex[:8].upper()}:"


def start_ioc(
    directory: Path,
    /,
    *,
    driver: str = "simulated",
    sensor: tuple[int, int] | None = (256, 256),
    prefix: str | None = None,
    settings: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **driver_options: Any,
) -> IocProcess:
    """Start an IOC and wait until it answers.

    Parameters
    ----------
    directory : Path
        For its settings, its log and, unless `settings` says otherwise, its data.
    driver : str
    sensor : (int, int), optional
        (height, width) of the simulated camera, in px.
    prefix : str, optional
        A random one by default.
    settings : dict, optional
        Fields of IocSettings other than those above.
    environment : dict, optional
        Variables to add.
    **driver_options
        For the driver, such as ``seed=3, truth_log="…"``.
    """
    prefix = prefix or make_prefix()
    port = POOL.take()
    home = directory / prefix.rstrip(":")
    home.mkdir(parents=True)
    if driver == "simulated" and sensor is not None:
        driver_options.setdefault("sensor", list(sensor))
    content: dict[str, Any] = {
        "prefix": prefix,
        "driver": driver,
        "driver_options": driver_options,
        "data_root": str(home / "data"),
        **(settings or {}),
    }
    settings_file, log = home / "ioc.json", home / "ioc.log"
    settings_file.write_text(json.dumps(content, default=str), encoding="utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ioc", "--settings", str(settings_file)],
            cwd=REPOSITORY,
            env={**os.environ, "EPICS_CA_SERVER_PORT": str(port), **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    ioc = IocProcess(prefix, port, Path(content["data_root"]), process, log, content)
    try:
        _wait_until_ready(ioc)
    except BaseException:
        ioc.stop()
        raise
    return ioc


def _wait_until_ready(ioc: IocProcess) -> None:
    """Poll a PV until it answers, or say what the IOC wrote before it died."""
    from caproto.sync.client import read

    deadline = time.monotonic() + READY_TIMEOUT
    groups = ioc.options.get("groups") or ("scope",)
    name = {
        "scope": "SCOPE:Model_RBV",
        "stage": "STAGE:Moving_RBV",
        "camera": "CAM:cam1:Model_RBV",
    }[groups[0]]
    while ioc.running and time.monotonic() < deadline:
        if "serving" not in ioc.output():
            time.sleep(0.05)
            continue
        try:
            read(f"{ioc.prefix}{name}", timeout=1, repeater=False)
        except Exception:  # not there yet: the loop has the deadline
            continue
        return
    raise AssertionError(f"the IOC did not start:\n{ioc.output()[-3000:]}")


def put(name: str, value: Any, *, wait: bool = True, timeout: float = 10.0) -> None:
    """Write a PV by pyepics; with `wait`, until its put-completion.

    Raises
    ------
    AssertionError
        If the PV does not connect or the put does not complete.
    """
    import epics

    done = epics.caput(name, value, wait=wait, timeout=timeout)
    assert done == 1, f"caput {name} {value!r} gave {done}"


def get(name: str, *, text: bool = False, timeout: float = 5.0) -> Any:
    """Read a PV by pyepics, from the server and not from a monitor."""
    import epics

    value = epics.caget(name, as_string=text, timeout=timeout, use_monitor=False)
    assert value is not None, f"caget {name} gave nothing"
    return value
