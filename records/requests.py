"""What a request is, which states it passes through, and what can be wrong with one.

queued → running → done | failed | aborted | interrupted
queued → removed
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

RequestState: TypeAlias = Literal[
    "queued", "running", "done", "failed", "aborted", "interrupted", "removed"
]
Outcome: TypeAlias = Literal["done", "failed", "aborted", "interrupted"]


class RequestError(Exception):
    """What was asked for cannot be; the message says what was expected and what was found."""


class DuplicateIdError(RequestError):
    """An id was used before, if only by a request that is history by now."""


class QueueFullError(RequestError):
    """More requests than may be queued at a time."""


class UnknownRequestError(RequestError):
    """The queue never had such a request."""


class StateError(RequestError):
    """The request is in a state in which this cannot be done to it."""


@dataclass(frozen=True)
class NewRequest:
    """A request as it is handed in.

    Attributes
    ----------
    id : str
        Chosen by the client, so that it may send a request again without running it twice.
    function : str
        What is to be run.
    arguments : dict
        Of the function; what JSON can say.
    client, host : str
        Who sent it, and from where.
    priority : int
        Higher ones run first.
    batch : str, optional
        Name that requests have in common.
    proposal, directory : str, optional
        What it is done for, and where its results belong.
    held : bool
        Whether it waits until it is released.
    parent : str, optional
        The request that this one goes on with, or tries again.
    """

    id: str
    function: str
    arguments: dict[str, Any]
    client: str
    host: str
    priority: int = 0
    batch: str | None = None
    proposal: str | None = None
    directory: str | None = None
    held: bool = False
    parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Request(NewRequest):
    """A request as the queue knows it.

    Attributes
    ----------
    state : RequestState
    position : int, optional
        How many are before it while it is queued, held ones too; None afterwards.
    submitted, started, finished : datetime
        In UTC; None for what has not been. A removed request finished when it was removed.
    message : str
        The last word about it.
    run_uids : tuple of str
        The runs that it made.
    worker : str, optional
        Who claimed it.
    """

    state: RequestState
    position: int | None
    submitted: datetime
    started: datetime | None
    finished: datetime | None
    message: str
    run_uids: tuple[str, ...]
    worker: str | None


@dataclass(frozen=True)
class Transition:
    """One change of a request's state; the first has no old one."""

    request: str
    time: datetime
    old: RequestState | None
    new: RequestState
    message: str
