"""Names that plans write into documents and others read there.

Callbacks may not import plans, so these names are a contract: change none of them.
"""

from __future__ import annotations

from typing import Final

MONTAGE: Final = "montage"
FLY_MONTAGE: Final = "fly_montage"
SNAP: Final = "snap"
FOCUS_SERIES: Final = "focus_series"
AUTOFOCUS: Final = "autofocus"
BRIGHTFIELD: Final = "brightfield"
DARKFIELD: Final = "darkfield"
LENS_CORRECTION: Final = "lens_correction"

PRIMARY: Final = "primary"
"""Stream of what a plan is for: one event a tile, or a frame."""

FOCUS: Final = "focus"
"""Stream of the frames of autofocus within a montage."""

AUTOFOCUS_FIT: Final = "autofocus"
"""Stream of what each autofocus found: one event each."""

MISSING: Final = "missing"
"""Stream of the tiles that a flight gave up, each with its reason; and the name of their device."""

FOCUS_SURFACE: Final = "focus_surface"
"""Stream of the focus over a region, fitted to some of them, and name of the soft device with it:
one event, keys ``focus_surface_shape``, …"""

TILE: Final = "tile"
"""Name of the soft device with the tile's place: keys ``tile_index``, ``tile_row``, …"""

AUTOFOCUS_DEVICE: Final = "autofocus"
"""Name of the soft device with what autofocus found: keys ``autofocus_defocus``, …"""
