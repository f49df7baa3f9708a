"""`temline submit`: a request for the queue, and how it goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from services.client import Client, Event, NoServerError, join
from services.status_view import RETRY, make_console, remaining

ENDED = frozenset({"done", "failed", "aborted", "interrupted", "removed"})
MOST_OUTAGE = 60.0  # s that a server may be gone, such as when it is started again
INTERRUPTED = 130


def run_submit(
    site: Path | None, command: dict[str, Any], *, wait: bool, console: Console | None = None
) -> int:
    """Queue a request, and wait for its end if that is wanted.

    Parameters
    ----------
    site : path, optional
        The site's file.
    command : dict
        As `services.supervisor.commands.Command` has it.
    wait : bool
    console : Console, optional

    Returns
    -------
    int
        The exit code: 0 if it is queued or, with `wait`, done.
    """
    console = console or make_console()
    with join(site) as client:
        reply = client.send("POST", "/commands", command)
        _say(console, reply["id"], reply["state"], reply["message"])
        if not wait:
            return 0
        try:
            request = follow(client, reply["id"], console)
        except KeyboardInterrupt:
            _say(console, reply["id"], "goes on", f"temline queue show {reply['id']} tells how")
            return INTERRUPTED
    _say(console, request["id"], request["state"], request["message"])
    for uid in request["run_uids"]:
        _say(console, request["id"], "run", uid)
    return 0 if request["state"] == "done" else 1


def follow(client: Client, id: str, console: Console) -> dict[str, Any]:
    """Show how a request goes on, and give it once it has ended.

    A server that is started again meanwhile is waited for.

    Parameters
    ----------
    client : Client
    id : str
    console : Console

    Raises
    ------
    NoServerError
        If the server is gone for long.
    """
    last_seen = time.monotonic()
    with _ProgressBar(console) as bar:
        while True:
            try:
                with client.events() as events:
                    for event in events:
                        last_seen = time.monotonic()
                        if _is_news(event, id):
                            request: dict[str, Any] = client.get(f"/requests/{id}")
                            bar.show_request(request)
                            if request["state"] in ENDED:
                                return request
                        bar.show_event(event)
            except NoServerError as error:
                if time.monotonic() - last_seen > MOST_OUTAGE:
                    raise NoServerError(f"{error}; {id} is kept in its queue") from None
            time.sleep(RETRY)


def _is_news(event: Event, id: str) -> bool:
    """Whether the request may be in another state or place than before."""
    topic, content = event
    return "queue_changed" in content if topic == "status" else content.get("id") == id


class _ProgressBar(Progress):
    """How far a request is; only the changes of its state where there is no terminal."""

    def __init__(self, console: Console) -> None:
        what, left = (
            TextColumn(f"{{task.{one}}}", markup=False) for one in ("description", "fields[left]")
        )
        super().__init__(
            what,
            BarColumn(),
            left,
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self.add_task("queued", total=100, left="")
        self._id = self._state = ""

    def show_request(self, request: dict[str, Any]) -> None:
        """Show a request's state."""
        state, self._id = request["state"], request["id"]
        if state == "queued":
            before = f", {request['position']} before it" if request["position"] else ""
            self.update(self._task, description=("held" if request["held"] else state) + before)
        elif state != self._state and state not in ENDED:
            _say(self.console, self._id, state)
        self._state = state

    def show_event(self, event: Event) -> None:
        """Show what the server tells while the request runs."""
        topic, content = event
        if topic != "status" or self._state != "running":
            return
        if "eta" in content:
            self.update(self._task, left=remaining(content["eta"]))
        self.update(
            self._task, completed=content.get("progress"), description=content.get("message")
        )


def _say(console: Console, id: str, state: str, message: str = "") -> None:
    """Print a line, however long it is."""
    words = f"{id} {state}" + (f": {message}" if message else "")
    console.print(words, markup=False, soft_wrap=True)
