"""The relational facts about an instrument, in SQLite or PostgreSQL: the queue of requests.

`open_database` gives the engine that `RequestQueue` and `LeaseStore` work on.
"""

from records.database import DatabaseError, open_database
from records.lease import Holder, LeaseChangedError, LeaseRecord, LeaseStore
from records.queue import RequestQueue
from records.requests import (
    DuplicateIdError,
    NewRequest,
    QueueFullError,
    Request,
    RequestError,
    RequestState,
    StateError,
    Transition,
    UnknownRequestError,
)

__all__ = [
    "DatabaseError",
    "DuplicateIdError",
    "Holder",
    "LeaseChangedError",
    "LeaseRecord",
    "LeaseStore",
    "NewRequest",
    "QueueFullError",
    "Request",
    "RequestError",
    "RequestQueue",
    "RequestState",
    "StateError",
    "Transition",
    "UnknownRequestError",
    "open_database",
]
