"""When a montage focuses, and what it remembers of it.

An autofocus that fails is recorded and ends nothing: the last good focus stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from bluesky.utils import MsgGenerator

from devices import FocusFit
from plans import names
from plans.exposures import declare
from plans.focus import AutofocusSettings, FocusError, find_focus
from plans.tiles import TileTaker
from processing.geometry import GridTile

_log = logging.getLogger(__name__)


@dataclass
class Focusing:
    """The focus of a montage on its way.

    Attributes
    ----------
    tiles : TileTaker
    policy : str or int
        As the argument `focus` of `montage`.
    settings : AutofocusSettings
    defocus : float
        The last good one, in µm.
    fit : devices.FocusFit
        Soft device with what the last autofocus found; recorded.
    """

    tiles: TileTaker
    policy: str | int
    settings: AutofocusSettings
    defocus: float
    fit: FocusFit = field(default_factory=lambda: FocusFit(name=names.AUTOFOCUS_DEVICE))

    def declare(self) -> MsgGenerator[None]:
        """Describe the streams."""
        yield from self.tiles.declare(names.FOCUS)
        yield from declare(names.AUTOFOCUS_FIT, self.fit)

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

    def at(self, tile: GridTile) -> MsgGenerator[bool]:
        """Autofocus at a tile; tell whether it succeeded, by its frames and its fit."""
        try:
            found = yield from find_focus(
                self.tiles.camera,
                self.tiles.scope,
                self.fit,
                self.settings,
                centre=self.defocus,
                stream=names.FOCUS,
                readables=self.tiles.readables,
                place=self.tiles.place(tile),
                tile=tile.index,
            )
        except FocusError as error:
            _log.warning("tile %d: %s", tile.index, error)
            return False
        self.defocus = found.defocus
        return True
