"""The files of a running temline: its lock, its key, and where its servers listen.

So a second start is refused, and a console in another terminal finds the running one.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from config import Loaded, load
from services.errors import PlainError

SERVER_KEY_VARIABLE = "TILED_SINGLE_USER_API_KEY"
CLIENT_KEY_VARIABLE = "TILED_API_KEY"
OWNER_ONLY = 0o600


class AlreadyRunningError(PlainError):
    """Another temline owns this folder."""


class PortInUseError(PlainError):
    """A port that a server of ours is to listen on is taken."""


class Instance:
    """The one running temline of a folder, from `__enter__` to `__exit__`.

    The kernel holds the lock, so that one left by a process that was killed does not count.

    Parameters
    ----------
    folder : path
        The configuration's `folder`.
    command : str
        What runs, for the message that a second one gets.
    overrides : mapping
        What this one runs with beside the configuration (like free ports), for those who join.

    Raises
    ------
    AlreadyRunningError
        On `__enter__`, if another one runs here.
    """

    def __init__(self, folder: Path, command: str, overrides: Mapping[str, Any]) -> None:
        self._path = folder / "running.json"
        self._record = {"pid": os.getpid(), "command": command, "overrides": dict(overrides)}
        self._file: Any = None

    def __enter__(self) -> Instance:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            other = _read(self._path)
            raise AlreadyRunningError(
                f"{other.get('command', 'temline')} runs here already "
                f"(process {other.get('pid', 'unknown')}, folder {self._path.parent.resolve()}). "
                "Stop it with Ctrl-C in its terminal, or start this one in another folder."
            ) from None
        self._file.truncate(0)
        json.dump(self._record, self._file)
        self._file.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.truncate(0)
        self._file.close()


def running_overrides(folder: Path) -> dict[str, Any]:
    """Give what the temline that runs in a folder runs with; nothing if none runs.

    Returns
    -------
    dict
        Nested configuration values, to be laid over one's own.
    """
    path = folder / "running.json"
    try:
        file = path.open(encoding="utf-8")
    except OSError:
        return {}
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            overrides: dict[str, Any] = _read(path).get("overrides", {})
            return overrides
    return {}


def load_joined(site: Path | None = None) -> Loaded:
    """Load the configuration for a client: that of the temline that runs here, if one does.

    Parameters
    ----------
    site : path, optional
        The site's file, as for `config.load`.
    """
    loaded = load(site)
    overrides = running_overrides(loaded.config.folder)
    return load(site, overrides=overrides, overrides_from="the temline that runs here")


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def tiled_key(folder: Path, variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """Give the key of our Tiled server: from the environment, or else one made for this folder.

    A key that is made stays in a file that only its owner can read, so that a restarted server
    and a console have the same.

    Parameters
    ----------
    folder : path
        The configuration's `folder`.
    variable : str
        The variable that comes first: `SERVER_KEY_VARIABLE` or `CLIENT_KEY_VARIABLE`.
    environ : mapping
    """
    if key := environ.get(variable) or environ.get(SERVER_KEY_VARIABLE):
        return key
    return kept_secret(folder / "tiled.key")


def kept_secret(path: Path) -> str:
    """Give the secret that a file keeps, which only its owner can read; made once, at random.

    Parameters
    ----------
    path : path
        Its folder is made too.

    Returns
    -------
    str
        32 hexadecimal digits, if it was made here.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_hex(16)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:  # another process was quicker
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret)
    return secret


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Find ports that are free for TCP and for UDP, as Channel Access needs.

    All are held until the last is found, so that they differ.
    """
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.append(tcp)
            tcp.bind((host, 0))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held.append(udp)
            port = tcp.getsockname()[1]
            try:
                udp.bind((host, port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for one in held:
            one.close()
    return ports


def require_free(host: str, port: int, key: str) -> None:
    """Check that nothing listens on a port yet.

    Parameters
    ----------
    host, port
    key : str
        Of the configuration, for the message.

    Raises
    ------
    PortInUseError
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} on {host} cannot be used ({error.strerror}): another server listens "
                f"there. Stop it, or set {key} to another port."
            ) from None
