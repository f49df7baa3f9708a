"""Fixtures of the tests of records: a queue, in SQLite and in PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from records import LeaseStore, NewRequest, RequestQueue, open_database
from records.models import Base
from tests.records.postgresql import running_server

numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run PostgreSQL; gives the URL of a database of it."""
    with running_server() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database it is; every test that uses one is run with each."""
    return request.param


@pytest.fixture(scope="session")
def make_empty(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """Make empty databases; gives their URLs."""
    if kind == "sqlite":
        yield lambda: f"sqlite:///{tmp_path_factory.mktemp('records')}/records.sqlite"
        return
    server = request.getfixturevalue("server")
    admin = create_engine(server, isolation_level="AUTOCOMMIT")

    def make() -> str:
        name = f"records{next(numbers)}"
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return make_url(server).set(database=name).render_as_string(hide_password=False)

    yield make
    admin.dispose()


@pytest.fixture
def empty_url(make_empty: Callable[[], str]) -> str:
    """The URL of a database that has nothing in it yet."""
    return make_empty()


@pytest.fixture(scope="session")
def _opened(make_empty: Callable[[], str]) -> Iterator[Engine]:
    engine = open_database(make_empty())
    yield engine
    engine.dispose()


@pytest.fixture
def engine(_opened: Engine) -> Engine:
    """A database as `open_database` leaves it; emptied, which is faster than a new one."""
    with _opened.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    return _opened


@pytest.fixture
def url(engine: Engine, kind: str) -> str:
    """The URL of the same database, for processes that may have to wait for many others."""
    url = engine.url if kind == "postgresql" else engine.url.set(query={"timeout": "60"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def queue(engine: Engine) -> RequestQueue:
    return RequestQueue(engine)


@pytest.fixture
def store(engine: Engine) -> LeaseStore:
    return LeaseStore(engine)


@pytest.fixture
def new() -> Callable[..., NewRequest]:
    """Make requests: ``new("a", priority=3)``."""

    def make(id: str, arguments: dict | None = None, **fields) -> NewRequest:
        fields = {"function": "montage", "client": "anna", "host": "console"} | fields
        return NewRequest(id, arguments=arguments or {}, **fields)

    return make
