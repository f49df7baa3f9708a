"""What a plan worker works with: RunEngine, devices, processing, registry, put together.

As the console has them, without a person: what cannot be reached is reported and waited for.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from config import Config
from services.engine import (
    add_baseline,
    connect_devices,
    make_devices,
    make_pipeline,
    make_run_engine,
)
from services.processes import tiled_access
from services.supervisor.plan_list import Resources
from services.supervisor.registry import plan_registry
from services.supervisor.suspenders import add_suspenders

log = logging.getLogger(__name__)
CLOSE_TIMEOUT = 20.0  # s


class WorkerParts:
    """The parts of a plan worker.

    The EPICS environment is that of the server, who has set it.

    Parameters
    ----------
    config : Config

    Attributes
    ----------
    RE : RunEngine
    registry : Registry
    resources : Resources
    pipeline : Pipeline
    problems : dict
        What could not be reached yet, and why, by the device's name.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        # No handler of Ctrl-C: the server stops plans.
        self.RE = make_run_engine(config, context_managers=[], call_returns_result=True)
        self.pipeline = make_pipeline(config)
        self.pipeline.subscribe(self.RE)
        self.registry = plan_registry(config)
        devices = make_devices(config)
        self.resources = Resources(
            config=config,
            devices=devices,
            gate=self.pipeline.quality,
            catalog=partial(open_catalog, config),
        )
        self.problems = dict.fromkeys(devices, "it was not looked for yet")
        self.reach()

    def reach(self) -> None:
        """Look for the devices; what is there for the first time is used and watched from now on.

        Those that were there before are looked for as well: of an IOC that has just come back not
        all may be connected yet.
        """
        devices = self.resources.devices
        problems = connect_devices(devices, self.config.epics.connection_timeout)
        for name, problem in problems.items():
            log.warning("%s cannot be reached: %s", name, problem)
        found = self.problems.keys() - problems.keys()
        self.problems = {name: problems[name] for name in self.problems.keys() & problems.keys()}
        if found:
            self.RE.preprocessors.clear()
            reached = devices.keys() - self.problems.keys()
            add_baseline(self.RE, self.config, {name: devices[name] for name in reached})
            add_suspenders(self.RE, self.config, {name: devices[name] for name in found})

    def close(self) -> None:
        """Finish the processing of what was acquired, and write it."""
        self.pipeline.close(CLOSE_TIMEOUT)


def open_catalog(config: Config) -> Any:
    """Give the catalogue of runs, with those that a worker before this one could not finish."""
    from tiled.client import from_uri

    from callbacks.tiled_sink import kept_runs, replay

    uri, key = tiled_access(config)
    client = from_uri(uri, api_key=key)
    if kept_runs(config.tiled.backup):
        log.info("kept runs: %s", replay(config.tiled.backup, client))
    return client
