"""The queue of requests: kept in a database, drawn from by many processes, never losing one.

Every change locks the queue's row first and is one transaction. So changes come one after the
other on any database, and each is whole or did not happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy import Engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from records import checks, places
from records.database import transaction
from records.models import ORDER, QueueRow, RequestRow, TransitionRow
from records.reader import QueueReader, as_request
from records.requests import (
    DuplicateIdError,
    NewRequest,
    Outcome,
    QueueFullError,
    Request,
    RequestState,
    UnknownRequestError,
)

IDS_AT_ONCE = 10_000
OWNER_DIED = "the process that ran it ended before it did"


class RequestQueue(QueueReader):
    """A queue, in the order in which it will run.

    That is by priority, the highest first, and within one as requests were added or moved. It may
    be used from any thread, and from any number of processes. What cannot be stored is refused
    with a ValueError that names the field; a database that cannot be used raises DatabaseError.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `records.database.open_database`.
    name : str
        Of the queue; ids of requests are unique in the database, over all its queues.
    """

    def __init__(self, engine: Engine, name: str = "temline") -> None:
        super().__init__(engine, name)
        # Another process may do so at the same time.
        with suppress(IntegrityError), transaction(engine, write=True) as session:
            if session.get(QueueRow, name) is None:
                session.add(QueueRow(name=name, held=False, reason="", revision=0))

    # Adding, and running

    def add(self, *new: NewRequest, limit: int | None = None) -> tuple[Request, ...]:
        """Queue requests: all of them, or none.

        Parameters
        ----------
        *new : NewRequest
            Each after the others of its priority.
        limit : int, optional
            The most that may be queued.

        Raises
        ------
        DuplicateIdError
            If there is, or was, a request of the same id.
        UnknownRequestError
            If a parent is neither known nor given before.
        QueueFullError
        ValueError
            If one cannot be stored.
        """
        requests = [checks.checked(one) for one in new]
        try:
            with self._change() as session:
                self._refuse(session, requests, limit)
                return self._snapshots(session, *self._insert(session, requests))
        except IntegrityError as error:  # the id came into another queue at the same moment
            raise DuplicateIdError("an id was taken just now; choose another one") from error

    def claim(self, worker: str) -> Request | None:
        """Take the next request to run it, if the queue is not held and one is ready.

        Parameters
        ----------
        worker : str
            Who takes it; no other gets it.
        """
        checks.check_name("worker", worker)
        ready = self._in("queued").where(~RequestRow.held).order_by(*ORDER).limit(1)
        with self._change() as session:
            if session.get_one(QueueRow, self.name).held:
                return None
            row = session.scalar(ready)
            if row is None:
                return None
            row.worker = worker
            row.started = _enter(session, row, "running", "")
            return as_request(row)

    def note(self, id: str, *, message: str | None = None, run_uid: str | None = None) -> Request:
        """Add to what is known of a running request: a message, or a run that it made.

        Raises
        ------
        UnknownRequestError, StateError
        """
        with self._change() as session:
            row = self._row(session, id, "running")
            if message is not None:
                row.message = checks.cleaned(message)
            _add_runs(row, [] if run_uid is None else [run_uid])
            return as_request(row)

    def finish(
        self, id: str, state: Outcome, message: str, run_uids: Sequence[str] = ()
    ) -> Request:
        """End a running request.

        Parameters
        ----------
        id : str
        state : "done", "failed", "aborted" or "interrupted"
        message : str
            What became of it.
        run_uids : sequence of str
            Runs that were not noted yet.

        Raises
        ------
        UnknownRequestError, StateError
        """
        if state not in get_args(Outcome):
            raise ValueError(f"state: expected {', '.join(get_args(Outcome))}, found {state!r}")
        with self._change() as session:
            row = self._row(session, id, "running")
            _add_runs(row, run_uids)
            return _end(session, row, state, message)

    def reconcile(
        self, worker: str | None = None, message: str = OWNER_DIED
    ) -> tuple[Request, ...]:
        """End what was running as interrupted, because whoever ran it is gone.

        Parameters
        ----------
        worker : str, optional
            Only what this one claimed.
        message : str
        """
        running = self._in("running").order_by(RequestRow.started, RequestRow.number)
        if worker is not None:
            checks.check_name("worker", worker)
            running = running.where(RequestRow.worker == worker)
        with self._change() as session:
            rows = session.scalars(running).all()
            return tuple(_end(session, row, "interrupted", message) for row in rows)

    # Changing what is queued

    def edit(
        self,
        id: str,
        *,
        arguments: dict[str, Any] | None = None,
        priority: int | None = None,
        proposal: str | None = None,
        directory: str | None = None,
    ) -> Request:
        """Change a queued request; what is None stays. With another priority it becomes the last.

        Raises
        ------
        UnknownRequestError, StateError
        """
        checks.check_belongings(proposal, directory)
        if arguments is not None:
            arguments = checks.as_json("arguments", arguments)
        if priority is not None:
            checks.check_priority(priority)
        with self._change() as session:
            row = self._row(session, id, "queued")
            if priority is not None and priority != row.priority:
                row.place = places.after_last(session, self.name, priority)
                row.priority = priority
            row.arguments = row.arguments if arguments is None else arguments
            row.proposal = row.proposal if proposal is None else proposal
            row.directory = row.directory if directory is None else directory
            return self._snapshots(session, row)[0]

    def move(
        self,
        id: str,
        *,
        to: places.Move | None = None,
        before: str | None = None,
        after: str | None = None,
    ) -> Request:
        """Give a queued request another place; exactly one of these says which.

        Parameters
        ----------
        id : str
        to : "first", "last", "up" or "down", optional
            Among those of its priority.
        before, after : str, optional
            The request that it shall stand next to; it takes over that one's priority.

        Raises
        ------
        UnknownRequestError, StateError
        """
        if [to, before, after].count(None) != 2 or to not in {None, *places.SIDES}:
            raise ValueError(f"expected one of to={'|'.join(places.SIDES)}, before=id and after=id")
        with self._change() as session:
            row = self._row(session, id, "queued")
            side: places.Side
            if to:
                side, other = places.SIDES[to], places.target(session, row, to)
            elif before is not None:
                side, other = "before", self._row(session, before, "queued")
            elif after is not None:
                side, other = "after", self._row(session, after, "queued")
            if other and other is not row:
                row.place = places.beside(session, row, other, side)
                row.priority = other.priority
            return self._snapshots(session, row)[0]

    def remove(self, id: str, message: str = "") -> Request:
        """Take a queued request out, for good.

        Raises
        ------
        UnknownRequestError, StateError
        """
        with self._change() as session:
            return _end(session, self._row(session, id, "queued"), "removed", message)

    def remove_batch(self, batch: str, message: str = "") -> tuple[Request, ...]:
        """Take out what is still queued of a batch.

        Raises
        ------
        UnknownRequestError
            If there never was a request of it.
        """
        with self._change() as session:
            rows = self._of_batch(session, batch)
            return tuple(_end(session, row, "removed", message) for row in rows)

    # Holding

    def hold(self, id: str) -> Request:
        """Have a queued request wait until it is released.

        Raises
        ------
        UnknownRequestError, StateError
        """
        return self._hold_one(id, True)

    def release(self, id: str) -> Request:
        """Let a queued request run.

        Raises
        ------
        UnknownRequestError, StateError
        """
        return self._hold_one(id, False)

    def hold_batch(self, batch: str) -> tuple[Request, ...]:
        """Have what is still queued of a batch wait; raises as `remove_batch` does."""
        return self._hold_all(batch, True)

    def release_batch(self, batch: str) -> tuple[Request, ...]:
        """Let what is still queued of a batch run; raises as `remove_batch` does."""
        return self._hold_all(batch, False)

    def hold_queue(self, reason: str) -> None:
        """Give nothing out until the queue is released; what runs goes on."""
        with self._change() as session:
            queue = session.get_one(QueueRow, self.name)
            queue.held, queue.reason = True, checks.cleaned(reason) or "no reason was given"

    def release_queue(self) -> None:
        """Give requests out again."""
        with self._change() as session:
            queue = session.get_one(QueueRow, self.name)
            queue.held, queue.reason = False, ""

    # How

    @contextmanager
    def _change(self) -> Iterator[Session]:
        """Begin a change, alone; whatever is written in it counts the revision up."""
        with transaction(self._engine, write=True) as session:
            queue = session.get_one(QueueRow, self.name, with_for_update=True)

            def count(*_: object) -> None:
                if session.new or any(map(session.is_modified, session.dirty)):
                    queue.revision += 1

            event.listen(session, "before_flush", count)
            yield session

    def _refuse(self, session: Session, requests: Sequence[NewRequest], limit: int | None) -> None:
        """Refuse ids that were used, parents that are unknown, and more than the limit."""
        ids = Counter(one.id for one in requests)
        known = _known(session, ids.keys() | {one.parent for one in requests if one.parent})
        if used := [id for id, times in ids.items() if times > 1 or id in known]:
            raise DuplicateIdError(
                f"expected ids that were never used, found {_listed(used)}; ask what became of "
                "these requests, or choose other ids"
            )
        for one in requests:
            if one.parent and one.parent not in known:
                raise UnknownRequestError(
                    f"request {one.id!r}: its parent {one.parent!r} is unknown"
                )
            known.add(one.id)
        if limit is not None and (found := self._count(session)) + len(requests) > limit:
            raise QueueFullError(
                f"expected at most {limit} requests to be queued, found {found} and "
                f"{len(requests)} more; wait, or remove some"
            )

    def _insert(self, session: Session, requests: Sequence[NewRequest]) -> list[RequestRow]:
        """Write requests that were found right."""
        now = datetime.now(UTC)
        next_place: dict[int, int] = {}
        rows = []
        for one in requests:
            if one.priority not in next_place:
                next_place[one.priority] = places.after_last(session, self.name, one.priority)
            rows.append(
                RequestRow(
                    **vars(one),
                    queue=self.name,
                    state="queued",
                    place=next_place[one.priority],
                    submitted=now,
                    message="",
                    run_uids=[],
                )
            )
            next_place[one.priority] += places.GAP
        session.add_all(rows)
        session.flush()  # requests first, since transitions refer to them
        session.add_all(_transition(row, now, None, "") for row in rows)
        return rows

    def _of_batch(self, session: Session, batch: str) -> Sequence[RequestRow]:
        """Find what is still queued of a batch, in order."""
        checks.check_name("batch", batch)
        known = select(RequestRow.number).where(
            RequestRow.queue == self.name, RequestRow.batch == batch
        )
        if session.scalar(known.limit(1)) is None:
            raise UnknownRequestError(f"batch {batch!r} is unknown to the queue {self.name!r}")
        return session.scalars(
            self._in("queued").where(RequestRow.batch == batch).order_by(*ORDER)
        ).all()

    def _hold_one(self, id: str, held: bool) -> Request:
        with self._change() as session:
            row = self._row(session, id, "queued")
            row.held = held
            return self._snapshots(session, row)[0]

    def _hold_all(self, batch: str, held: bool) -> tuple[Request, ...]:
        with self._change() as session:
            rows = self._of_batch(session, batch)
            for row in rows:
                row.held = held
            return self._snapshots(session, *rows)


def _known(session: Session, ids: Collection[str]) -> set[str]:
    """Tell which ids there are, in any queue."""
    known: set[str] = set()
    rest = list(ids)
    while rest:  # no database takes any number of parameters
        part, rest = rest[:IDS_AT_ONCE], rest[IDS_AT_ONCE:]
        known.update(session.scalars(select(RequestRow.id).where(RequestRow.id.in_(part))))
    return known


def _listed(ids: Sequence[str]) -> str:
    """Name ids in a message, but not a thousand of them."""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(map(repr, ids[:5])) + more


def _transition(row: RequestRow, now: datetime, old: str | None, message: str) -> TransitionRow:
    return TransitionRow(request=row.id, time=now, old=old, new=row.state, message=message)


def _enter(session: Session, row: RequestRow, state: RequestState, message: str) -> datetime:
    """Bring a request into a state; give the time."""
    now, old = datetime.now(UTC), row.state
    row.state = state
    session.add(_transition(row, now, old, message))
    return now


def _end(session: Session, row: RequestRow, state: RequestState, message: str) -> Request:
    """Bring a request into its last state."""
    row.message = checks.cleaned(message)
    row.finished = _enter(session, row, state, row.message)
    return as_request(row)


def _add_runs(row: RequestRow, run_uids: Iterable[str]) -> None:
    """Note runs, each once."""
    for uid in run_uids:
        checks.check_name("run_uid", uid)
    row.run_uids = list(dict.fromkeys([*row.run_uids, *run_uids]))
