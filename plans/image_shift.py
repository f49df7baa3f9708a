"""The image shift of tiles that are taken in blocks: what to set for each, and back in the end.

A tile's shift is added to the image shift that was set before, so what it was set for still holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bluesky.utils import MsgGenerator

from plans import checks
from plans.exposures import move, value_of
from plans.safety import finally_do
from processing.geometry import Grid, GridTile, ImageShift


@dataclass(frozen=True)
class ShiftedTiles:
    """Gives each tile its image shift.

    Attributes
    ----------
    scope : device
    calibration : ImageShift
    before : (float, float)
        ImageShiftX and ImageShiftY as they were set before, in µm.
    """

    scope: Any
    calibration: ImageShift
    before: tuple[float, float]

    @classmethod
    def over(cls, scope: Any, calibration: ImageShift) -> MsgGenerator[ShiftedTiles]:
        """Begin with the image shift that is set now: a plan."""
        x = yield from value_of(scope.image_shift_x)
        y = yield from value_of(scope.image_shift_y)
        return cls(scope, calibration, (float(x), float(y)))

    def setting(self, tile: GridTile) -> tuple[float, float]:
        """Give ImageShiftX and ImageShiftY for a tile, in µm."""
        x, y = (self.before + self.calibration.setting((tile.shift_x, tile.shift_y))).tolist()
        return x, y

    def added(self, tile: GridTile) -> tuple[float, float]:
        """Give what a tile adds to ImageShiftX and ImageShiftY as they were set, in µm."""
        x, y = self.calibration.setting((tile.shift_x, tile.shift_y)).tolist()
        return x, y

    def place(self, tile: GridTile) -> dict[Any, float]:
        """Give where the devices have to be for a tile."""
        x, y = self.setting(tile)
        return {self.scope.image_shift_x: x, self.scope.image_shift_y: y}

    def check(self, grid: Grid) -> None:
        """Check that the microscope can set the image shift of every tile.

        Raises
        ------
        ValueError
            If it cannot.
        """
        settings = zip(*map(self.setting, grid.tiles), strict=True)
        axes = self.scope.image_shift_x, self.scope.image_shift_y
        for values, axis in zip(settings, axes, strict=True):
            checks.reach("block", values, axis)

    def restore(self) -> MsgGenerator[None]:
        """Set what was set before."""
        x, y = self.before
        yield from move({self.scope.image_shift_x: x, self.scope.image_shift_y: y}, 0)


def restored(plan: MsgGenerator[Any], shifts: ShiftedTiles | None) -> MsgGenerator[Any]:
    """Run a plan, then set the image shift as it was, whether the plan ended well or not.

    Parameters
    ----------
    plan : generator
        Messages.
    shifts : ShiftedTiles or None
        None if the plan leaves the image shift alone.

    Returns
    -------
    Any
        What the plan returns.
    """
    if shifts is None:
        return (yield from plan)
    return (yield from finally_do(plan, shifts.restore))
