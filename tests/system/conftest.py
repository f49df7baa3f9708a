"""Fixtures for tests that run whole commands in a folder of their own."""

from pathlib import Path

import pytest

from tests.commands import Command, processes_of


@pytest.fixture
def temline(tmp_path):
    """Start `temline` commands in a folder of their own; whatever happens, they end."""
    commands = []

    def start(*arguments: str, folder: Path = tmp_path, **environ: str) -> Command:
        commands.append(Command(folder, arguments, environ))
        return commands[-1]

    yield start
    for command in commands:
        command.end()


@pytest.fixture
def left_over(tmp_path):
    """Give the processes that still work in the test's folder."""
    return lambda: processes_of(tmp_path)
