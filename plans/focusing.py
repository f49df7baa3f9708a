"""When a montage focuses, and which focus each of its tiles has.

An autofocus that fails is recorded and ends nothing: the last good focus stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator
from ophyd import Component as Cpt
from ophyd import Signal

from devices import FocusFit
from devices.tile import SoftReadings
from plans import names
from plans.exposures import declare, record
from plans.focus import AutofocusSettings, Focus, FocusError, find_focus, limits
from processing.geometry import (
    FocusSurface,
    FocusSurfaceError,
    Grid,
    GridTile,
    fit_focus_surface,
    measuring_tiles,
    short_route,
)
from processing.geometry.focus_surface import Kind

_log = logging.getLogger(__name__)

_TO_FIT: dict[str | int, tuple[Kind, ...]] = {
    "plane": ("plane",),
    "surface": ("surface", "plane"),
}
"""What is fitted by policy; the second if the points are too few for the first."""


class SurfaceFit(SoftReadings):
    """The focus over a region as it was fitted; event keys ``focus_surface_shape`` and so on.

    Attributes
    ----------
    shape : str
        What was fitted, plane or surface; empty if the points determine none.
    reason : str
        Why it is not what was asked for, or empty.
    points : int
        Autofocuses that succeeded.
    left_out : str
        Tiles whose autofocus contradicts all others, by index.
    rms : float
        Of the residuals of the others, in µm.
    origin_x, origin_y : float
        Stage (x, y) from where on places are counted, in µm.
    defocus, slope_x, slope_y, bend_xx, bend_xy, bend_yy : float
        There; what it changes by along x and y; and the terms of second order. Without a fit
        `defocus` is the last good one, for all tiles.
    """

    units: ClassVar = {
        **dict.fromkeys(("rms", "origin_x", "origin_y", "defocus"), "um"),
        **dict.fromkeys(("slope_x", "slope_y"), "um/um"),
        **dict.fromkeys(("bend_xx", "bend_xy", "bend_yy"), "1/um"),
    }

    shape = Cpt(Signal, value="")
    reason = Cpt(Signal, value="")
    points = Cpt(Signal, value=0)
    left_out = Cpt(Signal, value="")
    rms = Cpt(Signal, value=0.0)
    origin_x = Cpt(Signal, value=0.0)
    origin_y = Cpt(Signal, value=0.0)
    defocus = Cpt(Signal, value=0.0)
    slope_x = Cpt(Signal, value=0.0)
    slope_y = Cpt(Signal, value=0.0)
    bend_xx = Cpt(Signal, value=0.0)
    bend_xy = Cpt(Signal, value=0.0)
    bend_yy = Cpt(Signal, value=0.0)


_COEFFICIENTS = ("defocus", "slope_x", "slope_y", "bend_xx", "bend_xy", "bend_yy")


class FocusedTiles(Protocol):
    """What takes the tiles that are focused; see `plans.tiles.TileTaker`."""

    camera: Any
    scope: Any
    grid: Grid
    defocus: Callable[[GridTile], float] | None

    @property
    def readables(self) -> list[Any]:
        """What is read with each frame."""

    def declare(self, stream: str) -> MsgGenerator[None]:
        """Describe a stream of frames."""

    def place(self, tile: GridTile) -> dict[Any, Any]:
        """Give where the devices have to be for a frame of a tile."""


@dataclass
class Focusing:
    """The focus of a montage on its way.

    Attributes
    ----------
    tiles : FocusedTiles
        What takes the tiles.
    policy : str or int
        As the argument `focus` of `montage`.
    settings : AutofocusSettings
    defocus : float
        The last good one, in µm.
    surface : FocusSurface or None
        The focus over the region, once it was measured.
    offset : float
        What autofocus found since above it, in µm.
    fit : devices.FocusFit
        Soft device with what the last autofocus found; recorded.
    surface_fit : SurfaceFit
        Soft device with the surface; recorded.
    """

    tiles: FocusedTiles
    policy: str | int
    settings: AutofocusSettings
    defocus: float
    surface: FocusSurface | None = None
    offset: float = 0.0
    fit: FocusFit = field(default_factory=lambda: FocusFit(name=names.AUTOFOCUS_DEVICE))
    surface_fit: SurfaceFit = field(default_factory=lambda: SurfaceFit(name=names.FOCUS_SURFACE))

    @property
    def measures(self) -> bool:
        """Whether the focus of all tiles is measured before the first."""
        return self.policy in _TO_FIT

    def declare(self) -> MsgGenerator[None]:
        """Describe the streams."""
        yield from self.tiles.declare(names.FOCUS)
        yield from declare(names.AUTOFOCUS_FIT, self.fit)
        if self.measures:
            yield from declare(names.FOCUS_SURFACE, self.surface_fit)

    def defocus_at(self, tile: GridTile) -> float:
        """Give the focus of a tile, in µm: by the surface, or the last good one without it."""
        if self.surface is None:
            return self.defocus
        return float(self.surface(tile.x, tile.y)) + self.offset

    def measure(self) -> MsgGenerator[None]:
        """Autofocus at some tiles, spread over the grid, and fit; from then on each has its focus.

        Without enough of them that succeed, the last good focus stays for all tiles.
        """
        kinds = _TO_FIT[self.policy]
        tiles = measuring_tiles(self.tiles.grid, kinds[0])
        first = self.tiles.grid.tiles[0]
        ends = (first.x, first.y)
        found: list[tuple[GridTile, Focus]] = []
        for index in short_route([(tile.x, tile.y) for tile in tiles], ends, ends):
            focus = yield from self.at(tiles[index])
            if focus is not None:
                found.append((tiles[index], focus))
        self.surface, reason = self._fit_surface(found, kinds)
        yield from self._record_surface([tile for tile, _ in found], reason)
        if self.surface is not None:
            self.tiles.defocus = self.defocus_at

    def is_due(self, tile: GridTile, first: bool) -> bool:
        """Tell whether the policy wants an autofocus at a tile.

        Parameters
        ----------
        tile : GridTile
        first : bool
            Whether it is the first of its row, or of its row of blocks.
        """
        if isinstance(self.policy, int):
            return tile.index % self.policy == 0
        return (self.policy == "once" and tile.index == 0) or (self.policy == "row" and first)

    def at(self, tile: GridTile) -> MsgGenerator[Focus | None]:
        """Autofocus at a tile; give what was found, or None if it failed."""
        before = self.defocus_at(tile)
        try:
            found = yield from find_focus(
                self.tiles.camera,
                self.tiles.scope,
                self.fit,
                self.settings,
                centre=before,
                stream=names.FOCUS,
                readables=self.tiles.readables,
                place=self.tiles.place(tile),
                tile=tile.index,
            )
        except FocusError as error:
            _log.warning("tile %d: %s", tile.index, error)
            return None
        self.defocus = found.defocus
        if self.surface is not None:
            self.offset += found.defocus - before
        return found

    def _fit_surface(
        self, found: Sequence[tuple[GridTile, Focus]], kinds: Sequence[Kind]
    ) -> tuple[FocusSurface | None, str]:
        """Fit the first kind that the points determine; say why it is not the first."""
        places = [(tile.x, tile.y) for tile, _ in found]
        defocus = [focus.defocus for _, focus in found]
        weights = [focus.quality for _, focus in found]
        problems = []
        for kind in kinds:
            try:
                surface = fit_focus_surface(places, defocus, weights, kind=kind)
                self._check_reach(surface)
            except FocusSurfaceError as error:
                _log.warning("%s", error)
                problems.append(str(error))
            else:
                return surface, "; ".join(problems)
        _log.warning("all tiles have the last good focus: %g µm of defocus", self.defocus)
        return None, "; ".join(problems)

    def _check_reach(self, surface: FocusSurface) -> None:
        low, high = limits(self.tiles.scope)
        tiles = self.tiles.grid.tiles
        values = surface([tile.x for tile in tiles], [tile.y for tile in tiles])
        if values.min() < low or values.max() > high:
            raise FocusSurfaceError(
                f"the {surface.kind} through the measured points goes from {values.min():g} to "
                f"{values.max():g} µm of defocus; it can be set from {low:g} to {high:g} µm"
            )

    def _record_surface(self, tiles: Sequence[GridTile], reason: str) -> MsgGenerator[None]:
        values: dict[str, object] = {
            "reason": reason,
            "points": len(tiles),
            "defocus": self.defocus,
        }
        if (surface := self.surface) is not None:
            left_out = [tiles[number].index for number in surface.left_out]
            if left_out:
                _log.warning("the autofocus of tile %d contradicts all others", left_out[0])
            values |= {
                "shape": surface.kind,
                "left_out": ", ".join(map(str, left_out)),
                "rms": surface.rms,
                "origin_x": surface.origin[0],
                "origin_y": surface.origin[1],
                **dict(zip(_COEFFICIENTS, surface.coefficients, strict=False)),
            }
        yield from bps.checkpoint()
        yield from bps.abs_set(self.surface_fit, values, wait=True)
        yield from record([self.surface_fit], names.FOCUS_SURFACE)
