"""The tables: requests, the history of their states, one row a queue, one row a lease.

They are changed by a migration only (`records/migrations`); a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    desc,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, which is UTC; SQLite keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time as it is stored."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time as it was."""
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value and value.astimezone(UTC)


class Base(DeclarativeBase):
    """What all tables have in common: constraints get names, so that a migration can find them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: String,
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class QueueRow(Base):
    """A queue; every change locks its row first, so one comes after the other."""

    __tablename__ = "queue_state"

    name: Mapped[str] = mapped_column(primary_key=True)
    held: Mapped[bool]
    reason: Mapped[str]
    revision: Mapped[int] = mapped_column(BigInteger)


class RequestRow(Base):
    """A request. `place` orders those of one priority, with gaps between."""

    __tablename__ = "request"

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    queue: Mapped[str] = mapped_column(ForeignKey("queue_state.name"))
    state: Mapped[str]
    priority: Mapped[int]
    place: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[bool]
    function: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    client: Mapped[str]
    host: Mapped[str]
    batch: Mapped[str | None]
    proposal: Mapped[str | None]
    directory: Mapped[str | None]
    parent: Mapped[str | None] = mapped_column(ForeignKey("request.id"))
    worker: Mapped[str | None]
    submitted: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    message: Mapped[str]
    run_uids: Mapped[list[str]]


ORDER = (desc(RequestRow.priority), RequestRow.place)
# With `held`, so that the search for the next one passes by held ones without reading them.
Index("ix_request_order", RequestRow.queue, RequestRow.state, *ORDER, RequestRow.held)
Index("ix_request_history", RequestRow.queue, RequestRow.finished, RequestRow.number)
Index("ix_request_batch", RequestRow.queue, RequestRow.batch)


class TransitionRow(Base):
    """One change of a request's state."""

    __tablename__ = "transition"

    number: Mapped[int] = mapped_column(primary_key=True)
    request: Mapped[str] = mapped_column(ForeignKey("request.id"), index=True)
    time: Mapped[datetime]
    old: Mapped[str | None]
    new: Mapped[str]
    message: Mapped[str]


class LeaseRow(Base):
    """Who has an instrument, and who asks for it: ``[client, host, session]`` each."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[list[str] | None]
    since: Mapped[datetime | None]
    last_used: Mapped[datetime | None]
    locked_by: Mapped[str | None]
    asked_by: Mapped[list[str] | None]
    asked_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(BigInteger)
