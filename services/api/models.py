"""What the HTTP interface answers, beside the status, replies, requests and the view of control."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.dataclasses import dataclass

from records import Request, Transition


class Health(BaseModel):
    """That this is a supervising server, and serves."""

    service: Literal["temline supervisor"] = "temline supervisor"
    version: str


class Refusal(BaseModel):
    """Why something is not done."""

    id: str = Field(default="", description="Of the command, if it could be read.")
    state: Literal["rejected"] = "rejected"
    message: str


class Entry(BaseModel):
    """One thing that can be commanded."""

    name: str
    kind: Literal["plan", "action"]
    doc: str
    positional: list[str] = Field(description="Arguments that can be given by place.")
    parameters: dict[str, Any] = Field(description="JSON schema of the arguments.")


class Registry(BaseModel):
    """All that can be commanded: plans by /commands, actions by /immediate."""

    plans: list[Entry]
    actions: list[Entry]


@dataclass(frozen=True, kw_only=True)
class RequestDetail(Request):
    """A request, and the changes of its state."""

    transitions: tuple[Transition, ...]


class Queue(BaseModel):
    """What runs and what waits, the next first."""

    running: list[Request]
    queued: list[Request] = Field(description="The first of them, if they are very many.")
    length: int = Field(description="How many wait.")
    held: str = Field(description="Why the queue is held; empty if it is not.")


class History(BaseModel):
    """What has ended, the last first."""

    requests: list[Request]
