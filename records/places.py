"""Where a request stands among those of its priority: numbers with gaps, so that few ever change.

A request that is put between two gets the number in the middle. Only when there is none left are
the places of that priority spread anew, by one statement.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from records.models import RequestRow

GAP = 1 << 32  # so that it takes 32 moves into the same gap to use it up

Move: TypeAlias = Literal["first", "last", "up", "down"]
Side: TypeAlias = Literal["before", "after"]
SIDES: dict[Move, Side] = {"first": "before", "up": "before", "last": "after", "down": "after"}


def after_last(session: Session, queue: str, priority: int) -> int:
    """Give a place after all others of a priority."""
    last = _queued(queue, priority).with_only_columns(func.max(RequestRow.place))
    return (session.scalar(last) or 0) + GAP


def target(session: Session, row: RequestRow, move: Move) -> RequestRow | None:
    """Find the request that a move goes past; None if there is none."""
    side = SIDES[move]
    if move in {"up", "down"}:
        return _next(session, row, side)
    place = RequestRow.place
    ends = _queued(row.queue, row.priority).order_by(place if side == "before" else place.desc())
    end = session.scalar(ends.limit(1))
    return None if end is row else end


def beside(session: Session, row: RequestRow, other: RequestRow, side: Side) -> int:
    """Give a place for a request right before or after another one, of that one's priority."""
    beyond = _next(session, other, side)
    if beyond is row:
        return row.place  # it is there already
    if beyond is None:
        return other.place - GAP if side == "before" else other.place + GAP
    if abs(beyond.place - other.place) > 1:
        return (beyond.place + other.place) // 2
    _spread(session, other)
    return beside(session, row, other, side)


def _next(session: Session, row: RequestRow, side: Side) -> RequestRow | None:
    """Find the request right before or after one, of its priority."""
    place = RequestRow.place
    others = _queued(row.queue, row.priority)
    if side == "before":
        nearest = others.where(place < row.place).order_by(place.desc())
    else:
        nearest = others.where(place > row.place).order_by(place)
    return session.scalar(nearest.limit(1))


def _spread(session: Session, one: RequestRow) -> None:
    """Make the gaps of a request's priority equal again."""
    rank = func.row_number().over(order_by=RequestRow.place).label("rank")
    ranks = _queued(one.queue, one.priority).with_only_columns(RequestRow.number, rank).subquery()
    spread = update(RequestRow).where(RequestRow.number == ranks.c.number)
    session.execute(
        spread.values(place=ranks.c.rank * GAP).execution_options(synchronize_session=False)
    )
    session.expire_all()


def _queued(queue: str, priority: int) -> Select[tuple[RequestRow]]:
    """Select what is queued of a priority."""
    return select(RequestRow).where(
        RequestRow.queue == queue, RequestRow.state == "queued", RequestRow.priority == priority
    )
