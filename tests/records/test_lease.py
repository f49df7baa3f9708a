"""The lease outlives its server, and of two servers that save it at once one is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from records import Holder, LeaseChangedError, LeaseRecord, LeaseStore

NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)
LEASE = LeaseRecord(
    holder=Holder("anna", "console", "s1"),
    since=NOON,
    last_used=NOON + timedelta(seconds=5.000001),
    locked_by="staff",
    asked_by=Holder("ben", "office", "s2"),
    asked_at=NOON + timedelta(minutes=1),
)


def test_a_lease_that_was_never_saved_is_free(store):
    assert store.load() == LeaseRecord(version=0)


def test_what_is_saved_is_loaded(store, engine):
    assert store.save(LEASE, 0) == replace(LEASE, version=1)
    assert LeaseStore(engine).load() == replace(LEASE, version=1)
    saved = store.save(replace(LEASE, locked_by=None, asked_by=None, asked_at=None), 1)
    assert (store.load(), saved.version) == (saved, 2)


def test_times_come_back_in_utc(store):
    there = timezone(timedelta(hours=9))
    store.save(replace(LEASE, since=NOON.astimezone(there)), 0)
    assert store.load().since.tzinfo == UTC
    assert store.load().since == NOON


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_an_older_or_newer_version_is_refused(store, expected):
    store.save(LEASE, 0)
    store.save(LEASE, 1)
    with pytest.raises(LeaseChangedError, match=f"expected version {expected}, found 2"):
        store.save(LeaseRecord(), expected)
    assert store.load() == replace(LEASE, version=2)


def test_a_cleared_lease_is_free_and_keeps_counting(store):
    store.save(LEASE, 0)
    assert store.clear(1) == store.load() == LeaseRecord(version=2)
    with pytest.raises(LeaseChangedError):
        store.save(LEASE, 1)  # by a server that missed that it was cleared
    with pytest.raises(LeaseChangedError):
        store.clear(1)


@pytest.mark.parametrize("version", [0, 1])
def test_of_many_that_save_at_once_one_succeeds(store, engine, version):
    if version:
        store.save(LeaseRecord(), 0)

    def take(number: int) -> bool:
        try:
            LeaseStore(engine).save(
                LeaseRecord(holder=Holder(str(number), "here", "s")), expected_version=version
            )
        except LeaseChangedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        took = list(pool.map(take, range(8)))
    assert sum(took) == 1
    assert store.load().holder.client == str(took.index(True))


def test_leases_of_other_names_are_apart(store, engine):
    store.save(LEASE, 0)
    assert LeaseStore(engine, "second").load() == LeaseRecord()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("holder.host", {"holder": Holder("anna", "con\0sole", "s1")}),
        ("asked_by.session", {"asked_by": Holder("anna", "console", "\ud800")}),
        ("locked_by", {"locked_by": "x" * 201}),
        ("since", {"since": datetime(2030, 5, 1)}),
    ],
)
def test_what_cannot_be_stored_is_refused(store, field, value):
    with pytest.raises(ValueError, match=rf"^{field}: "):
        store.save(replace(LEASE, **value), 0)
    assert store.load().version == 0
