"""Options that several commands of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The site's YAML file; without it, TEMLINE_CONFIG, or else the virtual microscope.",
    ),
]
