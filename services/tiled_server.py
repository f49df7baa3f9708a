"""Serves the catalogue of runs: Tiled with SQLite, tables, arrays, and the camera's folder.

A process of its own (``python -m services.tiled_server SETTINGS.json``), with its key in the
environment.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from services.priority import stand_back
from services.runtime import SERVER_KEY_VARIABLE

STOP_TIMEOUT = 3


@dataclass(frozen=True)
class TiledSettings:
    """What the server needs to know, except its key.

    Attributes
    ----------
    host : str
        Address that it binds to.
    port : int
    folder : str
        Where catalogue, tables and arrays are kept.
    readable : tuple of str
        Folders with files of others (camera frames, mosaics) that runs refer to.
    """

    host: str
    port: int
    folder: str
    readable: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Address for clients."""
        return f"http://{self.host}:{self.port}"

    def write(self, path: Path) -> None:
        """Write the settings to a file, for the server's process."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


def server_config(settings: TiledSettings, key: str) -> dict[str, Any]:
    """Give Tiled's own configuration; it is what a ``config.yml`` of Tiled's would hold."""
    folder = Path(settings.folder).resolve()
    return {
        "catalog": {
            "uri": f"sqlite:///{folder / 'catalog.db'}",
            "writable_storage": [
                (folder / "arrays").as_uri(),
                f"sqlite:///{folder / 'tables.db'}",
            ],
            "readable_storage": [Path(place).resolve().as_uri() for place in settings.readable],
            "init_if_not_exists": True,
        },
        # Without it `run.documents()`, and databroker's `header.documents()`, are answered by 406.
        "media_types": {
            "BlueskyRun": {
                "application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"
            }
        },
        "authentication": {"single_user_api_key": key, "allow_anonymous_access": False},
        "uvicorn": {
            "host": settings.host,
            "port": settings.port,
            "timeout_graceful_shutdown": STOP_TIMEOUT,
        },
    }


def answers(uri: str, timeout: float = 1.0) -> bool:
    """Tell whether a Tiled server answers at an address."""
    try:
        with urlopen(f"{uri}/api/v1/", timeout=timeout) as response:  # noqa: S310
            return bool(response.status == 200 and b"api_version" in response.read())
    except (URLError, OSError, ValueError):
        return False


def serve(settings: TiledSettings, key: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn
    from tiled.config import Config
    from tiled.server.app import build_app_from_config

    for place in (settings.folder, f"{settings.folder}/arrays", *settings.readable):
        Path(place).mkdir(parents=True, exist_ok=True)
    config = Config.model_validate(server_config(settings, key))
    uvicorn.run(build_app_from_config(config), **config.uvicorn)


def main() -> None:
    """Serve with the settings of a file and the key of the environment."""
    try:
        key = os.environ[SERVER_KEY_VARIABLE]
    except KeyError:
        sys.exit(f"{SERVER_KEY_VARIABLE} is not set: the server would be open to everyone")
    stand_back(with_session=True)  # the launcher gives it one of its own
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    serve(TiledSettings(**settings), key)


if __name__ == "__main__":
    main()
