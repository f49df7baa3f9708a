"""Reads the queue of requests: what waits, what runs, what is history, and whether it changed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Engine, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from records import checks
from records.database import transaction
from records.models import ORDER, QueueRow, RequestRow, TransitionRow
from records.requests import Request, RequestState, StateError, Transition, UnknownRequestError


class QueueReader:
    """A queue that is looked at; `RequestQueue` changes it too.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `records.database.open_database`.
    name : str
        Of the queue.
    """

    def __init__(self, engine: Engine, name: str = "temline") -> None:
        checks.check_name("name", name)
        self.name = name
        self._engine = engine

    @property
    def revision(self) -> int:
        """A number that grows with every change of the queue, or of a request of it."""
        with self._reading() as session:
            queue = session.get(QueueRow, self.name)
            return queue.revision if queue else 0

    @property
    def is_held(self) -> str | None:
        """Why nothing is given out; None if it is."""
        with self._reading() as session:
            queue = session.get(QueueRow, self.name)
            return queue.reason if queue and queue.held else None

    def get(self, id: str) -> Request:
        """Give a request, whatever its state.

        Raises
        ------
        UnknownRequestError
        """
        with self._reading() as session:
            return self._snapshots(session, self._row(session, id))[0]

    def queued(self, limit: int | None = None) -> tuple[Request, ...]:
        """Give what is queued, in the order in which it will run; held ones too.

        Parameters
        ----------
        limit : int, optional
            The most that are given; a thousand take some 50 ms.
        """
        with self._reading() as session:
            rows = session.scalars(self._in("queued").order_by(*ORDER).limit(limit))
            return tuple(as_request(row, position) for position, row in enumerate(rows))

    def running(self) -> tuple[Request, ...]:
        """Give what was claimed and has not finished, the first claimed first."""
        with self._reading() as session:
            rows = self._in("running").order_by(RequestRow.started, RequestRow.number)
            return tuple(map(as_request, session.scalars(rows)))

    def history(
        self, limit: int = 100, before: datetime | str | None = None
    ) -> tuple[Request, ...]:
        """Give what finished or was removed, the last first.

        Parameters
        ----------
        limit : int
            The most that are given.
        before : datetime or str, optional
            Only what finished before this time, or before the request of this id: the last one
            of a page gives the next page, though many finished at the same time.
        """
        finished, number = RequestRow.finished, RequestRow.number
        rows = select(RequestRow).where(RequestRow.queue == self.name, finished.is_not(None))
        with self._reading() as session:
            if isinstance(before, str):
                last = self._row(session, before)
                same_time = and_(finished == last.finished, number < last.number)
                rows = rows.where(or_(finished < last.finished, same_time))
            elif before is not None:
                checks.check_time("before", before)
                rows = rows.where(finished < before)
            rows = rows.order_by(finished.desc(), number.desc()).limit(limit)
            return tuple(map(as_request, session.scalars(rows)))

    def count(self) -> int:
        """Tell how many are queued, held ones too."""
        with self._reading() as session:
            return self._count(session)

    def transitions(self, id: str) -> tuple[Transition, ...]:
        """Give the changes of a request's state, the first first.

        Raises
        ------
        UnknownRequestError
        """
        with self._reading() as session:
            steps = select(TransitionRow).where(TransitionRow.request == self._row(session, id).id)
            return tuple(
                Transition(
                    step.request,
                    step.time,
                    cast(RequestState | None, step.old),
                    cast(RequestState, step.new),
                    step.message,
                )
                for step in session.scalars(steps.order_by(TransitionRow.number))
            )

    def _reading(self) -> AbstractContextManager[Session]:
        return transaction(self._engine, write=False)

    def _in(self, state: RequestState) -> Select[tuple[RequestRow]]:
        """Select the requests in a state."""
        return select(RequestRow).where(RequestRow.queue == self.name, RequestRow.state == state)

    def _count(self, session: Session) -> int:
        return session.scalar(self._in("queued").with_only_columns(func.count())) or 0

    def _row(self, session: Session, id: str, expected: RequestState | None = None) -> RequestRow:
        """Find a request, and refuse it if it is not in the state that is expected."""
        checks.check_text("id", id, longest=None)
        row = session.scalar(
            select(RequestRow).where(RequestRow.id == id, RequestRow.queue == self.name)
        )
        if row is None:
            raise UnknownRequestError(f"request {id!r} is unknown to the queue {self.name!r}")
        if expected not in {None, row.state}:
            raise StateError(f"request {id!r}: expected it to be {expected}, found it {row.state}")
        return row

    def _snapshots(self, session: Session, *rows: RequestRow) -> tuple[Request, ...]:
        """Give requests as they are now, with their positions."""
        if len(rows) == 1:
            return (as_request(rows[0], self._position(session, rows[0])),)
        numbers = session.scalars(
            self._in("queued").with_only_columns(RequestRow.number).order_by(*ORDER)
        )
        positions = {number: position for position, number in enumerate(numbers)}
        return tuple(as_request(row, positions.get(row.number)) for row in rows)

    def _position(self, session: Session, row: RequestRow) -> int | None:
        """Count what is queued before a request; by the index, and not one by one."""
        if row.state != "queued":
            return None
        place = and_(RequestRow.priority == row.priority, RequestRow.place < row.place)
        before = self._in("queued").where(or_(RequestRow.priority > row.priority, place))
        return session.scalar(before.with_only_columns(func.count()))


COMMON = [field.name for field in fields(Request) if field.name not in {"position", "run_uids"}]


def as_request(row: RequestRow, position: int | None = None) -> Request:
    """Give a row as what callers get."""
    values: dict[str, Any] = {name: getattr(row, name) for name in COMMON}
    return Request(**values, position=position, run_uids=tuple(row.run_uids))
