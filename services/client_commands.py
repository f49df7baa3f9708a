"""The commands of the command line that ask the supervising server."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.options import SiteFile

app = typer.Typer()
queue_app = typer.Typer()
app.add_typer(queue_app, name="queue")

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the request.")]
Reason = Annotated[str | None, typer.Option(help="For those who see it.")]
Deadline = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="After which something harsher follows.")
]


@app.command()
def submit(  # noqa: PLR0917
    function: Annotated[str, typer.Argument(help="A plan, such as snap or montage.")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Arguments, as JSON or text.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(metavar="VALUE", help="An argument by its place.")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Arguments as a JSON object; - for stdin."),
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher ones run first.")] = 0,
    batch: Annotated[
        str | None, typer.Option(help="Label of requests that belong together.")
    ] = None,
    proposal: Annotated[str | None, typer.Option(help="What the data belong to.")] = None,
    directory: Annotated[
        str | None, typer.Option(help="Folder of the data, below all data.")
    ] = None,
    held: Annotated[bool, typer.Option("--held", help="Let it wait until it is released.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes on until it ends.")
    ] = False,
    id: Annotated[str | None, typer.Option(help="Of the request; made up if left out.")] = None,
    config: SiteFile = None,
) -> None:
    """Put a request into the queue.

    With --wait the exit code is 0 only if it is done; Ctrl-C stops waiting, and not the request.

    Example: [bold]temline submit snap exposure=0.1 --wait[/bold]
    """
    from services.arguments import parse_arguments, parse_value
    from services.submit import run_submit

    command: dict[str, Any] = {
        "function": function,
        "args": [parse_value(text) for text in arg or ()],
        "kwargs": parse_arguments(values or (), json_file),
        "priority": priority,
        "held": held,
    }
    optional = {"id": id, "batch": batch, "proposal": proposal, "directory": directory}
    command |= {name: value for name, value in optional.items() if value is not None}
    raise typer.Exit(run_submit(config, command, wait=wait))


@app.command()
def status(
    live: Annotated[
        bool | None,
        typer.Option("--live/--once", help="By default live if this is a terminal."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Once, for programs.")] = False,
    config: SiteFile = None,
) -> None:
    """Show what runs and how far it is, until Ctrl-C.

    Example: [bold]temline status --once[/bold]
    """
    from services.status_view import show_status

    show_status(config, live=sys.stdout.isatty() if live is None else live, as_json=as_json)


@app.command()
def stop(
    after_tile: Annotated[
        bool, typer.Option("--after-tile", help="Where it can be paused next.")
    ] = False,
    after_request: Annotated[
        bool, typer.Option("--after-request", help="Let it end, and nothing follow.")
    ] = False,
    halt: Annotated[
        bool, typer.Option("--halt", help="Without what it does to clean up; the beam is blanked.")
    ] = False,
    deadline: Deadline = None,
    config: SiteFile = None,
) -> None:
    """End what runs: now, with the microscope left safe, if no option says otherwise.

    Example: [bold]temline stop --after-tile[/bold]
    """
    given = {"stop_after_tile": after_tile, "stop_after_request": after_request, "halt": halt}
    steps = [step for step, wanted in given.items() if wanted] or ["abort"]
    if len(steps) > 1:
        raise typer.BadParameter("only one of --after-tile, --after-request and --halt can be")
    _act(config, f"/run/{steps[0]}", deadline=deadline)


@app.command()
def pause(deadline: Deadline = None, config: SiteFile = None) -> None:
    """Pause what runs, with the beam blanked.

    Example: [bold]temline pause[/bold]
    """
    _act(config, "/run/pause", deadline=deadline)


@app.command()
def resume(deadline: Deadline = None, config: SiteFile = None) -> None:
    """Go on with what is paused.

    Example: [bold]temline resume[/bold]
    """
    _act(config, "/run/resume", deadline=deadline)


class Verb(StrEnum):
    """What can be done about control."""

    ask = "ask"
    grant = "grant"
    refuse = "refuse"
    release = "release"
    take = "take"
    lock = "lock"
    unlock = "unlock"


@app.command()
def control(
    verb: Annotated[
        Verb | None, typer.Argument(help="Without it, who has control is shown.")
    ] = None,
    reason: Reason = None,
    config: SiteFile = None,
) -> None:
    """Show who may command the instrument, or change it.

    Example: [bold]temline control ask[/bold]
    """
    if verb is not None:
        return _act(config, f"/control/{verb.value}", reason=reason)
    from services.client import join
    from services.status_view import show_control

    with join(config) as client:
        show_control(client.get("/control"))
    return None


@queue_app.callback(invoke_without_command=True)
def queue(
    context: typer.Context,
    history: Annotated[bool, typer.Option("--history", help="What has ended instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Of what has ended.")] = 50,
    config: SiteFile = None,
) -> None:
    """Show the requests that run and wait, the next first; or change them.

    Example: [bold]temline queue --history[/bold]
    """
    if context.invoked_subcommand is not None:
        return
    from services.queue_view import show_history, show_queue

    if history:
        show_history(config, limit)
    else:
        show_queue(config)


OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="Of a request; without it, the whole queue.")
]


@queue_app.command()
def hold(id: OneOrAll = None, reason: Reason = None, config: SiteFile = None) -> None:
    """Let a request, or all of the queue, wait until it is released.

    Example: [bold]temline queue hold --reason lunch[/bold]
    """
    if id is None:
        _act(config, "/queue/hold", reason=reason)
    else:
        _act_on(id, config, "hold")


@queue_app.command()
def release(id: OneOrAll = None, config: SiteFile = None) -> None:
    """Let a request, or the queue, go on.

    Example: [bold]temline queue release[/bold]
    """
    if id is None:
        _act(config, "/queue/release")
    else:
        _act_on(id, config, "release")


@queue_app.command()
def move(  # noqa: PLR0917
    id: Id,
    first: Annotated[bool, typer.Option("--first")] = False,
    last: Annotated[bool, typer.Option("--last")] = False,
    before: Annotated[str | None, typer.Option(metavar="ID")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID")] = None,
    config: SiteFile = None,
) -> None:
    """Move a request that waits: among those of its priority, or next to another one.

    Example: [bold]temline queue move b7 --before a3[/bold]
    """
    if [first, last, before is not None, after is not None].count(True) != 1:
        raise typer.BadParameter("one of --first, --last, --before and --after is needed")
    place = "first" if first else "last" if last else None
    _act_on(id, config, "move", to=place, before=before, after=after)


@queue_app.command()
def retry(id: Id, config: SiteFile = None) -> None:
    """Queue a request that has ended once more.

    Example: [bold]temline queue retry b7[/bold]
    """
    _act_on(id, config, "retry")


@queue_app.command("resume")
def resume_request(id: Id, config: SiteFile = None) -> None:
    """Go on with a request that was cut off; a montage at its first missing tile.

    The queue goes on with it.

    Example: [bold]temline queue resume b7[/bold]
    """
    _act_on(id, config, "resume")


@queue_app.command()
def remove(id: Id, config: SiteFile = None) -> None:
    """Take a request that waits out of the queue.

    Example: [bold]temline queue remove b7[/bold]
    """
    from services.queue_view import path_of, run_action

    run_action(config, "DELETE", path_of(id))


@queue_app.command()
def show(id: Id, config: SiteFile = None) -> None:
    """Show all that is known of a request.

    Example: [bold]temline queue show b7[/bold]
    """
    from services.queue_view import show_request

    show_request(config, id)


def _act_on(id: str, config: SiteFile, verb: str, **arguments: Any) -> None:
    from services.queue_view import path_of

    _act(config, f"{path_of(id)}/{verb}", **arguments)


def _act(config: SiteFile, path: str, **arguments: Any) -> None:
    from services.queue_view import run_action

    run_action(config, "POST", path, **arguments)
