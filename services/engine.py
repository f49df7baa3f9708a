"""Puts a RunEngine, devices and callbacks together, as the configuration says.

The demo, the console's start-up files and later the supervising server all build theirs here.
"""

from __future__ import annotations

import getpass
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from callbacks.folders import DataFolders
from callbacks.lens import LensProcessor, LensSettings
from callbacks.quality import QualityGate
from callbacks.references import ReferenceProcessor
from callbacks.tile_jobs import ProcessorSettings
from callbacks.tile_processor import TileProcessor
from callbacks.tiled_sink import TiledSink
from callbacks.warm_up import warm_up
from config import Config
from ioc.memory import keep_memory
from processing.chain import StepError, StepSettings, make_chain
from processing.lens import LensLimits
from processing.quality import Thresholds
from services.errors import PlainError
from services.processes import tiled_access
from services.workers import make_executor

log = logging.getLogger(__name__)

Consumer = Callable[[str, dict[str, Any]], Any]


class DeviceError(PlainError):
    """A device of the configuration that cannot be made or reached; the message says why."""


def make_run_engine(config: Config, **options: Any) -> RunEngine:
    """Make a RunEngine whose start documents say which instrument and version took the run.

    Parameters
    ----------
    config : Config
    **options
        For `bluesky.RunEngine`.
    """
    metadata = {
        "instrument": config.instrument,
        "operator": config.operator or getpass.getuser(),
        "temline_version": version("temline"),
    }
    return RunEngine(metadata, **options)


def make_devices(config: Config) -> dict[str, Any]:
    """Make the devices of the configuration; they connect by themselves, in the background.

    The EPICS environment must be set before (`set_environment`).

    Returns
    -------
    dict
        Devices by name.

    Raises
    ------
    DeviceError
        If a class cannot be imported or does not take its options.
    """
    return {name: _make_device(config, name) for name in config.devices}


def _make_device(config: Config, name: str) -> Any:
    path = config.devices[name].class_
    module, _, class_name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise DeviceError(
            f"devices.{name}.class is {path}, which cannot be imported: {error}"
        ) from error
    try:
        return kind(config.device_prefix(name), name=name, **config.device_options(name))
    except TypeError as error:
        raise DeviceError(f"devices.{name}: {path} does not take these options: {error}") from error


def connect_devices(devices: Mapping[str, Any], timeout: float) -> dict[str, str]:
    """Wait until devices are connected.

    Parameters
    ----------
    devices : mapping
        By name.
    timeout : float
        For all of them together, in s.

    Returns
    -------
    dict
        What could not be reached, and why, by the device's name; empty if all is well.
    """
    from devices import NotConnectedError, connect

    composed = {name: one for name, one in devices.items() if hasattr(one, "component_names")}
    problems: dict[str, str] = {}
    try:
        connect(composed.values(), timeout)
    except NotConnectedError as error:
        problems |= {name: _missing(error.missing[name]) for name in error.missing}
    for name in devices.keys() - composed.keys():  # bare signals
        try:
            devices[name].wait_for_connection(timeout=timeout)
        except TimeoutError as error:
            problems[name] = str(error)
    return problems


def _missing(pvs: list[str], shown: int = 3) -> str:
    more = f" and {len(pvs) - shown} more" if len(pvs) > shown else ""
    return f"no answer from {', '.join(pvs[:shown])}{more}"


def find_part(devices: Mapping[str, Any], dotted: str) -> Any:
    """Give a device, or a part of one, by its dotted name.

    Raises
    ------
    DeviceError
        If there is none.
    """
    first, *parts = dotted.split(".")
    try:
        part = devices[first]
        for name in parts:
            part = getattr(part, name)
    except (KeyError, AttributeError):
        raise DeviceError(
            f"baseline names {dotted}, which is no part of the devices {', '.join(devices)}"
        ) from None
    return part


def add_baseline(RE: RunEngine, config: Config, devices: Mapping[str, Any]) -> list[str]:
    """Have the baseline devices read at both ends of each run.

    Parameters
    ----------
    RE : RunEngine
    config : Config
    devices : mapping
        Those that are connected: one that cannot be reached would fail every run.

    Returns
    -------
    list of str
        What is read.
    """
    names = [dotted for dotted in config.baseline if dotted.partition(".")[0] in devices]
    parts = [find_part(devices, dotted) for dotted in names]
    RE.preprocessors.append(SupplementalData(baseline=parts))
    return names


@dataclass
class Pipeline:
    """The consumers of documents: processing, quality, and the way to Tiled.

    Raw documents go to `raw`; each consumer in `processed` gets the documents of processed runs.

    Attributes
    ----------
    sink : TiledSink
    tiles : TileProcessor
    references : ReferenceProcessor
    lens : LensProcessor
    quality : QualityGate
        The gate for plans.
    """

    sink: TiledSink
    tiles: TileProcessor
    references: ReferenceProcessor
    lens: LensProcessor
    quality: QualityGate
    executor: Executor
    processed: list[Consumer] = field(default_factory=list)

    def subscribe(self, RE: RunEngine) -> None:
        """Give this pipeline the documents of a RunEngine."""
        for consumer in (self.sink, self.references, self.lens, self.tiles):
            RE.subscribe(consumer)

    def close(self, timeout: float) -> bool:
        """Finish the processing and the writing of what was acquired; whether all was processed."""
        finished = self.tiles.close(timeout)
        self.executor.shutdown(cancel_futures=True)
        self.sink.close(timeout)
        return finished


def make_pipeline(config: Config, processed: Iterable[Consumer] = ()) -> Pipeline:
    """Make the consumers of documents.

    Parameters
    ----------
    config : Config
    processed : iterable of callable
        Further consumers of the documents of processed runs, like a live table.
    """
    keep_memory()
    uri, key = tiled_access(config)
    folders = DataFolders(config.data.folder.absolute())
    sink = TiledSink(uri, key, config.tiled.backup.absolute())
    thresholds = Thresholds(**config.quality.model_dump())
    gate = QualityGate(thresholds, behind=lambda: tiles.tiles_behind)
    consumers: list[Consumer] = [gate, sink, *processed]

    def publish(name: str, doc: dict[str, Any]) -> None:
        for consumer in consumers:
            consumer(name, doc)

    settings = processor_settings(config)
    executor = make_executor(config, partial(warm_up, settings))
    references = ReferenceProcessor(executor, publish, folders.references)
    lens = LensProcessor(
        executor, publish, folders.lenses, folders.references, lens_settings(config)
    )
    tiles = TileProcessor(executor, publish, settings, folders, thresholds)
    return Pipeline(sink, tiles, references, lens, gate, executor, consumers)


def processor_settings(config: Config) -> ProcessorSettings:
    """Give the settings of tile processing.

    Raises
    ------
    PlainError
        If the steps make no chain.
    """
    settings = config.processing
    steps = tuple(
        StepSettings(name, tuple(options.items()))
        for step in settings.steps
        for name, options in ({step: {}} if isinstance(step, str) else step).items()
    )
    try:
        make_chain(steps)
    except StepError as error:
        raise PlainError(f"processing.steps: {error}") from error
    return ProcessorSettings(
        max_in_flight=settings.workers + 2,
        max_offset=settings.max_offset,
        steps=steps,
        write=None if settings.write is None else tuple(settings.write),
        freedom=settings.freedom,
    )


def lens_settings(config: Config) -> LensSettings:
    """Give the settings of lens corrections."""
    limits = LensLimits(**config.lens.model_dump(exclude={"degree"}))
    return LensSettings(config.lens.degree, limits, processor_settings(config))
