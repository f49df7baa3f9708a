"""A process that flies a montage and is there to be killed: ``python -m … PREFIX DATA DOCUMENTS``.

It writes each document to a file as it comes, as a store of documents does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bluesky import RunEngine

from devices import Camera, Microscope, Sequencer, Stage, connect
from plans import fly_montage

ROI = {"centre": (0, 0), "width": 6.0, "height": 1.3}  # 3 rows of some tiles


def main(prefix: str, data: str, documents: str) -> None:
    """Fly, and write what is told."""
    camera = Camera(f"{prefix}CAM:", name="camera", write_path_template=data)
    stage = Stage(f"{prefix}STAGE:", name="stage")
    scope = Microscope(f"{prefix}SCOPE:", name="scope")
    sequencer = Sequencer(f"{prefix}SEQ:", name="sequencer")
    connect([camera, stage, scope, sequencer], timeout=30)
    with Path(documents).open("w", encoding="utf-8") as file:

        def write(name: str, document: dict[str, Any]) -> None:
            file.write(json.dumps([name, document]) + "\n")
            file.flush()

        RE = RunEngine(context_managers=[])
        RE.subscribe(write)
        RE(fly_montage(sequencer, camera, stage, scope, ROI, settle=0, exposure=0.1))


if __name__ == "__main__":
    main(*sys.argv[1:])
