"""Montages of the virtual microscope, and the command line as a user calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from benchmarks._montages import KnownMontage, take_montage
from services.cli import main

SIDE, OVERLAP = 512, 0.15


@pytest.fixture(scope="session")
def montage() -> KnownMontage:
    """3 × 4 tiles of the kind world."""
    return take_montage("kind", rows=3, columns=4, side=SIDE, overlap=OVERLAP)


@pytest.fixture(scope="session")
def real_montage() -> KnownMontage:
    """5 × 5 tiles with the faults of a real microscope."""
    return take_montage("real", rows=5, columns=5, side=SIDE, overlap=OVERLAP)


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


@pytest.fixture
def temline(monkeypatch, capsys) -> Callable[..., Said]:
    """Run a command of `temline` in this process."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["temline", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Said(printed.out, printed.err, code)

    return call
