"""`temline up`: the processes of an instrument, until Ctrl-C.

It holds the lock of its folder, so that an instrument is never run twice.
"""

from __future__ import annotations

import threading
from pathlib import Path

from rich.console import Console

from config import Loaded
from services.environment import set_environment
from services.interrupts import Interrupts
from services.launcher import Launcher
from services.logs import set_up_logging
from services.processes import (
    services_of,
    supervisor_service,
    supervisor_uri,
    tiled_access,
    warn_of_full_disk,
)
from services.runtime import Instance


def run_up(loaded: Loaded, site: Path | None) -> None:
    """Start what the configuration asks for, and watch over it until a signal comes.

    Parameters
    ----------
    loaded : Loaded
    site : path, optional
        The file that it is from.

    Raises
    ------
    AlreadyRunningError, PortInUseError, LaunchError
    """
    config = loaded.config
    with (
        Interrupts() as interrupts,
        Instance(config.folder, "temline up", {}),
        Launcher(config.log.folder, before_stop=interrupts.shield) as launcher,
    ):
        try:
            set_up_logging(config.log.folder, "up", config.log.level, Console())
            warn_of_full_disk(config)
            set_environment(config)
            services = services_of(config)
            # It makes the hardware safe when it starts: it comes after what it talks to.
            last = (supervisor_service(config, site),) if config.supervisor.enabled else ()
            print(f"Starting {', '.join(one.name for one in services + last) or 'nothing'} …")
            for some in (services, last):
                launcher.start(*some)
                launcher.wait()
            uri, key = tiled_access(config)
            print(f"Process variables: {config.epics.prefix}* on port {config.epics.port}")
            print(f"Tiled:             {uri}/ui/?api_key={key}")
            if config.supervisor.enabled:
                prefix, port = config.epics.prefix, config.supervisor.port
                print(f"Commands:          {prefix}CMD:* on port {port}, {supervisor_uri(config)}")
            print(f"Logs:              {config.log.folder}/")
            print("Join with `temline console`. Ctrl-C stops everything.", flush=True)
            interrupts.check()
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nStopping …", flush=True)
