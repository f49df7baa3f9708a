"""`temline replay`: writes to Tiled what it could not be given when it was acquired.

Nothing that was acquired is lost while Tiled is down; this is the second half of that promise.
"""

from __future__ import annotations

from pathlib import Path

from services.errors import PlainError
from services.processes import tiled_access
from services.runtime import load_joined
from services.tiled_server import answers


class NotAllWrittenError(PlainError):
    """Some runs could not be written, or Tiled does not answer."""


def run_replay(site: Path | None) -> None:
    """Write the kept runs, and say what became of each.

    Raises
    ------
    NotAllWrittenError
        If Tiled does not answer, or did not take a run; those stay where they are.
    """
    from callbacks.tiled_sink import kept_runs, replay

    config = load_joined(site).config
    backup = config.tiled.backup
    if not kept_runs(backup):
        print(f"Nothing to write: {backup}/ holds no runs.")
        return
    uri, key = tiled_access(config)
    if not answers(uri):
        raise NotAllWrittenError(
            f"Tiled does not answer at {uri}: start it with `temline tiled`, then try again. "
            f"{len(kept_runs(backup))} runs wait in {backup}/."
        )
    from tiled.client import from_uri

    report = replay(backup, from_uri(uri, api_key=key))
    print(f"To {uri}: {report}")
    if report.failed:
        raise NotAllWrittenError(f"{len(report.failed)} runs stay in {backup}/")
