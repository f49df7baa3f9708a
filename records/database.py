"""Opens the database of the records: brought to the newest schema, every wait with an end.

All that differs between SQLite and PostgreSQL stands here.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy import exc as errors
from sqlalchemy.orm import Session

LOCK_TIMEOUT = 5  # s, to wait for another process's change
IDLE_TIMEOUT = 10  # s, that a process may stop amid a change, before PostgreSQL takes it back
MIGRATION_TIMEOUT = 60  # s, to wait for another process that brings the schema up to date
# libpq's: to connect, to learn that the server is gone (s), and that what was sent is lost (ms).
POSTGRESQL_WAITS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
MIGRATION_LOCK = 7_301_953_204  # a number of our own among PostgreSQL's advisory locks
# Not Alembic's usual name: Tiled's catalogue, which may share a PostgreSQL database, has that.
VERSION_TABLE = "temline_schema"
MIGRATIONS = Path(__file__).with_name("migrations")
READS = "temline_reads"  # of a connection: it changes nothing
ADVICE = {
    "sqlite": "check that its folder can be written, has space, and that nothing else holds it",
    "postgresql": "check that its server runs, can be reached, and knows this user and database",
}

_migrating = threading.Lock()  # Alembic keeps what it works on in globals


class DatabaseError(Exception):
    """The database cannot be used; the message says what to do, and never has the password."""


def open_database(url: str) -> Engine:
    """Open a database, make it if it is a file that is not there, and bring its schema up to date.

    Several processes may do so at once. Dispose of the engine at the end.

    Parameters
    ----------
    url : str
        Like ``sqlite:///folder/records.sqlite`` or ``postgresql://user:password@host/name``.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    DatabaseError
        If it cannot be reached or used, or is of a newer schema than this code knows.
    """
    parsed = _parse(url)
    engine = _make_engine(parsed)
    try:
        with _migrating, _plain_errors(parsed, errors.DBAPIError, errors.TimeoutError, OSError):
            _prepare_sqlite(engine) if is_sqlite(parsed) else _prepare_postgresql(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Session]:
    """Do all that is done in it, or nothing; a writing one on SQLite excludes all others."""
    mistakes_of_ours = (errors.IntegrityError, errors.DataError, errors.ProgrammingError)
    with (
        _plain_errors(engine.url, errors.DBAPIError, errors.TimeoutError, but=mistakes_of_ours),
        Session(engine.execution_options(**{READS: not write})) as session,
        session.begin(),
    ):
        yield session


def migrations(connection: Connection) -> Config:
    """Give what Alembic's commands want: ``command.downgrade(migrations(connection), "base")``."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def shown(url: URL) -> str:
    """Give an URL as it may be shown: without passwords."""
    secret = {key: "***" for key in url.query if "password" in key}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def is_sqlite(url: URL) -> bool:
    """Whether it names a file of SQLite."""
    return url.get_backend_name() == "sqlite"


def _parse(url: str) -> URL:
    """Read an URL, and refuse what is none of ours."""
    expected = "expected a database like sqlite:///folder/records.sqlite or postgresql://host/name"
    try:
        parsed = make_url(url)
    except (errors.ArgumentError, ValueError):  # whose messages may have the password
        raise DatabaseError(f"{expected}; found what is no URL at all") from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database in {None, "", ":memory:"}:
            raise DatabaseError(f"{expected}; found none that outlives the process: name a file")
        case "sqlite":
            return parsed
        case "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise DatabaseError(f"{expected}; found one of {other!r}")


def _make_engine(url: URL) -> Engine:
    """Make the engine, with what each new connection needs."""
    waits = {"timeout": LOCK_TIMEOUT} if is_sqlite(url) else POSTGRESQL_WAITS
    try:
        engine = create_engine(
            url,
            connect_args={key: value for key, value in waits.items() if key not in url.query},
            json_serializer=partial(json.dumps, ensure_ascii=False),
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"{shown(url)} needs the package psycopg, which is not installed: "
            "pip install 'temline[postgresql]'"
        ) from error
    if is_sqlite(url):
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_on_sqlite)
    else:
        event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_sqlite(connection: Any, _: object) -> None:
    """Leave transactions to `_begin_on_sqlite`, and have readers and a writer not wait."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")  # of the file, which remembers it
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # why: docs/decisions/requests-in-sql.md


def _begin_on_sqlite(connection: Connection) -> None:
    """Begin; what will write takes the lock at once, for it may not get it later."""
    reads = connection.get_execution_options().get(READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _set_up_postgresql(connection: Any, _: object) -> None:
    """Give each wait an end."""
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}s'")
    connection.commit()


def _prepare_sqlite(engine: Engine) -> None:
    """Make the file and its folder, and bring the schema up to date; one process at a time."""
    folder = Path(str(engine.url.database)).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), engine.begin() as connection:
        _migrate(connection)


def _prepare_postgresql(engine: Engine) -> None:
    """Bring the schema up to date; one process at a time."""
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_TIMEOUT}s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        _migrate(connection)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which goes with the process.

    SQLite's own locks fail at once, and do not wait, where two processes switch to the WAL.
    """
    deadline = time.monotonic() + MIGRATION_TIMEOUT
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process holds {folder} for {MIGRATION_TIMEOUT} s")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Take a lock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _migrate(connection: Connection) -> None:
    """Go through the steps that the database lacks, unless it has one that is not known here."""
    config = migrations(connection)
    steps = ScriptDirectory.from_config(config)
    known = {step.revision for step in steps.walk_revisions()}
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if unknown := set(context.get_current_heads()) - known:
        raise DatabaseError(
            f"the database {shown(connection.engine.url)} is of a newer temline: expected schema "
            f"{steps.get_current_head()} or older, found {', '.join(sorted(unknown))}; "
            "install the temline that wrote it, or name another database"
        )
    command.upgrade(config, "head")


@contextmanager
def _plain_errors(
    url: URL, *kinds: type[Exception], but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Say in plain words what the driver or the system has against a database."""
    try:
        yield
    except but:
        raise
    except kinds as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise DatabaseError(
            f"the database {shown(url)} cannot be used: {reason}; {ADVICE[url.get_backend_name()]}"
        ) from error
