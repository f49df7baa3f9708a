"""The processes of an instrument: what each is called with, and how it shows that it is ready.

Settings go to a process in a JSON file, keys in its environment.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from config import Config
from ioc.drivers.specimens import BUILT_IN, NEUROPIL
from services.errors import PlainError
from services.launcher import Service
from services.runtime import (
    CLIENT_KEY_VARIABLE,
    SERVER_KEY_VARIABLE,
    require_free,
    tiled_key,
)
from services.tiled_server import TiledSettings, answers

log = logging.getLogger(__name__)

GIGA = 1e9
# A process variable of each group of the IOC, to ask whether it answers.
IOC_PROBES = {
    "scope": "SCOPE:Model_RBV",
    "stage": "STAGE:Moving_RBV",
    "camera": "CAM:cam1:Acquire_RBV",
    "sequencer": "SEQ:State_RBV",
    "faults": "SIM:Fault:BeamDrop",
}


class SpecimenError(PlainError):
    """The virtual microscope cannot have what it is to have as its specimen."""


def tiled_settings(config: Config) -> TiledSettings:
    """Give the settings of our own Tiled server."""
    tiled = config.tiled
    folder, data = str(tiled.folder.absolute()), str(config.data.folder.absolute())
    return TiledSettings(tiled.host, tiled.port, folder, (data,))


def tiled_access(config: Config) -> tuple[str, str]:
    """Give the address and the key of the Tiled server to use, our own or a shared one."""
    uri = config.tiled.uri or tiled_settings(config).uri
    return uri, tiled_key(config.folder, CLIENT_KEY_VARIABLE)


def tiled_service(config: Config) -> Service:
    """Describe our own Tiled server.

    Raises
    ------
    PortInUseError
        If its port is taken.
    """
    settings = tiled_settings(config)
    require_free(settings.host, settings.port, "tiled.port")
    file = config.folder / "tiled.json"
    settings.write(file)
    return Service(
        name="tiled",
        module="services.tiled_server",
        arguments=(str(file.absolute()),),
        environment={SERVER_KEY_VARIABLE: tiled_key(config.folder, SERVER_KEY_VARIABLE)},
        ready=lambda: answers(settings.uri),
        start_timeout=config.tiled.start_timeout,
    )


def ioc_settings(config: Config) -> dict[str, Any]:
    """Give the settings of our own IOC, as `ioc.server.IocSettings` names them."""
    return {
        "prefix": config.epics.prefix,
        "driver": config.ioc.driver,
        "driver_options": config.ioc.options,
        "groups": config.ioc.groups,
        "interfaces": config.epics.interfaces,
        "data_root": str(config.data.folder.absolute()),
    }


def require_specimen(config: Config) -> None:
    """Refuse an image that the virtual microscope cannot have as its specimen.

    It is read here once more than it need be, so that nothing is started that would fail by it.

    Raises
    ------
    SpecimenError
        If it cannot be read, has nothing to see, or does not fit a tile.
    """
    options = config.ioc.options
    if config.ioc.driver != "simulated" or options.get("specimen", NEUROPIL) in BUILT_IN:
        return
    from ioc.drivers.simulated import check

    try:
        check(options)
    except ValueError as error:
        raise SpecimenError(f"ioc.options: {error}") from error


def write_ioc_settings(config: Config) -> Path:
    """Write the settings of our own IOC to the file that its process reads; give its path.

    Raises
    ------
    PortInUseError
        If its port is taken.
    SpecimenError
        See `require_specimen`.
    """
    require_specimen(config)
    for interface in config.epics.interfaces:
        require_free(interface, config.epics.port, "epics.port")
    file = (config.folder / "ioc.json").absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ioc_settings(config), indent=2), encoding="utf-8")
    return file


def ioc_service(config: Config) -> Service:
    """Describe our own IOC. The EPICS environment must be set (`set_environment`).

    Raises
    ------
    PortInUseError, SpecimenError
        See `write_ioc_settings`.
    """
    file = write_ioc_settings(config)
    probe = config.epics.prefix + IOC_PROBES[config.ioc.groups[0]]
    return Service(
        name="ioc",
        module="ioc",
        arguments=("--settings", str(file)),
        ready=lambda: _pv_answers(probe),
        start_timeout=config.ioc.start_timeout,
    )


def _pv_answers(name: str) -> bool:
    # caproto's own client: it leaves no library state behind, as pyepics would.
    from caproto.sync.client import read

    read(name, timeout=1.0, repeater=False)
    return True


def supervisor_service(config: Config, site: Path | None) -> Service:
    """Describe the supervising server. It starts beside the IOC, and waits for that by itself.

    Raises
    ------
    PortInUseError
        If one of its ports is taken.
    """
    settings = config.supervisor
    for interface in config.epics.interfaces:
        require_free(interface, settings.port, "supervisor.port")
    require_free(settings.http_host, settings.http_port, "supervisor.http_port")
    return Service(
        name="supervisor",
        module="services.supervisor",
        arguments=() if site is None else (str(site.absolute()),),
        ready=lambda: supervisor_answers(config),
        start_timeout=settings.start_timeout,
    )


def supervisor_uri(config: Config) -> str:
    """Give the address of the supervising server's HTTP interface."""
    return f"http://{config.supervisor.http_host}:{config.supervisor.http_port}"


def supervisor_answers(config: Config) -> bool:
    """Tell whether the supervising server serves."""
    try:
        with urlopen(f"{supervisor_uri(config)}/health", timeout=1.0) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def services_of(config: Config) -> tuple[Service, ...]:
    """Describe the processes that this configuration asks for."""
    services = []
    if config.ioc.driver is not None:
        services.append(ioc_service(config))
    if config.tiled.uri is None:
        services.append(tiled_service(config))
    return tuple(services)


def warn_of_full_disk(config: Config) -> None:
    """Log a warning if the disk of the data has less room than the configuration asks for."""
    folder = config.data.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / GIGA
    if free < config.data.minimum_free_gb:
        log.warning(
            "%s has %.1f GB free; data.minimum_free_gb is %g: make room, or set data.folder to "
            "another disk",
            folder,
            free,
            config.data.minimum_free_gb,
        )
