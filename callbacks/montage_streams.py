"""The streams of a processed montage: which data keys their events have.

What the chain measures comes from its steps; all else stands here.
"""

from __future__ import annotations

from typing import Any

from callbacks.documents import boolean, integer, number, text
from processing.chain import Chain, Figure

PLAN_NAME = "process_montage"

TILE: dict[str, Any] = {
    "tile_index": integer(),
    "tile_row": integer(),
    "tile_column": integer(),
    "tile_attempt": integer(),
    "tile_x": number("um"),
    "tile_y": number("um"),
    "frame_number": integer(),
}
OUTCOME: dict[str, Any] = {
    "error": text(),
    "verdict": text(),
    "faults": text(),
    "severity": number(),
    "confidence": number(),
    "seconds": number("s"),  # of a worker's time
    "latency": number("s"),  # since the tile was taken
    "behind": integer(),  # tiles that are taken and not published yet
}
FAULT: dict[str, Any] = {
    "tile_index": integer(),
    "tile_attempt": integer(),
    "fault": text(),
    "severity": number(),
    "confidence": number(),
    "scope": text(),
    "value": number(),
    "limit": number(),
}
MATCH: dict[str, Any] = {
    "tile_a": integer(),
    "tile_b": integer(),
    "attempt_a": integer(),
    "attempt_b": integer(),
    "drow": number("px"),
    "dcol": number("px"),
    "nominal_drow": number("px"),
    "nominal_dcol": number("px"),
    "sd": number("px"),
    "sd_row": number("px"),
    "sd_col": number("px"),
    "rotation": number("deg"),
    "quality": number(),
    "correlation": number(),
    "patches": integer(),
    "good": boolean(),
    "reason": text(),
}
POSITION: dict[str, Any] = {
    "tile_index": integer(),
    "row_px": number("px"),
    "column_px": number("px"),
    "x": number("um"),
    "y": number("um"),
    "sd_row": number("px"),
    "sd_col": number("px"),
    "residual_px": number("px"),
    "component": integer(),
    "placed_by": text(),
}
AFFINE: dict[str, Any] = {
    "tile_index": integer(),
    "row_by_row": number("", 6),
    "row_by_column": number("", 6),
    "row_px": number("px"),
    "column_by_row": number("", 6),
    "column_by_column": number("", 6),
    "column_px": number("px"),
}
LENS: dict[str, Any] = {
    "order_row": integer(),
    "order_column": integer(),
    "shift_row": number("px", 4),
    "shift_column": number("px", 4),
}
OUTLIER: dict[str, Any] = {
    "tile_a": integer(),
    "tile_b": integer(),
    "residual_px": number("px"),
}
MINIMAP: dict[str, Any] = {
    "minimap_x": number("um"),
    "minimap_y": number("um"),
    "minimap_pixel_size": number("nm"),
    "minimap_angle": number("deg"),
}
VERDICT: dict[str, Any] = {
    "tile_index": integer(),
    "verdict": text(),
    "faults": text(),
}
MOSAIC: dict[str, Any] = {
    "mosaic_x": number("um"),
    "mosaic_y": number("um"),
    "mosaic_pixel_size": number("nm"),
    "mosaic_angle": number("deg"),
}
MONTAGE: dict[str, Any] = {
    "tiles": integer(),
    "tiles_failed": integer(),
    "tiles_retaken": integer(),
    "matches": integer(),
    "matches_good": integer(),
    "matches_outliers": integer(),
    "matches_rejected_share": number(),
    "tiles_placed_by_match": integer(),
    "tiles_unplaced": integer(),
    "residual_px_median": number("px"),
    "residual_px_p95": number("px"),
    "residual_px_max": number("px"),
    "closing_px_p95": number("px"),
    "closing_px_max": number("px"),
    "model": text(),
    "held_out_px": number("px"),
    "held_out_px_translations": number("px"),
    "offset_px_median": number("px"),
    "mosaic_rows": integer("px"),
    "mosaic_columns": integer("px"),
    "mosaic_seconds": number("s"),
    "flat_fielded": boolean(),
    "lens_corrected": boolean(),
    "go": boolean(),
    "reasons": text(),
}


def describe(figure: Figure) -> dict[str, Any]:
    """Make the data key of a figure that a step measures."""
    if figure.kind == "boolean":
        return boolean()
    if figure.kind == "integer":
        return integer(figure.units)
    return number(figure.units, figure.precision)


def montage_streams(chain: Chain) -> dict[str, dict[str, Any]]:
    """Give the data keys of each stream, for tiles that go through a chain."""
    figures = {name: describe(figure) for name, figure in chain.figures.items()}
    return {
        "minimap": MINIMAP,
        "tile": {**TILE, **figures, **OUTCOME},
        "fault": FAULT,
        "match": MATCH,
        "position": POSITION,
        "affine": AFFINE,
        "lens": LENS,
        "outlier": OUTLIER,
        "verdict": VERDICT,
        "mosaic": MOSAIC,
        "montage": MONTAGE,
    }


def no_figures(chain: Chain) -> dict[str, float | int | bool]:
    """Give what stands for the figures of a tile that could not be processed."""
    nothing = {"number": float("nan"), "integer": 0, "boolean": False}
    return {name: nothing[figure.kind] for name, figure in chain.figures.items()}
