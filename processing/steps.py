"""The built-in steps of the chain: each takes a tile to a function of its own module and back.

What they measure has its units here; how it is measured stands with the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from processing.chain import ArraySpec, Figure, Step, TileState
from processing.drift import directed_blur
from processing.equalise import CLIP, GRID, equalise, grey_levels
from processing.flatfield import flat_field
from processing.focus import SIDES, focus
from processing.geometry import FrameGeometry
from processing.light import find_light
from processing.masks import blank, find_mask
from processing.matching import prepare_edges
from processing.noise import signal_to_noise
from processing.pyramid import level_shapes, pyramid, reduce_to, scaled_shape
from processing.spectrum import tile_spectrum
from processing.statistics import (
    HISTOGRAM_BINS,
    MAX_BITS,
    VALUES,
    count_extremes,
    statistics_of_counts,
    value_counts,
)

DARK = 0.1  # pixels below so much of the tile's 99th percentile are dark: no specimen is
SHOWN = "level_2"  # the level of the pyramid that pictures are made of


class Flip(Step):
    """Turn tiles the way the stage lies, if the camera mirrors them; references with them."""

    corrects = True

    def geometry(self, geometry: FrameGeometry) -> FrameGeometry:
        """Give the geometry without flips."""
        return replace(geometry, flip_columns=False, flip_rows=False)

    def __call__(self, tile: TileState) -> None:
        """Flip the image, the raw counts and the references."""
        rows, columns = tile.geometry.flip_rows, tile.geometry.flip_columns
        if not (rows or columns):
            return
        turned = tile.raw[:: -1 if rows else 1, :: -1 if columns else 1]
        tile.raw = tile.image = tile.buffers.get("flip", turned.shape, np.uint16)
        np.copyto(tile.image, turned)
        if tile.references is not None:
            tile.references = tile.references.flipped(rows, columns)
        if tile.mask is not None:
            tile.mask = np.ascontiguousarray(
                tile.mask[:: -1 if rows else 1, :: -1 if columns else 1]
            )


class Mask(Step):
    """Find where the frame holds no signal, unless that is given, and write 0 there.

    It looks at the raw frame, in which a filled area still has one value; what references know to
    be without light counts too.
    """

    corrects = True
    figures: Mapping[str, Figure] = {"masked": Figure()}

    def __call__(self, tile: TileState) -> None:
        """Find the mask, and write it into the image."""
        if tile.mask is None:
            tile.mask = find_mask(tile.raw)
        unlit = None if tile.references is None else tile.references.mask
        if unlit is not None:
            tile.mask = unlit if tile.mask is None else tile.mask | unlit
        tile.figures["masked"] = 0.0
        if tile.mask is None:
            return
        tile.figures["masked"] = np.count_nonzero(tile.mask) / tile.mask.size
        if tile.image is tile.raw:
            tile.image = tile.buffers.get("masked", tile.raw.shape, np.uint16)
            np.copyto(tile.image, tile.raw)
        if tile.counts is not None:
            masked = np.bincount(tile.image[tile.mask], minlength=VALUES)
            tile.counts -= masked.astype(np.uint32)
        blank(tile.image, tile.mask)


class FlatField(Step):
    """Take dark level, gain and bad pixels out, if there are references.

    Parameters
    ----------
    max_age : float
        From which age on references are called stale, in h.
    """

    corrects = True
    figures: Mapping[str, Figure] = {
        "reference_age": Figure("h", 1),
        "reference_stale": Figure(kind="boolean"),
    }

    def __init__(self, max_age: float = 24.0) -> None:
        if not max_age > 0:
            raise ValueError(f"max_age is {max_age} h; it must be positive")
        self.max_age = max_age

    def __call__(self, tile: TileState) -> None:
        """Correct the image."""
        tile.figures["reference_age"] = tile.reference_age
        tile.figures["reference_stale"] = tile.reference_age > self.max_age
        if tile.references is not None:
            out = tile.buffers.get("flat", tile.raw.shape, np.uint16)
            tile.counts = tile.buffers.get("counts", (VALUES,), np.uint32)
            tile.image = flat_field(tile.raw, tile.references, out, tile.counts)


class Statistics(Step):
    """Measure the pixel values.

    Saturated and dead pixels are counted in the raw frame, all else in the flat-fielded one.

    Parameters
    ----------
    bit_depth : int, optional
        Bits that the camera fills; by default all of its type.
    """

    makes = ("counts",)
    figures: Mapping[str, Figure] = {
        **dict.fromkeys(("mean", "std"), Figure("counts", 1)),
        **dict.fromkeys(("minimum", "maximum", "p01", "p50", "p99"), Figure("counts", 0)),
        "saturated": Figure(precision=5),
        "dead": Figure(precision=5),
        "dark": Figure(precision=5),
    }

    def __init__(self, bit_depth: int | None = None) -> None:
        if bit_depth is not None and not 8 <= bit_depth <= 16:
            raise ValueError(f"bit_depth is {bit_depth}; it must lie between 8 and 16")
        self.bit_depth = bit_depth

    def arrays(self, shape: tuple[int, int]) -> Mapping[str, ArraySpec]:
        """Give the histogram."""
        return {"histogram": ArraySpec((HISTOGRAM_BINS,), "<u4")}

    def __call__(self, tile: TileState) -> None:
        """Count and measure."""
        if tile.counts is None:
            tile.counts = value_counts(tile.image, tile.mask).astype(np.uint32)
        bits = self.bit_depth or MAX_BITS[tile.raw.dtype]
        found = statistics_of_counts(tile.counts, bits)
        saturated, dead = count_extremes(tile.raw, 2**bits - 1, tile.mask)
        dark = tile.counts[: int(np.ceil(DARK * found.p99))].sum()
        tile.figures |= {
            "mean": found.mean,
            "std": found.std,
            "minimum": float(found.minimum),
            "maximum": float(found.maximum),
            "p01": found.p01,
            "p50": found.p50,
            "p99": found.p99,
            "saturated": saturated / found.pixels,
            "dead": dead / found.pixels,
            "dark": float(dark) / found.pixels,
        }
        tile.arrays["histogram"] = found.histogram.astype(np.uint32)


class Lens(Step):
    """Take the projector lens's distortion out, if the montage names a lens correction."""

    corrects = True

    def __call__(self, tile: TileState) -> None:
        """Correct the image."""
        if tile.lens is not None:
            out = tile.buffers.get("lens", tile.image.shape, np.uint16)
            tile.lens.correct(tile.image, out)
            tile.image = out
            if tile.mask is not None:
                # Whatever is mixed with pixels that hold nothing.
                tile.mask = tile.lens.correct(255 * tile.mask.view(np.uint8)) > 0
                blank(tile.image, tile.mask)


class Focus(Step):
    """Measure focus, blur along one direction, and signal over noise, from one spectrum.

    It goes before the lens correction, which resamples, and so takes from the noise floor.
    """

    figures: Mapping[str, Figure] = {
        "focus": Figure(),
        "focus_sd": Figure(),
        **{f"focus_{side}": Figure() for side in SIDES},
        "coarse": Figure(precision=0),
        **{f"coarse_{side}": Figure(precision=0) for side in SIDES},
        "astigmatism": Figure(),
        "astigmatism_angle": Figure("deg", 1),
        "drift_px": Figure("px", 2),
        "drift_angle": Figure("deg", 1),
        "motion": Figure(precision=2),
        "snr": Figure(precision=2),
        "texture": Figure(precision=1),
        "textured_share": Figure(precision=2),
        "textured": Figure(kind="boolean"),
    }

    def __call__(self, tile: TileState) -> None:
        """Measure the whole tile."""
        spectrum = tile_spectrum(tile.image, tile.mask)
        found, blur = focus(spectrum), directed_blur(spectrum)
        tile.figures |= {
            "focus": found.score,
            "focus_sd": found.sd,
            **{f"focus_{side}": score for side, score in found.sides.items()},
            "coarse": found.coarse,
            **{f"coarse_{side}": power for side, power in found.coarse_sides.items()},
            "astigmatism": blur.strength,
            "astigmatism_angle": blur.sharpest,
            "drift_px": blur.length,
            "drift_angle": blur.angle,
            "motion": blur.motion,
            "snr": signal_to_noise(spectrum),
            "texture": found.texture,
            "textured_share": found.share,
            "textured": found.textured,
        }


class Light(Step):
    """Find what of a tile is dark: outside the beam, or behind something opaque."""

    figures: Mapping[str, Figure] = {"beam_edge": Figure(), "obstructed": Figure()}

    def __call__(self, tile: TileState) -> None:
        """Look at the whole tile."""
        found = find_light(tile.image, tile.mask)
        tile.figures |= {"beam_edge": found.beam_edge, "obstructed": found.obstructed}


class Edges(Step):
    """Keep of each side that has a neighbour what matching needs."""

    makes = ("edges",)

    def __call__(self, tile: TileState) -> None:
        """Prepare the edges."""
        tile.edges |= prepare_edges(tile.image, tile.widths, tile.mask)


class Pyramid(Step):
    """Make reduced copies, each half the one before, by 2 × 2 means.

    Parameters
    ----------
    levels : int
        How many.
    """

    def __init__(self, levels: int = 3) -> None:
        if not 1 <= levels <= 8:
            raise ValueError(f"levels is {levels}; it must lie between 1 and 8")
        self.levels = levels

    def arrays(self, shape: tuple[int, int]) -> Mapping[str, ArraySpec]:
        """Give ``level_1``, ``level_2`` and so on."""
        return {
            f"level_{number}": ArraySpec(size, "<u2")
            for number, size in enumerate(level_shapes(shape, self.levels), start=1)
        }

    def __call__(self, tile: TileState) -> None:
        """Make all levels."""
        shape = (tile.image.shape[0], tile.image.shape[1])
        out = {
            name: tile.buffers.get(name, spec.shape, spec.dtype)
            for name, spec in self.arrays(shape).items()
        }
        pyramid(tile.image, list(out.values()))
        tile.arrays |= out


class Equalise(Step):
    """Make the picture that is shown: a quarter as high and wide, in 256 levels, even in contrast.

    Every picture of a tile is smaller still, and the whole tile would cost sixteen times as much.

    Parameters
    ----------
    clip : float
        How much contrast is raised at most.
    grid : int
        Regions along each axis that are equalised on their own.
    """

    needs = ("p01", "p99", SHOWN)
    makes = ("equalised",)

    def __init__(self, clip: float = CLIP, grid: int = GRID) -> None:
        if not (clip > 0 and grid >= 1):
            raise ValueError(f"clip is {clip} and grid {grid}; both must be positive")
        self.clip, self.grid = clip, grid

    def __call__(self, tile: TileState) -> None:
        """Scale and equalise."""
        level = tile.arrays[SHOWN]
        low, high = tile.figures["p01"], tile.figures["p99"]
        # Room for what is darker and brighter than nearly all; equalising closes what stays empty.
        margin = max((high - low) / 4, 1.0)
        out = tile.buffers.get("equalised", level.shape, np.uint8)
        grey_levels(level, low - margin, high + margin, out)
        grid = min(self.grid, *level.shape)
        tile.equalised = equalise(out, self.clip, grid, out)


class Picture(Step):
    """Make a small picture for overviews.

    Parameters
    ----------
    name : str
        Of the array.
    scale : float
        Relative to the tile.
    """

    needs = ("equalised",)

    def __init__(self, name: str, scale: float) -> None:
        if not 0 < scale <= 0.25:
            raise ValueError(f"scale is {scale}; it must lie between 0 and 0.25")
        self.name, self.scale = name, scale

    def arrays(self, shape: tuple[int, int]) -> Mapping[str, ArraySpec]:
        """Give the picture."""
        return {self.name: ArraySpec(scaled_shape(shape, self.scale), "|u1")}

    def __call__(self, tile: TileState) -> None:
        """Reduce what is shown."""
        if tile.equalised is None:
            raise ValueError(f"{self.name} needs the equalised tile")
        spec = self.arrays((tile.image.shape[0], tile.image.shape[1]))[self.name]
        out = tile.buffers.get(self.name, spec.shape, spec.dtype)
        tile.arrays[self.name] = reduce_to(tile.equalised, out)


preview = partial(Picture, "preview", scale=0.10)
mini = partial(Picture, "mini", scale=0.03)
