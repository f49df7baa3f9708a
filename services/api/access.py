"""Who calls, and what they sent: read with care, before anything is done with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from services.supervisor.commands import MAX_BYTES, CommandRefusedError, Origin
from services.supervisor.desk import Desk
from services.supervisor.identity import Client

bearer = HTTPBearer(
    scheme_name="token",
    description="A token of TEMLINE_TOKENS, or the one in `command.key` of the server's folder.",
    auto_error=False,
)


async def desk_of(request: Request) -> Desk:
    """Give the desk of this server."""
    desk: Desk = request.app.state.desk
    return desk


DeskHere = Annotated[Desk, Depends(desk_of)]


async def origin_of(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Origin:
    """Tell where a call comes from."""
    host = request.client.host if request.client else ""
    return Origin("http", host, token=credentials.credentials if credentials else "")


Originator = Annotated[Origin, Depends(origin_of)]


async def client_of(desk: DeskHere, origin: Originator) -> Client:
    """Tell who calls, by the token."""
    return desk.client_of(origin)


Caller = Annotated[Client, Depends(client_of)]


async def sent_by(request: Request, _: Caller) -> bytes:
    """Give the body, of somebody who may send one; of one that is too long, only its start is read.

    Raises
    ------
    CommandRefusedError
    """
    sent = bytearray()
    try:
        async for part in request.stream():
            sent += part
            if len(sent) > MAX_BYTES:
                reason = f"the body has over {MAX_BYTES} bytes, which are the most"
                raise CommandRefusedError(reason, kind="size")
    except ClientDisconnect:
        raise CommandRefusedError("the client went before it had sent all") from None
    return bytes(sent)


Sent = Annotated[bytes, Depends(sent_by)]
