"""Switches for the faults of a simulated instrument.

They are PVs, so that a test or a trainer can break the instrument from outside.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ioc.drivers.protocol import FaultInjector
from ioc.microscope import pv_name
from ioc.records import Group, Pair

POLL_PERIOD = 0.1  # s


class Faults(Group):
    """The faults that a driver offers.

    PVs, for each fault X: Fault:X (Off, On), on until it is switched off, and Fault:X:Count: for
    the next so many events, counted down as they happen (each with _RBV).

    Parameters
    ----------
    prefix : str
    injector : FaultInjector
    """

    def __init__(self, prefix: str, injector: FaultInjector) -> None:
        super().__init__(prefix)
        self._injector = injector
        self._pairs: dict[str, tuple[Pair, Pair]] = {}
        for name in injector.names:
            pv = f"Fault:{pv_name(name)}"
            switch = self.pair(pv, "Off", choices=("Off", "On"), apply=partial(self._switch, name))
            count = self.pair(f"{pv}:Count", 0, limits=(0, 1000), apply=partial(self._count, name))
            self._pairs[name] = switch, count

    async def _switch(self, name: str, wanted: Any) -> None:
        self._injector.set(name, wanted in ("On", 1))

    async def _count(self, name: str, wanted: int) -> None:
        self._injector.set(name, wanted > 0, wanted or None)

    async def run(self) -> None:
        """Show which faults are on, and how often they will still happen."""
        while True:
            active = self._injector.active()
            for name, (switch, count) in self._pairs.items():
                await switch.show("On" if name in active else "Off")
                await count.show(active.get(name) or 0)
            await asyncio.sleep(POLL_PERIOD)
