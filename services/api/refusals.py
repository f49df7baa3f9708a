"""What is not done: the HTTP status that each refusal has, and how it is described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from records import DatabaseError
from services.api.models import Refusal
from services.supervisor.commands import CommandRefusedError, RefusalKind
from services.supervisor.entry import shortened
from services.supervisor.supervisor import first_line

STATUS_OF: Mapping[RefusalKind, int] = {
    "mistake": 422,
    "size": 413,
    "token": 401,
    "control": 403,
    "unknown": 404,
    "state": 409,
    "full": 429,
    "unavailable": 503,
}

MEANING: Mapping[int, str] = {
    401: "The token is missing or not known.",
    403: "Control does not allow it: somebody else has it, or it is not theirs to give.",
    404: "There is no such request.",
    409: "The id was used before, or the request is not in a state in which this can be done.",
    413: "The body is too long.",
    422: "It is not understood, or its arguments are wrong.",
    429: "The queue is full, or there are too many event streams.",
    503: "The database of requests does not answer.",
}

_REFERENCE = {"$ref": "#/components/schemas/Refusal"}
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_WRONG_HOST = {
    "description": "The Host header does not name this server.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def refusals(*statuses: int, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """Describe the refusals of a route to OpenAPI; a wrong Host can come from every one.

    Parameters
    ----------
    *statuses : int
    streams : bool
        Whether what it answers otherwise is no JSON.
    """
    described: dict[int | str, dict[str, Any]] = {400: _WRONG_HOST}
    content = {"content": {"application/json": {"schema": _REFERENCE}}}
    for status in statuses:
        described[status] = {"description": MEANING[status]}
        described[status] |= content if streams else {"model": Refusal}
    if 401 in described:
        challenge = {"schema": {"type": "string"}, "required": True}
        described[401]["headers"] = {"WWW-Authenticate": challenge}
    return described


def add_handlers(app: FastAPI) -> None:
    """Have everything that is refused answered in the same form."""
    app.add_exception_handler(CommandRefusedError, _refused)
    app.add_exception_handler(DatabaseError, _no_database)
    app.add_exception_handler(SQLAlchemyError, _no_database)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _no_such_thing)


async def _refused(_: Request, error: Any) -> JSONResponse:
    status = STATUS_OF[error.kind]
    return _answer(status, error.reason, error.id, _CHALLENGE if status == 401 else None)


async def _no_database(_: Request, error: Any) -> JSONResponse:
    return _answer(503, f"the database of requests does not answer: {first_line(error)}")


async def _not_valid(_: Request, error: Any) -> JSONResponse:
    mistakes = [
        f"{one['loc'][-1]} is {shortened(repr(one['input']))}: {one['msg']}"
        for one in error.errors()
    ]
    return _answer(422, "; ".join(mistakes))


async def _no_such_thing(request: Request, error: Any) -> JSONResponse:
    words = f"{request.method} {shortened(request.url.path)}: {error.detail}"
    return _answer(error.status_code, words, headers=error.headers)


def _answer(
    status: int, message: str, id: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(Refusal(id=id, message=message).model_dump(), status, headers)
