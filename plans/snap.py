"""One frame.

What a scientist runs first, to see that there is a beam and a specimen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from plans import checks, names
from plans.exposures import acquisition, declare, expose, read_calibration, set_exposure
from plans.metadata import start_document
from plans.safety import illuminated


@dataclass(frozen=True)
class Snapshot:
    """A frame, and what was seen with it.

    Attributes
    ----------
    uid : str
        Of the run.
    frame_number : int
        The camera's count of frames.
    mean : float
        In counts.
    sharpness : float
    values : dict
        All that was read, by event key; ``camera_image`` is the id of the frame's datum.
    """

    uid: str
    frame_number: int
    mean: float
    sharpness: float
    values: dict[str, Any] = field(repr=False)


def snap(
    camera: Any,
    scope: Any,
    *,
    stage: Any = None,
    exposure: float | None = None,
    sample: str | dict[str, Any] | None = None,
    operator: str | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Snapshot]:
    """Take one frame where the stage is.

    Parameters
    ----------
    camera, scope : device
    stage : device, optional
        Recorded with the frame.
    exposure : float, optional
        In s; as the camera is set, if it is left out.
    sample : str or dict, optional
    operator : str, optional
    md : dict, optional
        Metadata.

    Returns
    -------
    Snapshot

    Raises
    ------
    TypeError, ValueError
        If an argument is bad; nothing has happened then.

    Examples
    --------
    >>> RE(snap(camera, scope, exposure=0.1))
    """
    checks.camera(camera)
    checks.scope(scope)
    if stage is not None:
        checks.stage(stage)
    exposure = checks.exposure(exposure, camera)
    calibration = yield from read_calibration(camera, scope)
    _md = start_document(
        names.SNAP,
        {
            "camera": camera.name,
            "scope": scope.name,
            "stage": stage.name if stage is not None else None,
            "exposure": exposure,
        },
        sample=sample,
        operator=operator,
        md=md,
        hints={},
        calibration=calibration.to_dict(),
        num_points=1,
    )
    readables = [scope] if stage is None else [scope, stage]

    def inner_snap(uid: str) -> MsgGenerator[dict[str, Any]]:
        yield from set_exposure(camera, exposure)
        yield from declare(names.PRIMARY, camera, *readables)
        yield from bps.checkpoint()
        return (yield from illuminated(expose(camera, readables, names.PRIMARY), scope))

    uid, readings = yield from acquisition(inner_snap, _md, camera, scope)
    values = {key: reading["value"] for key, reading in readings.items()}
    return Snapshot(
        uid,
        frame_number=int(values.get(camera.cam.array_counter.name, 0)),
        mean=float(values.get(camera.stats1.mean_value.name, 0.0)),
        sharpness=float(values.get(camera.stats1.sharpness.name, 0.0)),
        values=values,
    )
