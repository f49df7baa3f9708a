"""A driver whose stage stops short of where it is sent, as worn ones do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ioc.drivers import simulated
from ioc.drivers.protocol import Instrument, StageDriver


class _Short:
    """Another stage, which goes to another place than it is told."""

    def __init__(self, inner: StageDriver, short: Mapping[str, float]) -> None:
        self._inner, self._short = inner, short

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def move(self, targets: Mapping[str, float]) -> None:
        self._inner.move({axis: to - self._short.get(axis, 0.0) for axis, to in targets.items()})


def connect(options: dict[str, Any]) -> Instrument:
    """Make a simulated instrument whose axes stop short by `short`, in µm."""
    short = options.pop("short")
    inner = simulated.connect(options)
    return replace(inner, stage=_Short(inner.stage, short))
