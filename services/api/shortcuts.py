"""Actions under addresses of their own, for clients that prefer those: `DELETE /requests/{id}`.

Each makes the command that it stands for, and hands it in as every other.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from services.api.access import DeskHere, Originator, Sent
from services.api.refusals import refusals
from services.supervisor.commands import ClientName, read_json
from services.supervisor.registry import Registry
from services.supervisor.status import Reply

OF_REQUEST = {"resume": "resume_request"}
OF_RUN = ("pause", "resume", "stop_after_tile", "stop_after_request", "abort", "halt")
OF_CONTROL = ("ask", "grant", "refuse", "release", "take", "lock", "unlock")

SHORTCUTS = {
    ("DELETE", "/requests/{id}"): "remove",
    ("PATCH", "/requests/{id}"): "edit",
    **{
        ("POST", f"/requests/{{id}}/{verb}"): OF_REQUEST.get(verb, verb)
        for verb in ("move", "hold", "release", "retry", "resume")
    },
    **{("POST", f"/queue/{verb}"): f"{verb}_queue" for verb in ("hold", "release")},
    **{("POST", f"/run/{verb}"): verb for verb in OF_RUN},
    **{("POST", f"/control/{verb}"): f"{verb}_control" for verb in OF_CONTROL},
}
"""Method and path, and the action that it is; what the path names is the action's first argument,
and the body has the others."""

Session = Annotated[
    ClientName | None, Query(description="Tells two of one client apart, as `session` does.")
]


def add_shortcuts(router: APIRouter, registry: Registry) -> None:
    """Add all of them to a router; the registry tells what each takes."""
    for (method, path), function in SHORTCUTS.items():
        entry = registry.get(function, "action")
        of_request = "{id}" in path
        more = (404, 409, 429) if of_request else ()
        router.add_api_route(
            path,
            _handler(function),
            methods=[method],
            name=function,
            summary=entry.doc,
            responses=refusals(401, 403, 413, 422, 503, *more),
            openapi_extra=_described(entry.signature.parameters, of_request),
        )


def _handler(function: str) -> Callable[..., Awaitable[Reply]]:
    async def handle(
        request: Request, desk: DeskHere, origin: Originator, sent: Sent, session: Session = None
    ) -> Reply:
        command = {
            "function": function,
            "args": list(request.path_params.values()),
            "kwargs": read_json(sent) if sent else {},
        }
        command |= {"session": session} if session else {}
        return await desk.immediate(json.dumps(command), origin)

    return handle


def _described(parameters: dict[str, Any], of_request: bool) -> dict[str, Any]:
    """Describe path and body to OpenAPI, by the schema of the action's arguments."""
    described: dict[str, Any] = {}
    properties = _inline(parameters["properties"], parameters.get("$defs", {}))
    if of_request:
        schema = properties.pop("id")
        described["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": schema}]
    if properties:
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        described["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return described


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Put definitions where they are referred to: OpenAPI has its own place for them."""
    if isinstance(schema, list):
        return [_inline(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inline(value, definitions) for key, value in schema.items()}
