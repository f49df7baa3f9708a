"""`temline replay`: writes to Tiled what it could not be given when it was acquired.

Nothing that was acquired is lost while Tiled is down; this is the second half of that promise.
"""

from __future__ import annotations

from pathlib import Path

from services.processes import tiled_access
from services.runtime import load_joined


def run_replay(site: Path | None) -> None:
    """Write the runs of the backup folder, and say how many there were."""
    from tiled.client import from_uri

    from callbacks.tiled_sink import replay

    config = load_joined(site).config
    backup = config.tiled.backup
    if not backup.is_dir() or not any(backup.iterdir()):
        print(f"Nothing to write: {backup}/ holds no runs.")
        return
    uri, key = tiled_access(config)
    written = replay(backup, from_uri(uri, api_key=key))
    print(f"Written to {uri}: {written}")
