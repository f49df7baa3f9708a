"""A driver whose calls can be made to hang from outside, as those of a vendor do at times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ioc.drivers import replay
from ioc.drivers.protocol import Instrument


class _Hanging:
    """Another object, whose named methods do not return as long as a file exists."""

    def __init__(self, inner: Any, flag: Path, methods: tuple[str, ...]) -> None:
        self._inner, self._flag, self._methods = inner, flag, methods

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._methods:
            return value

        def call(*args: Any) -> Any:
            while self._flag.exists():
                time.sleep(0.02)
            return value(*args)

        call.__name__ = name
        return call


def connect(options: dict[str, Any]) -> Instrument:
    """Make a replay instrument that hangs while `flags` has a file column, stage or camera."""
    flags = Path(options.pop("flags"))
    inner = replay.connect(options)
    return Instrument(
        _Hanging(inner.column, flags / "column", ("read", "write", "make_safe")),
        _Hanging(inner.stage, flags / "stage", ("read", "move", "stop")),
        _Hanging(inner.camera, flags / "camera", ("expose", "read_frame")),
    )
