"""The IOC as a command: `python -m ioc`.

Settings come from a JSON file, flags go over them, the port is EPICS_CA_SERVER_PORT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from dataclasses import replace
from typing import Any

from ioc.drivers.protocol import connect
from ioc.server import GROUPS, LOOPBACK, IocSettings, build, database, serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ioc",
        description="Serve a microscope, its stage and its camera over EPICS Channel Access.",
        epilog="example: EPICS_CA_SERVER_PORT=5064 python -m ioc --data-root /tmp/frames",
    )
    parser.add_argument("--settings", metavar="FILE", help="JSON file of settings")
    parser.add_argument("--prefix", help="what all PVs begin with (TEM:)")
    parser.add_argument("--driver", help="simulated, replay or package.module:factory")
    parser.add_argument("--driver-options", metavar="JSON", type=json.loads)
    parser.add_argument("--groups", nargs="+", choices=GROUPS)
    parser.add_argument("--interfaces", nargs="+", help=f"addresses to listen on ({LOOPBACK})")
    parser.add_argument("--data-root", metavar="FOLDER", help="where frames are written below")
    parser.add_argument("--list-pvs", action="store_true", help="print the PVs and exit")
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING"))
    return parser


def _settings(arguments: argparse.Namespace) -> IocSettings:
    settings = IocSettings.load(arguments.settings) if arguments.settings else IocSettings()
    names = ("prefix", "driver", "driver_options", "groups", "interfaces", "data_root")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


async def _list(settings: IocSettings) -> None:
    instrument = connect(settings.driver, settings.driver_options)
    try:
        names = database(build(settings, instrument))
    finally:
        instrument.close()
    sys.stdout.write("\n".join(names) + "\n")


def _shorten_refusal(record: logging.LogRecord) -> bool:
    """Log a refused write in one line: it is the client's affair, and the client is told."""
    if str(record.msg).startswith("Invalid write request") and record.exc_info:
        record.msg, record.args = "refused: %s", (record.exc_info[1],)
        record.exc_info, record.levelname = None, "INFO"
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_shorten_refusal)
    logging.getLogger("caproto.ctx").setLevel(logging.WARNING)
    try:
        settings = _settings(arguments)
        if arguments.list_pvs:
            asyncio.run(_list(settings))
        else:
            serve(settings)
    except (ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"ioc: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    # All is closed by now; a vendor's threads may still be busy, and must not keep the IOC up.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
