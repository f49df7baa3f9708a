"""Bright and dark frames, from which a callback makes the references of the flat field.

Both are runs of plain frames; what is averaged, and how, is not a plan's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from plans import checks, names
from plans.exposures import (
    acquisition,
    declare,
    expose,
    move,
    read_calibration,
    set_exposure,
    value_of,
)
from plans.metadata import start_document
from plans.safety import finally_do, illuminated, make_safe

MAX_FRAMES = 1000


def brightfield(
    camera: Any,
    stage: Any,
    scope: Any,
    *,
    frames: int = 16,
    pitch: float = 0.0,
    exposure: float | None = None,
    settle: float = 0.05,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take frames of the beam without the specimen's structure.

    Go to a clear place first, or give a `pitch`: the stage then goes from place to place on a
    square about where it was, so that what is seen of the specimen averages out.

    Parameters
    ----------
    camera, stage, scope : device
    frames : int
        How many.
    pitch : float
        From place to place, in µm; 0 stays where it is.
    exposure : float, optional
        In s; as the camera is set, if it is left out. It should be that of the montage.
    settle : float
        Seconds to wait after each move.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    str
        Uid of the run, for the `references` of a montage.

    Raises
    ------
    TypeError, ValueError
        If an argument is bad; nothing has moved then.

    Examples
    --------
    >>> bright = yield from brightfield(camera, stage, scope, frames=32, pitch=5)
    """
    checks.camera(camera)
    checks.stage(stage)
    checks.scope(scope)
    frames = checks.whole("frames", frames, 1, MAX_FRAMES)
    pitch = checks.number("pitch", pitch, 0, 1000, "µm")
    settle = checks.number("settle", settle, 0, checks.MAX_SETTLE, "s")
    exposure = checks.exposure(exposure, camera)
    x = yield from value_of(stage.x)
    y = yield from value_of(stage.y)
    places = [(x + dx * pitch, y + dy * pitch) for dx, dy in _spiral(frames)]
    checks.reach("pitch", [place[0] for place in places], stage.x)
    checks.reach("pitch", [place[1] for place in places], stage.y)
    calibration = yield from read_calibration(camera, scope)
    _md = start_document(
        names.BRIGHTFIELD,
        {
            "camera": camera.name,
            "stage": stage.name,
            "scope": scope.name,
            "frames": frames,
            "pitch": pitch,
            "exposure": exposure,
            "settle": settle,
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={},
        calibration=calibration.to_dict(),
        num_points=frames,
    )

    def take() -> MsgGenerator[None]:
        for place in places:
            yield from bps.checkpoint()
            yield from move(dict(zip((stage.x, stage.y), place, strict=True)), settle)
            yield from expose(camera, [stage, scope], names.PRIMARY)

    def inner_brightfield(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, exposure)
        yield from declare(names.PRIMARY, camera, stage, scope)
        back = partial(move, {stage.x: x, stage.y: y}, 0)
        yield from finally_do(illuminated(take(), scope), back)

    uid, _ = yield from acquisition(inner_brightfield, _md, camera, scope)
    return str(uid)


def darkfield(
    camera: Any,
    scope: Any,
    *,
    frames: int = 16,
    exposure: float | None = None,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take frames without the beam: it is blanked, and the screen is down.

    Parameters
    ----------
    camera, scope : device
    frames : int
        How many.
    exposure : float, optional
        In s; as the camera is set, if it is left out. It should be that of the montage.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    str
        Uid of the run, for the `references` of a montage.

    Raises
    ------
    TypeError, ValueError
        If an argument is bad; nothing has happened then.

    Examples
    --------
    >>> dark = yield from darkfield(camera, scope, frames=32)
    """
    checks.camera(camera)
    checks.scope(scope)
    frames = checks.whole("frames", frames, 1, MAX_FRAMES)
    exposure = checks.exposure(exposure, camera)
    calibration = yield from read_calibration(camera, scope)
    _md = start_document(
        names.DARKFIELD,
        {"camera": camera.name, "scope": scope.name, "frames": frames, "exposure": exposure},
        sample=sample,
        operator=operator,
        md=md,
        hints={},
        calibration=calibration.to_dict(),
        num_points=frames,
    )

    def inner_darkfield(uid: str) -> MsgGenerator[None]:
        yield from set_exposure(camera, exposure)
        yield from declare(names.PRIMARY, camera, scope)
        yield from make_safe(scope)
        for _ in range(frames):
            yield from bps.checkpoint()
            yield from expose(camera, [scope], names.PRIMARY)

    uid, _ = yield from acquisition(inner_darkfield, _md, camera, scope)
    return str(uid)


def _spiral(n: int) -> Iterator[tuple[int, int]]:
    """Give the first n places of a square spiral out from (0, 0), neighbours one step apart."""
    x = y = 0
    dx, dy, leg = 1, 0, 1
    steps = 0
    turns = 0
    for _ in range(n):
        yield x, y
        x, y, steps = x + dx, y + dy, steps + 1
        if steps == leg:
            dx, dy, steps, turns = -dy, dx, 0, turns + 1
            leg += turns % 2 == 0
