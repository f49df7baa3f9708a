"""The supervising server over HTTP: the same commands and the same replies as its PVs have.

Nothing is decided here: what is sent goes to the desk as it came.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.access import Caller, DeskHere, Originator, Sent, client_of
from services.api.events import Events, Stream
from services.api.models import Health, History, Queue, Registry, RequestDetail
from services.api.refusals import add_handlers, refusals
from services.api.shortcuts import add_shortcuts
from services.supervisor.actions import LISTED, Actions
from services.supervisor.commands import Command
from services.supervisor.control import ControlView
from services.supervisor.desk import Desk
from services.supervisor.status import Board, Reply, Status

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - they are only looked for
COMMAND = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Command.model_json_schema()}},
    }
}


def make_app(desk: Desk, board: Board, host: str = LOOPBACK[0]) -> FastAPI:
    """Make the ASGI application.

    Parameters
    ----------
    desk : Desk
    board : Board
        Whose announcements /events hands on; `app.state.events.close()` ends that.
    host : str
        Address that it will be served at. With one that stands for all of the machine's, clients
        may call it by any name.
    """
    app = FastAPI(
        title="temline",
        version=version("temline"),
        description="Commands an electron microscope, and tells how it stands with it.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # it needs a token, as all does
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.desk, app.state.events = desk, Events(board)
    hosts = ["*"] if host in ALL_ADDRESSES else [*LOOPBACK, f"[{host}]" if ":" in host else host]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    add_handlers(app)
    shortcuts = APIRouter()
    add_shortcuts(shortcuts, desk.registry)
    app.include_router(public)
    app.include_router(looking, dependencies=[Depends(client_of)])
    app.include_router(commanding, dependencies=[Depends(client_of)])
    app.include_router(shortcuts, dependencies=[Depends(client_of)])
    return app


public, looking, commanding = APIRouter(), APIRouter(), APIRouter()


@public.get("/health", responses=refusals())
async def health() -> Health:
    """Tell that the server serves; needs no token."""
    return Health(version=version("temline"))


@looking.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """Describe all this."""
    return JSONResponse(request.app.openapi())


@looking.get("/status", responses=refusals(401))
async def status(desk: DeskHere) -> Status:
    """Tell how things stand."""
    return desk.supervisor.board.status


@looking.get("/registry", responses=refusals(401))
async def registry(desk: DeskHere) -> Registry:
    """List all that can be commanded, and its arguments."""
    return Registry.model_validate(desk.registry.schema())


@looking.get("/queue", response_model=Queue, responses=refusals(401, 503))
async def queue(desk: DeskHere, client: Caller) -> Any:
    """List the requests that run and wait, the next first."""
    return await Actions(desk, client).queue()


@looking.get("/history", response_model=History, responses=refusals(401, 422, 503))
async def history(
    desk: DeskHere,
    client: Caller,
    limit: Annotated[int, Query(ge=1, le=LISTED, description="How many at most.")] = 50,
    before: Annotated[
        str | None,
        Query(
            description="Those that ended before this moment, ISO 8601.",
            json_schema_extra={"format": "date-time"},
        ),
    ] = None,
) -> Any:
    """List requests that have ended, the last first."""
    return await Actions(desk, client).history(limit, before)


@looking.get("/requests/{id}", response_model=RequestDetail, responses=refusals(401, 404, 422, 503))
async def request(desk: DeskHere, client: Caller, id: str) -> Any:
    """Give all that is known of a request."""
    return await Actions(desk, client).request(id)


@looking.get("/control", response_model=ControlView, responses=refusals(401, 403, 503))
async def control(desk: DeskHere, client: Caller) -> Any:
    """Tell who has control."""
    return await Actions(desk, client).control()


async def open_stream(request: Request, _: Caller) -> AsyncIterator[Stream]:
    """Open a stream of events, and close it when the client goes."""
    with request.app.state.events.stream() as stream:
        yield stream


@looking.get(
    "/events", response_class=EventSourceResponse, responses=refusals(401, 429, streams=True)
)
async def events(
    stream: Annotated[Stream, Depends(open_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """Tell what happens, as it happens, as server-sent events with JSON.

    The first is `status` with the whole status; then `status` with the fields that change, `reply`
    with what becomes of a request, `action` with the reply to an action; `end` when there are no
    more, because the server ends or the client reads too slowly.
    """
    async for event in stream:
        yield event


@commanding.post(
    "/commands",
    status_code=202,
    responses=refusals(401, 403, 409, 413, 422, 429, 503),
    openapi_extra=COMMAND,
)
async def command(desk: DeskHere, origin: Originator, sent: Sent) -> Reply:
    """Have a plan put into the queue."""
    return await desk.command(sent, origin)


@commanding.post(
    "/immediate",
    responses=refusals(401, 403, 404, 409, 413, 422, 429, 503),
    openapi_extra=COMMAND,
)
async def immediate(desk: DeskHere, origin: Originator, sent: Sent) -> Reply:
    """Have an action done at once."""
    return await desk.immediate(sent, origin)
