"""Runs the supervising server: ``python -m services.supervisor [SITE FILE]``.

The EPICS environment is set before anything reads it, with the port of its own PVs.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config import ConfigError
from services.environment import set_environment
from services.errors import PlainError
from services.logs import FORMAT
from services.runtime import load_joined
from services.supervisor.uniqueness import refuse_second_server


def main(site: Path | None) -> int:
    """Serve, and give the exit status."""
    try:
        config = load_joined(site).config
        logging.basicConfig(level=config.log.level, format=FORMAT)
        for chatty in ("caproto", "alembic", "uvicorn", "numexpr", "httpx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        set_environment(config, server_port=config.supervisor.port)
        with ThreadPoolExecutor(1) as threads:  # the search takes a second, as the imports do
            search = threads.submit(refuse_second_server, f"{config.epics.prefix}CMD:")
            from services.supervisor.server import serve
        search.result()
        serve(config, site)
    except (ConfigError, PlainError) as error:
        print(f"temline supervisor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
