"""Shows the queue of the supervising server, and has it and what runs changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from services.client import join
from services.status_view import make_console, plain_table, show_control

WAITING = ("position", "id", "function", "client", "priority", "held", "state", "submitted")
ENDED = ("id", "function", "client", "state", "finished", "message")


def show_queue(site: Path | None) -> None:
    """Print what runs and waits, the next first."""
    with join(site) as client:
        queue = client.get("/queue")
    console = make_console()
    console.print(queue_table(queue["running"] + queue["queued"]))
    if (more := queue["length"] - len(queue["queued"])) > 0:
        console.print(f"… and {more} more")
    if queue["held"]:
        console.print(f"The queue is held: {queue['held']}", markup=False)


def queue_table(requests: Iterable[dict[str, Any]]) -> Table:
    """Make the table of requests that run or wait."""
    table = plain_table(*WAITING)
    for one in requests:
        shown = one | {
            "position": "" if one["position"] is None else one["position"],
            "held": "held" if one["held"] else "",
            "submitted": moment(one["submitted"]),
        }
        table.add_row(*(Text(str(shown[column])) for column in WAITING))
    return table


def show_history(site: Path | None, limit: int) -> None:
    """Print what has ended, the last first."""
    with join(site) as client:
        history = client.get("/history", limit=limit)
    make_console().print(history_table(history["requests"]))


def history_table(requests: Iterable[dict[str, Any]]) -> Table:
    """Make the table of requests that have ended."""
    table = plain_table(*ENDED)
    for one in requests:
        shown = one | {"finished": moment(one["finished"])}
        table.add_row(*(Text(str(shown[column])) for column in ENDED))
    return table


def show_request(site: Path | None, id: str) -> None:
    """Print all that is known of a request."""
    with join(site) as client:
        request = client.get(path_of(id))
    table = plain_table(None, None)
    for key, value in request.items():
        if key not in {"transitions", "run_uids"} and value not in (None, ""):
            table.add_row(key, Text(value if isinstance(value, str) else json.dumps(value)))
    for uid in request["run_uids"]:
        table.add_row("run", uid)
    for step in request["transitions"]:
        table.add_row(moment(step["time"]), Text(f"{step['new']} {step['message']}".rstrip()))
    make_console().print(table)


def run_action(site: Path | None, method: str, path: str, **arguments: Any) -> None:
    """Have something done at once, and print the reply.

    Parameters
    ----------
    site : path, optional
        The site's file.
    method, path : str
    **arguments
        Of the action; those that are None are left out.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    with join(site) as client:
        reply = client.send(method, path, given or None)
    match reply["result"]:
        case {"holder": _} as view:
            show_control(view)
        case {"id": id, "function": function, "parent": parent}:
            print(f"{id} accepted: {function}, after {parent}")
        case _:
            print(reply["message"])


def path_of(id: str) -> str:
    """Give the path of a request."""
    return f"/requests/{quote(id, safe='')}"


def moment(text: str) -> str:
    """Give a moment as people here say it."""
    return f"{datetime.fromisoformat(text).astimezone():%d %b %H:%M:%S}"
