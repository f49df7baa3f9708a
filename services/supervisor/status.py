"""How things stand, and the replies to commands: what PVs, HTTP and terminals all show.

A change is announced when it happens, once, to all who watch.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

log = logging.getLogger(__name__)

State = Literal["idle", "running", "paused", "suspended", "aborting", "fault"]


@dataclass(frozen=True)
class Status:
    """How things stand.

    Attributes
    ----------
    state : str
        As the plan worker reports it; "fault" while there is none that works.
    message : str
        What happened last, in words.
    progress : float
        Of the request that runs, in percent.
    eta : float
        Seconds left of it; -1 if unknown.
    request, run_uid : str
        The request that runs, and its run.
    last_error : str
    queue_length : int
        Requests that wait.
    queue_changed : int
        Higher with every change of the queue.
    queue_held : str
        Why the queue is held; empty if it is not.
    controller : str
        Who has control; empty if nobody has.
    instance : str
        Which server this is.
    worker_pid : int
        Process id of the plan worker.
    """

    state: State = "fault"
    message: str = "starting"
    progress: float = 0.0
    eta: float = -1.0
    request: str = ""
    run_uid: str = ""
    last_error: str = ""
    queue_length: int = 0
    queue_changed: int = 0
    queue_held: str = ""
    controller: str = ""
    instance: str = ""
    worker_pid: int = 0

    def as_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Reply:
    """What has become of a command.

    Attributes
    ----------
    id : str
    function : str
    state : str
        "rejected"; "accepted", then "running", then "done", "failed", "aborted" or "interrupted".
        An action is done at once.
    message : str
        Why, or what came of it.
    runs : tuple of str
        Uids of the runs that it made, as Tiled has them.
    result : Any
        What an action gives back.
    """

    id: str
    function: str
    state: str
    message: str = ""
    runs: tuple[str, ...] = ()
    result: Any = None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain data; `result` only if there is one."""
        content = asdict(self)
        if self.result is None:
            del content["result"]
        return content


Watcher = Callable[[str, Any], Awaitable[None]]
"""Awaited with "status" and the fields that changed, or "reply" or "action" and a Reply."""


class Board:
    """Where the status stands, and those who watch it.

    Parameters
    ----------
    status : Status
        The first one.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Have changes announced; give what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def set(self, **changes: Any) -> None:
        """Change fields of the status; what is the same as before is not announced."""
        before = self.status
        self.status = replace(before, **changes)
        changed = {key: one for key, one in changes.items() if getattr(before, key) != one}
        if changed:
            await self._announce("status", changed)

    async def reply(self, reply: Reply, *, to_action: bool = False) -> None:
        """Announce what has become of a command."""
        await self._announce("action" if to_action else "reply", reply)

    async def _announce(self, topic: str, content: Any) -> None:
        for watcher in tuple(self._watchers):
            try:
                await watcher(topic, content)
            except Exception:  # one who watches must not stop what he watches
                log.exception("a watcher failed")
