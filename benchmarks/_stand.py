"""A whole instrument for benchmarks: IOC and Tiled as processes, RunEngine and processing here.

What `temline up` and a console make, in a folder of its own that goes away with it. A process can
have one stand only, because Channel Access reads its addresses once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config, load
from config.loader import SIMULATOR
from services.environment import set_environment
from services.launcher import Launcher
from services.processes import services_of
from services.runtime import free_ports

MOST_BUSY = 120.0  # s that processing and Tiled may take after the last tile


@dataclass(frozen=True)
class Stand:
    """An instrument that is up.

    Attributes
    ----------
    config : Config
    RE : bluesky.RunEngine
    devices : mapping of str to device
    pipeline : services.engine.Pipeline
    truth : Path
        The simulator's log of frames: when each was exposed.
    """

    config: Config
    RE: Any
    devices: Mapping[str, Any]
    pipeline: Any
    truth: Path


@contextmanager
def stand(options: Mapping[str, Any]) -> Iterator[Stand]:
    """Start everything over a virtual microscope, and stop it in the end.

    Parameters
    ----------
    options : mapping
        Of the simulated driver; in the kind world unless they name one.
    """
    with tempfile.TemporaryDirectory(prefix="temline-stand-") as name:
        os.chdir(name)  # where relative paths of the configuration begin
        truth = Path(name) / "truth.jsonl"
        epics_port, tiled_port = free_ports(2)
        config = load(
            SIMULATOR,
            overrides={
                "epics": {"port": epics_port},
                "tiled": {"port": tiled_port, "uri": None},
                "ioc": {
                    "driver": "simulated",
                    "options": {"world": "kind", **options, "truth_log": str(truth)},
                },
                "log": {"level": "WARNING"},
            },
            overrides_from="the benchmark",
        ).config
        set_environment(config)
        with Launcher(config.log.folder) as launcher:
            launcher.start(*services_of(config))
            yield from _with_engine(config, launcher, truth)
        os.chdir("/")


def _with_engine(config: Config, launcher: Launcher, truth: Path) -> Iterator[Stand]:
    # Late, since what they import reads the EPICS environment.
    from services.engine import (
        add_baseline,
        connect_devices,
        make_devices,
        make_pipeline,
        make_run_engine,
    )

    RE = make_run_engine(config, context_managers=[], call_returns_result=True)
    launcher.wait()
    devices = make_devices(config)
    if problems := connect_devices(devices, config.ioc.start_timeout):
        raise RuntimeError(f"not connected: {problems}")
    add_baseline(RE, config, devices)
    pipeline = make_pipeline(config)
    pipeline.subscribe(RE)
    try:
        yield Stand(config, RE, devices, pipeline, truth)
    finally:
        pipeline.close(MOST_BUSY)
