"""Plans with the arguments that the configuration gives them.

Apart from what runs them, so that the server, which only lists plans, need not import that.
"""

from __future__ import annotations

from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from config import Config
from plans import brightfield, darkfield
from processing.geometry import ImageShift


def montage_defaults(config: Config) -> dict[str, Any]:
    """Give the arguments that a montage has by the configuration."""
    image_shift = ImageShift(**config.image_shift.model_dump())
    return {**config.montage.model_dump(), "image_shift": image_shift}


def take_references(camera: Any, stage: Any, scope: Any, config: Config) -> MsgGenerator:
    """Take the bright and dark frames for a montage, as the configuration says: a plan.

    Returns
    -------
    dict
        Uids of the runs, for the argument `references` of a montage.
    """
    settings, exposure = config.references, config.montage.exposure
    frames: dict[str, Any] = {"frames": settings.frames, "exposure": exposure}
    dark = yield from darkfield(camera, scope, **frames)
    if settings.place is None:
        bright = yield from brightfield(camera, stage, scope, pitch=settings.pitch, **frames)
        return {"bright": bright, "dark": dark}
    x, y = settings.place
    back = stage.x, stage.x.position, stage.y, stage.y.position
    yield from bps.mv(stage.x, x, stage.y, y)
    bright = yield from brightfield(camera, stage, scope, **frames)
    yield from bps.mv(*back)
    return {"bright": bright, "dark": dark}
