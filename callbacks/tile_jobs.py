"""What the executor's workers do: read and measure tiles, match them.

Plain functions of small arguments, so that threads, processes and a cluster can all run them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.frames import FrameReference, read_frame
from callbacks.references import ReferenceFiles, load_references
from processing.flatfield import flat_field
from processing.focus import focus_score
from processing.matching import Match, MatchTile, Side, match, prepare
from processing.statistics import tile_statistics

DARK = 0.1  # pixels below so much of the tile's 99th percentile are dark: no specimen is


@dataclass(frozen=True)
class ProcessorSettings:
    """How tiles are processed.

    Attributes
    ----------
    max_in_flight : int
        Frames that the workers hold at a time, at most; a few more than there are workers.
    frame_timeout : float
        How long a frame may take to appear in its file, in s.
    reference_timeout : float
        How long bright and dark averages may take to appear, in s.
    bit_depth : int or None
        Bits that the camera fills, for counting saturated pixels; None for all of its type.
    max_offset : int
        How far a neighbour may lie from its nominal place along each axis, in px.
    """

    max_in_flight: int = 4
    frame_timeout: float = 5.0
    reference_timeout: float = 60.0
    bit_depth: int | None = None
    max_offset: int = 255


@dataclass(frozen=True, eq=False)
class ProcessedTile:
    """What is kept of a tile once its frame has been let go.

    Attributes
    ----------
    figures : mapping of str to float
        Statistics and focus, as they are published.
    edges : mapping of str to MatchTile
        What matching needs, for each side that has a neighbour.
    shape : (int, int)
        (height, width) of the frame, in px.
    """

    figures: Mapping[str, float | bool]
    edges: Mapping[Side, MatchTile]
    shape: tuple[int, int]


def load_tile(
    reference: FrameReference, references: ReferenceFiles | None, timeout: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a frame; give it raw and flat-fielded (the same one if there are no references)."""
    raw = read_frame(reference, timeout)
    return raw, raw if references is None else flat_field(raw, load_references(references))


def process_tile(
    reference: FrameReference,
    references: ReferenceFiles | None,
    edges: Mapping[Side, float],
    settings: ProcessorSettings,
) -> ProcessedTile:
    """Read, flatten and measure a tile, and prepare it for matching.

    Parameters
    ----------
    reference : FrameReference
    references : ReferenceFiles or None
    edges : mapping of {"top", "bottom", "left", "right"} to float
        The sides that have a neighbour, and how far the two may overlap, in px.
    settings : ProcessorSettings

    Returns
    -------
    ProcessedTile

    Raises
    ------
    FrameError
        If the frame cannot be read.
    ValueError, TypeError
        If the frame does not fit the references, or is too small, or of a type that no camera has.
    """
    started = time.monotonic()
    raw, flat = load_tile(reference, references, settings.frame_timeout)
    figures = measure(raw, flat, settings.bit_depth)
    whole = prepare(flat)
    kept = {side: whole.edge(side, width) for side, width in edges.items()}
    figures["seconds"] = time.monotonic() - started
    return ProcessedTile(figures, kept, (int(flat.shape[0]), int(flat.shape[1])))


def measure(
    raw: NDArray[Any], flat: NDArray[Any], bit_depth: int | None
) -> dict[str, float | bool]:
    """Give the figures of a tile, named as they are published.

    Parameters
    ----------
    raw, flat : ndarray of uint8 or uint16, shape (height, width)
        The frame before and after the flat field. Saturated pixels are counted in the raw frame,
        all else in the flat one.
    bit_depth : int or None
        Bits that the camera fills; None for all of its type.
    """
    statistics = tile_statistics(flat)
    focus = focus_score(flat)
    full = 2 ** (bit_depth or 8 * raw.dtype.itemsize) - 1
    return {
        "mean": statistics.mean,
        "std": statistics.std,
        "minimum": float(statistics.minimum),
        "maximum": float(statistics.maximum),
        "p01": statistics.p01,
        "p50": statistics.p50,
        "p99": statistics.p99,
        "saturated": float(np.count_nonzero(raw >= full)) / raw.size,
        "dark": float(np.count_nonzero(flat < DARK * statistics.p99)) / flat.size,
        "focus": focus.score,
        "astigmatism": focus.astigmatism,
        "astigmatism_angle": focus.astigmatism_angle,
        "texture": focus.texture,
        "textured": focus.textured,
    }


def match_tiles(
    a: MatchTile, b: MatchTile, nominal: tuple[float, float], settings: ProcessorSettings
) -> Match:
    """Measure where tile b lies from tile a, near its nominal offset (rows, columns) in px."""
    return match(a, b, nominal, max_offset=settings.max_offset)
