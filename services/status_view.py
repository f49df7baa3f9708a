"""Shows how things stand with the supervising server, once or as it goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.client import Client, NoServerError, join

RETRY = 1.0  # s until a server that is gone is looked for again
STYLES = {"running": "green", "paused": "yellow", "suspended": "yellow", "fault": "bold red"}
BAR, WIDE = 40, 200  # characters
CONTROL = {
    "since": "since",
    "idle_for": "idle for (s)",
    "expires_in": "ends in (s)",
    "asked_by": "asked for by",
    "locked_by": "locked by",
    "last_change": "last change",
}


def show_status(site: Path | None, *, live: bool, as_json: bool) -> None:
    """Print how things stand.

    Parameters
    ----------
    site : path, optional
        The site's file.
    live : bool
        Whether it is shown anew whenever it changes, until Ctrl-C.
    as_json : bool
        Whether it is printed once, for programs.
    """
    console = make_console()
    with join(site) as client:
        status = client.get("/status")
        if as_json:
            print(json.dumps(status, indent=2))
        elif live:
            with suppress(KeyboardInterrupt):
                _show_live(client, status, console)
        else:
            console.print(status_table(status))


def _show_live(client: Client, status: dict[str, Any], console: Console) -> None:
    with Live(status_table(status), console=console) as live:
        while True:
            try:
                with client.events() as events:
                    for topic, content in events:
                        if topic == "status":
                            status |= content
                            live.update(status_table(status))
            except NoServerError as error:
                live.update(status_table(status | {"state": "gone", "message": str(error)}))
            time.sleep(RETRY)


def status_table(status: Mapping[str, Any]) -> Table:
    """Make a table of how things stand.

    Parameters
    ----------
    status : mapping
        As `services.supervisor.status.Status` has it.
    """
    table = plain_table(None, None)
    table.add_row("state", Text(status["state"], STYLES.get(status["state"], "")))
    table.add_row("message", Text(status["message"]))
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=100, completed=status["progress"], width=BAR),
        f"{status['progress']:.0f} %",
        remaining(status["eta"]),
    )
    table.add_row("progress", bar)
    table.add_row("request", Text(status["request"]))
    table.add_row("run", Text(status["run_uid"]))
    table.add_row("last error", Text(status["last_error"], "red"))
    table.add_row("queue", f"{status['queue_length']} waiting")
    table.add_row("held", Text(status["queue_held"], "yellow"))
    table.add_row("control", Text(status["controller"] or "nobody"))
    return table


def show_control(view: Mapping[str, Any]) -> None:
    """Print who has control.

    Parameters
    ----------
    view : mapping
        As `services.supervisor.control.ControlView` has it.
    """
    table = plain_table(None, None)
    table.add_row("control", Text(view["holder"] or "nobody"))
    for key, name in CONTROL.items():
        if view[key] not in {None, ""}:
            table.add_row(name, Text(str(view[key])))
    make_console().print(table)


def make_console() -> Console:
    """Make a console for tables; where there is no terminal, lines are as long as they need."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def plain_table(*columns: str | None) -> Table:
    """Make a table without lines; without a head, if the columns have no names."""
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column or "", overflow="fold", no_wrap=column == "id")
    return table


def remaining(seconds: float) -> str:
    """Give a time that is left as people say it; nothing if it is not known."""
    if seconds < 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
