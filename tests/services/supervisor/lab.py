"""A supervising server in a process of its own, over a virtual microscope; and its clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from caproto import CaprotoTimeoutError, ChannelType, ErrorResponseReceived
from caproto.sync import client

from tests.support import POOL, REPOSITORY, IocProcess, free_port, get, wait_until

STARTED = 90.0  # s for server and worker to come up on a loaded machine
TOKENS = {"gui": "gui-token-0123456789", "ann": "ann-token-0123456789"}


class SupervisorProcess:
    """``python -m services.supervisor`` with a configuration from the environment."""

    def __init__(self, folder: Path, ioc: IocProcess, **settings: Any) -> None:
        self.folder, self.ioc = folder, ioc
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.http_port = POOL.take(), free_port()
        self.prefix = f"{ioc.prefix}CMD:"
        self.log = folder / "supervisor.log"
        self.environ = {
            "TEMLINE_EPICS__PREFIX": json.dumps(ioc.prefix),
            "TEMLINE_EPICS__PORT": str(ioc.port),
            "TEMLINE_FOLDER": str(folder),
            "TEMLINE_DATA__FOLDER": str(ioc.data_root),
            "TEMLINE_LOG__FOLDER": str(folder / "log"),
            "TEMLINE_TILED__BACKUP": str(folder / "backup"),
            "TEMLINE_TILED__URI": f"http://127.0.0.1:{free_port()}",  # nobody, unless set
            "TEMLINE_PROCESSING__WORKERS": "1",
            "TEMLINE_SUPERVISOR__PORT": str(self.port),
            "TEMLINE_SUPERVISOR__HTTP_PORT": str(self.http_port),
            "TEMLINE_TOKENS": f"gui={TOKENS['gui']};ann:staff={TOKENS['ann']}",
            "EPICS_CA_ADDR_LIST": f"127.0.0.1:{ioc.port} 127.0.0.1:{self.port}",
            **{key: str(value) for key, value in settings.items()},
        }
        (folder / "log").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self, *, until_ready: bool = True) -> SupervisorProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.supervisor"],
                cwd=REPOSITORY,
                env=os.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if until_ready:
            wait_until(lambda: self.alive and self.serves, STARTED, "server", 0.1)
            self.until_state("idle", timeout=STARTED)
        return self

    @property
    def serves(self) -> bool:
        try:
            return httpx.get(f"{self.uri}/health", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output()
        return True

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def worker(self) -> int:
        """Process id of its plan worker; 0 if there is none."""
        return self.status()["worker_pid"]

    def output(self) -> str:
        worker = self.folder / "log" / "worker.log"
        texts = [path.read_text(errors="replace") for path in (self.log, worker) if path.exists()]
        return "\n--- worker ---\n".join(text[-6000:] for text in texts)

    def http(self, method: str, path: str, *, token: str = TOKENS["ann"], **kwargs: Any) -> Any:
        return httpx.request(
            method,
            self.uri + path,
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
            **kwargs,
        )

    def status(self) -> dict[str, Any]:
        return self.http("GET", "/status").json()

    def request(self, id: str) -> dict[str, Any]:
        return self.http("GET", f"/requests/{id}").json()

    # By process variables

    def pv(self, name: str) -> str:
        return self.prefix + name

    def get(self, name: str) -> Any:
        return read(self.pv(name))

    @property
    def is_spared(self) -> bool:
        """Whether no beam falls on the specimen: blanked, and the screen down."""
        scope = f"{self.ioc.prefix}SCOPE:"
        blank, screen = (get(f"{scope}{name}_RBV", text=True) for name in ("Blank", "Screen"))
        return (blank, screen) == ("On", "Down")

    @property
    def is_safe(self) -> bool:
        """Whether nothing goes on besides: no flight, and no exposure."""
        prefix = self.ioc.prefix
        return (
            self.is_spared
            and get(f"{prefix}SEQ:State_RBV", text=True) not in {"Running", "Paused"}
            and get(f"{prefix}CAM:cam1:Acquire_RBV") == 0
        )

    def command(self, function: str, _pv: str = "Command", **content: Any) -> str:
        """Write a command, and give its id; keyword arguments of the command are its content."""
        content.setdefault("id", uuid.uuid4().hex)
        text = json.dumps({"function": function, **content})
        with suppress(ErrorResponseReceived):  # it is refused, and the reply says why
            # A circuit of its own: one that was lost is looked for by others after 10 s only.
            client.write(self.pv(_pv), text.encode(), notify=True, timeout=10, repeater=False)
        return content["id"]

    def immediate(self, function: str, **content: Any) -> str:
        return self.command(function, "Immediate", **content)

    def until_state(self, *states: str, timeout: float = 30.0) -> str:
        def state() -> str:
            try:
                return self.get("State")
            except (CaprotoTimeoutError, ConnectionError):
                return ""

        try:
            return wait_until(
                lambda: (found := state()) in states and found, timeout, str(states), 0.01
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {state()!r}\n{self.output()}") from None

    def until_ended(self, id: str, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until a request has ended; give it."""
        ended = {"done", "failed", "aborted", "interrupted", "removed"}
        try:
            return wait_until(
                lambda: (found := self.request(id)).get("state") in ended and found,
                timeout,
                f"end of {id}",
                0.05,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.request(id)}\n{self.output()}") from None

    # Its end

    def stop(self) -> int:
        """End it as an operator would, if it runs; give its exit status."""
        if self.process is None or self._stopped:
            return 0
        self._stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill_all()
        POOL.give_back(self.port)
        return self.process.returncode

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def kill_all(self) -> None:
        assert self.process is not None
        for one in psutil.Process(self.process.pid).children(recursive=True):
            one.kill()
        self.kill()


def read(name: str) -> Any:
    """Read a PV anew, by a client that keeps nothing; texts as text.

    pyepics asks for as many characters as it was told of last, which may be too few by then.
    """
    found = client.read(name, timeout=5, repeater=False)
    if found.data_type == ChannelType.ENUM:
        found = client.read(name, timeout=5, repeater=False, data_type=ChannelType.STRING)
    if found.data_type == ChannelType.STRING:
        return found.data[0].decode()
    if found.data_type == ChannelType.CHAR:
        return bytes(found.data).rstrip(b"\0").decode()
    return found.data[0]


def timed(function: Callable[[], Any]) -> float:
    """Give how long a call takes, in s."""
    began = time.monotonic()
    function()
    return time.monotonic() - began
