"""Opening a database: its schema, its durability, and plain words when it cannot be used."""

from __future__ import annotations

import socket
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from records import DatabaseError, RequestQueue, database, open_database
from records.database import LOCK_TIMEOUT, VERSION_TABLE, migrations
from records.models import Base


@pytest.fixture
def opened(empty_url):
    engine = open_database(empty_url)
    yield engine
    engine.dispose()


def message_of(url: str) -> str:
    """Open what cannot be opened; gives the message."""
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# The schema


def test_the_migrations_make_what_the_models_say(opened):
    with opened.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_is_opened_again_with_what_is_in_it(opened, empty_url, new):
    RequestQueue(opened).add(new("a"))
    again = open_database(empty_url)
    assert [request.id for request in RequestQueue(again).queued()] == ["a"]
    again.dispose()


def test_the_migrations_go_back_and_forth(opened, empty_url):
    with opened.begin() as connection:
        command.downgrade(migrations(connection), "base")
    assert inspect(opened).get_table_names() == [VERSION_TABLE]
    open_database(empty_url).dispose()
    assert set(inspect(opened).get_table_names()) == {VERSION_TABLE, *Base.metadata.tables}


def test_a_migration_that_fails_leaves_nothing(empty_url, monkeypatch):
    monkeypatch.setattr(database.command, "upgrade", _upgrade_and_fail(command.upgrade))
    with pytest.raises(ZeroDivisionError):
        open_database(empty_url)
    engine = create_engine(database._parse(empty_url))
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def _upgrade_and_fail(upgrade):
    def fail(*arguments):
        upgrade(*arguments)
        raise ZeroDivisionError

    return fail


def test_a_newer_database_is_refused_and_left_alone(opened, empty_url):
    with opened.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'f00d'"))
    message = message_of(empty_url)
    assert "expected schema 0001 or older, found f00d" in message
    assert "install the temline that wrote it" in message
    with opened.begin() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == "f00d"


def test_threads_open_an_empty_database_at_once(empty_url):
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(open_database, [empty_url] * 4))
    for engine in engines:
        engine.dispose()


# Durability, and waits


def test_sqlite_keeps_commits_and_relations(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/made/on/the/way/x.sqlite")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found.pop("busy_timeout") == 1000 * LOCK_TIMEOUT
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}, "2 is FULL"
    engine.dispose()


def test_a_change_waits_for_another_and_no_longer_than_it_may(empty_url, new, monkeypatch):
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.3)
    engine = open_database(empty_url)
    queue, other = RequestQueue(engine), RequestQueue(engine)
    queue.add(new("a"))
    with queue._change():
        assert other.count() == 1, "reading waits for nothing"
        began = time.monotonic()
        with pytest.raises(DatabaseError, match="lock"):
            other.claim("b")
        assert 0.2 < time.monotonic() - began < 2
    assert other.claim("b").id == "a"
    engine.dispose()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_server_that_was_restarted_is_found_again(engine, queue, new):
    queue.add(new("a"))
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.connect() as connection:
        queue.count()  # which leaves a second connection in the pool
        assert connection.scalar(text(f"SELECT bool_and(pg_terminate_backend(pid, 5000)) {others}"))
    assert queue.count() == 1


# Plain words


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("nonsense", "found what is no URL at all"),
        ("postgresql://anna:secret@host:port/x", "found what is no URL at all"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("mysql://anna:secret@host/x", "found one of 'mysql'"),
    ],
)
def test_an_url_of_something_else_is_refused(url, found):
    assert message_of(url).startswith("expected a database like sqlite:///")
    assert found in message_of(url)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    message = message_of(f"sqlite:///{path}")
    assert str(path) in message
    assert "file is not a database" in message
    assert path.read_text() == "not a database, " * 100


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert "check that its folder can be written" in message_of(f"sqlite:///{tmp_path}/file/x/y")


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = message_of(f"postgresql://anna:secret@127.0.0.1:{port}/x?sslpassword=secret2")
    assert f"postgresql+psycopg://anna:***@127.0.0.1:{port}/x" in message
    assert "refused" in message
    assert "check that its server runs" in message


def test_a_server_that_does_not_answer_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert "timeout" in message_of(f"postgresql://127.0.0.1:{port}/x?connect_timeout=2")
        assert time.monotonic() - began < 5


def test_a_database_that_does_not_exist_is_told(server):
    message = message_of(server.replace("/postgres?", "/nowhere?"))
    assert 'database "nowhere" does not exist' in message


def test_a_missing_driver_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'temline[postgresql]'" in message_of("postgresql://anna:secret@host/x")


def test_a_file_that_is_damaged_later_is_told(tmp_path):
    path = tmp_path / "x.sqlite"
    engine = open_database(f"sqlite:///{path}")
    queue = RequestQueue(engine)
    engine.dispose()
    path.write_bytes(b"damaged" * 10_000)
    with pytest.raises(DatabaseError, match="cannot be used: file is not a database"):
        queue.count()
    engine.dispose()
