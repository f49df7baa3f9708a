"""Decides who may command the instrument: at most one session of one client has control of it.

It is asked for, granted, released, taken by staff, locked by staff, and lost by idling. What is so
is kept in a store, so that it outlives the server, and two servers never both give it away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from records import Holder, LeaseChangedError, LeaseRecord
from services.supervisor.commands import CommandRefusedError
from services.supervisor.identity import Client, label

ALWAYS_ALLOWED = frozenset({"abort", "pause", "stop_after_tile", "stop_after_request"})
"""What anybody may do: each leaves the instrument quieter than it was."""

UNPROVEN = "?"
"""Ends the name of a holder whom no token proves; no client's name has it."""

ATTEMPTS = 20
LONGEST_LOCK = 200  # characters, of who locks and why

log = logging.getLogger(__name__)

Change = tuple[LeaseRecord, str]
"""A lease, and what has happened to it: a sentence, or "" if nobody needs to know."""


class Store(Protocol):
    """What keeps the lease: `records.LeaseStore`."""

    def load(self) -> LeaseRecord:
        """Give the lease as it is now."""

    def save(self, record: LeaseRecord, expected_version: int) -> LeaseRecord:
        """Keep a lease, or raise `LeaseChangedError` if another server was quicker."""


class ControlRefusedError(CommandRefusedError):
    """A command that control does not allow."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, kind="control")


@dataclass(frozen=True)
class ControlView:
    """Who has control, for people and as JSON.

    Attributes
    ----------
    holder, asked_by : str, optional
        Like ``gui@host (session)``.
    since : str, optional
        When the holder got it; ISO 8601.
    idle_for : float, optional
        Since the holder's last command, in s.
    expires_in : float, optional
        Until the holder loses it if nothing is done, in s; None if it does not, as while a
        request runs.
    locked_by : str, optional
        Who has locked it, and why.
    last_change : str
        The last thing that has happened to it, as far as this server knows.
    """

    holder: str | None = None
    since: str | None = None
    idle_for: float | None = None
    expires_in: float | None = None
    asked_by: str | None = None
    locked_by: str | None = None
    last_change: str = ""


class Control:
    """Who may command the instrument.

    It is not safe for threads: one asyncio loop calls it, one call after the other. Each call
    reads the store, applies the time that has passed, and saves what has changed; if another
    server was quicker it decides anew on what that one has left.

    Parameters
    ----------
    store : Store
    idle_timeout : float
        Without a command of the holder, until it is lost, in s.
    ask_timeout : float
        Until who asks for it gets it, if nobody answers, in s.
    busy : callable
        Whether a request runs; while one does, time takes control from nobody.
    clock : callable
        Gives the time with its zone; that of the day, for it must go on while no server runs.
    """

    def __init__(
        self,
        store: Store,
        idle_timeout: float,
        ask_timeout: float,
        busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._idle_timeout = timedelta(seconds=idle_timeout)
        self._ask_timeout = timedelta(seconds=ask_timeout)
        self._renewal = min(self._idle_timeout / 10, timedelta(seconds=1))
        self._busy = busy
        self._clock = clock
        self._last_change = ""

    def admit(self, client: Client, function: str) -> None:
        """Allow a command, or refuse it; what `ALWAYS_ALLOWED` names does not even ask the store.

        If nobody has control anybody may command, and does not get control by that.

        Raises
        ------
        CommandRefusedError
            The reason says who has control, since when, and how to get it.
        """
        if function not in ALWAYS_ALLOWED:
            self._change(self._admit, client)

    def ask(self, client: Client) -> ControlView:
        """Ask for control: had at once if it is free, else when the holder grants it or is late.

        Raises
        ------
        CommandRefusedError
            If it is locked, or another one asks already.
        """
        return self._change(_ask, client)

    def grant(self, by: Client) -> ControlView:
        """Give control to who asks for it; the holder does, or staff.

        Raises
        ------
        CommandRefusedError
            If nobody asks, or somebody else grants.
        """
        return self._change(_grant, by)

    def refuse(self, by: Client) -> ControlView:
        """Decline, as the holder, that another one gets control; they may ask again.

        Raises
        ------
        CommandRefusedError
            If nobody asks, or somebody else declines.
        """
        return self._change(self._refuse, by)

    def release(self, by: Client) -> ControlView:
        """Give control up, to who asks for it or to nobody; or withdraw that one asks.

        Raises
        ------
        CommandRefusedError
            If they neither have it nor ask for it.
        """
        return self._change(_release, by)

    def take(self, by: Client, reason: str) -> ControlView:
        """Take control from whoever has it; staff does.

        Raises
        ------
        CommandRefusedError
            If it is not staff.
        """
        return self._change(_take, by, reason)

    def lock(self, by: Client, reason: str) -> ControlView:
        """Keep everybody but staff from commanding and from asking, until it is unlocked.

        Raises
        ------
        CommandRefusedError
            If it is not staff.
        """
        return self._change(_lock, by, reason)

    def unlock(self, by: Client) -> ControlView:
        """End a lock.

        Raises
        ------
        CommandRefusedError
            If it is not staff.
        """
        return self._change(_unlock, by)

    def tick(self) -> ControlView:
        """Apply the time that has passed; to be called every second or so."""
        return self._change(lambda lease, now: (lease, ""))

    def view(self) -> ControlView:
        """Give who has control; the same as `tick`, for time is applied at every call."""
        return self.tick()

    def _change(self, decide: Callable[..., Change], *what: Any) -> ControlView:
        """Apply time, then a decision, to the lease as it is."""
        for _ in range(ATTEMPTS):
            now = self._clock()
            try:
                lease = self._keep(self._store.load(), self._age, now)
                lease = self._keep(lease, decide, now, *what)
            except LeaseChangedError:
                continue
            return self._view(lease, now)
        raise ControlRefusedError("control changes all the time; try again")

    def _keep(self, lease: LeaseRecord, decide: Callable[..., Change], *what: Any) -> LeaseRecord:
        changed, news = decide(lease, *what)
        if changed != lease:
            changed = self._store.save(changed, lease.version)
        if news:
            self._last_change = news
            log.info("control: %s", news)
        return changed

    def _age(self, lease: LeaseRecord, now: datetime) -> Change:
        """Apply time to a lease."""
        if lease.holder is None:
            return lease, ""
        if self._busy():
            return self._used(lease, now), ""
        last_used, asked_at = _no_later(lease.last_used, now), _no_later(lease.asked_at, now)
        lease = replace(lease, last_used=last_used, asked_at=asked_at)
        who, other = label_of(lease.holder), label_of(lease.asked_by)
        if lease.asked_by and _passed(asked_at, now) >= self._ask_timeout:
            return _hand_over(lease, now), f"{other} has control; {who} did not answer"
        if (idle := _passed(last_used, now)) >= self._idle_timeout:
            return _hand_over(lease, now), f"{other} has control; {who} was idle for {_span(idle)}"
        return lease, ""

    def _admit(self, lease: LeaseRecord, now: datetime, client: Client) -> Change:
        if lease.locked_by is not None and not client.staff:
            raise ControlRefusedError(f"only staff may command: locked by {lease.locked_by}")
        if lease.holder is None:
            return lease, ""
        if not _is(client, lease.holder):
            raise ControlRefusedError(f"{_who_has(lease, now)}; {_how_to_get(lease, client)}")
        return self._used(lease, now), ""

    def _refuse(self, lease: LeaseRecord, now: datetime, by: Client) -> Change:
        if not _is(by, lease.holder):
            raise ControlRefusedError(f"only who has control declines; {_who_has(lease, now)}")
        if lease.asked_by is None:
            raise ControlRefusedError("nobody asks for control")
        news = f"{by.label} declined to give control to {label_of(lease.asked_by)}"
        return replace(self._used(lease, now), asked_by=None, asked_at=None), news

    def _used(self, lease: LeaseRecord, now: datetime) -> LeaseRecord:
        """Note that the holder is at work; not with each of many commands, for that is written."""
        if lease.last_used and abs(now - lease.last_used) < self._renewal:
            return lease
        return replace(lease, last_used=now)

    def _view(self, lease: LeaseRecord, now: datetime) -> ControlView:
        return ControlView(
            holder=label_of(lease.holder) if lease.holder else None,
            since=lease.since.isoformat(timespec="seconds") if lease.since else None,
            idle_for=_seconds(_passed(lease.last_used, now)) if lease.holder else None,
            expires_in=self._expires_in(lease, now),
            asked_by=label_of(lease.asked_by) if lease.asked_by else None,
            locked_by=lease.locked_by,
            last_change=self._last_change,
        )

    def _expires_in(self, lease: LeaseRecord, now: datetime) -> float | None:
        if lease.holder is None or self._busy():
            return None
        left = self._idle_timeout - _passed(lease.last_used, now)
        if lease.asked_by:
            left = min(left, self._ask_timeout - _passed(lease.asked_at, now))
        return _seconds(left)


def label_of(holder: Holder | None) -> str:
    """Name a holder to people."""
    if holder is None:
        return "nobody"
    return label(holder.client.removesuffix(UNPROVEN), holder.host, holder.session)


def _ask(lease: LeaseRecord, now: datetime, client: Client) -> Change:
    if lease.locked_by is not None and not client.staff:
        raise ControlRefusedError(f"control cannot be had: locked by {lease.locked_by}")
    if lease.holder is None:
        return _hand_over(lease, now, to=_as_holder(client)), f"{client.label} has control"
    if _is(client, lease.holder) or _is(client, lease.asked_by):
        return lease, ""
    if lease.asked_by is not None:
        waits = _span(_passed(lease.asked_at, now))
        raise ControlRefusedError(
            f"{label_of(lease.asked_by)} asked for control {waits} before, and has no answer yet"
        )
    news = f"{client.label} asks {label_of(lease.holder)} for control"
    return replace(lease, asked_by=_as_holder(client), asked_at=now), news


def _grant(lease: LeaseRecord, now: datetime, by: Client) -> Change:
    if not by.staff and not _is(by, lease.holder):
        raise ControlRefusedError(f"only who has control grants it; {_who_has(lease, now)}")
    if lease.asked_by is None:
        raise ControlRefusedError("nobody asks for control")
    return _hand_over(lease, now), f"{by.label} gave control to {label_of(lease.asked_by)}"


def _release(lease: LeaseRecord, now: datetime, by: Client) -> Change:
    if _is(by, lease.holder):
        to = f" to {label_of(lease.asked_by)}" if lease.asked_by else ""
        return _hand_over(lease, now), f"{by.label} released control{to}"
    if _is(by, lease.asked_by):
        news = f"{by.label} no longer asks for control"
        return replace(lease, asked_by=None, asked_at=None), news
    raise ControlRefusedError(f"there is nothing to release; {_who_has(lease, now)}")


def _take(lease: LeaseRecord, now: datetime, by: Client, reason: str) -> Change:
    _require_staff(by, "takes control")
    if _is(by, lease.holder):
        return lease, ""
    news = f"{by.label} took control from {label_of(lease.holder)}" + _because(reason)
    return _hand_over(lease, now, to=_as_holder(by)), news


def _lock(lease: LeaseRecord, now: datetime, by: Client, reason: str) -> Change:
    _require_staff(by, "locks control")
    who = (by.label + _because(reason))[:LONGEST_LOCK]
    # Who asks is let go: it may be one who cannot have it now, and can ask again.
    return replace(lease, locked_by=who, asked_by=None, asked_at=None), f"locked by {who}"


def _unlock(lease: LeaseRecord, now: datetime, by: Client) -> Change:
    _require_staff(by, "unlocks control")
    if lease.locked_by is None:
        return lease, ""
    return replace(lease, locked_by=None), f"unlocked by {by.label}"


def _hand_over(lease: LeaseRecord, now: datetime, to: Holder | None = None) -> LeaseRecord:
    """Give control to one, or else to who asks for it, or else to nobody."""
    holder = to or lease.asked_by
    when = now if holder else None
    return LeaseRecord(holder, when, when, locked_by=lease.locked_by, version=lease.version)


def _as_holder(client: Client) -> Holder:
    """Give a client as it is kept: so that nobody can say what a token has proven."""
    name = client.name if client.authenticated else client.name + UNPROVEN
    return Holder(name, client.host, client.session)


def _is(client: Client, holder: Holder | None) -> bool:
    """Whether a client is the holder; a token proves that on any host, a name only on one."""
    if holder is None:
        return False
    own = _as_holder(client)
    return own == (holder._replace(host=own.host) if client.authenticated else holder)


def _require_staff(client: Client, does: str) -> None:
    if not client.staff:
        raise ControlRefusedError(f"only staff {does}, and {client.label} is not")


def _who_has(lease: LeaseRecord, now: datetime) -> str:
    if lease.holder is None or lease.since is None:
        return "nobody has control"
    since, idle = lease.since.astimezone(), _span(_passed(lease.last_used, now))
    return f"{label_of(lease.holder)} has control since {since:%d %b %H:%M}, idle for {idle}"


def _how_to_get(lease: LeaseRecord, client: Client) -> str:
    if client.staff:
        return "take_control takes it"
    if _is(client, lease.asked_by):
        return "you have asked for it, and get it when they grant it or do not answer"
    return "ask_control asks for it"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _no_later(moment: datetime | None, now: datetime) -> datetime | None:
    """Give a moment, or now if the clock was set back since."""
    return moment and min(moment, now)


def _passed(moment: datetime | None, now: datetime) -> timedelta:
    """Give how long ago a moment was; what never was, or is yet to come, was just now."""
    return max(now - moment, timedelta()) if moment else timedelta()


def _seconds(span: timedelta) -> float:
    return round(max(span.total_seconds(), 0.0), 1)


def _span(span: timedelta) -> str:
    """Give a span as people say it."""
    seconds = span.total_seconds()
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
