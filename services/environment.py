"""Sets the EPICS variables of this process: the only place that does.

The Channel Access libraries read them once, when they are imported; so this comes first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

from config.model import Config

READERS = ("epics", "ophyd", "caproto")


class TooLateError(RuntimeError):
    """Channel Access was imported before its variables were set."""


def epics_variables(config: Config, server_port: int | None = None) -> dict[str, str]:
    """Give the variables that servers and clients of this configuration need.

    Clients search only where they are told to, and servers bind only to the interfaces of the
    configuration: Channel Access has no authentication.

    Parameters
    ----------
    config : Config
    server_port : int, optional
        Of a server in this process; that of the IOC, if it is left out.
    """
    epics = config.epics
    hosts = [one for one in epics.interfaces if one != "0.0.0.0"] or ["127.0.0.1"]  # noqa: S104
    ports = (epics.port, config.supervisor.port)
    own = [f"{host}:{port}" for host in hosts for port in ports]
    return {
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_ADDR_LIST": " ".join((*own, *epics.addresses)),
        "EPICS_CA_SERVER_PORT": str(server_port or epics.port),
        "EPICS_CAS_INTF_ADDR_LIST": " ".join(epics.interfaces),
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
    }


def set_environment(
    config: Config,
    environ: MutableMapping[str, str] = os.environ,
    server_port: int | None = None,
) -> dict[str, str]:
    """Set the EPICS variables of this process and, by inheritance, of those it starts.

    Parameters
    ----------
    config : Config
    environ : mutable mapping
    server_port : int, optional
        As for `epics_variables`.

    Returns
    -------
    dict
        What was set.

    Raises
    ------
    TooLateError
        If a Channel Access library was imported already under other settings.
    """
    variables = epics_variables(config, server_port)
    differing = [name for name, value in variables.items() if environ.get(name) != value]
    imported = [name for name in READERS if name in sys.modules]
    if differing and imported:
        raise TooLateError(
            f"{', '.join(imported)} was imported before {', '.join(differing)} could be set: "
            "call services.environment.set_environment first"
        )
    environ.update(variables)
    return variables
