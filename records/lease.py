"""Keeps who has an instrument, so that it outlives the server and two servers cannot both give it.

Who may have it, and for how long, is decided by who calls this.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import CursorResult, Engine, update
from sqlalchemy.exc import IntegrityError

from records.checks import check_name, check_text, check_time
from records.database import transaction
from records.models import LeaseRow


class LeaseChangedError(Exception):
    """Another server has changed the lease since it was read: read it again, and decide anew."""


class Holder(NamedTuple):
    """A session of a client on a host."""

    client: str
    host: str
    session: str


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as it is kept.

    Attributes
    ----------
    holder : Holder, optional
        None if it is free.
    since, last_used : datetime, optional
        When the holder got it, and last made use of it; with their zone.
    locked_by : str, optional
        Who has locked it.
    asked_by : Holder, optional
        Who asks the holder for it, since `asked_at`.
    asked_at : datetime, optional
    version : int
        Grows by one with each change; 0 is a lease that was never saved.
    """

    holder: Holder | None = None
    since: datetime | None = None
    last_used: datetime | None = None
    locked_by: str | None = None
    asked_by: Holder | None = None
    asked_at: datetime | None = None
    version: int = 0


class LeaseStore:
    """The lease of one name in a database; may be used from any thread.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `open_database`.
    name : str
        Of the instrument, or what else is leased.
    """

    def __init__(self, engine: Engine, name: str = "temline") -> None:
        check_name("name", name)
        self.name = name
        self._engine = engine

    def load(self) -> LeaseRecord:
        """Give the lease as it is now; a free one of version 0 if none was ever saved."""
        with transaction(self._engine, write=False) as session:
            row = session.get(LeaseRow, self.name)
            if row is None:
                return LeaseRecord()
            return LeaseRecord(
                holder=Holder(*row.holder) if row.holder else None,
                since=row.since,
                last_used=row.last_used,
                locked_by=row.locked_by,
                asked_by=Holder(*row.asked_by) if row.asked_by else None,
                asked_at=row.asked_at,
                version=row.version,
            )

    def save(self, record: LeaseRecord, expected_version: int) -> LeaseRecord:
        """Keep a lease, if nobody has changed it meanwhile.

        Parameters
        ----------
        record : LeaseRecord
            Its own version does not matter.
        expected_version : int
            Of the lease that was loaded before.

        Returns
        -------
        LeaseRecord
            As it is kept, with its new version.

        Raises
        ------
        LeaseChangedError
            If the lease is of another version by now.
        """
        values = _values(record) | {"version": expected_version + 1}
        if not (self._insert(values) if expected_version == 0 else self._update(values)):
            raise LeaseChangedError(
                f"lease {self.name!r}: expected version {expected_version}, "
                f"found {self.load().version}; read it again"
            )
        return replace(record, version=expected_version + 1)

    def clear(self, expected_version: int) -> LeaseRecord:
        """Free the lease, if nobody has changed it meanwhile; as `save` does."""
        return self.save(LeaseRecord(), expected_version)

    def _insert(self, values: dict[str, Any]) -> bool:
        """Keep the first version, unless there is one."""
        try:
            with transaction(self._engine, write=True) as session:
                session.add(LeaseRow(name=self.name, **values))
        except IntegrityError:
            return False
        return True

    def _update(self, values: dict[str, Any]) -> bool:
        """Keep a version, if it follows the one that is there."""
        lease = update(LeaseRow).where(
            LeaseRow.name == self.name, LeaseRow.version == values["version"] - 1
        )
        with transaction(self._engine, write=True) as session:
            return cast(CursorResult[Any], session.execute(lease.values(values))).rowcount == 1


def _values(record: LeaseRecord) -> dict[str, Any]:
    """Give what is stored of a lease, or refuse it."""
    for field in ("holder", "asked_by"):
        for part, text in zip(Holder._fields, getattr(record, field) or (), strict=False):
            check_text(f"{field}.{part}", text)
    if record.locked_by is not None:
        check_text("locked_by", record.locked_by)
    for field in ("since", "last_used", "asked_at"):
        check_time(field, getattr(record, field))
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return values | {
        "holder": list(record.holder) if record.holder else None,
        "asked_by": list(record.asked_by) if record.asked_by else None,
    }
